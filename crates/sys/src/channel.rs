//! Typed messages over SOCK_SEQPACKET sockets, with descriptors (unix(7)): a packet of JSON for each message.

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clone::EXEC_FAILED;
use crate::{Result, SysError};

/// A type whose values travel over a [`Channel`] in one direction.
pub trait Message: Serialize + DeserializeOwned {
    /// The message that stands for a failed execution of the other end's program, with execveat(2)'s errno. `None` where the
    /// other end is no program that was executed for the conversation.
    fn not_executed(_errno: i32) -> Option<Self> {
        None
    }
}

/// The most descriptors that one packet carries (the kernel's SCM_MAX_FD is 253).
pub const FDS_PER_PACKET: usize = 64;

/// One end of a conversation over a SOCK_SEQPACKET socket, which sends `Says` and receives `Hears`.
#[derive(Debug)]
pub struct Channel<Says, Hears> {
    socket: OwnedFd,
    speaks: PhantomData<fn(Says) -> Hears>,
}

impl<Says, Hears> From<OwnedFd> for Channel<Says, Hears> {
    fn from(socket: OwnedFd) -> Self {
        Self { socket, speaks: PhantomData }
    }
}

impl<Says, Hears> From<Channel<Says, Hears>> for OwnedFd {
    fn from(channel: Channel<Says, Hears>) -> Self {
        channel.socket
    }
}

impl<Says, Hears> AsFd for Channel<Says, Hears> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<Says: Message, Hears: Message> Channel<Says, Hears> {
    /// Two connected ends, both close-on-exec.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn pair() -> Result<(Self, Channel<Hears, Says>)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| SysError::new("socketpair", "SOCK_SEQPACKET", e.raw_os_error()))?;
        Ok((a.into(), b.into()))
    }

    /// Sends one message with descriptors (at most [`FDS_PER_PACKET`]).
    ///
    /// # Errors
    /// Those of sendmsg(2): EPIPE once the other end is closed.
    pub fn send(&self, message: &Says, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|e| {
            SysError::new("sendmsg", format!("a message that cannot be encoded ({e})"), libc::EINVAL)
        })?;
        send_packet(&self.socket, &bytes, fds, "the channel")
    }

    /// Receives one message, or `None` when the other end is closed.
    ///
    /// # Errors
    /// Those of recvmsg(2). EPROTO for a packet that is no `Hears`.
    pub fn recv(&self) -> Result<Option<(Hears, Vec<OwnedFd>)>> {
        let fail = |args: &str, errno: i32| SysError::new("recvmsg", args, errno);
        let mut probe = [0u8; 1];
        let (_, length) =
            retry(|| rustix::net::recv(&self.socket, &mut probe[..], RecvFlags::PEEK | RecvFlags::TRUNC))
                .map_err(|e| fail("length of the next packet", e.raw_os_error()))?;
        if length == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0u8; length];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_PACKET))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        retry(|| {
            rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        })
        .map_err(|e| fail("on the channel", e.raw_os_error()))?;
        let fds = ancillary
            .drain()
            .filter_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { Some(fds) } else { None })
            .flatten()
            .collect();
        let message = match bytes.split_first() {
            Some((&EXEC_FAILED, errno)) => not_executed(errno).ok_or_else(|| "not for this end".to_owned()),
            _ => serde_json::from_slice(&bytes).map_err(|e| e.to_string()),
        };
        let message =
            message.map_err(|why| fail(&format!("a packet that is no message ({why})"), libc::EPROTO))?;
        Ok(Some((message, fds)))
    }

    /// As [`recv`](Self::recv), but a closed channel is an error, too; `what` says what was waited for.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv), and ECONNRESET.
    pub fn expect(&self, what: &str) -> Result<(Hears, Vec<OwnedFd>)> {
        self.recv()?.ok_or_else(|| {
            SysError::new("recvmsg", format!("{what}: the other end is gone"), libc::ECONNRESET)
        })
    }
}

