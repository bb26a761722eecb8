//! Streams of bytes to the other end, and how long one waits for it.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A stream that fails if the other end neither sends nor takes anything for some time.
#[derive(Debug)]
pub(super) struct Patient<T> {
    pub(super) fd: T,
    pub(super) stall: Duration,
}

/// Waits until something can be done with `fd`; for no longer than `stall`.
pub(super) fn await_ready(fd: impl AsFd, flags: PollFlags, stall: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(stall).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
    match rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&fd, flags)], Some(&timeout)))? {
        0 => {
            let why = format!("it has stalled for {} s (--stall)", stall.as_secs_f64());
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        }
        _ => Ok(()),
    }
}

impl<T: AsFd> Read for Patient<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        await_ready(&self.fd, PollFlags::IN, self.stall)?;
        Ok(rustix::io::read(&self.fd, buffer)?)
    }
}

impl<T: AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            await_ready(&self.fd, PollFlags::OUT, self.stall)?;
            match rustix::io::write(&self.fd, bytes) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stalls_is_told() {
        let (from, _held) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut patient = Patient { fd: from, stall: Duration::from_millis(20) };
        let error = patient.read(&mut [0]).unwrap_err();
        assert!(error.to_string().contains("stalled for 0.02 s"), "{error}");
    }
}
