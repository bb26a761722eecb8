//! The effects of a checkpoint on a container, and the abilities of a restored one.

use crate::{COUNT, count, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use hiber_tests::tools;
use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::fs;

#[test]
fn a_container_sleeps_and_wakes_with_its_memory() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_restored_container_is_a_full_one() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    sleep_and_wake(&c, &[], &[]);
    c.exec(&["sh", "-c", "exit 7"]).exited(7);
    assert_eq!(c.sh("hostname; cat /proc/1/comm"), "hiber-test\nsh");
    assert!(!c.call("ps", &["--format", "json"]).json().as_array().unwrap().is_empty());
    c.call("pause", &[]).ok();
    assert_eq!(c.status(), "paused");
    c.call("resume", &[]).ok();
    let state = c.state();
    assert_eq!(state["bundle"], c.bundle_path());
    c.kill("KILL").ok();
    c.wait_stopped();
    c.delete(&[]).ok();
    c.assert_clean();
}

/// An init ends when the last process of its namespace has been reaped, and has no program meanwhile.
#[test]
fn a_restored_container_is_not_stopped_before_it_is() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell("sleep 1000 & wait"));
    c.run_detached().ok();
    let children = |pid: i32| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    wait_for("the child", || !children(c.pid()).is_empty());
    c.checkpoint(&[]).ok();
    c.restore(&[]).ok();
    let init = c.pid();
    // A dead process stays until its tracer has seen its end.
    let traced = Pid::from_raw(children(init).trim().parse().unwrap());
    ptrace::seize(traced, ptrace::Options::empty()).unwrap();
    c.kill("KILL").ok();
    let is_ending = || !std::path::Path::new(&format!("/proc/{init}/exe")).exists();
    wait_for("the first process to be ending", is_ending);
    assert_eq!(c.status(), "running");
    c.delete(&[]).fails("that is not stopped: running");
    waitpid(traced, None).unwrap();
    c.wait_stopped();
    c.delete(&[]).ok();
    c.assert_clean();
}

#[test]
fn a_restored_container_has_not_its_restorers_keys() {
    require!(Root, Criu, Program("cc"));
    let bundle = Bundle::busybox();
    let keys = bundle.rootfs().join("keys");
    tools::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/oci/keys.c"), &keys, &["-static"]);
    let c = Runtime::hiber()
        .container(bundle.shell("while :; do /keys see >/new; mv /new /seen; usleep 100000; done"));
    c.run_detached().ok();
    c.checkpoint(&[]).ok();
    let (images, path, log) = (c.images().display().to_string(), c.bundle_path(), c.bundle().join("log"));
    let mut restore = std::process::Command::new(&keys);
    let inner = c.runtime().command();
    restore.arg("with").arg(inner.get_program()).args(inner.get_args()).arg("--log").arg(&log);
    restore.args(["restore", "--detach", "--image-path", &images, "--bundle", &path, c.id()]);
    for (name, value) in inner.get_envs() {
        restore.env(name, value.unwrap_or_default());
    }
    let null = std::process::Stdio::null;
    restore.stdin(null()).stdout(null()).stderr(null());
    let seen = c.bundle().rootfs().join("seen");
    let _ = fs::remove_file(&seen);
    hiber_tests::command::run_detached(restore, &log).ok();
    hiber_tests::wait_for("the container to look for the key", || seen.exists());
    assert_eq!(fs::read_to_string(seen).unwrap(), "hidden\n");
}

#[test]
fn it_sleeps_and_wakes_again_and_again() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    for _ in 0..3 {
        let before = count(&c);
        sleep_and_wake(&c, &[], &[]);
        counts_on(&c, before);
        fs::remove_dir_all(c.images()).unwrap();
    }
}

#[test]
fn leave_running_leaves_it_running() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let pid = c.pid();
    c.checkpoint(&["--leave-running"]).ok();
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    counts_on(&c, 3);
    c.exec(&["true"]).ok();
    // and the images are as good as others
    c.delete(&["--force"]).ok();
    c.restore(&[]).ok();
    counts_on(&c, 3);
}

#[test]
fn a_paused_container_can_be_checkpointed_as_containerd_does() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.call("pause", &[]).ok();
    c.checkpoint(&["--leave-running"]).ok();
    assert_eq!(c.status(), "paused");
    c.call("resume", &[]).ok();
    counts_on(&c, 3);
    c.delete(&["--force"]).ok();
    c.restore(&[]).ok();
    let at = count(&c);
    wait_for("the restored container to count", || count(&c) > at);
}

#[test]
fn restore_writes_the_pid_file_and_takes_the_clients_flags() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let (work, pid_file) = (c.bundle().join("work"), c.bundle().join("pid"));
    let (work, pid_file) = (work.to_str().unwrap(), pid_file.to_str().unwrap());
    c.checkpoint(&["--work-path", work, "--file-locks"]).ok();
    assert!(c.bundle().join("work/dump.log").exists(), "CRIU's log is in the work directory");
    assert!(c.images().join("inventory.img").exists());
    c.restore(&["--work-path", work, "--pid-file", pid_file, "-no-subreaper"]).ok();
    assert_eq!(fs::read_to_string(pid_file).unwrap(), c.pid().to_string());
    assert!(c.bundle().join("work/restore.log").exists());
    counts_on(&c, 3);
}

#[test]
fn a_foreground_restore_ends_with_the_containers_status() {
    require!(Root, Criu);
    let script = "while [ ! -e /end ]; do sleep 0.05; done; exit 21";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    c.run_detached().ok();
    c.checkpoint(&[]).ok();
    let mut command =
        c.command("restore", &["--bundle", &c.bundle_path(), "--image-path", c.images().to_str().unwrap()]);
    let mut child = command.spawn().unwrap();
    wait_for("the container to run", || c.status() == "running");
    fs::write(c.bundle().rootfs().join("end"), "").unwrap();
    let status = hiber_tests::command::wait(&mut child, "restore");
    assert_eq!(status.code(), Some(21));
    c.assert_clean();
}

#[test]
fn a_clone_under_another_name_leaves_the_first_alone() {
    require!(Root, Criu);
    let first = counter(&Runtime::hiber(), Bundle::busybox());
    first.checkpoint(&["--leave-running"]).ok();
    // the clone has a bundle, and so a cgroup and a root filesystem, of its own
    let clone = first.runtime().container(Bundle::busybox().shell(COUNT));
    clone.restore(&["--image-path", first.images().to_str().unwrap()]).ok();
    assert_eq!((first.status(), clone.status()), ("running".into(), "running".into()));
    assert_ne!(first.pid(), clone.pid());
    counts_on(&clone, 3);
    clone.delete(&["--force"]).ok();
    clone.assert_clean();
    let at = count(&first);
    wait_for("the first to count on", || count(&first) > at);
}

#[test]
fn the_layout_of_cgroup_v2_alone() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber_on_v2(), Bundle::busybox());
    let first = c.bundle().join("first").display().to_string();
    let output =
        c.runtime().run(&["--debug", "checkpoint", "--leave-running", "--image-path", &first, c.id()]);
    output.ok();
    // also those that are mounted nowhere in this layout
    assert!(output.stderr.contains("CRIU finds the cgroup hierarchies"), "{output}");
    // CRIU 4 strips the mount options of the host's /sys/fs/cgroup otherwise (its issue 3029)
    let mode = ["--manage-cgroups-mode", "ignore"];
    sleep_and_wake(&c, &mode, &mode);
    counts_on(&c, 3);
    c.call("pause", &[]).ok();
    c.call("resume", &[]).ok();
    c.delete(&["--force"]).ok();
    c.assert_clean();
}
