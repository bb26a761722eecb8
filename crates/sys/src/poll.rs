//! Waiting for a descriptor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// Waits until `fd` can be read or its other end is closed; false after `patience`. A pidfd can be read when its process has
/// ended (pidfd_open(2)). Signals do not shorten the wait.
///
/// # Errors
/// Those of poll(2).
pub fn readable_within(fd: impl AsFd, patience: Duration) -> Result<bool, Errno> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            ready => return ready.map(|count| count > 0),
        }
    }
}
