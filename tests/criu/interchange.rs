//! One runtime restores the checkpoints of another.

use crate::{counter, counts_on, sleep_and_wake};
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

/// Checkpoints that crun can restore itself: crun gives CRIU no key for the paths that it masks.
pub(crate) fn for_crun() -> Bundle {
    Bundle::busybox().edit(|c| c["linux"]["maskedPaths"] = json!([]))
}

/// Where crun sees cgroup v2 alone, CRIU still sees the host's v1 hierarchies, and cannot restore what
/// crun has not made there.
pub(crate) const CGROUPS_IGNORED: [&str; 2] = ["--manage-cgroups-mode", "ignore"];

/// The runtime under test in the cgroup layout that crun gets.
pub(crate) fn beside_crun() -> Runtime {
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

/// crun cannot restore these itself: its masked directories are binds of one for which it gives CRIU no other.
#[test]
fn from_crun_to_hiber_with_masked_files_and_directories() {
    require!(Root, Criu, Crun);
    let masked = ["/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware"];
    let bundle = Bundle::busybox().edit(|c| c["linux"]["maskedPaths"] = json!(masked));
    let c = counter(&Runtime::crun(), bundle);
    c.checkpoint(&CGROUPS_IGNORED).ok();
    let ours = c.in_hands_of(&beside_crun());
    let (images, bundle) = (c.images().display().to_string(), c.bundle_path());
    let at = ["--image-path", &images, "--bundle", &bundle, "--manage-cgroups-mode", "ignore"];
    ours.call("restore", &[&["--check"], &at[..]].concat()).ok();
    ours.call("restore", &[&["--prove"], &at[..]].concat()).ok();
    c.restore(&CGROUPS_IGNORED).fails("");
    ours.restore(&CGROUPS_IGNORED).ok();
    for _ in 0..2 {
        counts_on(&ours, 3);
        assert_eq!(ours.sh("cat /proc/keys /proc/timer_list; ls /proc/acpi /sys/firmware | grep -v :"), "");
        ours.sh("! touch /sys/firmware/x 2>/dev/null");
        sleep_and_wake(&ours, &CGROUPS_IGNORED, &CGROUPS_IGNORED);
    }
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
