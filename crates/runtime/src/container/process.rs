//! One process of a container, held by its pidfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hiber_sandbox::cgroup::Cgroup;
use hiber_sys::poll::readable_within;
use hiber_sys::signal::Signal;
use hiber_sys::{self as sys, clone::Child};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, waitid};
use rustix::termios::Winsize;

use crate::container::exit::{Ended, ExitStatus};
use crate::container::stdio::Kept;
use crate::error::{Error, Result};
use crate::host::procfs;
use crate::state::processes::{ProcessId, Record};
use crate::status::Status;

/// A process: a container's first one, or one that was executed in it. A handle never refers to a later process of the same
/// number. Clones share it.
#[derive(Debug, Clone)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: i32,
    pidfd: OwnedFd,
    attributes: Attributes,
    /// The exit status, once it is known.
    exit: Mutex<Option<ExitStatus>>,
}

/// The origin of a handle.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// Its id in the container: [`INIT_ID`], or what the caller of `exec` chose.
    pub(crate) id: Option<ProcessId>,
    /// The record of a process with an id.
    pub(crate) record: Option<Record>,
    /// Our ends of its streams.
    pub(crate) kept: Kept,
    /// For a container's first process: tells whether memory ran out.
    pub(crate) cgroup: Option<Cgroup>,
    /// Whether this handle reaps the process. A handle that found the process by its number leaves that to the handle that made
    /// it.
    pub(crate) reaps: bool,
    /// When it started; tells it from others of its number.
    pub(crate) start_time: Option<u64>,
}

/// None if there is no such process.
fn open_pidfd(pid: i32) -> Result<Option<OwnedFd>> {
    let Some(number) = Pid::from_raw(pid.max(0)) else { return Ok(None) };
    match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH) => Ok(None),
        Err(e) => Err(Error::sys("pidfd_open", pid.to_string(), e)),
    }
}

/// The inode of a process's pidfd, if the kernel gives each process one (Linux 6.9); before that all pidfds share one.
pub(crate) fn pidfd_inode(pid: i32) -> Option<u64> {
    const PID_FS_MAGIC: u64 = 0x5049_4446; // linux/magic.h
    let pidfd = open_pidfd(pid).ok()??;
    let pidfs = rustix::fs::fstatfs(&pidfd).is_ok_and(|fs| fs.f_type as u64 == PID_FS_MAGIC);
    pidfs.then(|| rustix::fs::fstat(&pidfd).ok().map(|stat| stat.st_ino))?
}

/// Whether the process of this number, whose pidfd has this inode, is there and has not ended. /proc/PID/stat would tell at twice
/// the price. Inodes are comparable only between two pidfds of the same boot.
pub(crate) fn lives(pid: i32, inode: u64) -> Result<bool> {
    let Some(pidfd) = open_pidfd(pid)? else { return Ok(false) };
    let same = rustix::fs::fstat(&pidfd).is_ok_and(|stat| stat.st_ino == inode);
    Ok(same && !has_ended(&pidfd))
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    matches!(readable_within(pidfd, Duration::ZERO), Ok(true))
}

impl Process {
    pub(crate) fn new(child: Child, attributes: Attributes) -> Self {
        Self(Arc::new(Inner { pid: child.pid, pidfd: child.pidfd, attributes, exit: Mutex::new(None) }))
    }

    /// The process of that number that started then, zombies included; none if it is gone.
    pub(crate) fn open(pid: i32, start_time: u64, attributes: Attributes) -> Result<Option<Self>> {
        let Some(pidfd) = open_pidfd(pid)? else { return Ok(None) };
        // The number may have been given to another process before we had it open.
        let same = procfs::stat(pid).is_some_and(|stat| stat.start_time == start_time);
        let attributes = Attributes { start_time: Some(start_time), ..attributes };
        Ok(same.then(|| Self::new(Child { pid, pidfd }, attributes)))
    }

    /// Its id in the container: `init` for the first one, else what the caller of [`exec`](crate::Task::exec) chose.
    pub fn id(&self) -> Option<&ProcessId> {
        self.0.attributes.id.as_ref()
    }

    /// An address that no other process has as long as this handle lives.
    pub(crate) fn key(&self) -> u64 {
        Arc::as_ptr(&self.0) as u64
    }

    /// Its number in the runtime's pid namespace.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Its pidfd: readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }

    /// Whether it has not ended; a zombie has.
    pub fn is_alive(&self) -> bool {
        !has_ended(&self.0.pidfd)
    }

