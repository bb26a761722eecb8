//! CRIU's messages to the daemon (criu/uffd.c): for each process its number, and a byte that brings its userfaultfd; for one that
//! has no memory its number below 0; and at last that all processes are there.

use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::failure::Failure;

/// LAZY_PAGES_RESTORE_FINISHED
const FINISHED: i32 = 0x5253_5446;

/// CRIU's end of the socket.
#[derive(Debug)]
pub(super) struct Greeting(UnixStream);

pub(super) enum Said {
    /// A process with this number, and its userfaultfd.
    Task(i32, OwnedFd),
    Nothing,
    Finished,
}

impl Greeting {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.0
    }

    pub(super) fn hear(&self) -> Result<Said, Failure> {
        self.next().map_err(Failure::Restore)
    }

    fn next(&self) -> io::Result<Said> {
        let mut word = [0; 4];
        let (mut have, mut fd) = (0, None);
        while have < word.len() {
            have += self.receive(&mut word[have..], &mut fd)?;
        }
        let number = i32::from_ne_bytes(word);
        match number {
            FINISHED => Ok(Said::Finished),
            1.. => {
                self.receive(&mut [0], &mut fd)?;
                let fd = fd.ok_or_else(|| io::Error::other("no userfaultfd came with a process"))?;
                Ok(Said::Task(number, fd))
            }
            _ => Ok(Said::Nothing),
        }
    }

    fn receive(&self, bytes: &mut [u8], fd: &mut Option<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                *fd = fds.next();
            }
        }
        if received.bytes == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(received.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use std::io::IoSlice;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    #[test]
    fn criu_is_understood() {
        let (mut criu, ours) = UnixStream::pair().unwrap();
        let greeting = Greeting::new(ours);
        criu.write_all(&7i32.to_ne_bytes()).unwrap();
        let (mut space, fds) =
            ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [std::io::stdin()]);
        let fds = fds.each_ref().map(AsFd::as_fd);
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&criu, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
        criu.write_all(&(-8i32).to_ne_bytes()).unwrap();
        criu.write_all(&FINISHED.to_ne_bytes()).unwrap();
        assert!(matches!(greeting.hear(), Ok(Said::Task(7, _))));
        assert!(matches!(greeting.hear(), Ok(Said::Nothing)));
        assert!(matches!(greeting.hear(), Ok(Said::Finished)));
        criu.write_all(&[9, 0, 0, 0, 0]).unwrap();
        assert!(greeting.hear().is_err(), "a byte that brings nothing");
        drop(criu);
        assert!(matches!(greeting.hear(), Err(Failure::Restore(_))));
    }
}
