//! Losses: a checkpoint is refused before anything is frozen, until somebody accepts what a restore will not bring back.

use crate::failures::{finding, preflight};
use crate::network_devices::inside;
use crate::{count, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;

/// The commands that make a network which is restored without a part of it.
const IPSEC: &str =
    "ip link add name va type veth peer name vb; ip xfrm policy add src 10.0.0.0/24 dst 10.1.0.0/24 dir out";

fn lossy(annotations: Value) -> Container {
    let c = counter(&Runtime::hiber(), Bundle::busybox().edit(|c| c["annotations"] = annotations));
    inside(&c, IPSEC);
    c
}

#[test]
fn a_loss_is_refused_until_it_is_accepted_and_then_stands_in_the_manifest() {
    require!(Root, Criu, Program("nsenter"), NetworkCommand(IPSEC));
    let c = lossy(json!({}));
    let report = preflight(&c, &[]);
    assert_eq!((&report["possible"], &report["findings"][0]["severity"]), (&json!(false), &json!("loss")));
    let what = finding(&report, "network-part").unwrap()["what"].as_str().unwrap().to_owned();
    c.checkpoint(&[]).fails("--accept network-part does without");
    assert!(!c.images().exists());
    c.checkpoint(&["--accept", "tcp-connection"]).fails("is no loss that can be accepted; expected ");
    c.checkpoint(&["--accept", ""]).fails("is no loss that can be accepted; expected ");
    counts_on(&c, count(&c));

    let report = preflight(&c, &["--accept", "network-part"]);
    assert_eq!(report["possible"], json!(true), "{report}");
    assert_eq!(finding(&report, "network-part").unwrap()["severity"], json!("warning"));
    c.checkpoint(&["--accept", "network-part"]).ok();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(c.images().join("hiber.json")).unwrap()).unwrap();
    assert_eq!(manifest["accepted"], json!([{"check": "network-part", "what": what}]));
    let images = c.images().display().to_string();
    let shown = c.runtime().run(&["inspect", &images]);
    assert!(shown.ok().contains(&format!("network-part: {what}")), "{}", shown.stdout);
    let report = c.call(
        "restore",
        &["--check", "--format", "json", "--image-path", &images, "--bundle", &c.bundle_path()],
    );
    let left_out = finding(&report.json(), "left-out").unwrap()["what"].clone();
    assert!(left_out.as_str().unwrap().contains(&what), "{left_out}");
    c.restore(&[]).ok();
    counts_on(&c, 3);
}

#[test]
fn an_annotation_accepts_losses_too() {
    require!(Root, Criu, Program("nsenter"), NetworkCommand(IPSEC));
    let c = lossy(json!({"dev.hiber.accept": "network-part"}));
    let report = preflight(&c, &[]);
    assert_eq!(report["possible"], json!(true));
    assert!(finding(&report, "network-part").is_some());
    sleep_and_wake(&c, &[], &[]);
    let wrong = lossy(json!({"dev.hiber.accept": "network-part, memory"}));
    wrong.checkpoint(&[]).fails("annotations.dev.hiber.accept: ").fails("mount-replaced, network-part");
    counts_on(&wrong, count(&wrong));
}
