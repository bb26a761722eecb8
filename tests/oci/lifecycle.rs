//! create, start, state, kill, delete, run, list: the ways a container goes through its life.

use hiber_tests::prelude::*;
use std::fs;

const SLEEP: [&str; 2] = ["sleep", "1000"];

#[test]
fn a_container_goes_from_created_to_running_to_stopped_to_gone() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.create(&[]).ok();
    let state = c.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], c.id());
    assert_eq!(state["bundle"], c.bundle_path());
    assert!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "{state}");
    let pid = c.pid();
    c.start().ok();
    assert_eq!(c.status(), "running");
    assert_eq!(c.pid(), pid, "start keeps the process that create made");
    wait_for("sleep to be executed", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() == "sleep\n"
    });
    c.kill("KILL").ok();
    c.wait_stopped();
    assert_eq!(c.state()["pid"], 0, "a stopped container has no process");
    c.delete(&[]).ok();
    assert_eq!(c.status(), "gone");
    c.assert_clean();
}

#[test]
fn run_exits_with_the_containers_status() {
    require!(Root);
    for code in [0, 1, 7, 127, 255] {
        let c = Runtime::hiber().container(Bundle::busybox().shell(&format!("exit {code}")));
        c.run(&[]).exited(code);
        assert_eq!(c.status(), "gone", "a foreground run deletes its container");
        c.assert_clean();
    }
}

#[test]
fn run_of_a_process_that_a_signal_ends_exits_with_128_and_the_signal() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    let mut command = c.command("run", &["--bundle", &c.bundle_path()]);
    let mut child = command.spawn().unwrap();
    wait_for("the container to run", || c.status() == "running");
    c.kill("KILL").ok();
    let status = hiber_tests::command::wait(&mut child, "run");
    assert_eq!(status.code(), Some(128 + 9));
    c.assert_clean();
}

#[test]
fn a_foreground_run_forwards_signals() {
    require!(Root);
    let script = "trap 'exit 33' TERM; touch /ready; while :; do sleep 0.05; done";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    let mut child = c.command("run", &["--bundle", &c.bundle_path()]).spawn().unwrap();
    wait_for("the trap to be set", || c.bundle().rootfs().join("ready").exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = hiber_tests::command::wait(&mut child, "run");
    assert_eq!(status.code(), Some(33));
    c.assert_clean();
}

#[test]
fn run_detached_returns_while_the_container_runs_and_writes_its_pid() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    let pid_file = c.bundle().join("pid");
    let bundle = c.bundle_path();
    c.call_detached("run", &["--detach", "--bundle", &bundle, "--pid-file", pid_file.to_str().unwrap()]).ok();
    assert_eq!(c.status(), "running");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), c.pid().to_string(), "no newline, as runc");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn create_writes_the_pid_file() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    let pid_file = c.bundle().join("pid");
    c.create(&["--pid-file", pid_file.to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), c.pid().to_string());
}

#[test]
fn run_with_keep_leaves_a_stopped_container() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().shell("exit 3"));
    c.run(&["--keep"]).exited(3);
    assert_eq!(c.status(), "stopped");
    c.delete(&[]).ok();
    c.assert_clean();
}

#[test]
fn a_created_container_has_not_run_its_process() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().shell("touch /ran"));
    c.create(&[]).ok();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!c.bundle().rootfs().join("ran").exists());
    c.start().ok();
    c.wait_stopped();
    assert!(c.bundle().rootfs().join("ran").exists());
}

#[test]
fn a_second_container_of_the_same_name_is_refused_and_the_first_lives_on() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.run_detached().ok();
    let pid = c.pid();
    c.create(&[]).fails("exist");
    c.run_detached().fails("exist");
    assert_eq!(c.status(), "running");
    assert_eq!(c.pid(), pid);
}

#[test]
fn start_is_refused_unless_created() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.run_detached().ok();
    c.start().fails("cannot start an already running container");
    assert_eq!(c.status(), "running");
    c.kill("KILL").ok();
    c.wait_stopped();
    c.start().fails("stopped");
}

