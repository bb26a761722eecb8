//! The built binary behind real clients: podman, containerd and Docker drive it, as root on the running
//! kernel.
//!
//! Each test has the client's whole world to itself: storage, state, sockets and servers live in a
//! directory of its own ([`home::Home`]), the containers' cgroups below one of its own, and no network is
//! set up. A podman, containerd or Docker that the machine uses otherwise is not touched.
//!
//! Another runtime can stand in for hiber here too: `HIBER_BIN=$(hack/peers)/runc hack/test clients`.
#![forbid(unsafe_code)]

mod containerd;
mod containerd_shim;
mod docker;
mod documents;
mod home;
mod oci_images;
mod podman;
mod podman_archives;
mod podman_checkpoint;
mod podman_rootless;
mod redis;

use hiber_tests::prelude::*;
use std::fs;

/// A process that counts in its memory, twenty times a second, and shows the count in /dev/shm.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/.count; mv /dev/shm/.count /dev/shm/count; \
                     sleep 0.05; done";

/// Prints the mode of seccomp (2 is a filter), then leaves with status 7.
const SECCOMP_AND_7: &str = "grep Seccomp: /proc/self/status; exit 7";

/// The count that the counter with this pid shows; 0 if there is none.
fn count(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/root/dev/shm/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Waits until the counter has come to `least`, and returns what it shows then.
#[track_caller]
fn counted_to(pid: i32, least: u64) -> u64 {
    wait_for("the count", || count(pid) >= least);
    count(pid)
}

/// Checks that the counter is a restored one, which was at `before` at its checkpoint or earlier, and
/// that it counts on.
#[track_caller]
fn counts_on(pid: i32, before: u64) {
    let restored = count(pid);
    assert!(restored >= before, "the count fell from {before} to {restored}");
    counted_to(pid, restored + 1);
}
