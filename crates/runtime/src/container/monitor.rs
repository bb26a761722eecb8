//! One epoll and one thread serve all waits of this process: for ends of processes by their pidfds, and for removals of
//! containers by inotify on their directories.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::container::exit::ExitStatus;
use crate::container::handle::Container;
use crate::container::process::Process;
use crate::container::wait::{Teller, Wait};
use crate::error::{Error, Result};

/// The key of inotify's events in epoll; pidfds have the keys of their processes.
const INOTIFY: u64 = 0;
/// Events that are taken at once.
const BATCH: usize = 64;

pub(crate) struct Monitor {
    epoll: OwnedFd,
    inotify: OwnedFd,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    /// The waits by the process's key, which is unique as long as the process is held here.
    exits: HashMap<u64, (Process, Vec<Teller>)>,
    /// The waits by inotify's watch.
    removals: HashMap<i32, Removal>,
}

/// Waiters for a container's removal.
type Removal = Vec<Removed>;

/// A container whose removal somebody waits for, and the function that then tells how it ended.
struct Removed {
    container: Container,
    how: Box<dyn Fn() -> ExitStatus + Send>,
    teller: Teller,
}

static MONITOR: OnceLock<Arc<Monitor>> = OnceLock::new();
/// Children of this process that the library made and that may not have been reaped, each with its container's first process. A
/// pid namespace, and its first process, do not end as long as there is a zombie in the namespace. So executed processes must be
/// reaped even if nobody waits for them.
static CHILDREN: Mutex<Vec<(i32, Process)>> = Mutex::new(Vec::new());

/// Exit statuses of former children, and of processes that somebody waited for, by number and start time: a reader of events
/// may ask for them long after the end. The oldest are forgotten.
static ENDED: Mutex<VecDeque<((i32, u64), ExitStatus)>> = Mutex::new(VecDeque::new());
/// How many exit statuses are remembered.
const REMEMBERED: usize = 1024;

/// The exit status of a process in a container, if this program noticed its end.
pub(crate) fn how_it_ended(pid: i32, start_time: u64) -> Option<ExitStatus> {
    let identity = (pid, start_time);
    let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, child)) = children.iter().find(|(_, child)| child.identity() == Some(identity)) {
        return child.exit_status();
    }
    let ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
    ended.iter().find(|(of, _)| *of == identity).map(|(_, status)| status.clone())
}

/// Forgets children that have been reaped, and remembers their exit statuses.
fn settle(children: &mut Vec<(i32, Process)>) {
    children.retain(|(_, child)| {
        let status = if child.is_alive() { None } else { child.exit_status() };
        status.inspect(|status| remember(child, status)).is_none()
    });
}

/// Keeps the exit status for those who ask when the process is gone.
fn remember(process: &Process, status: &ExitStatus) {
    let Some(identity) = process.identity() else { return };
    let mut ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
    if ended.iter().any(|(of, _)| *of == identity) {
        return;
    }
    ended.push_back((identity, status.clone()));
    let excess = ended.len().saturating_sub(REMEMBERED);
    ended.drain(..excess);
}

/// The monitor of this process, made when the first one waits.
pub(crate) fn shared() -> Result<&'static Arc<Monitor>> {
    let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(monitor) = MONITOR.get() {
        return Ok(monitor);
    }
    let made = Arc::new(Monitor::new()?);
    for (_, child) in children.iter() {
        made.watch(child, None)?;
    }
    // The thread comes first: without it every wait would be in vain.
    let running = Arc::clone(&made);
    let thread = std::thread::Builder::new().name("hiber-wait".into());
    thread.spawn(move || running.run()).map_err(|e| Error::host("start the waiting thread", e))?;
    Ok(MONITOR.get_or_init(|| made))
}

/// Records a child of this process in the container whose first process is `init`. If there is a monitor, it reaps the child at
/// its end.
pub(crate) fn adopt(init: i32, child: &Process) {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    settle(&mut children);
    children.push((init, child.clone()));
    if let Some(Err(e)) = MONITOR.get().map(|monitor| monitor.watch(child, None)) {
        tracing::debug!("process {} is not watched: {e}", child.pid());
    }
}

/// The children of this process that were executed in a container.
fn executed_in(init: i32) -> Vec<Process> {
    let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    let of_it = children.iter().filter(|(i, child)| *i == init && child.pid() != init);
    of_it.map(|(_, child)| child.clone()).collect()
}

/// Makes sure that the children in a container are reaped when they end.
pub(crate) fn reap_in_time(init: i32) -> Result<()> {
    if executed_in(init).is_empty() { Ok(()) } else { shared().map(drop) }
}

/// Reaps the children in a container whose processes were killed, as they die.
pub(crate) fn reap_killed(init: i32, patience: Duration) -> Result<()> {
    for child in executed_in(init) {
        if child.wait_for_death(patience)? {
            child.exit_status();
        }
    }
    Ok(())
}

