//! A failure leaves the container as it was, nothing behind, and an error that names the cause.

use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use std::fs;

#[test]
fn a_container_that_does_not_run_cannot_be_checkpointed() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox());
    c.create(&[]).ok();
    c.checkpoint(&[]).fails("created");
    c.start().ok();
    c.wait_stopped();
    c.checkpoint(&[]).fails("stopped");
}

#[test]
fn a_dump_that_criu_refuses_says_why_and_the_container_runs_on() {
    require!(Root, Criu);
    // a file outside the container as a standard stream
    let c = Runtime::hiber().container(Bundle::busybox().shell(crate::COUNT));
    let log = fs::File::create(c.bundle().join("outside.log")).unwrap();
    let mut command = c.command("run", &["--detach", "--bundle", &c.bundle_path()]);
    command.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    assert!(command.status().unwrap().success());
    wait_for("a count of 3", || count(&c) >= 3);
    let pid = c.pid();
    let output = c.checkpoint(&[]);
    output.fails("outside.log");
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    let at = count(&c);
    wait_for("the count to go on", || count(&c) > at);
    c.exec(&["true"]).ok();
}

#[test]
fn an_established_connection_needs_its_flag() {
    require!(Root, Criu);
    let script = "mkfifo /f; exec 3<>/f; nc -l -p 7000 <&3 >/dev/null & \
                  while :; do nc 127.0.0.1 7000 <&3 >/dev/null; sleep 0.1; done";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    c.run_detached().ok();
    wait_for("the connection", || c.sh("grep -c ' 01 ' /proc/net/tcp || true") != "0");
    c.checkpoint(&[]).fails("tcp");
    assert_eq!(c.status(), "running");
}

#[test]
fn an_image_directory_that_cannot_be_made_is_named() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    fs::write(c.bundle().join("a-file"), "").unwrap();
    let path = c.bundle().join("a-file/images");
    c.call_detached("checkpoint", &["--image-path", path.to_str().unwrap()]).fails("a-file");
    counts_on(&c, 3);
}

#[test]
fn images_that_are_missing_empty_or_broken_restore_nothing() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let refused = |why: &str| {
        let output = c.restore(&[]);
        assert!(!output.status.success(), "{why}: {output}");
        assert!(!output.stderr.is_empty(), "{why}: an error without a word");
        assert_eq!(c.status(), "gone", "{why}");
        c.assert_clean();
    };
    c.checkpoint(&[]).ok();
    let (images, kept) = (c.images(), c.bundle().join("kept"));
    fs::rename(&images, &kept).unwrap();
    refused("no directory");
    fs::create_dir_all(&images).unwrap();
    refused("an empty directory");
    fs::remove_dir_all(&images).unwrap();
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a").arg(&kept).arg(&images);
    hiber_tests::command::run(copy, b"").ok();
    let pstree = images.join("pstree.img");
    fs::write(&pstree, &fs::read(&pstree).unwrap()[..6]).unwrap();
    refused("a truncated image");
    // and the whole ones are good still
    fs::remove_dir_all(&images).unwrap();
    fs::rename(&kept, &images).unwrap();
    c.restore(&[]).ok();
    counts_on(&c, 3);
}

#[test]
fn a_name_that_is_taken_is_not_restored_over() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--leave-running"]).ok();
    let pid = c.pid();
    c.restore(&[]).fails("exist");
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
}

#[test]
fn without_a_criu_the_container_runs_on() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let images = c.images();
    let mut command = c.command("checkpoint", &["--image-path", images.to_str().unwrap()]);
    command.env("PATH", "/no/such/directory").env_remove("HIBER_CRIU");
    hiber_tests::command::run(command, b"").fails("criu");
    assert_eq!(c.status(), "running");
    counts_on(&c, 3);
}

#[test]
fn an_unknown_cgroup_mode_or_empty_namespace_is_refused() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--manage-cgroups-mode", "nonsense"]).fails("manage");
    c.checkpoint(&["--empty-ns", "mount"]).fails("mount");
    counts_on(&c, 3);
}
