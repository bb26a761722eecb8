//! Signals by number: real-time ones too, which the libraries' types leave to libc.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, SysError};

/// The kernel's last signal (`_NSIG`, asm-generic/signal.h).
pub const SIGNALS: i32 = 64;

/// A signal that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

impl Signal {
    /// SIGKILL
    pub const KILL: Self = Self(libc::SIGKILL);
    /// SIGTERM
    pub const TERM: Self = Self(libc::SIGTERM);

    /// The signal with this number; `None` outside of 1 to [`SIGNALS`].
    pub fn new(number: i32) -> Option<Self> {
        (1..=SIGNALS).contains(&number).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Sends it to the process behind a pidfd (pidfd_send_signal(2)); the error ESRCH says that it is dead.
    pub fn send(self, pidfd: BorrowedFd<'_>) -> Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: integers, and a null pointer where the kernel is to fill in the information itself.
        let r = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), self.0, no_info, 0) };
        if r < 0 {
            return Err(SysError::new("pidfd_send_signal", self.to_string(), nix::errno::Errno::last_raw()));
        }
        Ok(())
    }
}

impl From<rustix::process::Signal> for Signal {
    fn from(signal: rustix::process::Signal) -> Self {
        Self(signal.as_raw())
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(named) => f.write_str(named.as_str()),
            Err(_) => write!(f, "signal {}", self.0),
        }
    }
}

/// Blocks every signal of the calling thread until it is dropped.
pub(crate) struct SignalsBlocked(nix::sys::signal::SigSet);

impl SignalsBlocked {
    pub(crate) fn new() -> Result<Self> {
        use nix::sys::signal::{SigSet, SigmaskHow};
        let old = SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .map_err(|e| SysError::new("sigprocmask", "to block all signals", e as i32))?;
        Ok(Self(old))
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        let _ = self.0.thread_set_mask();
    }
}

/// Waits until a child has changed its state, or a thread that the calling process traces has stopped, for `limit` at most. The
/// news may be missed: SIGCHLD must be blocked, as in work [apart](crate::apart()), and nobody else may take it.
pub fn await_child(limit: std::time::Duration) {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGCHLD);
    let limit = nix::sys::time::TimeSpec::from_duration(limit);
    // SAFETY: the set and the time are read; nothing is told of the signal.
    unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), limit.as_ref()) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn real_time_signals_arrive() {
        for number in [libc::SIGTERM, 34, SIGNALS] {
            let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            Signal::new(number).unwrap().send(pidfd.as_fd()).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(number));
            let error = Signal::KILL.send(pidfd.as_fd()).unwrap_err();
            assert_eq!(error.errno, libc::ESRCH);
        }
    }

    #[test]
    fn names_and_limits() {
        assert_eq!(Signal::KILL.to_string(), "SIGKILL");
        assert_eq!(Signal::new(40).unwrap().to_string(), "signal 40");
        assert_eq!((Signal::new(0), Signal::new(65), Signal::new(-1)), (None, None, None));
    }
}
