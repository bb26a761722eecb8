//! Stopping a thread by ptrace(2), and waiting for that.

use std::thread::yield_now;
use std::time::{Duration, Instant};

use hiber_sys::ptrace::GoOn;
use hiber_sys::signal::await_child;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, waitpid};

use crate::error::{Error, Result, request};
use crate::registers::Registers;

/// The time limit for a stop. A running thread stops in microseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// The number of checks that only yield the processor; later checks wait for news, for the given time at most.
const LOOKS: u32 = 2;
const PAUSE: Duration = Duration::from_micros(50);
/// After this time the stop may have been told to another thread. Before, a thread that has just stopped, and for another reason, must
/// not be taken for one that stopped as expected.
const NEWS_IS_LOST: Duration = Duration::from_millis(50);
/// linux/ptrace.h: PTRACE_O_SUSPEND_SECCOMP, PTRACE_EVENT_STOP.
const SUSPEND_SECCOMP: i32 = 1 << 21;
const EVENT_STOP: i32 = 128;
/// SIGTRAP at a system call with PTRACE_O_TRACESYSGOOD.
const CALL: i32 = 5 | 0x80;

/// How a thread has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was asked to, or its process is stopped by a signal anyway.
    Asked,
    /// At the beginning or the end of a system call.
    Call,
    /// This signal is about to be delivered.
    Signal(i32),
}

/// A thread that was asked to stop. When this is dropped, the thread is let go.
#[derive(Debug)]
pub struct Seized {
    tid: i32,
    held: bool,
    doomed: bool,
}

impl Seized {
    /// Asks thread `tid` to stop before it runs another instruction of its program. A call that it waits in is interrupted as
    /// by SIGSTOP: nearly all go on afterwards (signal(7)). Frozen in a cgroup, it stops when it is thawed.
    ///
    /// # Errors
    /// It has ended, somebody else traces it, or this process may not.
    pub fn new(tid: i32) -> Result<Self> {
        let (pid, plain) = (Pid::from_raw(tid), Options::PTRACE_O_TRACESYSGOOD);
        let seize = |options| ptrace::seize(pid, options);
        match seize(plain | Options::from_bits_retain(SUSPEND_SECCOMP)) {
            // Without CONFIG_CHECKPOINT_RESTORE, without the privilege, or confined itself.
            Err(Errno::EPERM | Errno::EINVAL) if !confined(tid) => seize(plain),
            Err(Errno::EINVAL) => return Err(Error::Confined(tid)),
            other => other,
        }
        .map_err(|errno| if errno == Errno::EPERM && has_ended(tid) { Errno::ESRCH } else { errno })
        .map_err(request(tid, "PTRACE_SEIZE"))?;
        let seized = Self { tid, held: true, doomed: false };
        interrupt(tid)?;
        Ok(seized)
    }

    /// From now on the thread is never let go: when this is dropped, its process is killed.
    #[must_use]
    pub fn doomed(mut self) -> Self {
        self.doomed = true;
        self
    }

    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed
    }

    /// Waits for the stop, and hands the thread over with its registers. The receiver lets it go.
    pub(crate) fn stopped(mut self) -> Result<Registers> {
        await_stop(self.tid, GoOn::Freely, Stop::Asked)?;
        let registers = registers(self.tid)?;
        if !registers.native() {
            return Err(Error::Foreign(self.tid));
        }
        self.held = false;
        Ok(registers)
    }
}

impl Drop for Seized {
    fn drop(&mut self) {
        if self.held && self.doomed {
            kill(self.tid);
            return;
        }
        // A thread that has not stopped cannot be let go here; the kernel lets it go when this thread ends.
        if self.held && (detach(self.tid).is_ok() || wait(self.tid, Stop::Asked).is_ok()) {
            let _ = detach(self.tid);
        }
    }
}

/// Whether it has ended and waits to be reaped, or is about to.
fn has_ended(tid: i32) -> bool {
    let stat = hiber_sys::file::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X', 'x']))
}

/// Whether seccomp may answer its calls.
fn confined(tid: i32) -> bool {
    let status = hiber_sys::file::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    !status.lines().any(|line| line == "Seccomp:\t0")
}

/// Waits for a stop of this kind. A signal that is about to be delivered before is delivered, and the thread goes on as it did.
pub(crate) fn await_stop(tid: i32, how: GoOn, stop: Stop) -> Result<()> {
    loop {
        match wait(tid, stop)? {
            found if found == stop => return Ok(()),
            Stop::Signal(signal) => go_on(tid, how, signal)?,
            // The process is stopped by a signal.
            Stop::Asked | Stop::Call => go_on(tid, how, 0)?,
        }
    }
}

/// Waits for the thread's next stop. Others in this process may wait for any child, and be told of the stop in our place: then
/// it is what was `expected`.
fn wait(tid: i32, expected: Stop) -> Result<Stop> {
    let pid = rustix::process::Pid::from_raw(tid);
    let (begun, mut looks) = (Instant::now(), 0);
    loop {
        match waitpid(pid, WaitOptions::NOHANG) {
            Ok(Some((_, status))) if status.stopped() => {
                let signal = status.stopping_signal().unwrap_or_default();
                return Ok(match status.as_raw() >> 16 {
                    EVENT_STOP => Stop::Asked,
                    _ if signal == CALL => Stop::Call,
                    _ => Stop::Signal(signal),
                });
            }
            Ok(Some(_)) | Err(rustix::io::Errno::CHILD) => return Err(Error::Gone(tid)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(request(tid, "wait")(Errno::from_raw(e.raw_os_error()))),
        }
        looks += 1;
        if looks < LOOKS {
            yield_now();
            continue;
        }
        if begun.elapsed() > NEWS_IS_LOST && ptrace::getregs(Pid::from_raw(tid)).is_ok() {
            return Ok(expected);
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::Stuck(tid));
        }
        await_child(PAUSE);
    }
}

/// A thread that is stopped ends at once, without an instruction of its program.
pub(crate) fn kill(tid: i32) {
    let _ = nix::sys::signal::kill(Pid::from_raw(tid), nix::sys::signal::Signal::SIGKILL);
}

pub(crate) fn go_on(tid: i32, how: GoOn, signal: i32) -> Result<()> {
    hiber_sys::ptrace::go_on(tid, how, signal).map_err(Error::of(tid, "continue"))
}

pub(crate) fn detach(tid: i32) -> Result<()> {
    go_on(tid, GoOn::Detached, 0)
}

pub(crate) fn interrupt(tid: i32) -> Result<()> {
    ptrace::interrupt(Pid::from_raw(tid)).map_err(request(tid, "PTRACE_INTERRUPT"))
}

pub(crate) fn registers(tid: i32) -> Result<Registers> {
    ptrace::getregs(Pid::from_raw(tid)).map(Registers).map_err(request(tid, "PTRACE_GETREGS"))
}

pub(crate) fn set_registers(tid: i32, to: &Registers) -> Result<()> {
    ptrace::setregs(Pid::from_raw(tid), to.0).map_err(request(tid, "PTRACE_SETREGS"))
}
