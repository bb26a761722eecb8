//! Losses: a checkpoint is refused before anything is frozen, until somebody accepts what a restore will not bring back.

use crate::failures::{finding, preflight};
use crate::{count, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::io::Read as _;
use std::os::unix::net::UnixListener;

/// A container for whose mkdir(2) an agent is asked, which is gone as soon as it was told.
fn asking(annotations: Value) -> Container {
    let bundle = Bundle::busybox();
    let path = bundle.join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || listener.accept().map(|(mut stream, _)| stream.read(&mut [0; 65_536])));
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let bundle = bundle.edit(|c| {
        c["annotations"] = annotations;
        c["linux"]["seccomp"] = seccomp;
    });
    counter(&Runtime::hiber(), bundle)
}

#[test]
fn a_loss_is_refused_until_it_is_accepted_and_then_stands_in_the_manifest() {
    require!(Root, Criu);
    let c = asking(json!({}));
    let report = preflight(&c, &[]);
    assert_eq!((&report["possible"], &report["findings"][0]["severity"]), (&json!(false), &json!("loss")));
    assert!(
        finding(&report, "seccomp-agent").unwrap()["what"].as_str().unwrap().contains("mkdir"),
        "{report}"
    );
    c.checkpoint(&[]).fails("an agent answer for mkdir").fails("--accept seccomp-agent does without");
    assert!(!c.images().exists());
    c.checkpoint(&["--accept", "tcp-connection"]).fails("is no loss that can be accepted; expected ");
    c.checkpoint(&["--accept", ""]).fails("is no loss that can be accepted; expected ");
    counts_on(&c, count(&c));

    let report = preflight(&c, &["--accept", "seccomp-agent"]);
    assert_eq!(report["possible"], json!(true), "{report}");
    assert_eq!(finding(&report, "seccomp-agent").unwrap()["severity"], json!("warning"));
    c.checkpoint(&["--accept", "seccomp-agent"]).ok();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(c.images().join("hiber.json")).unwrap()).unwrap();
    assert_eq!(manifest["accepted"][0]["check"], "seccomp-agent");
    let images = c.images().display().to_string();
    let shown = c.runtime().run(&["inspect", &images]);
    assert!(
        shown.ok().contains("seccomp-agent: linux.seccomp has an agent answer for mkdir"),
        "{}",
        shown.stdout
    );
    let report = c.call(
        "restore",
        &["--check", "--format", "json", "--image-path", &images, "--bundle", &c.bundle_path()],
    );
    assert!(finding(&report.json(), "left-out").unwrap()["what"].as_str().unwrap().contains("seccomp-agent"));
    c.restore(&[]).ok();
    counts_on(&c, 3);
}

#[test]
fn an_annotation_accepts_losses_too() {
    require!(Root, Criu);
    let c = asking(json!({"dev.hiber.accept": "seccomp-agent"}));
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    sleep_and_wake(&c, &[], &[]);
    let wrong = asking(json!({"dev.hiber.accept": "seccomp-agent, memory"}));
    wrong.checkpoint(&[]).fails("annotations.dev.hiber.accept: ").fails("expected seccomp-agent");
    counts_on(&wrong, count(&wrong));
}
