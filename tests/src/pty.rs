//! Terminals and pipes of containers, from the caller's side.

use crate::PATIENCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A socket for `--console-socket`.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens on `console.sock` in `directory`.
    ///
    /// # Panics
    /// If that cannot be done.
    #[track_caller]
    pub fn listen(directory: &Path) -> Self {
        let path = directory.join("console.sock");
        match UnixListener::bind(&path) {
            Ok(listener) => Self { listener, path },
            Err(e) => panic!("{}: {e}", path.display()),
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// Waits for a runtime to connect and to send a terminal's master.
    ///
    /// # Panics
    /// If none does, or sends no file descriptor.
    #[track_caller]
    pub fn receive(&self) -> OwnedFd {
        assert!(readable(&self.listener), "nobody connected to the console socket");
        let (stream, _) = self.listener.accept().unwrap_or_else(|e| panic!("accept: {e}"));
        assert!(readable(&stream), "nothing was sent to the console socket");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 4096];
        let received =
            recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC);
        received.unwrap_or_else(|e| panic!("recvmsg: {e}"));
        let mut files = control.drain().filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        match files.next().and_then(|mut f| f.next()) {
            Some(master) => master,
            None => panic!("the console socket got a message without a file descriptor"),
        }
    }
}

/// A new terminal: its master, and the side that a program takes for its standard streams.
///
/// # Panics
/// If there is none to be had.
#[track_caller]
pub fn open() -> (OwnedFd, std::fs::File) {
    let pair = || -> rustix::io::Result<_> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
        Ok((master, slave.into()))
    };
    pair().unwrap_or_else(|e| panic!("a terminal: {e}"))
}

/// Waits for something to read.
fn readable(fd: impl AsFd) -> bool {
    let limit = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).is_ok_and(|n| n > 0)
}

/// Reads until `words` have come, and returns all that came.
///
/// # Panics
/// If the stream ends or falls silent before.
#[track_caller]
pub fn read_until(fd: impl AsFd, words: &str) -> String {
    let (mut all, end) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if text.contains(words) {
            return text;
        }
        assert!(Instant::now() < end && readable(&fd), "waited in vain for \"{words}\", got \"{text}\"");
        let mut buffer = [0; 4096];
        match rustix::io::read(&fd, &mut buffer) {
            Ok(count) if count > 0 => all.extend_from_slice(&buffer[..count]),
            // a terminal whose other side is closed answers EIO
            end => panic!("the stream ended ({end:?}) before \"{words}\", after \"{text}\""),
        }
    }
}

/// Writes all of `text`.
///
/// # Panics
/// If the other side is gone.
#[track_caller]
pub fn write_all(fd: impl AsFd, text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest) {
            Ok(count) => rest = &rest[count..],
            Err(e) => panic!("writing \"{text}\": {e}"),
        }
    }
}
