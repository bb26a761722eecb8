//! What the parent and init say to each other, over one SOCK_SEQPACKET socketpair.
//!
//! ```text
//!  parent                                    init (the runtime's own binary, freshly executed)
//!    | clone3 into the new namespaces ------> |
//!    | one byte, once id maps are written --> | (user namespace only; before exec)
//!    | cgroups (of a single stage), oom score |
//!    | ToInit::Fds, ToInit::Setup ----------> | joins, unshares
//!    | <------------- FromInit::Forked{pid}   | (joined pid or user namespace only: a second stage goes on)
//!    | cgroups, id maps; ToInit::Proceed ---> | (second stage only)
//!    | <------------- FromInit::NetDevices    | (only with network devices to move)
//!    | ToInit::Proceed ---------------------> |
//!    | <------------- FromInit::NeedsSource   | (a bind of what an earlier mount may cover, with ids that differ)
//!    | ToInit::Fds -------------------------> |
//!    |                                        | mounts, devices
//!    | <------------- FromInit::RunHooks      | (prestart or createRuntime hooks only)
//!    | ToInit::Proceed ---------------------> | createContainer hooks, pivot_root, identity
//!    | <------------- FromInit::Ready         |
//!    | rlimits (user namespace only)          |
//!    | ToInit::Start -----------------------> | startContainer hooks, seccomp, exec: the socket closes
//! ```
//!
//! Where the parent has nothing to say between, it sends `Start` right after `Setup` or the last `Proceed` (`run`, `exec`).
//! At `create` the parent leaves after `Ready`; `Start` then comes over a connection to the container's
//! listening socket, from whoever runs `start`. A failure at any point is `FromInit::Failed`.

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::{Error, Result, SysError};
use hiber_sys::clone::EXEC_FAILED;

/// What goes over a [`Channel`] in one direction: a packet of JSON for each message.
pub trait Message: Serialize + DeserializeOwned {
    /// What it means that the other end's program could not be executed, for this errno; where `None`, nobody says so.
    fn not_executed(_errno: i32) -> Option<Self> {
        None
    }
}

impl Message for ToInit {}

impl Message for FromInit {
    fn not_executed(errno: i32) -> Option<Self> {
        Some(Self::NotExecuted(errno))
    }
}

/// From the parent to init.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToInit {
    /// Descriptors that come with this packet, and what each is for.
    Fds(Vec<FdRole>),
    /// The plan comes with this packet as a memfd that holds an encoded `InitPlan`: set the container up.
    Setup,
    /// The second stage is known and has its id maps, or the hooks of the runtime namespace have run.
    Proceed,
    /// Execute the container's process.
    Start,
}

/// What a descriptor is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FdRole {
    /// A namespace to join; the value is its `CLONE_NEW*` flag.
    Join(u64),
    /// A pidfd whose namespaces of these kinds are to be joined at once.
    JoinProcess(u64),
    /// The socket on which `start` will call.
    StartListener,
    /// A socket to be kept until exec: that it listens tells others that the container is being made.
    InitListener,
    /// The socket to which the terminal's master end is sent.
    ConsoleSocket,
    /// The connected socket of the seccomp agent.
    SeccompAgent,
    /// A detached tree: the source of the n-th mount.
    MountSource(usize),
    /// A detached tree: the host's node for the n-th device.
    Device(usize),
}

/// From init to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// The second stage runs under this id (in the parent's pid namespace); the sender exits.
    Forked(i32),
    /// The source of the n-th mount lies in the container's own root: open it in my mount namespace.
    NeedsSource(usize),
    /// The network namespace exists: move the devices in.
    NetDevices,
    /// Mounts are made: run prestart and createRuntime hooks.
    RunHooks,
    /// Everything is set up; only `Start` is missing.
    Ready,
    /// Something worth telling that did not stop the set-up.
    Warning(String),
    /// It failed.
    Failed(Failure),
    /// It is not even init: execveat(2) failed with this errno. Said before there is any JSON.
    #[serde(skip)]
    NotExecuted(i32),
}

/// The most descriptors that one packet carries (the kernel's SCM_MAX_FD is 253).
pub const FDS_PER_PACKET: usize = 64;

/// One end of a conversation over a SOCK_SEQPACKET socket: it says `Says` and hears `Hears`.
#[derive(Debug)]
pub struct Channel<Says, Hears> {
    socket: OwnedFd,
    speaks: PhantomData<fn(Says) -> Hears>,
}

/// The parent's end, and that of who starts a container.
pub type ParentEnd = Channel<ToInit, FromInit>;
/// Init's end.
pub type InitEnd = Channel<FromInit, ToInit>;

impl<Says, Hears> From<OwnedFd> for Channel<Says, Hears> {
    fn from(socket: OwnedFd) -> Self {
        Self { socket, speaks: PhantomData }
    }
}

