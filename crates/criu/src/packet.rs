//! Packets on a SOCK_SEQPACKET socket: one protobuf message each, responses with open files at times.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, recv,
    recvmsg, sendmsg,
};

/// CRIU sends one descriptor at most (orphan-pts-master); a few more are taken and closed.
const MAX_FDS: usize = 4;

/// A received packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Sends one packet; EPIPE if the peer is gone.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let iov = [IoSlice::new(bytes)];
    let mut nothing = SendAncillaryBuffer::default();
    let sent = retry_on_intr(|| sendmsg(&socket, &iov, &mut nothing, SendFlags::NOSIGNAL))?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one packet of any size; `None` once the peer has closed its end.
///
/// The size is asked first (recv(2), MSG_PEEK with MSG_TRUNC): the kernel has the whole packet in
/// its socket buffer already, so that the peer cannot make this side allocate more than that.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut probe = [0u8; 1];
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, size) = match retry_on_intr(|| recv(&socket, &mut probe[..], peek)) {
        Ok(got) => got,
        // The peer was gone before it read our last packet.
        Err(Errno::CONNRESET) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if size == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0u8; size];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if got.bytes != size || got.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the packet changed its size while it was read",
        ));
    }
    Ok(Some(Packet { bytes, fds }))
}
