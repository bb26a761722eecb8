//! Keeps idle processors from sleeping while CRIU works.
//!
//! CRIU and each task hand each other the word some sixty times. Whoever is called is mostly on a processor that has
//! just fallen asleep; in a virtual machine, waking that takes ten times as long as what is done then.

use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

/// The kernel's interface (Documentation/power/pm_qos_interface.rst): a request lasts while the file is open.
const REQUEST: &str = "/dev/cpu_dma_latency";
/// What lasts longer is a matter of memory, where nobody is called: other work should have the processors' power then.
const MOST: Duration = Duration::from_secs(1);

/// No processor sleeps until this is dropped, or one second has passed. Nothing is left if the runtime is killed.
pub(super) struct Awake {
    _going: Sender<()>,
}

impl Awake {
    /// `None` where that cannot be asked for: without root, or without power management.
    pub(super) fn request() -> Option<Self> {
        let mut file = File::options().write(true).open(REQUEST).ok()?;
        // The longest time to wake up that is borne, in microseconds.
        file.write_all(&0_i32.to_ne_bytes()).ok()?;
        let (going, end) = mpsc::channel();
        std::thread::Builder::new()
            .name("hiber-awake".into())
            .spawn(move || {
                let _ = end.recv_timeout(MOST);
                drop(file);
            })
            .ok()?;
        Some(Self { _going: going })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this process has the file open.
    fn is_open() -> bool {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to.as_os_str() == REQUEST)
    }

    #[test]
    fn a_request_ends() {
        let Some(awake) = Awake::request() else {
            assert!(File::options().write(true).open(REQUEST).is_err(), "it can be asked for");
            return;
        };
        assert!(is_open());
        drop(awake);
        let ended = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            !is_open()
        });
        assert!(ended, "processors cannot sleep any more");
    }
}
