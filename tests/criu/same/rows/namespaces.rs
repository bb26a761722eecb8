//! Namespaces and what they say: `same/namespaces.c`.

use super::super::row::{Peer, Row, criu, differs, hiber, refused};
use hiber_tests::bundle::push;
use hiber_tests::prelude::*;
use hiber_tests::require::Need;

/// A time namespace in which the machine was started a million seconds earlier; for two rows, but once.
fn with_clocks(config: &mut Value) {
    if !config["linux"]["timeOffsets"].is_null() {
        return;
    }
    push(&mut config["linux"]["namespaces"], json!({"type": "time"}));
    config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 77}});
}

pub(in super::super) const ROWS: &[Row] = &[
    criu("shared-namespaces", "fstat(2) of /proc/self/ns and /proc/1/ns"),
    criu("host-and-domain-names", "uname(2)"),
    criu("user-maps", "/proc/self/uid_map, gid_map and setgroups"),
    differs("time-offsets", "/proc/self/timens_offsets", "such that the clocks go on")
        .config(with_clocks)
        .needs(&[Need::TimeNamespaces]),
    criu("time-since-boot", "clock_gettime(2) of CLOCK_BOOTTIME")
        .config(with_clocks)
        .needs(&[Need::TimeNamespaces]),
    criu("nested-mount-namespace", "fstat(2) of /proc/self/ns/mnt, and a file in its tmpfs"),
    hiber("nested-network-namespace", "fstat(2) of /proc/self/ns/net, its loopback and a sysctl")
        .peers(Peer::Fails, Peer::Lost),
    differs("pid-namespace-memfd-noexec", "/proc/sys/vm/memfd_noexec", "as in the runtime's pid namespace")
        .needs(&[Need::Linux(6, 3)]),
    differs("pid-namespace-highest-number", "/proc/sys/kernel/pid_max", "the kernel's usual")
        .needs(&[Need::Linux(6, 14)]),
    refused("nested-pid-namespace", "clone(2) with CLONE_NEWPID", "nested-namespace", "namespace"),
    refused("nested-uts-namespace", "clone(2) with CLONE_NEWUTS", "nested-namespace", "namespace"),
    refused("nested-ipc-namespace", "clone(2) with CLONE_NEWIPC", "nested-namespace", "namespace"),
    refused("nested-user-namespace", "clone(2) with CLONE_NEWUSER", "nested-namespace", "namespace"),
    refused("nested-time-namespace", "unshare(2) with CLONE_NEWTIME", "nested-namespace", "namespace"),
    refused("nested-cgroup-namespace", "clone(2) with CLONE_NEWCGROUP", "nested-namespace", "namespace"),
];
