//! Why a thread cannot be stopped or cannot make a call.

use hiber_sys::SysError;
use nix::errno::Errno;

/// The failure, with the thread's number where a thread was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The thread has ended.
    #[error("thread {0} has ended")]
    Gone(i32),
    /// It did not stop in time: it waits in the kernel for something that no signal ends.
    #[error("thread {0} does not stop")]
    Stuck(i32),
    /// Its program is of another architecture than this one.
    #[error("thread {0} runs a 32-bit program")]
    Foreign(i32),
    /// No area that it can execute has the instruction of a system call.
    #[error("thread {0} has no instruction for a system call")]
    NoInstruction(i32),
    /// It is confined by seccomp, and this process may not lift that.
    #[error("thread {0} is confined by seccomp, which may not be suspended from here")]
    Confined(i32),
    /// A request of ptrace(2) failed.
    #[error("ptrace of thread {tid}: {request}: {errno}")]
    Ptrace {
        /// The thread.
        tid: i32,
        /// The request.
        request: &'static str,
        /// The error.
        errno: Errno,
    },
    /// Its memory cannot be read or written.
    #[error("memory of thread {tid} at {address:#x}: {why}")]
    Memory {
        /// The thread.
        tid: i32,
        /// The address.
        address: u64,
        /// The error.
        why: std::io::Error,
    },
    /// Writes to its memory cannot be tracked.
    #[error("writes of process {0} cannot be tracked: {1}")]
    Untracked(i32, String),
    /// Images of memory cannot be received or written.
    #[error("{0}: {1}")]
    Images(String, std::io::Error),
    /// One of CRIU's image files.
    #[error(transparent)]
    Criu(hiber_criu::CriuError),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether it is only that CRIU has ended before it had sent all.
    pub fn is_end_of_criu(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Images(_, why) if matches!(why.kind(), UnexpectedEof | ConnectionReset | BrokenPipe))
    }

    /// A failure of images.
    pub(crate) fn images(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        |why| Self::Images(what.into(), why)
    }

    /// Of a request that this crate does not make by nix.
    pub(crate) fn of(tid: i32, what: &'static str) -> impl FnOnce(SysError) -> Self {
        move |e| request(tid, what)(Errno::from_raw(e.errno))
    }
}

/// A failed read or write of a thread's memory; a thread whose memory cannot be found has ended.
pub(crate) fn memory(tid: i32, address: u64) -> impl FnOnce(std::io::Error) -> Error {
    move |why| match why.raw_os_error() {
        Some(e) if e == Errno::ESRCH as i32 || e == Errno::ENOENT as i32 => Error::Gone(tid),
        _ => Error::Memory { tid, address, why },
    }
}

/// A failed request; a thread that ptrace(2) does not know any more has ended.
pub(crate) fn request(tid: i32, request: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| match errno {
        Errno::ESRCH => Error::Gone(tid),
        errno => Error::Ptrace { tid, request, errno },
    }
}
