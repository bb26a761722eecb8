//! The lock on a container's directory, flock(2). A wait for it ends, and says for whom it waits.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::host::procfs;
use crate::state::entry::Entry;

/// The time limit for another holder of the lock. Hooks run without the lock; a checkpoint or a restore of much memory holds it
/// longest.
const PATIENCE: Duration = Duration::from_secs(60);
/// After this time a waiter logs that it waits.
const HASTE: Duration = Duration::from_secs(1);
/// The interval of attempts: flock(2) itself has no time limit.
const PAUSE: Duration = Duration::from_millis(50);
/// The part of a command line that is shown.
const COMMAND: usize = 200;

/// The lock on a container's directory; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "holds the lock")] OwnedFd);

impl Entry {
    /// Waits for the lock. Fails with `NotFound` if the container was deleted meanwhile.
    pub(crate) fn lock(&self) -> Result<Lock> {
        self.lock_within(PATIENCE)
    }

    /// As [`lock`](Self::lock), with a time limit. Fails at once if the holder waits for the caller.
    pub(crate) fn lock_within(&self, patience: Duration) -> Result<Lock> {
        let lock = self.lock_file()?;
        let (began, mut pause, mut told) = (Instant::now(), Duration::from_millis(1), false);
        while !self.try_lock(&lock, FlockOperation::NonBlockingLockExclusive)? {
            if self.is_removed() {
                return Err(Error::NotFound);
            }
            let waited = began.elapsed();
            if waited >= patience {
                let holder = Holder::of(&lock)?;
                let what = format!("{} s were waited in vain for the lock of {self}", patience.as_secs());
                return Err(Error::Locked(format!("{what}, which {holder} holds")));
            }
            if waited >= HASTE && !told {
                let holder = Holder::of(&lock)?;
                if holder.is_ancestor() {
                    let what = format!("{self} is locked by {holder}");
                    return Err(Error::Locked(format!(
                        "{what}, which has started this process and may wait for it"
                    )));
                }
                tracing::warn!("waiting for the lock of {self}, which {holder} holds");
                told = true;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE);
        }
        if self.is_removed() { Err(Error::NotFound) } else { Ok(Lock(lock)) }
    }

    /// Whether somebody holds the lock.
    pub(crate) fn is_locked(&self) -> Result<bool> {
        Ok(!self.try_lock(&self.lock_file()?, FlockOperation::NonBlockingLockShared)?)
    }

    fn try_lock(&self, lock: &OwnedFd, how: FlockOperation) -> Result<bool> {
        loop {
            match rustix::fs::flock(lock, how) {
                Ok(()) => return Ok(true),
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::sys("flock", self.path().display().to_string(), e)),
            }
        }
    }

    /// A separate open file description: a lock belongs to one.
    fn lock_file(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(self.dir(), ".", flags, Mode::empty())
            .map_err(|e| Error::sys("openat", self.path().display().to_string(), e))
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "container {}", self.path().file_name().unwrap_or_default().display())
    }
}

/// The process that holds a lock, by /proc/locks (proc_locks(5)); none if the process is in another pid namespace, or has just
/// let go.
struct Holder(Option<i32>);

impl Holder {
    fn of(file: &OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(file).map_err(|e| Error::sys("fstat", "a container's directory", e))?;
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let inode = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
        let locks = hiber_sys::file::read_to_string("/proc/locks").unwrap_or_default();
        let holder = locks.lines().find_map(|line| {
            // waiters have an arrow in the second place
            let [_, "FLOCK", _, "WRITE", pid, file, ..] = line.split_whitespace().collect::<Vec<_>>()[..]
            else {
                return None;
            };
            (file == inode).then(|| pid.parse().ok()).flatten()
        });
        Ok(Self(holder.filter(|pid| *pid > 0)))
    }

    /// Whether this process descends from the holder.
    fn is_ancestor(&self) -> bool {
        let Some(holder) = self.0 else { return false };
        // In the pid namespace of /proc, which a hook in a container's need not share.
        let own = std::fs::read_link("/proc/self").ok().and_then(|pid| pid.to_str()?.parse().ok());
        std::iter::successors(own, |pid| procfs::parent(*pid)).skip(1).any(|pid| pid == holder)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(pid) = self.0 else { return f.write_str("a process that cannot be seen from here") };
        let command: String = procfs::command_line(pid).chars().take(COMMAND).collect();
        write!(f, "process {pid} ({command})")
    }
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