fn not_executed<Hears: Message>(errno: &[u8]) -> Option<Hears> {
    Hears::not_executed(i32::from_ne_bytes(errno.try_into().ok()?))
}

/// Sends one packet of raw bytes with descriptors. `to` names the socket in the error.
///
/// # Errors
/// Those of sendmsg(2). E2BIG with more than [`FDS_PER_PACKET`] descriptors.
pub fn send_packet(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>], to: &str) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_PACKET))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(SysError::new("sendmsg", format!("{} descriptors", fds.len()), libc::E2BIG));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(|e| SysError::new("sendmsg", format!("to the other end of {to}"), e.raw_os_error()))?;
    Ok(())
}

/// If one end is closed before it has read all packets, the next call of the other end fails once (ECONNRESET). The packets
/// that were sent before can still be read.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Word {
        Go,
        Text(String),
    }

    impl Message for Word {}

    /// The messages of a program that was executed for the conversation.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Report {
        Done,
        #[serde(skip)]
        NotExecuted(i32),
    }

    impl Message for Report {
        fn not_executed(errno: i32) -> Option<Self> {
            Some(Self::NotExecuted(errno))
        }
    }

    #[test]
    fn messages_and_descriptors_cross() {
        let (a, b) = Channel::<Word, Word>::pair().unwrap();
        let (r, w) = rustix::pipe::pipe().unwrap();
        a.send(&Word::Text("both".into()), &[r.as_fd(), w.as_fd()]).unwrap();
        let (message, fds) = b.recv().unwrap().unwrap();
        assert_eq!(message, Word::Text("both".into()));
        rustix::io::write(&fds[1], b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&r, &mut byte).unwrap(), 1);
    }

    #[test]
    fn a_large_message_is_not_cut() {
        let (a, b) = Channel::<Word, Word>::pair().unwrap();
        a.send(&Word::Text("x".repeat(100_000)), &[]).unwrap();
        assert_eq!(b.recv().unwrap().unwrap().0, Word::Text("x".repeat(100_000)));
    }

    #[test]
    fn closed_and_garbage_are_told_apart() {
        let (a, b) = Channel::<Word, Word>::pair().unwrap();
        send_packet(&a, b"no json", &[], "a test").unwrap();
        assert!(b.recv().unwrap_err().to_string().contains("no message"));
        drop(a);
        assert!(b.recv().unwrap().is_none());
        assert!(b.expect("waiting for a word").unwrap_err().to_string().contains("waiting for a word"));
    }

    #[test]
    fn only_one_end_hears_that_the_other_was_not_executed() {
        let (parent, child) = Channel::<Word, Report>::pair().unwrap();
        let report = [&[EXEC_FAILED][..], &libc::ENOENT.to_ne_bytes()].concat();
        send_packet(&child, &report, &[], "a test").unwrap();
        assert_eq!(parent.recv().unwrap().unwrap().0, Report::NotExecuted(libc::ENOENT));
        send_packet(&parent, &report, &[], "a test").unwrap();
        assert!(child.recv().unwrap_err().to_string().contains("not for this end"));
        // Four bytes alone are no errno, cut ones neither, nor is the message that says so in JSON.
        for packet in [&report[1..], &report[..4], &[EXEC_FAILED], br#"{"NotExecuted":2}"#] {
            send_packet(&child, packet, &[], "a test").unwrap();
            assert!(parent.recv().unwrap_err().to_string().contains("no message"), "{packet:?}");
        }
        child.send(&Report::Done, &[]).unwrap();
        assert_eq!(parent.recv().unwrap().unwrap().0, Report::Done);
    }

    #[test]
    fn messages_of_four_bytes_are_messages() {
        let (a, b) = Channel::<Word, Word>::pair().unwrap();
        a.send(&Word::Go, &[]).unwrap();
        assert_eq!(serde_json::to_vec(&Word::Go).unwrap().len(), 4);
        assert_eq!(b.recv().unwrap().unwrap().0, Word::Go);
    }
}
