//! Checkpoints and restores with the built binary, as root on the running kernel.
//!
//! As with the OCI tests, runc can stand in for hiber: `HIBER_BIN=$(hack/peers)/runc hack/test criu`.
#![forbid(unsafe_code)]

mod accepted;
mod apparmor;
mod archive_bundles;
mod archives;
mod archives_encrypted;
mod asked;
mod background;
mod before;
mod cgroups;
mod clones;
mod contents;
mod crash;
mod crash_guard;
mod custody;
mod errors;
mod failures;
mod failures_kernel;
mod failures_machine;
mod failures_mounts;
mod failures_restore;
mod fidelity;
mod fidelity_cgroups;
mod fidelity_pods;
mod firewalls;
mod flags;
mod fresh_network;
mod guide;
mod hostile_images;
mod inspect;
mod interchange;
mod keep;
mod kept;
mod lazy;
mod leftovers;
mod lifecycle;
mod macvlans;
mod manifest;
mod memory;
mod migrate;
mod migrate_compressed;
mod migrate_network;
mod migrate_post_copy;
mod migrate_preflight;
mod migrate_progress;
mod migrate_rootfs;
mod migrate_rootfs_ways;
mod migrate_shared_network;
mod migrate_ssh;
mod migrate_survivor;
mod migrate_tls;
mod named;
mod network;
mod network_devices;
mod network_kept;
mod objects;
mod oci_images;
mod pre_copy;
mod propagation;
mod prove;
mod redis;
mod same;
mod seccomp;
mod signed;
mod stores;
mod suspend;
mod systemd;
mod time;
mod tls;
mod trust;
mod verified;
mod workloads;

use hiber_tests::prelude::*;
use std::fs;
use std::process::{Child, Command};

/// A process that counts in its memory, twenty times a second, and shows the count in a tmpfs, which is
/// part of its images.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/.count; mv /dev/shm/.count /dev/shm/count; \
                     sleep 0.05; done";

/// The count that the running container shows.
fn count(c: &Container) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/root/dev/shm/count", c.pid())).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// A running container that counts, and has counted to 3.
#[track_caller]
fn counter(runtime: &Runtime, bundle: Bundle) -> Container {
    let c = runtime.container(bundle.shell(COUNT));
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    c
}

/// Checks that the container counts on from `before` instead of from the beginning.
#[track_caller]
fn counts_on(c: &Container, before: u64) {
    let restored = count(c);
    assert!(restored >= before, "the count fell from {before} to {restored}");
    wait_for("the count to go on", || count(c) > restored);
}

/// Takes the container down, checks that it is gone, and wakes it.
#[track_caller]
fn sleep_and_wake(c: &Container, dump: &[&str], restore: &[&str]) {
    c.checkpoint(dump).ok();
    assert_eq!(c.status(), "gone", "a checkpoint takes the container down");
    c.assert_clean();
    c.restore(restore).ok();
    assert_eq!(c.status(), "running");
}

/// A network namespace held by a process of the test.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && ip link add dummy0 type dummy || true; exec cat",
        ]);
        // It ends with the test, however that ends.
        command.stdin(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let new = Self(child);
        wait_for("the namespace", || fs::read_link(new.path()).is_ok_and(|n| n != own));
        new
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
