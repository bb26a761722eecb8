//! Properties that a restored process would otherwise take from its restorer. Properties of its own are in `same`.

use hiber_tests::prelude::*;
use std::fs;
use std::process::Command;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Properties that the first process takes from others: its processors, I/O priority, timer slack, filter of core dumps.
#[track_caller]
fn taken(c: &Container) -> Vec<String> {
    let pid = c.pid();
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let status = read("status");
    let processors = status.lines().find(|line| line.starts_with("Cpus_allowed_list:")).unwrap().to_owned();
    let ionice = Command::new("ionice").args(["-p", &pid.to_string()]).output().unwrap();
    let io_priority = String::from_utf8(ionice.stdout).unwrap();
    vec![processors, io_priority, read("timerslack_ns"), read("coredump_filter")]
}

/// Each thread of a test is one of its own, and what it starts has what it has.
#[test]
fn nothing_is_taken_from_who_restores_it() {
    require!(Root, Criu, Program("ionice"));
    let c = Runtime::hiber().container(Bundle::busybox().shell(crate::COUNT));
    c.run_detached().ok();
    let before = taken(&c);
    c.checkpoint(&[]).ok();
    assert!(!c.images().join("kept.json").exists(), "nothing is to be kept of it");
    let own = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| own.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(123_456)).unwrap();
    let me = rustix::thread::gettid().to_string();
    assert!(Command::new("ionice").args(["-c", "2", "-n", "7", "-p", &me]).status().unwrap().success());
    c.restore(&[]).ok();
    assert_eq!(taken(&c), before);
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

/// The processors of a cpuset are no choice of the thread's: they change with the cpuset.
#[test]
fn processors_of_a_cpuset_are_no_affinity() {
    require!(Root, Criu, Controller("cpuset"));
    let bundle = Bundle::busybox().shell(crate::COUNT);
    let c =
        Runtime::hiber().container(bundle.edit(|c| c["linux"]["resources"]["cpu"] = json!({"cpus": "0"})));
    c.run_detached().ok();
    c.checkpoint(&[]).ok();
    assert!(!c.images().join("kept.json").exists(), "{:?}", fs::read_to_string(c.images().join("kept.json")));
    c.restore(&[]).ok();
    assert!(taken(&c)[0].ends_with("\t0"), "{:?}", taken(&c));
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

/// Properties that a process can only set for itself are set before it runs: one that looks all the time never sees other values.
#[test]
fn nothing_runs_before_it_has_what_it_had() {
    require!(Root, Criu, CPrograms);
    let bundle = Bundle::busybox().args(["watchful"]);
    hiber_tests::programs::install("watchful", &bundle);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let (look, seen) = (c.bundle().rootfs().join("look"), c.bundle().rootfs().join("seen"));
    for round in 0..5 {
        fs::write(&look, "").unwrap();
        wait_for("a look", || seen.exists());
        assert_eq!(fs::read_to_string(&seen).unwrap(), "0", "so often it was otherwise in round {round}");
        let _ = fs::remove_dir_all(c.images());
        c.checkpoint(&[]).ok();
        fs::remove_file(&seen).unwrap();
        c.restore(&[]).ok();
    }
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

/// The process does not run without a property that the kernel refuses to set.
#[test]
fn what_cannot_be_given_back_ends_the_restore() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell(crate::COUNT));
    c.run_detached().ok();
    c.checkpoint(&["--no-hash"]).ok();
    // It has no CAP_SYS_RESOURCE.
    let kept = json!({"switches": {"1": {"ioFlusher": true}}}).to_string();
    let manifest = c.images().join("hiber.json");
    let mut listed: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    listed["files"]["kept.json"]["size"] = json!(kept.len());
    fs::write(c.images().join("kept.json"), kept).unwrap();
    fs::write(&manifest, listed.to_string()).unwrap();
    let (images, bundle) = (c.images().display().to_string(), c.bundle_path());
    let tried = c.call("restore", &["--prove", "--image-path", &images, "--bundle", &bundle]);
    tried.fails("give thread 1 back what only it can set");
    let failed = c.restore(&[]);
    failed.fails("give thread 1 back what only it can set");
    assert!(failed.stderr.contains("not permitted"), "{failed}");
    assert_eq!(c.status(), "gone");
    c.assert_clean();
}

/// One that is paused is thawed to be asked, and runs no instruction for that.
#[test]
fn a_paused_one_is_asked_too() {
    require!(Root, Criu, CPrograms);
    let bundle = Bundle::busybox().args(["watchful"]);
    hiber_tests::programs::install("watchful", &bundle);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let (look, seen) = (c.bundle().rootfs().join("look"), c.bundle().rootfs().join("seen"));
    fs::write(&look, "").unwrap();
    wait_for("a look", || seen.exists());
    c.call("pause", &[]).ok();
    fs::remove_file(&seen).unwrap();
    fs::write(&look, "").unwrap();
    c.checkpoint(&["--leave-running"]).ok();
    assert_eq!(c.status(), "paused");
    assert!(look.exists() && !seen.exists(), "it ran");
    let kept = fs::read_to_string(c.images().join("kept.json")).unwrap();
    assert!(kept.contains("personality"), "{kept}");
    let runs = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let (major, minor) = runs.split_once('.').unwrap();
    let version: (u32, u32) = (major.parse().unwrap(), minor.split('.').next().unwrap().parse().unwrap());
    assert_eq!(kept.contains("denyWriteExecute"), version >= (6, 3), "{kept}");
    c.call("resume", &[]).ok();
    wait_for("it runs again", || seen.exists());
    c.delete(&["--force"]).ok();
    c.assert_clean();
}
