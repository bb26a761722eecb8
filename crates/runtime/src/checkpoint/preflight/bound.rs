//! Requests of descriptors to the kernel that CRIU does not repeat.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::OFlags;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt;

use super::Findings;
use super::table::{PACKETS_TAKEN, PRESSURE, WHOLE_MARK};
use super::tasks::Proc;

/// The files of a network's bindings, of which each line begins with a number and that of a netlink socket.
const BINDINGS: [&str; 2] = ["nfnetlink_queue", "nfnetlink_log"];

/// A netlink socket that takes a firewall's packets, or logs of them.
pub(super) fn netlink(findings: &mut Findings, task: &Proc, fd: i32, copy: BorrowedFd<'_>) {
    if sockopt::socket_protocol(copy) != Ok(Some(NETFILTER)) {
        return;
    }
    let address = rustix::net::getsockname(copy).ok().and_then(|any| SocketAddrNetlink::try_from(any).ok());
    let Some(number) = address.map(|address| address.pid().to_string()).filter(|number| number != "0") else {
        return;
    };
    let takes = |name: &&str| {
        let text =
            hiber_sys::file::read_to_string(task.path(&format!("net/netfilter/{name}"))).unwrap_or_default();
        text.lines().any(|line| line.split_whitespace().nth(1) == Some(&number))
    };
    if BINDINGS.iter().any(takes) {
        let what = format!("descriptor {fd} takes packets of the firewall, or logs of them (NFQUEUE, NFLOG)");
        findings.of(task, &PACKETS_TAKEN, what);
    }
}

/// Marks of a fanotify group: `fanotify ino:…`, `mnt_id:…`, or `sdev:…` of a whole file system (proc_pid_fdinfo(5)).
pub(super) fn fanotify(findings: &mut Findings, task: &Proc, fd: i32) {
    let info = hiber_sys::file::read_to_string(task.path(&format!("fdinfo/{fd}"))).unwrap_or_default();
    if info.lines().any(|line| line.starts_with("fanotify sdev:")) {
        let what = format!("descriptor {fd} watches a whole file system (FAN_MARK_FILESYSTEM)");
        findings.of(task, &WHOLE_MARK, what);
    }
}

/// Whether a file is one of the kernel's about pressure, by its name.
pub(super) fn is_pressure(name: &str) -> bool {
    name.ends_with(".pressure") || name.contains("/pressure/")
}

/// A descriptor that can be written to may have a trigger, which nobody else sees.
pub(super) fn pressure(findings: &mut Findings, task: &Proc, fd: i32, copy: impl AsFd) {
    let reads = rustix::fs::fcntl_getfl(copy).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY);
    if !reads {
        findings.of(task, &PRESSURE, format!("descriptor {fd} may wait for pressure (PSI)"));
    }
}
