//! redis, a program with threads, under the seccomp profile that each client has by default: it sleeps and wakes with its
//! data.

use crate::containerd::{Containerd, Shim};
use crate::docker::Docker;
use crate::home::REDIS;
use crate::podman::Podman;
use hiber_tests::command;
use hiber_tests::prelude::*;
use std::fs;

/// The server, with all its data in memory.
const SERVER: [&str; 7] = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];

/// Checks that the server has threads, and that each is filtered (proc_pid_status(5)).
#[track_caller]
fn assert_filtered(pid: i32) {
    let threads: Vec<_> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap())
        .collect();
    assert!(threads.len() > 1, "{threads:?}");
    let (name, mode) = ("Name:\tredis-server", "Seccomp:\t2");
    assert!(threads[0].contains(name) && threads.iter().all(|t| t.contains(mode)), "{threads:?}");
}

/// `redis-cli` in a container by way of `exec`, which is given its arguments.
fn answers(exec: &dyn Fn(&[&str]) -> Output, command: &[&str]) -> String {
    let all: Vec<_> = ["redis-cli"].iter().chain(command).copied().collect();
    exec(&all).stdout.trim().to_owned()
}

/// Waits for the server, and gives it data.
#[track_caller]
fn fill(exec: &dyn Fn(&[&str]) -> Output, pid: i32) {
    wait_for("the server", || answers(exec, &["ping"]) == "PONG");
    assert_filtered(pid);
    assert_eq!(answers(exec, &["set", "key", "a value"]), "OK");
    assert_eq!(answers(exec, &["incr", "number"]), "1");
}

/// Checks that a restored server has the data, and takes more.
#[track_caller]
fn check(exec: &dyn Fn(&[&str]) -> Output, pid: i32) {
    assert_eq!(answers(exec, &["get", "key"]), "a value");
    assert_eq!(answers(exec, &["incr", "number"]), "2");
    assert_filtered(pid);
}

#[test]
fn of_podman() {
    require!(Root, Criu, Redis, Program("podman"));
    let podman = Podman::new();
    podman.call(&["load", "--quiet", "--input", &podman.home().redis_image()]).ok();
    podman.run_image(REDIS, &["--detach", "--name", "c"], &SERVER).ok();
    let exec = |args: &[&str]| podman.call(&[&["exec", "c"], args].concat());
    fill(&exec, podman.pid("c"));
    podman.call(&["container", "checkpoint", "c"]).ok();
    assert_eq!(podman.status("c"), "exited");
    podman.call(&["container", "restore", "c"]).ok();
    check(&exec, podman.pid("c"));
    podman.remove_all();
}

#[test]
fn of_docker() {
    require!(Root, Criu, Redis, Program("dockerd"), Program("docker"));
    let docker = Docker::new();
    docker.call(&["load", "--quiet", "--input", &docker.home.redis_image()]).ok();
    docker.run_image(REDIS, &["--detach", "--name", "counter"], &SERVER).ok();
    let exec = |args: &[&str]| docker.call(&[&["exec", "counter"], args].concat());
    fill(&exec, docker.pid("counter"));
    docker.call(&["checkpoint", "create", "counter", "only"]).ok();
    wait_for("the container to stop", || docker.inspect("counter", "{{.State.Status}}") == "exited");
    docker.start_from("only");
    check(&exec, docker.pid("counter"));
    docker.end();
}

#[track_caller]
fn of_containerd(shim: Shim) {
    let containerd = Containerd::new(shim);
    let archive = containerd.home.redis_image();
    containerd.call(&["images", "import", "--snapshotter", "native", &archive]).ok();
    command::run(containerd.run_image(REDIS, &["--detach", "--seccomp"], "c", &SERVER), b"").ok();
    let exec = |id: &'static str| {
        let containerd = &containerd;
        move |args: &[&str]| containerd.call(&[&["tasks", "exec", "--exec-id", "e", id], args].concat())
    };
    fill(&exec("c"), containerd.pid("c"));
    containerd.call(&["containers", "checkpoint", "--image", "--task", "--rw", "c", "redis-checkpoint"]).ok();
    // containerd lets the first one run on
    assert_eq!(answers(&exec("c"), &["incr", "number"]), "2");
    containerd.remove("c");
    containerd.call(&["containers", "restore", "--live", "--rw", "d", "redis-checkpoint"]).ok();
    check(&exec("d"), containerd.pid("d"));
    containerd.remove("d");
    containerd.end(&["c", "d"]);
}

#[test]
fn of_containerd_with_runcs_shim() {
    require!(Root, Criu, Redis, Program("containerd"), Program("ctr"));
    of_containerd(Shim::Runc);
}

#[test]
fn of_containerd_with_its_own_shim() {
    require!(Root, Criu, Redis, Program("containerd"), Program("ctr"));
    of_containerd(Shim::Hiber);
}
