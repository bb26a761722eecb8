//! Threads that carry bytes between a container's pipes or terminal and what clients read and write.
//!
//! One thread per stream: a reader that does not read holds up its own stream alone.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};

const BUFFER: usize = 16 * 1024;
/// The copying needs a few frames and its buffer is on the heap.
const STACK: usize = 128 * 1024;

/// What the threads of one process's streams share.
#[derive(Debug)]
pub(crate) struct Copying {
    /// An eventfd: the copying ends when it can be read.
    pub(crate) cancel: Arc<OwnedFd>,
    /// Dropped when all output is copied.
    pub(crate) done: Sender<()>,
}

impl Copying {
    /// Starts a thread that copies what a client writes, until `from` ends, the process has closed its end of `to`, or
    /// it is cancelled. Both descriptors are closed then; they must not block.
    pub(crate) fn input(&self, from: OwnedFd, to: OwnedFd) -> Result<()> {
        self.start(from, to, None)
    }

    /// As [`input`](Self::input), of what a process writes. That goes nowhere once nobody reads it: the process does not
    /// notice.
    pub(crate) fn output(&self, from: OwnedFd, to: OwnedFd) -> Result<()> {
        self.start(from, to, Some(self.done.clone()))
    }

    fn start(&self, from: OwnedFd, to: OwnedFd, done: Option<Sender<()>>) -> Result<()> {
        let cancel = Arc::clone(&self.cancel);
        let thread = std::thread::Builder::new().name("copy".into()).stack_size(STACK);
        let run = move || {
            let end = copy(&from, Some(&to), &cancel);
            drop(to);
            if end == End::NobodyReads && done.is_some() {
                copy(&from, None, &cancel);
            }
            // What the other side waits for is closed before those hear of it who wait for the end of the copying.
            drop(from);
            drop(done);
        };
        thread.spawn(run).map(drop).context("start a thread for a stream")
    }
}

/// Why the copying has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All was copied, or it was cancelled, or a descriptor fails.
    Done,
    /// The other end of where it goes is closed.
    NobodyReads,
}

/// Copies; to nowhere without `to`.
fn copy(from: &OwnedFd, to: Option<&OwnedFd>, cancel: &OwnedFd) -> End {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match rustix::io::read(from, &mut buffer) {
            Ok(0) => return End::Done,
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) if wait(from, PollFlags::IN, cancel) => continue,
            // EIO from a terminal: nobody has its other side open
            Err(_) => return End::Done,
        };
        let mut rest = &buffer[..length];
        while let Some(to) = to.filter(|_| !rest.is_empty()) {
            match rustix::io::write(to, rest) {
                Ok(length) => rest = &rest[length..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if wait(to, PollFlags::OUT, cancel) => {}
                Err(Errno::PIPE) => return End::NobodyReads,
                Err(_) => return End::Done,
            }
        }
    }
}

/// Waits until `fd` is ready; false if the copying is to end.
fn wait(fd: &OwnedFd, what: PollFlags, cancel: &OwnedFd) -> bool {
    loop {
        let mut fds = [PollFd::new(fd, what), PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => return fds[1].revents().is_empty(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
