//! Both ends look before anything moves whether it could work.

use crate::migrate::{assert_gone, migrate, migration, receiver, remembered, there};
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use std::fs;
use std::path::PathBuf;

/// It is refused with these words, and runs on; nothing is left there.
#[track_caller]
fn refused(c: &Container, there: &Container, flags: &[&str], words: &str) {
    for flags in [flags, &[flags, &["--dry-run"]].concat()] {
        migrate(c, there, flags).fails(words).exited(1);
        counts_on(c, count(c));
    }
    assert_eq!(remembered(c.runtime()), Vec::<PathBuf>::new());
    assert_eq!(remembered(there.runtime()), Vec::<PathBuf>::new());
}

#[test]
fn what_cannot_be_there_is_refused_before_anything_moves() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let elsewhere = there(Bundle::busybox());
    refused(&c, &elsewhere, &["--bundle", "/nonexistent/bundle"], "refuses: /nonexistent/bundle");
    let mounted = Bundle::busybox().mount(json!({"destination": "/more", "type": "tmpfs", "source": "more"}));
    refused(&c, &there(mounted), &[], "mounts: ");
    let terminal = Bundle::busybox().edit(|config| config["process"]["terminal"] = json!(true));
    refused(&c, &there(terminal), &[], "process.terminal");
    let its_cgroup = c.bundle().config()["linux"]["cgroupsPath"].clone();
    let busy = Bundle::busybox().edit(|config| config["linux"]["cgroupsPath"] = its_cgroup);
    refused(&c, &there(busy), &[], "container's cgroup is not empty");
    let bound = |source: &str| {
        Bundle::busybox().mount(json!({
            "destination": "/data", "type": "bind", "source": source, "options": ["bind"]
        }))
    };
    let with_data = counter(&Runtime::hiber(), bound("/tmp"));
    let words = "the source of /data: /nonexistent/data: no such file or directory";
    refused(&with_data, &there(bound("/nonexistent/data")), &[], words);
    let taken = counter(&Runtime::hiber(), Bundle::busybox());
    refused(&c, &taken, &[], "already exists");
    counts_on(&taken, 3);
    assert_gone(&elsewhere);
}

#[test]
fn what_the_other_machine_has_not_is_refused_before_anything_moves() {
    require!(Root, Criu);
    let bundle = || Bundle::busybox().without_namespace("pid");
    let (c, elsewhere) = (counter(&Runtime::hiber(), bundle()), there(bundle()));
    // The numbers of the container itself, on this machine.
    let taken = format!("process number {} of the container is taken by process {0} (sh) here", c.pid());
    refused(&c, &elsewhere, &[], &taken);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let devices =
        Bundle::busybox().edit(|config| config["linux"]["netDevices"] = json!({"no-such-device": {}}));
    refused(&c, &there(devices), &[], "move network device no-such-device into the container");
}

/// A host with cgroup v2 alone, and this one: a container of either kind does not go to the other.
#[test]
fn another_version_of_cgroups_is_refused_before_anything_moves() {
    require!(Root, Criu, CgroupV1, Program("nsenter"));
    let kind = hiber_sandbox::cgroup::Layout::detect().unwrap().kind();
    let old = if kind == hiber_sandbox::cgroup::Kind::Hybrid { "hybrid" } else { "v1" };
    let (here, on_v2) = (Runtime::hiber(), Runtime::hiber_on_v2());
    // Not as its source, which sees another host.
    let outside = format!("nsenter --mount=/proc/{}/ns/mnt --", std::process::id());
    for (from, to, words) in [
        (
            &here,
            &on_v2,
            format!("cgroups: are v2 here, and {old} at the source; expected v2 at both, or at neither"),
        ),
        (
            &on_v2,
            &here,
            format!("cgroups: are {old} here, and v2 at the source; expected v2 at both, or at neither"),
        ),
    ] {
        let c = counter(from, Bundle::busybox());
        let there = to.container(Bundle::busybox());
        for flags in [&[][..], &["--dry-run"]] {
            let way = format!("{outside} {}", receiver(&there));
            let output = hiber_tests::command::run(migration(&c, &there, flags, &way), b"");
            output.fails(&format!("refuses: {words}")).exited(1);
            counts_on(&c, count(&c));
        }
        assert_gone(&there);
        assert_eq!(remembered(from), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_clock_that_differs_is_told() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    let word = |json: &str| [&[b'W'][..], &(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
    let hello = word(r#"{"word":"hello","of":{"protocol":6,"program":"other"}}"#);
    for (ahead, told) in
        [(3_600_500, "is 3600.5 s ahead of the one here"), (-2000, "is 2 s behind the one here"), (999, "")]
    {
        let accept = word(&format!(r#"{{"word":"accept","of":{{"compress":[],"clock":{ahead}}}}}"#));
        let file = c.bundle().join("says");
        fs::write(&file, [hello.clone(), accept].concat()).unwrap();
        let flags = ["--dry-run", "--format", "json"];
        let command = format!("cat {}; cat >/dev/null", file.display());
        let output = hiber_tests::command::run(migration(&c, &there, &flags, &command), b"");
        let line: serde_json::Value = serde_json::from_str(output.ok()).unwrap();
        assert_eq!(line, json!({"phase": "accepted", "clockAheadMilliseconds": ahead}));
        assert!(output.stderr.contains(told) && output.stderr.is_empty() == told.is_empty(), "{output}");
    }
    let output = migrate(&c, &there, &["--dry-run", "--format", "json"]);
    let line: serde_json::Value = serde_json::from_str(output.ok()).unwrap();
    assert!(
        line["clockAheadMilliseconds"].as_i64().is_some_and(|ahead| (0..60_000).contains(&ahead)),
        "{output}"
    );
}
