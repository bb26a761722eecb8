//! Threads that carry bytes between a container's pipes or terminal and what clients read and write.
//!
//! One thread per stream: a reader that does not read holds up its own stream alone.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};

const BUFFER: usize = 16 * 1024;
/// The copying needs a few frames and its buffer is on the heap.
const STACK: usize = 128 * 1024;

/// The state that the threads of one process's streams share.
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
        self.start(Arc::new(from), to, None)
    }

    /// As [`input`](Self::input), of what a process writes. That goes nowhere once nobody reads it: the process does not
    /// notice.
    pub(crate) fn output(&self, from: OwnedFd, to: OwnedFd) -> Result<Progress> {
        let from = Arc::new(from);
        let progress = Progress { from: Arc::downgrade(&from), busy: Arc::default() };
        self.start(from, to, Some((self.done.clone(), Arc::clone(&progress.busy))))?;
        Ok(progress)
    }

    fn start(
        &self,
        from: Arc<OwnedFd>,
        to: OwnedFd,
        output: Option<(Sender<()>, Arc<AtomicBool>)>,
    ) -> Result<()> {
        let cancel = Arc::clone(&self.cancel);
        let thread = std::thread::Builder::new().name("copy".into()).stack_size(STACK);
        let run = move || {
            let (done, busy) = output.unzip();
            let busy = busy.unwrap_or_default();
            let end = copy(&from, Some(&to), &cancel, &busy);
            drop(to);
            if end == End::NobodyReads && done.is_some() {
                copy(&from, None, &cancel, &busy);
            }
            busy.store(false, Ordering::SeqCst);
            // The other side's streams are closed before the waiters for the end of the copying are woken.
            drop(from);
            drop(done);
        };
        thread.spawn(run).map(drop).context("start a thread for a stream")
    }
}

/// How far the copying of one output is.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Gone when the copying has ended.
    from: Weak<OwnedFd>,
    /// Whether something was read and is not written yet.
    busy: Arc<AtomicBool>,
}

impl Progress {
    /// Whether everything that was written so far has been passed on.
    pub(crate) fn is_idle(&self) -> bool {
        let Some(from) = self.from.upgrade() else { return true };
        let mut fds = [PollFd::new(&*from, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let unread =
            rustix::event::poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::IN);
        // In this order: what is read no more is being written until this says otherwise.
        !unread && !self.busy.load(Ordering::SeqCst)
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

/// Copies; to nowhere without `to`. `busy` is true from before something is read until it is written.
fn copy(from: &OwnedFd, to: Option<&OwnedFd>, cancel: &OwnedFd, busy: &AtomicBool) -> End {
    let mut buffer = vec![0; BUFFER];
    loop {
        busy.store(true, Ordering::SeqCst);
        let length = match rustix::io::read(from, &mut buffer) {
            Ok(0) => return End::Done,
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                busy.store(false, Ordering::SeqCst);
                match wait(from, PollFlags::IN, cancel) {
                    true => continue,
                    false => return End::Done,
                }
            }
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
