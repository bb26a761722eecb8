//! An agent that answers for system calls (SCMP_ACT_NOTIFY).

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;

/// The next process's state, with its listener: once that is dropped, the kernel answers with ENOSYS.
#[track_caller]
pub fn receive(agent: &UnixListener) -> (Value, OwnedFd) {
    let (stream, _) = agent.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 65_536];
    let iov = &mut [std::io::IoSliceMut::new(&mut bytes)];
    let length = recvmsg(&stream, iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    assert_eq!(fds.len(), 1);
    let fd = fds.remove(0);
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert_eq!(name, Path::new("anon_inode:seccomp notify"));
    (serde_json::from_slice(&bytes[..length]).unwrap(), fd)
}
