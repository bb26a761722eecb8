//! What one runtime checkpoints, another restores.

use crate::{counter, counts_on};
use hiber_tests::prelude::*;

/// One direction: `from` checkpoints, `to` restores and has a full container.
#[track_caller]
fn exchange(from: &Runtime, to: &Runtime, bundle: Bundle, flags: &[&str]) {
    let c = counter(from, bundle);
    c.sh("echo kept >/dev/shm/word");
    c.checkpoint(flags).ok();
    let restored = c.in_hands_of(to);
    restored.restore(flags).ok();
    assert_eq!(restored.status(), "running");
    counts_on(&restored, 3);
    assert_eq!(restored.sh("cat /dev/shm/word; hostname"), "kept\nhiber-test");
    restored.call("pause", &[]).ok();
    restored.call("resume", &[]).ok();
    restored.delete(&["--force"]).ok();
    assert_eq!(restored.status(), "gone");
}

/// What crun can restore itself: it gives CRIU no key for the paths that it masks.
fn for_crun() -> Bundle {
    Bundle::busybox().edit(|c| c["linux"]["maskedPaths"] = json!([]))
}

/// Where crun sees cgroup v2 alone, CRIU still sees the host's v1 hierarchies, and cannot restore what
/// crun has not made there.
const CGROUPS_IGNORED: [&str; 2] = ["--manage-cgroups-mode", "ignore"];

/// The runtime under test in the cgroup layout that crun gets.
fn beside_crun() -> Runtime {
    if hiber_tests::cgroup::is_mixed() { Runtime::hiber_on_v2() } else { Runtime::hiber() }
}

#[test]
fn from_runc_to_hiber() {
    require!(Root, Criu, Runc);
    exchange(&Runtime::runc(), &Runtime::hiber(), Bundle::busybox(), &[]);
}

#[test]
fn from_hiber_to_runc() {
    require!(Root, Criu, Runc);
    exchange(&Runtime::hiber(), &Runtime::runc(), Bundle::busybox(), &[]);
}

#[test]
fn from_crun_to_hiber() {
    require!(Root, Criu, Crun);
    exchange(&Runtime::crun(), &beside_crun(), for_crun(), &CGROUPS_IGNORED);
}

#[test]
fn from_hiber_to_crun() {
    require!(Root, Criu, Crun);
    exchange(&beside_crun(), &Runtime::crun(), for_crun(), &CGROUPS_IGNORED);
}

#[test]
fn from_crun_to_crun_so_that_the_others_mean_something() {
    require!(Root, Criu, Crun);
    exchange(&Runtime::crun(), &Runtime::crun(), for_crun(), &CGROUPS_IGNORED);
}