#[test]
fn delete_of_a_running_container_needs_force() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.run_detached().ok();
    c.delete(&[]).fails("not stopped");
    assert_eq!(c.status(), "running");
    c.delete(&["--force"]).ok();
    assert_eq!(c.status(), "gone");
    c.assert_clean();
}

#[test]
fn delete_takes_a_created_container_by_force_only_or_at_once() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.create(&[]).ok();
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn delete_by_force_of_an_unknown_container_succeeds() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox());
    c.delete(&["--force"]).ok();
    c.delete(&[]).fails("does not exist");
}

#[test]
fn kill_takes_names_with_and_without_sig_and_numbers() {
    require!(Root);
    for signal in ["TERM", "SIGTERM", "term", "15"] {
        let script = "trap 'exit 9' TERM; touch /ready; while :; do sleep 0.05; done";
        let c = Runtime::hiber().container(Bundle::busybox().shell(script));
        c.run_detached().ok();
        wait_for("the trap to be set", || c.bundle().rootfs().join("ready").exists());
        c.kill(signal).ok();
        c.wait_stopped();
    }
}

#[test]
fn kill_of_a_stopped_container_says_that_it_is_not_running() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox());
    c.create(&[]).ok();
    c.start().ok();
    c.wait_stopped();
    c.kill("TERM").fails("container not running");
}

#[test]
fn kill_refuses_unknown_signals() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.run_detached().ok();
    for signal in ["NOSUCH", "SIGNOSUCH"] {
        c.kill(signal).fails("signal");
    }
    assert_eq!(c.status(), "running");
}

#[test]
fn kill_all_ends_every_process_where_pids_are_shared() {
    require!(Root);
    let bundle = Bundle::busybox().without_namespace("pid").shell("sleep 1000 & sleep 1000; true");
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let cgroup = c.bundle().cgroup();
    wait_for("three processes", || hiber_tests::cgroup::pids(&cgroup).len() >= 3);
    c.call_kill_all("KILL").ok();
    wait_for("every process to end", || hiber_tests::cgroup::pids(&cgroup).is_empty());
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn the_end_of_the_first_process_ends_the_others() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().shell("sleep 1000 & sleep 1000; true"));
    c.run_detached().ok();
    wait_for("the sleeps", || hiber_tests::cgroup::pids(&c.bundle().cgroup()).len() == 3);
    c.kill("KILL").ok();
    c.wait_stopped();
    c.delete(&[]).ok();
    c.assert_clean();
}

#[test]
fn pause_freezes_and_resume_thaws() {
    require!(Root);
    let script = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.01; done";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    c.run_detached().ok();
    let count = || fs::read_to_string(c.bundle().rootfs().join("count")).unwrap_or_default();
    wait_for("the counter", || !count().is_empty());
    c.call("pause", &[]).ok();
    assert_eq!(c.status(), "paused");
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(count(), before, "a paused container does nothing");
    c.exec(&["true"]).fails("paused");
    c.call("resume", &[]).ok();
    assert_eq!(c.status(), "running");
    wait_for("the counter to go on", || count() != before);
}

#[test]
fn pause_and_resume_are_refused_in_other_states() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.run_detached().ok();
    c.call("resume", &[]).fails("not paused");
    c.kill("KILL").ok();
    c.wait_stopped();
    c.call("pause", &[]).fails("not running");
}

#[test]
fn delete_by_force_takes_a_paused_container() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.run_detached().ok();
    c.call("pause", &[]).ok();
    c.delete(&["--force"]).ok();
    assert_eq!(c.status(), "gone");
    c.assert_clean();
}

#[test]
fn a_killed_runtime_leaves_a_container_that_can_be_deleted() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    let mut child = c.command("run", &["--bundle", &c.bundle_path()]).spawn().unwrap();
    wait_for("the container to run", || c.status() == "running");
    child.kill().unwrap();
    child.wait().unwrap();
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_created_container_ends_at_a_termination_signal() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["true"]));
    c.create(&[]).ok();
    c.kill("TERM").ok();
    c.wait_stopped();
    c.start().fails("cannot start a container that has stopped");
    c.delete(&[]).ok();
    c.assert_clean();
}