impl Monitor {
    fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| Error::sys("epoll_create", "", e))?;
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(|e| Error::sys("inotify_init", "", e))?;
        epoll::add(&epoll, &inotify, EventData::new_u64(INOTIFY), EventFlags::IN)
            .map_err(|e| Error::sys("epoll_ctl", "inotify", e))?;
        Ok(Self { epoll, inotify, watches: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a process's end.
    pub(crate) fn on_exit(&self, process: &Process) -> Result<Wait> {
        let (wait, teller) = Wait::new();
        self.watch(process, Some(teller))?;
        Ok(wait)
    }

    fn watch(&self, process: &Process, teller: Option<Teller>) -> Result<()> {
        let key = process.key();
        let mut watches = self.lock();
        if let Some((_, tellers)) = watches.exits.get_mut(&key) {
            tellers.retain(|teller| !teller.is_idle());
            tellers.extend(teller);
            return Ok(());
        }
        process.watch_memory();
        epoll::add(&self.epoll, process.pidfd(), EventData::new_u64(key), EventFlags::IN)
            .map_err(|e| Error::sys("epoll_ctl", "a pidfd", e))?;
        watches.exits.insert(key, (process.clone(), teller.into_iter().collect()));
        Ok(())
    }

    /// Waits for a container's removal; `how` then says how its first process ended.
    pub(crate) fn on_removal(
        &self,
        container: &Container,
        how: impl Fn() -> ExitStatus + Send + 'static,
    ) -> Result<Wait> {
        let entry = container.entry();
        let (wait, teller) = Wait::new();
        let mut watches = self.lock();
        let flags = WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        let watch = inotify::add_watch(&self.inotify, entry.proc_path(), flags)
            .map_err(|e| Error::sys("inotify_add_watch", entry.path().display().to_string(), e))?;
        let removal = watches.removals.entry(watch).or_default();
        removal.retain(|removed| !removed.teller.is_idle());
        removal.push(Removed { container: container.clone(), how: Box::new(how), teller });
        drop(watches);
        if entry.is_removed() {
            // The kernel may send no more events about it.
            self.removed(watch);
        }
        Ok(wait)
    }

    fn run(&self) {
        // Signals are for the embedder's threads.
        let _ = nix::sys::signal::SigSet::all().thread_block();
        let mut space = [MaybeUninit::uninit(); BATCH];
        loop {
            match epoll::wait(&self.epoll, &mut space, None) {
                Ok((ready, _)) => ready.iter().for_each(|event| match event.data.u64() {
                    INOTIFY => self.read_inotify(),
                    process => self.exited(process),
                }),
                Err(Errno::INTR) => {}
                Err(e) => {
                    // An error of epoll itself: a bug that must not become a busy loop.
                    tracing::error!("waiting for processes ends: epoll_wait: {e}");
                    return;
                }
            }
        }
    }

    fn exited(&self, key: u64) {
        let mut watches = self.lock();
        let Some((process, tellers)) = watches.exits.remove(&key) else { return };
        // Under the lock: a new watch of the container must not find the old one.
        let _ = epoll::delete(&self.epoll, process.pidfd());
        drop(watches);
        let status = process.exit_status().unwrap_or_else(ExitStatus::unknown);
        remember(&process, &status);
        tellers.iter().for_each(|teller| teller.tell(&status));
    }

    fn read_inotify(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        // Until EAGAIN.
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.look_at_all();
            } else {
                self.removed(event.wd());
            }
        }
    }

    /// The kernel's queue has overflowed.
    fn look_at_all(&self) {
        let gone = |removal: &Removal| removal.iter().any(|removed| removed.container.entry().is_removed());
        let watches = self.lock();
        let removed: Vec<i32> =
            watches.removals.iter().filter(|(_, removal)| gone(removal)).map(|(watch, _)| *watch).collect();
        drop(watches);
        removed.into_iter().for_each(|watch| self.removed(watch));
    }

    fn removed(&self, watch: i32) {
        let told = self.lock().removals.remove(&watch).unwrap_or_default();
        let _ = inotify::remove_watch(&self.inotify, watch);
        told.iter().for_each(|removed| removed.teller.tell(&(removed.how)()));
    }
}

impl Process {
    /// Waits for its end.
    pub fn wait(&self) -> Result<Wait> {
        shared()?.on_exit(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::process::Attributes;
    use crate::host::procfs;
    use std::process::Command;

    #[test]
    fn a_process_can_be_waited_for_again_at_the_moment_when_it_ends() {
        let monitor = shared().unwrap();
        for _ in 0..300 {
            let mut child = Command::new("true").spawn().unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let start_time = procfs::stat(pid).unwrap().start_time;
            let process = Process::open(pid, start_time, Attributes::default()).unwrap().unwrap();
            while process.is_alive() {
                monitor.on_exit(&process).unwrap();
            }
            for _ in 0..20 {
                monitor.on_exit(&process).unwrap();
            }
            child.wait().unwrap();
        }
    }
}
