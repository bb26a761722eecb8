//! States of sockets that CRIU cannot save, or saves as another, by copies of their descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hiber_sys::socket::option;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, sockopt};

use super::Findings;
use super::table::{ANCILLARY, CORKED, CREDENTIALS, FILTER, GROUPS};
use super::tasks::Proc;

/// SOL_SOCKET, and its options (asm-generic/socket.h).
const SOCKET: i32 = 1;
const GET_FILTER: i32 = 26;
/// With these a message tells more than its text: SO_PASSCRED, SO_PASSPIDFD, SO_TIMESTAMP, SO_TIMESTAMPNS.
const TELLING: [i32; 4] = [16, 76, 29, 35];
/// SOL_UDP, and UDP_CORK (udp.h).
const UDP: (i32, i32) = (17, 1);
/// SOL_NETLINK, and NETLINK_LIST_MEMBERSHIPS (netlink.h).
const NETLINK: (i32, i32) = (270, 9);
/// How many groups CRIU saves, which are the first word of the list.
const WORD: usize = 4;

pub(super) fn check(findings: &mut Findings, task: &Proc, fd: i32, copy: &OwnedFd, family: AddressFamily) {
    let copy = copy.as_fd();
    if option(copy, SOCKET, GET_FILTER, &mut []) == Err(Errno::ACCESS) {
        findings.of(task, &FILTER, format!("descriptor {fd} has a BPF program attached"));
    }
    match family {
        AddressFamily::UNIX => local(findings, task, fd, copy),
        AddressFamily::NETLINK => netlink(findings, task, fd, copy),
        _ if number(copy, UDP.0, UDP.1) != 0 => {
            findings.of(
                task,
                &CORKED,
                format!("descriptor {fd} is a UDP socket that holds back what it sends"),
            );
        }
        _ => {}
    }
}

/// 0 where there is no such option.
fn number(socket: BorrowedFd<'_>, level: i32, name: i32) -> i32 {
    let mut value = [0; 4];
    option(socket, level, name, &mut value).map_or(0, |_| i32::from_ne_bytes(value))
}

fn local(findings: &mut Findings, task: &Proc, fd: i32, copy: BorrowedFd<'_>) {
    let listens = sockopt::socket_acceptconn(copy).unwrap_or(false);
    let telling = || TELLING.iter().any(|name| number(copy, SOCKET, *name) != 0);
    if !listens && rustix::io::ioctl_fionread(copy).is_ok_and(|bytes| bytes > 0) && telling() {
        let what =
            format!("descriptor {fd} has messages to be read that tell of their senders, or of their time");
        findings.of(task, &ANCILLARY, what);
    }
    // The process that makes a connection again is root in the container.
    let Ok(peer) = sockopt::socket_peercred(copy) else { return };
    let root = (root_of(task, "uid_map"), root_of(task, "gid_map"));
    let is = (peer.uid.as_raw(), peer.gid.as_raw());
    if is.0 != u32::MAX && is != root {
        let what = "a unix socket says of its peer that it is another user than root";
        findings.of(task, &CREDENTIALS, what);
    }
}

/// Which user or group of ours is root to a process (user_namespaces(7)).
fn root_of(task: &Proc, map: &str) -> u32 {
    let text = hiber_sys::file::read_to_string(task.path(map)).unwrap_or_default();
    let root = text.lines().find_map(|line| line.trim_start().strip_prefix("0 ")?.split_whitespace().next());
    root.and_then(|id| id.parse().ok()).unwrap_or(0)
}

fn netlink(findings: &mut Findings, task: &Proc, fd: i32, copy: BorrowedFd<'_>) {
    let mut groups = [0; 256];
    let length = option(copy, NETLINK.0, NETLINK.1, &mut groups).unwrap_or(0).min(groups.len());
    let joined = |groups: &[u8]| groups.iter().any(|byte| *byte != 0);
    let address = rustix::net::getsockname(copy).ok().and_then(|any| SocketAddrNetlink::try_from(any).ok());
    let nameless = address.is_some_and(|address| address.pid() == 0);
    if joined(&groups[WORD.min(length)..length]) || nameless && joined(&groups[..length]) {
        findings.of(task, &GROUPS, format!("descriptor {fd} is in netlink groups"));
    }
}