    /// Waits until it has ended; false after `patience`.
    pub(crate) fn wait_for_death(&self, patience: Duration) -> Result<bool> {
        readable_within(&self.0.pidfd, patience).map_err(|e| Error::sys("poll", "a pidfd", e))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if it has ended.
    pub fn kill(&self, signal: impl Into<Signal>) -> Result<()> {
        // A zombie takes signals, too.
        if !self.is_alive() {
            return Err(Error::NotRunning);
        }
        match signal.into().send(self.0.pidfd.as_fd()) {
            Ok(()) => Ok(()),
            Err(e) if e.errno == Errno::SRCH.raw_os_error() => Err(Error::NotRunning),
            Err(e) => Err(hiber_sandbox::Error::from(e).into()),
        }
    }

    /// The master of its terminal, where this handle keeps it ([`Stdio::Terminal`](crate::Stdio::Terminal)).
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.0.attributes.kept.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Sets its terminal's size, in characters.
    ///
    /// # Errors
    /// This handle has no terminal of it.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let Some(terminal) = self.terminal() else {
            return Err(Error::Invalid(format!(
                "cannot resize process {}: it has no terminal here",
                self.0.pid
            )));
        };
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|e| Error::sys("ioctl", format!("TIOCSWINSZ {columns}x{rows}"), e))
    }

    /// Our end of its standard input, a pipe ([`Stdio::Pipes`](crate::Stdio::Pipes)); once.
    pub fn take_stdin(&self) -> Option<OwnedFd> {
        self.0.attributes.kept.stdin.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Our end of its standard output, a pipe; once.
    pub fn take_stdout(&self) -> Option<OwnedFd> {
        self.0.attributes.kept.stdout.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Our end of its standard error, a pipe; once.
    pub fn take_stderr(&self) -> Option<OwnedFd> {
        self.0.attributes.kept.stderr.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Closes the pipe that is its standard input: it reads the end of its input. A second time changes nothing.
    pub fn close_stdin(&self) {
        drop(self.take_stdin());
    }

    /// How it ended, reaping it if it is the caller's child; none as long as it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        let mut known = self.0.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() && !self.is_alive() {
            let oom_killed = self.oom_count() > 0;
            let ended = self.how_it_ended();
            *known = Some(ExitStatus { ended, oom_killed, at: SystemTime::now(), error: None });
        }
        known.clone()
    }

    /// Opens what tells whether memory ran out while it is there.
    pub(crate) fn watch_memory(&self) {
        let _ = self.oom_count();
    }

    fn oom_count(&self) -> u64 {
        let count = self.0.attributes.cgroup.as_ref().and_then(|cgroup| cgroup.oom_count().ok().flatten());
        count.unwrap_or(0)
    }

    /// Removes the record of an ended process, reaps it, and returns how it ended.
    ///
    /// # Errors
    /// If it lives.
    pub fn delete(&self) -> Result<ExitStatus> {
        let Some(status) = self.exit_status() else {
            let what = format!("cannot delete process {} that has not ended", self.0.pid);
            return Err(Error::State { what, status: Status::Running });
        };
        self.reap();
        self.0.attributes.record.as_ref().map_or(Ok(()), Record::remove)?;
        Ok(status)
    }

    /// Its number and start time, if the latter was recorded: no other process has had both.
    pub(crate) fn identity(&self) -> Option<(i32, u64)> {
        Some((self.0.pid, self.0.attributes.start_time?))
    }

    /// Takes a zombie away, if it is the caller's child.
    pub(crate) fn reap(&self) {
        let _ = waitid(WaitId::PidFd(self.pidfd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }

    /// The exit status of an ended process. The kernel tells its parent; other processes find the status in procfs while it is a
    /// zombie, and then in the pidfd.
    fn how_it_ended(&self) -> Ended {
        let mut options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        options.set(WaitIdOptions::NOWAIT, !self.0.attributes.reaps);
        if let Ok(Some(status)) = waitid(WaitId::PidFd(self.pidfd()), options) {
            let code = status.exit_status().map(|code| Ended::Exited(code as u8));
            return code.or(status.terminating_signal().map(Ended::Signaled)).unwrap_or(Ended::Unknown);
        }
        // A child that still has a tracer, as one that CRIU kills after a dump, is not yet for its parent to wait for.
        // Until it is reaped its number is its own.
        let own =
            |stat: &procfs::Stat| self.0.attributes.start_time.is_none_or(|time| time == stat.start_time);
        let zombie = procfs::stat(self.0.pid).filter(own);
        let status = zombie.and_then(|stat| stat.exit_status);
        let status = status.or_else(|| sys::pidfd::exit_status(self.0.pidfd.as_fd()).ok().flatten());
        status.map_or(Ended::Unknown, Ended::from_wait_status)
    }
}
