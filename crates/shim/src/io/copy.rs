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

/// Starts a thread that copies until `from` ends, `to` breaks, or `cancel`, an eventfd, is readable. Both
/// descriptors are closed then, and `done` is dropped. They must not block.
pub(crate) fn start(
    from: OwnedFd,
    to: OwnedFd,
    cancel: &Arc<OwnedFd>,
    done: Option<Sender<()>>,
) -> Result<()> {
    let cancel = Arc::clone(cancel);
    let thread = std::thread::Builder::new().name("copy".into()).stack_size(STACK);
    let run = move || {
        copy(&from, &to, &cancel);
        // What the other side waits for, before those who wait for the end of the copying.
        drop((from, to));
        drop(done);
    };
    thread.spawn(run).map(drop).context("start a thread for a stream")
}

fn copy(from: &OwnedFd, to: &OwnedFd, cancel: &OwnedFd) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match rustix::io::read(from, &mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) if wait(from, PollFlags::IN, cancel) => continue,
            // EIO from a terminal: nobody has its other side open
            Err(_) => return,
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(length) => rest = &rest[length..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if wait(to, PollFlags::OUT, cancel) => {}
                Err(_) => return,
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
