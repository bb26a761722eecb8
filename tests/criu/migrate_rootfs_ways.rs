//! A container moves together with its bundle, by ssh and by TLS.

use crate::migrate::{assert_gone, remembered};
use crate::migrate_rootfs::{KINDS, archive, beside, bundle, elsewhere, words};
use crate::migrate_ssh::Sshd;
use crate::tls::{Ca, Receiver, migration};
use crate::{count, counts_on};
use hiber_tests::command::run;
use hiber_tests::prelude::*;
use std::path::{Path, PathBuf};

/// A container with files of all kinds that writes to its root all the time.
fn writer() -> Container {
    let writes = "i=0; while :; do i=$((i+1)); echo $i >>/log; echo $i >/dev/shm/count; sleep 0.02; done";
    let c = Runtime::hiber().container(bundle().shell(writes));
    let mut make = std::process::Command::new("sh");
    make.args(["-ec", KINDS, "sh"]).arg(c.bundle().rootfs());
    run(make, b"").ok();
    c.run_detached().ok();
    wait_for("numbers", || count(&c) > 10);
    c
}

/// It runs there with all files, and each number was written once.
#[track_caller]
fn has_come(c: &Container, there: &Container, place: &Path) {
    assert_gone(c);
    counts_on(there, 10);
    assert_eq!(beside(place), ["bundle"]);
    let files = |root: &Path| archive(&root.join("kinds"));
    assert_eq!(files(&place.join("rootfs")), files(&c.bundle().rootfs()));
    there.kill("KILL").ok();
    there.wait_stopped();
    let text = std::fs::read_to_string(place.join("rootfs/log")).unwrap();
    let lines: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.len() > 20 && lines.iter().copied().eq(1..=lines.len()), "{lines:?}");
    assert_eq!(remembered(there.runtime()), Vec::<PathBuf>::new());
}

#[test]
fn a_bundle_comes_by_ssh() {
    require!(Root, Criu, Program("/usr/sbin/sshd"), Program("ssh"));
    let sshd = Sshd::start();
    let c = writer();
    let (there, place, flags) = elsewhere();
    let flags = words(&flags);
    sshd.migrate(&c, &there, &[&flags[..], &["--dry-run"]].concat()).ok();
    assert_eq!(beside(&place), Vec::<String>::new());
    sshd.migrate(&c, &there, &[&flags[..], &["--bandwidth", "4M", "--compress", "none"]].concat()).ok();
    has_come(&c, &there, &place);
}

#[test]
fn a_bundle_comes_by_tls_to_a_listener_that_takes_bundles() {
    require!(Root, Criu);
    let ca = Ca::new();
    ca.issue("source", |_| {}).issue("there", |_| {});
    let (c, (there, place, flags)) = (writer(), elsewhere());
    let flags = words(&flags);
    let send = |receiver: &Receiver, more: &[&str]| {
        let (flags, at) = ([&flags[..], more].concat(), ("localhost", receiver.port));
        run(migration(&c, &there, &flags, at, &ca.flags("source")), b"")
    };
    let closed = Receiver::start(&there, &ca.flags("there"));
    send(&closed, &[]).fails("--rootfs sync: this receiver takes no bundles").exited(1);
    counts_on(&c, count(&c));
    assert_eq!(beside(&place), Vec::<String>::new());
    drop(closed);
    let sync = ["--rootfs", "sync"].map(str::to_owned).to_vec();
    let receiver = Receiver::start(&there, &[ca.flags("there"), sync].concat());
    send(&receiver, &["--dry-run"]).ok();
    send(&receiver, &["--compress", "zstd"]).ok();
    has_come(&c, &there, &place);
    assert_eq!(receiver.log(), "");
}