impl<Says, Hears> AsFd for Channel<Says, Hears> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<Says: Message, Hears: Message> Channel<Says, Hears> {
    /// Two connected ends, both close-on-exec.
    pub fn pair() -> Result<(Self, Channel<Hears, Says>)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| SysError::new("socketpair", "SOCK_SEQPACKET", e.raw_os_error()))?;
        Ok((a.into(), b.into()))
    }

    /// Sends one message with descriptors (at most [`FDS_PER_PACKET`]).
    pub fn send(&self, message: &Says, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|e| {
            SysError::new("sendmsg", format!("a message that cannot be encoded ({e})"), libc::EINVAL)
        })?;
        send_bytes(&self.socket, &bytes, fds, "the channel")
    }

    /// Receives one message, or `None` when the other end is closed.
    pub fn recv(&self) -> Result<Option<(Hears, Vec<OwnedFd>)>> {
        let fail = |args: &str, errno: i32| Error::from(SysError::new("recvmsg", args, errno));
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

    /// As [`recv`](Self::recv), but a closed channel is an error.
    pub fn expect(&self, what: &str) -> Result<(Hears, Vec<OwnedFd>)> {
        self.recv()?.ok_or_else(|| {
            SysError::new("recvmsg", format!("{what}: the other end is gone"), libc::ECONNRESET).into()
        })
    }
}

fn not_executed<Hears: Message>(errno: &[u8]) -> Option<Hears> {
    Hears::not_executed(i32::from_ne_bytes(errno.try_into().ok()?))
}

/// Sends one packet of raw bytes with descriptors; `to` is what leads to the other end, for messages.
pub fn send_bytes(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>], to: &str) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_PACKET))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(SysError::new("sendmsg", format!("{} descriptors", fds.len()), libc::E2BIG).into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(|e| SysError::new("sendmsg", format!("to the other end of {to}"), e.raw_os_error()))?;
    Ok(())
}

/// An end that is closed before all was read makes the other's next call fail once; what it has sent still lies there.
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
    use super::*;

    #[test]
    fn messages_and_descriptors_cross() {
        let (a, b) = ParentEnd::pair().unwrap();
        let (r, w) = rustix::pipe::pipe().unwrap();
        a.send(&ToInit::Fds(vec![FdRole::StartListener, FdRole::MountSource(7)]), &[r.as_fd(), w.as_fd()])
            .unwrap();
        let (message, fds) = b.recv().unwrap().unwrap();
        let ToInit::Fds(roles) = message else { panic!("{message:?}") };
        assert_eq!(roles, [FdRole::StartListener, FdRole::MountSource(7)]);
        rustix::io::write(&fds[1], b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&r, &mut byte).unwrap(), 1);
    }

    #[test]
    fn a_large_message_is_not_cut() {
        let (a, b) = InitEnd::pair().unwrap();
        let chain = vec!["x".repeat(100_000)];
        a.send(&FromInit::Failed(Failure { chain: chain.clone(), errno: None }), &[]).unwrap();
        let Some((FromInit::Failed(failure), _)) = b.recv().unwrap() else { panic!() };
        assert_eq!(failure.chain, chain);
    }

    #[test]
    fn closed_and_garbage_are_told_apart() {
        let (a, b) = ParentEnd::pair().unwrap();
        send_bytes(&a, b"no json", &[], "it").unwrap();
        assert!(b.recv().unwrap_err().to_string().contains("no message"));
        drop(a);
        assert!(b.recv().unwrap().is_none());
    }

    #[test]
    fn only_the_parent_hears_that_init_was_not_executed() {
        let (parent, init) = ParentEnd::pair().unwrap();
        let report = [&[EXEC_FAILED][..], &libc::ENOENT.to_ne_bytes()].concat();
        send_bytes(&init, &report, &[], "it").unwrap();
        let heard = parent.recv().unwrap();
        assert!(matches!(heard, Some((FromInit::NotExecuted(libc::ENOENT), _))), "{heard:?}");
        send_bytes(&parent, &report, &[], "it").unwrap();
        assert!(init.recv().unwrap_err().to_string().contains("not for this end"));
        // Four bytes alone are no errno, cut ones neither, nor is the message that says so in JSON.
        for packet in [&report[1..], &report[..4], &[EXEC_FAILED], br#"{"NotExecuted":2}"#] {
            send_bytes(&init, packet, &[], "it").unwrap();
            assert!(parent.recv().unwrap_err().to_string().contains("no message"), "{packet:?}");
        }
    }

    #[test]
    fn messages_of_four_bytes_are_messages() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum Word {
            Go,
        }
        impl Message for Word {}
        let (a, b) = Channel::<Word, Word>::pair().unwrap();
        a.send(&Word::Go, &[]).unwrap();
        assert_eq!(serde_json::to_vec(&Word::Go).unwrap().len(), 4);
        assert_eq!(b.recv().unwrap().unwrap().0, Word::Go);
    }

    #[test]
    fn a_failure_keeps_its_causes() {
        use crate::error::Context;
        let inner: Result<()> = Err(SysError::new("mount", "tmpfs on /dev", libc::EPERM).into());
        let error = inner.context("mount /dev").context("set up the rootfs").unwrap_err();
        let failure = Failure::new(&error);
        assert_eq!(failure.errno, Some(libc::EPERM));
        assert_eq!(
            failure.to_string(),
            "set up the rootfs: mount /dev: mount tmpfs on /dev: operation not permitted"
        );
    }
}
