//! Mounts and what is in a tmpfs: `same/mounts.c`.

use super::super::row::{Peer, Row, criu, differs, hiber, refused};
use hiber_tests::prelude::*;
use hiber_tests::require::Need;

/// Adds a mount of config.json.
fn mount(config: &mut Value, at: &str, fstype: &str, options: &[&str]) {
    let mount = json!({"destination": at, "type": fstype, "source": fstype, "options": options});
    config["mounts"].as_array_mut().expect("mounts of config.json").push(mount);
}

const MOUNTINFO: &str = "/proc/self/mountinfo";

pub(in super::super) const ROWS: &[Row] = &[
    criu("mount-tmpfs-limits", MOUNTINFO).config(|c| {
        mount(c, "/m-limited", "tmpfs", &["size=8m", "nr_inodes=100", "mode=0711", "uid=5", "gid=6"]);
    }),
    criu("mount-noatime", MOUNTINFO).config(|c| mount(c, "/m-noatime", "tmpfs", &["noatime"])),
    criu("mount-strictatime-nodiratime", MOUNTINFO)
        .config(|c| mount(c, "/m-strictatime", "tmpfs", &["strictatime", "nodiratime"])),
    criu("mount-nosuid-nodev-noexec-ro", MOUNTINFO)
        .config(|c| mount(c, "/m-restricted", "tmpfs", &["nosuid", "nodev", "noexec", "ro"])),
    hiber("mount-nosymfollow", MOUNTINFO).needs(&[Need::Linux(5, 14)]),
    hiber("mount-synchronous", "/proc/self/mountinfo; CRIU makes `nodev` of it")
        .config(|c| mount(c, "/m-synchronous", "tmpfs", &["sync", "dirsync"])),
    criu("mount-lazytime", MOUNTINFO).config(|c| mount(c, "/m-lazytime", "tmpfs", &["lazytime"])),
    criu("mount-huge-pages", MOUNTINFO).config(|c| mount(c, "/m-huge", "tmpfs", &["huge=within_size"])),
    criu("mount-shared", MOUNTINFO).config(|c| mount(c, "/m-shared", "tmpfs", &["shared"])),
    criu("mount-unbindable", MOUNTINFO).config(|c| mount(c, "/m-unbindable", "tmpfs", &["unbindable"])),
    hiber("mount-tracefs", MOUNTINFO).config(|c| mount(c, "/m-tracefs", "tracefs", &["ro"])),
    criu("mount-debugfs", MOUNTINFO).config(|c| mount(c, "/m-debugfs", "debugfs", &["ro"])),
    criu("mount-securityfs", MOUNTINFO).config(|c| mount(c, "/m-securityfs", "securityfs", &["ro"])),
    criu("mount-devpts-options", MOUNTINFO).config(|c| {
        mount(c, "/m-devpts", "devpts", &["newinstance", "ptmxmode=0600", "mode=0621", "gid=7", "max=99"]);
    }),
    criu("mount-proc-hidepid", MOUNTINFO).config(|c| mount(c, "/m-hidepid", "proc", &["hidepid=2", "gid=9"])),
    criu("mount-proc-subset", MOUNTINFO).config(|c| mount(c, "/m-subset", "proc", &["subset=pid"])),
    criu("mount-bind-options", MOUNTINFO).config(|c| {
        let options = ["bind", "ro", "nosuid", "noexec", "noatime"];
        let mount =
            json!({"destination": "/m-bound", "type": "bind", "source": "/usr/share", "options": options});
        c["mounts"].as_array_mut().expect("mounts of config.json").push(mount);
    }),
    criu("mount-made-inside", MOUNTINFO),
    refused("mount-overlay-made-inside", MOUNTINFO, "mount", "an overlay was mounted inside"),
    refused("mount-tracefs-made-inside", MOUNTINFO, "mount", "a tracefs was mounted inside")
        .peers(Peer::Lost, Peer::Lost),
    hiber("tmpfs-user-attribute", "getxattr(2)").needs(&[Need::Linux(6, 6)]),
    hiber("tmpfs-trusted-attribute-of-a-link", "lgetxattr(2)"),
    hiber("tmpfs-access-control-list", "getxattr(2)"),
    hiber("tmpfs-file-capability", "getxattr(2)"),
    hiber("tmpfs-times", "lstat(2): nanoseconds"),
    criu("tmpfs-owners-modes-devices-fifos", "lstat(2)"),
    criu("tmpfs-hard-links-and-holes", "stat(2)").config(|c| mount(c, "/m-linked", "tmpfs", &[])),
    hiber("tmpfs-attributes-and-times-beside-hard-links", "fgetxattr(2), lstat(2)")
        .needs(&[Need::Linux(6, 6)]),
    criu("mount-memory-policy", MOUNTINFO),
    refused("mount-ramfs-made-inside", MOUNTINFO, "mount", "ramfs"),
    refused("mount-bpf-made-inside", MOUNTINFO, "mount", "bpf"),
    // a tmpfs can be mounted so since then
    refused("mount-id-mapped-made-inside", MOUNTINFO, "mount", "id-mapped")
        .needs(&[Need::Linux(6, 3)])
        .peers(Peer::Lost, Peer::Lost),
    differs("tmpfs-flags", "FS_IOC_GETFLAGS: what chattr(1) sets", "none").needs(&[Need::Linux(6, 6)]),
    differs("tmpfs-socket-that-nobody-has", "access(2)", "gone"),
];
