//! `suspend --all` and `resume --all`: containers that sleep while a machine boots.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::clones::clone;
use crate::{COUNT, count, counts_on};
use hiber_tests::prelude::*;
use rustix::mount::{UnmountFlags, unmount};

/// A boot leaves nothing of the state.
fn boot(runtime: &Runtime) {
    for entry in fs::read_dir(runtime.root()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
}

fn running(runtime: &Runtime) -> Container {
    let c = runtime.container(Bundle::busybox().shell(COUNT));
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    c
}

/// `suspend` or `resume --all --dir DIR FLAGS`.
#[track_caller]
fn all(runtime: &Runtime, command: &str, dir: &std::path::Path, flags: &[&str]) -> Output {
    runtime.run(&[&[command, "--all", "--dir", dir.to_str().unwrap()], flags].concat())
}

#[test]
fn containers_wake_after_a_boot_in_the_order_of_their_start() {
    require!(Root, Criu);
    let (runtime, place) = (Runtime::hiber(), tempfile::tempdir().unwrap());
    let dir = place.path().join("suspended");
    let store = place.path().join("store").display().to_string();
    for flags in [&[][..], &["--store", &store]] {
        let containers = [running(&runtime), running(&runtime), running(&runtime)];
        containers[1].call("pause", &[]).ok();
        let before: Vec<_> = containers.iter().map(count).collect();
        let said = all(&runtime, "suspend", &dir, flags).ok().to_owned();
        let ids: Vec<_> = containers.iter().map(Container::id).collect();
        assert_eq!(said, format!("{}: sleeps\n{}: sleeps\n{}: sleeps", ids[2], ids[1], ids[0]));
        for c in &containers {
            assert_eq!(c.status(), "gone");
            c.assert_clean();
        }
        boot(&runtime);
        let said = all(&runtime, "resume", &dir, &[]).ok().to_owned();
        assert_eq!(said, format!("{}: is awake\n{}: is awake\n{}: is awake", ids[0], ids[1], ids[2]));
        assert_eq!(containers[1].status(), "paused");
        containers[1].call("resume", &[]).ok();
        containers.iter().zip(before).for_each(|(c, before)| counts_on(c, before));
        assert_eq!(all(&runtime, "resume", &dir, &[]).ok(), "");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }
    let left = runtime.run(&["store", "ls", &store, "--format", "json"]).json();
    assert_eq!(left, json!([]));
}

#[test]
fn a_clone_wakes_with_the_root_that_it_had() {
    require!(Root, Criu);
    let (runtime, place) = (Runtime::hiber(), tempfile::tempdir().unwrap());
    let dir = place.path().join("suspended");
    let c = running(&runtime);
    c.checkpoint(&[]).ok();
    let one = c.sibling("-1");
    clone(&c, &[], &["-1"]).ok();
    one.sh("echo mine > /etc/mine");
    let before = count(&one);
    assert_eq!(all(&runtime, "suspend", &dir, &[]).ok(), format!("{}: sleeps", one.id()));
    boot(&runtime);
    let bundle = c.bundle().join("clones").join(one.id());
    unmount(bundle.join("rootfs"), UnmountFlags::empty()).unwrap();
    assert_eq!(all(&runtime, "resume", &dir, &[]).ok(), format!("{}: is awake", one.id()));
    counts_on(&one, before);
    assert_eq!(one.sh("cat /etc/mine"), "mine");
    one.delete(&["--force"]).ok();
    assert!(!bundle.exists());
    c.assert_clean();
}

#[test]
fn those_that_cannot_sleep_are_named_before_anything_is_stopped() {
    require!(Root, Criu, Redis);
    let (runtime, place) = (Runtime::hiber(), tempfile::tempdir().unwrap());
    let dir = place.path().join("suspended");
    let good = running(&runtime);
    let script = "trap 'touch /ended; exit 0' TERM; exec 9>/lock; flock -x 9; touch /ready; while :; do sleep 0.1; done";
    // busybox has no flock here: the host's, on the libraries of redis
    let bundle = Bundle::redis().shell(script);
    fs::copy("/usr/bin/flock", bundle.rootfs().join("usr/bin/flock")).unwrap();
    let bad = runtime.container(bundle);
    bad.run_detached().ok();
    wait_for("the lock", || bad.bundle().rootfs().join("ready").exists());
    let created = runtime.container(Bundle::busybox().shell(COUNT));
    created.create(&[]).ok();

    let refused = all(&runtime, "suspend", &dir, &[]);
    refused.fails("nothing was stopped");
    let named = |c: &Container, why: &str| {
        let line = refused.stdout.lines().find(|line| line.starts_with(c.id()));
        assert!(line.is_some_and(|line| line.contains(why)), "{why}: {refused}");
    };
    named(&bad, "file-lock");
    named(&created, "it is created");
    assert!(!refused.stdout.contains(good.id()), "{refused}");
    assert_eq!([&good, &bad, &created].map(Container::status), ["running", "running", "created"]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);

    let said = all(&runtime, "suspend", &dir, &["--force"]).ok().to_owned();
    assert!(said.contains(&format!("{}: sleeps", good.id())), "{said}");
    assert!(said.contains(&format!("{}: was stopped", bad.id())), "{said}");
    assert!(bad.bundle().rootfs().join("ended").exists(), "it was asked to end first");
    assert_eq!([&good, &bad, &created].map(Container::status), ["gone", "gone", "gone"]);
    boot(&runtime);
    all(&runtime, "resume", &dir, &[]).ok();
    assert_eq!([&good, &bad, &created].map(Container::status), ["running", "gone", "gone"]);
}

#[test]
fn one_that_does_not_wake_stays_asleep() {
    require!(Root, Criu);
    let (runtime, place) = (Runtime::hiber(), tempfile::tempdir().unwrap());
    let dir = place.path().join("suspended");
    let (c, other) = (running(&runtime), running(&runtime));
    let before = count(&c);
    all(&runtime, "suspend", &dir, &[]).ok();
    boot(&runtime);
    let (config, away) = (c.bundle().join("config.json"), c.bundle().join("away.json"));
    fs::rename(&config, &away).unwrap();
    let failed = all(&runtime, "resume", &dir, &[]);
    failed.fails(&format!("{} does not wake, and stays asleep", c.id()));
    assert_eq!((c.status().as_str(), other.status().as_str()), ("gone", "running"));
    fs::rename(&away, &config).unwrap();
    all(&runtime, "resume", &dir, &[]).ok();
    counts_on(&c, before);
    // One that a killed suspend had not put to sleep yet is forgotten.
    let half = dir.join("half");
    fs::create_dir(&half).unwrap();
    let record = json!({
        "version": 1, "id": "half", "bundle": "/b", "created": {"secs_since_epoch": 1, "nanos_since_epoch": 0},
        "paused": false, "systemdCgroup": false, "checkpoint": "asleep", "store": null,
    });
    fs::write(half.join("container.json"), record.to_string()).unwrap();
    assert_eq!(all(&runtime, "resume", &dir, &[]).ok(), "");
    assert!(!half.exists());
}

#[test]
fn a_place_that_does_not_last_is_refused() {
    require!(Root, Criu);
    let (runtime, place) = (Runtime::hiber(), tempfile::tempdir().unwrap());
    let c = running(&runtime);
    let memory = place.path().join("memory");
    fs::create_dir(&memory).unwrap();
    let _mounted = hiber_tests::tmpfs::Tmpfs::mount(&memory, 64);
    all(&runtime, "suspend", &memory.join("x"), &[]).fails("is in memory, which a boot empties");
    let open = place.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    all(&runtime, "suspend", &open, &[]).fails("in which others cannot write");
    all(&runtime, "resume", &open, &[]).fails("in which others cannot write");
    assert_eq!(c.status(), "running");
}
