//! Lets others have the processor while memory is copied: the container runs and is worth more than a quick copy.

use std::time::{Duration, Instant};

use rustix::process::{getpriority_process, setpriority_process};

use crate::images::Place;

/// The nice value (nice(2)) above the usual one: a tenth of the processor where somebody else wants all of it.
const NICER: i32 = 10;
/// For so long at most, and longer by a second for so many bytes: on a machine that is always busy copies must end, too.
const AT_MOST: Duration = Duration::from_secs(3);
const BYTES_A_SECOND: u64 = 256 << 20;

/// The threads that copy and hash, which give way until a time has come.
#[derive(Debug)]
pub(super) struct Manners {
    usual: i32,
    until: Instant,
    place: Place,
    gives_way: bool,
}

impl Manners {
    /// Those who are not allowed to leave off giving way never begin, and pages that go away are worth the link's whole time.
    pub(super) fn new(place: &Place) -> Self {
        let usual = getpriority_process(None).unwrap_or(0);
        let may_return = || {
            // It is the thread's own value, and the next thread's is ours again.
            let tried = std::thread::spawn(move || set(usual + NICER) && set(usual));
            tried.join().unwrap_or(false)
        };
        let until = Instant::now() + AT_MOST;
        let gives_way = matches!(place, Place::Here(..)) && may_return();
        Self {
            usual,
            until: if gives_way { until } else { Instant::now() },
            place: place.clone(),
            gives_way: false,
        }
    }

    /// So many bytes are to be copied.
    pub(super) fn expect(&mut self, bytes: u64) {
        if self.until > Instant::now() {
            self.until += Duration::from_secs_f64(bytes as f64 / BYTES_A_SECOND as f64);
            self.gives_way = set(self.usual + NICER);
            self.place.be_nice(self.usual + NICER);
        }
    }

    /// More was copied: it is time to look at the clock.
    pub(super) fn go_on(&mut self) {
        if self.gives_way && self.until <= Instant::now() {
            self.end();
        }
    }

    /// The threads are as before.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.gives_way) {
            set(self.usual);
            self.place.be_nice(self.usual);
        }
    }
}

impl Drop for Manners {
    fn drop(&mut self) {
        self.end();
    }
}

/// Of the calling thread.
fn set(value: i32) -> bool {
    setpriority_process(None, value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{Finisher, Work};
    use hiber_criu::ImageDirectory;

    #[test]
    fn it_gives_way_for_a_time() {
        let path = tempfile::tempdir().unwrap();
        let work = Work { hash: true, sync: false };
        let place = Place::Here(ImageDirectory::open(path.path()).unwrap(), Finisher::start(work));
        let before = getpriority_process(None).unwrap();
        let mut manners = Manners::new(&place);
        manners.expect(1 << 20);
        // Only root may return.
        let gives_way = manners.gives_way;
        assert!(gives_way || !rustix::process::geteuid().is_root());
        let now = getpriority_process(None).unwrap();
        assert_eq!(now, if gives_way { (before + NICER).min(19) } else { before });
        manners.go_on();
        assert_eq!(getpriority_process(None).unwrap(), now, "it is not time yet");
        manners.until = Instant::now();
        manners.go_on();
        assert_eq!(getpriority_process(None).unwrap(), before);
        manners.expect(1 << 20);
        assert_eq!(getpriority_process(None).unwrap(), before, "it was long enough");
    }
}
