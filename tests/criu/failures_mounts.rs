//! Mounts that preflight tells apart: those that CRIU cannot save, or saves for nobody, and those that only look so.

use crate::failures::{finding, preflight};
use crate::{count, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::fs;
use std::process::Command;

/// Runs commands among a container's mounts, with the host's rights: its programs are the container's.
#[track_caller]
fn among_mounts(c: &Container, commands: &str) {
    let mut command = Command::new("nsenter");
    command.args(["--mount", &format!("--target={}", c.pid()), "sh", "-ec", commands]);
    hiber_tests::command::run(command, b"").ok();
}

#[test]
fn an_overlay_that_was_mounted_inside_is_refused_at_once() {
    require!(Root, Criu, Program("nsenter"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    among_mounts(
        &c,
        "mkdir /data /merged; mount -t tmpfs tmpfs /data; mkdir /data/l /data/u /data/w; \
         mount -t overlay -o lowerdir=/data/l,upperdir=/data/u,workdir=/data/w overlay /merged",
    );
    let report = preflight(&c, &[]);
    let found = finding(&report, "mount").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!((&found["severity"], &found["path"]), (&json!("error"), &json!("/merged")));
    let before = count(&c);
    c.checkpoint(&[]).fails("an overlay was mounted inside").fails("/merged").fails("unmount it");
    assert!(!c.images().exists(), "CRIU was not asked");
    counts_on(&c, before);
    among_mounts(&c, "umount /merged");
    sleep_and_wake(&c, &[], &[]);
}

#[test]
fn an_overlay_of_the_configuration_is_mounted_again() {
    require!(Root, Criu);
    let bundle = Bundle::busybox();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(bundle.join(name)).unwrap();
    }
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| bundle.join(name).display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let mount =
        json!({"destination": "/merged", "type": "overlay", "source": "overlay", "options": [options]});
    let c = counter(&Runtime::hiber(), bundle.mount(mount));
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    sleep_and_wake(&c, &[], &[]);
    c.sh("echo kept > /merged/file");
    assert!(c.bundle().join("upper/file").exists());
}

#[test]
fn a_bind_that_the_container_made_of_its_volume_is_no_hindrance() {
    require!(Root, Criu, Program("nsenter"), Program("mount"));
    let bundle = Bundle::busybox();
    let volume = bundle.join("volume");
    fs::create_dir(&volume).unwrap();
    let mut mount = Command::new("mount");
    // Another file system than the root's.
    mount.args(["-t", "tmpfs", "tmpfs"]).arg(&volume);
    hiber_tests::command::run(mount, b"").ok();
    fs::create_dir(volume.join("below")).unwrap();
    fs::write(volume.join("below/file"), "content").unwrap();
    let c = counter(
        &Runtime::hiber(),
        bundle.mount(json!({"destination": "/volume", "source": "volume", "options": ["bind"]})),
    );
    among_mounts(&c, "mkdir /again; mount --bind /volume/below /again");
    let report = preflight(&c, &[]);
    assert!(finding(&report, "mount").is_none(), "{report:#}");
    assert_eq!(report["possible"], json!(true), "{report:#}");
    c.checkpoint(&[]).ok();
    c.restore(&[]).ok();
    assert_eq!(c.sh("cat /again/file"), "content");
    c.delete(&["--force"]).ok();
    let mut unmount = Command::new("umount");
    unmount.arg(&volume);
    hiber_tests::command::run(unmount, b"").ok();
}

/// A mount of this type that config.json asks for is told with advice, and does not end the container.
fn a_mount_that_criu_cannot_save_is_told(kind: &str) {
    let mount = json!({"destination": "/special", "type": kind, "source": kind});
    let c = counter(&Runtime::hiber(), Bundle::busybox().mount(mount));
    let report = preflight(&c, &[]);
    let found = finding(&report, "mount").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(found["what"], json!(format!("CRIU cannot save a mount of type {kind}")));
    assert_eq!(found["advice"], json!("let config.json bind one of the host's there instead"));
    c.checkpoint(&[])
        .fails("unsupported")
        .fails(&format!("CRIU cannot save a mount of type {kind}: /special"));
    counts_on(&c, 3);
}

#[test]
fn a_hugetlbfs_of_the_configuration_is_not_said_to_be_missing_there() {
    require!(Root, Criu, Filesystem("hugetlbfs"));
    a_mount_that_criu_cannot_save_is_told("hugetlbfs");
}

#[test]
fn a_bpf_file_system_of_the_configuration_is_not_said_to_be_missing_there() {
    require!(Root, Criu, Filesystem("bpf"));
    a_mount_that_criu_cannot_save_is_told("bpf");
}
