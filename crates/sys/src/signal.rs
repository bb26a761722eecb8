//! Signals by number: real-time ones too, which the libraries' types leave to libc.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str::FromStr;

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

    /// The signal with this name, with or without `SIG`, in whatever case; or with this number. Real-time signals have names, too:
    /// `RTMIN+3`, as container managers send to systemd.
    pub fn named(text: &str) -> Option<Self> {
        let number = text.parse::<i32>().ok().or_else(|| number_of(&text.to_ascii_uppercase()));
        number.filter(|number| *number <= libc::SIGRTMAX()).and_then(Self::new)
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

fn number_of(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let real_time =
        |offset: &str| if offset.is_empty() { Some(0) } else { offset.parse::<u8>().ok().map(i32::from) };
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(offset.strip_prefix('+').unwrap_or(offset)).map(|n| libc::SIGRTMIN() + n);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(offset.strip_prefix('-').unwrap_or(offset)).map(|n| libc::SIGRTMAX() - n);
    }
    match name {
        "CLD" => Some(libc::SIGCHLD),
        "IOT" => Some(libc::SIGABRT),
        "POLL" => Some(libc::SIGIO),
        name => nix::sys::signal::Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32),
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

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |text| Signal::named(text).map(Signal::number);
        assert_eq!((number("SIGUSR1"), number("usr2"), number("34")), (Some(10), Some(12), Some(34)));
        // systemd's in a container
        assert_eq!(number("SIGRTMIN+3"), Some(37));
        assert_eq!((number("0"), number("65"), number("-9"), number("SIGNONE")), (None, None, None, None));
    }
}
