//! How long a criu process may do nothing.
//!
//! A dump or restore of much memory takes its time, but it uses a processor, reads or writes all along. One that does none of
//! that is waiting for what does not come: it was frozen, or the disk is gone.

use std::fmt;
use std::time::{Duration, Instant};

use hiber_sys::procfs;
use rustix::event::Timespec;

/// As long as a disk may take for one request.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// As above, when the first task that CRIU restores has been killed. CRIU (4.2) waits for ever for one that is killed between the
/// notification `post-restore` and the end.
const WITHOUT_TASK: Duration = Duration::from_secs(3);
/// PF_EXITING among the flags in /proc/PID/stat, field 9: an init with a traced child stays like that until somebody reaps the child.
const EXITING: u64 = 4;
/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// The fields of /proc/PID/stat with the time that a process has used, in user and in kernel mode (proc_pid_stat(5)).
const TIMES: std::ops::RangeInclusive<usize> = 14..=15;

pub(crate) struct Patience {
    limit: Duration,
    pid: u32,
    /// The first of the tasks that it restores, as soon as that is known.
    task: Option<i32>,
    /// The work of other processes meanwhile.
    others: Option<Box<dyn FnMut() -> u64 + Send>>,
    /// When something was done last, and what it came to.
    since: Instant,
    done: u64,
    /// The limit that was reached, and for whose sake.
    over: Option<(Duration, &'static str)>,
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Patience {
    pub(crate) fn new(limit: Duration, pid: u32) -> Self {
        Self { limit, pid, task: None, others: None, since: Instant::now(), done: 0, over: None }
    }

    pub(crate) fn watch(&mut self, work: impl FnMut() -> u64 + Send + 'static) {
        self.others = Some(Box::new(work));
    }

    /// The first task, which CRIU has told of.
    pub(crate) fn task(&mut self, pid: i32) {
        self.task = Some(pid);
    }

    /// From now on something is waited for; gives how long until the first look.
    pub(crate) fn begin(&mut self) -> Timespec {
        self.since = Instant::now();
        let tick = self.limit.min(TICK);
        Timespec { tv_sec: tick.as_secs() as i64, tv_nsec: tick.subsec_nanos().into() }
    }

    /// Whether nothing was done for too long.
    pub(crate) fn is_over(&mut self) -> bool {
        let done = work_of_all(self.pid).wrapping_add(self.others.as_mut().map_or(0, |others| others()));
        if done != self.done {
            (self.done, self.since) = (done, Instant::now());
        }
        let patience = match self.task {
            Some(task) if is_ending(task) => {
                (WITHOUT_TASK.min(self.limit), "the first task was killed, and ")
            }
            _ => (self.limit, ""),
        };
        self.over = (self.since.elapsed() >= patience.0).then_some(patience);
        self.over.is_some()
    }

    /// Why it was ended, if it was.
    pub(crate) fn verdict(&self) -> Option<String> {
        let (limit, why) = self.over?;
        Some(format!("{why}it did nothing for {} s and was killed", limit.as_secs()))
    }
}

/// Whether a process is gone, or on its way.
fn is_ending(pid: i32) -> bool {
    let ending = |stat: procfs::Stat<'_>| {
        stat.dead() || stat.field::<u64>(9).is_some_and(|flags| flags & EXITING != 0)
    };
    procfs::stat(pid, ending).unwrap_or(true)
}

/// The work of a process: processor ticks, and bytes that it read and wrote. Zero if the process is gone.
pub fn work_of(pid: u32) -> u64 {
    let times = procfs::stat(pid, |stat| TIMES.filter_map(|field| stat.field(field)).collect::<Vec<u64>>());
    let io = procfs::read(pid, "io").unwrap_or_default();
    let bytes = io.lines().filter_map(|line| line.strip_prefix("rchar: ").or(line.strip_prefix("wchar: ")));
    let bytes = bytes.filter_map(|number| number.parse().ok());
    times.unwrap_or_default().into_iter().chain(bytes).fold(0, u64::wrapping_add)
}

/// A process's work, and that of the programs which it runs.
fn work_of_all(pid: u32) -> u64 {
    let (mut sum, mut left) = (0u64, vec![pid]);
    while let Some(pid) = left.pop() {
        sum = sum.wrapping_add(work_of(pid));
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children =
                hiber_sys::file::read_to_string(thread.path().join("children")).unwrap_or_default();
            left.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_and_silence_ends() {
        let mut patience = Patience::new(Duration::from_millis(50), std::process::id());
        patience.begin();
        assert!(!patience.is_over());
        std::thread::sleep(Duration::from_millis(60));
        // This process has read its own files meanwhile.
        assert!(!patience.is_over());
        let before = work_of_all(std::process::id());
        std::fs::read("/proc/self/stat").unwrap();
        assert!(work_of_all(std::process::id()) > before);

        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let mut patience = Patience::new(Duration::from_millis(50), sleeper.id());
        patience.begin();
        assert!(!patience.is_over() && patience.verdict().is_none());
        std::thread::sleep(Duration::from_millis(60));
        assert!(patience.is_over());
        assert_eq!(patience.verdict().unwrap(), "it did nothing for 0 s and was killed");
        // Others may work for it.
        let mut count = 0;
        patience.watch(move || {
            count += 1;
            count
        });
        assert!(!patience.is_over());
        let mut patience = Patience::new(WITHOUT_TASK + Duration::from_secs(60), sleeper.id());
        patience.task(std::process::id().cast_signed());
        patience.begin();
        assert!(!patience.is_over());
        patience.since -= WITHOUT_TASK;
        assert!(!patience.is_over());
        let mut task = std::process::Command::new("true").spawn().unwrap();
        patience.task(task.id().cast_signed());
        while !is_ending(task.id().cast_signed()) {
            std::thread::yield_now();
        }
        assert!(patience.is_over());
        assert_eq!(
            patience.verdict().unwrap(),
            "the first task was killed, and it did nothing for 3 s and was killed"
        );
        task.wait().unwrap();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
