//! `checkpoints ls` and `checkpoints verify --all`: what a list says of checkpoints, and verifications that are kept.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;

/// `checkpoints ACTION FLAGS ID NAMES`.
#[track_caller]
fn checkpoints(c: &Container, action: &str, flags: &[&str], names: &[&str]) -> Output {
    c.runtime().run(&[&["checkpoints", action], flags, &[c.id()], names].concat())
}

#[track_caller]
fn list(c: &Container, flags: &[&str]) -> Vec<Value> {
    let flags = [flags, &["--format", "json"]].concat();
    checkpoints(c, "ls", &flags, &[]).json().as_array().unwrap().clone()
}

/// Changes one byte in the middle of a file.
pub(crate) fn damage(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn a_list_shows_age_size_frozen_time_and_verification() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    for name in ["one", "two", "three"] {
        checkpoints(&c, "create", &["--leave-running"], &[name]).ok();
    }
    let all = list(&c, &[]);
    assert_eq!(all.len(), 3);
    for one in &all {
        assert!(one["size"].as_u64().unwrap() > 10_000, "{one}");
        assert!((1..10_000_000).contains(&one["frozenTime"].as_u64().unwrap()), "{one}");
        assert!(one["age"].as_u64().unwrap() < 120, "{one}");
        assert_eq!(
            (&one["shared"], &one["whole"], &one["verified"]),
            (&json!(0), &json!(true), &Value::Null)
        );
        // As before.
        assert!(one["created"].is_string() && one["exit"] == json!(false) && one["tcp"] == json!(false));
    }
    let text = checkpoints(&c, "ls", &[], &[]).ok().to_owned();
    assert!(text.starts_with("NAME") && text.contains("VERIFIED") && text.contains(" ms "), "{text}");

    checkpoints(&c, "verify", &[], &["one", "two"]).ok();
    let verified =
        |all: &[Value]| all.iter().map(|one| one["verified"]["problems"].clone()).collect::<Vec<_>>();
    // By name: one, three, two.
    assert_eq!(verified(&list(&c, &[])), [json!([]), Value::Null, json!([])]);
    let dir = c.bundle().join("checkpoints");
    damage(&dir.join("two/core-1.img"));
    assert_eq!(verified(&list(&c, &[])), [json!([]), Value::Null, Value::Null], "it has changed since");
    let report = checkpoints(&c, "verify", &["--all", "--format", "json"], &[]);
    report.exited(1);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!((report.as_array().unwrap().len(), &report[2]["name"]), (3, &json!("two")));
    assert_eq!(report[2]["problems"], json!(["core-1.img: its content is not what was written"]));
    let all = list(&c, &[]);
    assert_eq!(all[2]["verified"]["problems"].as_array().unwrap().len(), 1);
    assert!(checkpoints(&c, "ls", &[], &[]).ok().contains("damaged (1)"));
    fs::remove_file(dir.join("one/pages-1.img")).unwrap();
    assert_eq!(list(&c, &[])[0]["whole"], json!(false));
    assert!(checkpoints(&c, "ls", &[], &[]).ok().contains("not whole"));

    // A verification is no part of the checkpoint: it restores, and goes into an archive without.
    let archive = c.bundle().join("three.tar").display().to_string();
    checkpoints(&c, "export", &["--compress", "none"], &["three", &archive]).ok();
    let mut tar = std::process::Command::new("tar");
    let names = hiber_tests::command::run(
        {
            tar.args(["-tf", &archive]);
            tar
        },
        b"",
    )
    .ok()
    .to_owned();
    assert!(names.contains("hiber.json") && !names.contains("verified.json"), "{names}");
    let before = count(&c);
    assert!(before > 0);
    c.delete(&["--force"]).ok();
    let bundle = c.bundle_path();
    c.call_detached("restore", &["--detach", "--bundle", &bundle, "--checkpoint", "three"]).ok();
    counts_on(&c, 3);
    let here = ["--bundle", bundle.as_str()];
    c.delete(&["--force"]).ok();
    checkpoints(&c, "verify", &here, &["three", "one"]).exited(1);
}

#[test]
fn without_hashes_there_is_nothing_to_verify_and_others_are() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    checkpoints(&c, "create", &["--leave-running"], &["good"]).ok();
    let bare = c.bundle().join("checkpoints/bare").display().to_string();
    c.call("checkpoint", &["--leave-running", "--no-hash", "--image-path", &bare]).ok();
    fs::copy(c.bundle().join("checkpoints/good/config.json"), format!("{bare}/config.json")).unwrap();
    let report = checkpoints(&c, "verify", &["--all"], &[]);
    report.fails("checkpoint bare").fails("--no-hash");
    assert!(
        report.stdout.contains("checkpoints/good: ") && report.stdout.contains("all as they were written")
    );
    checkpoints(&c, "verify", &[], &["bare"]).fails("--no-hash");
    checkpoints(&c, "verify", &[], &["none"]).fails("does not exist");
    let all = list(&c, &[]);
    assert_eq!((&all[0]["verified"], &all[1]["verified"]["problems"]), (&Value::Null, &json!([])));
}

#[test]
fn checkpoints_in_a_store_are_listed_and_verified() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let store = c.bundle().join("store");
    let flags = ["--store", store.to_str().unwrap()];
    for name in ["one", "two"] {
        let put = ["--leave-running", "--checkpoint", name];
        c.call("checkpoint", &[&flags[..], &put].concat()).ok();
    }
    let all = list(&c, &flags);
    assert_eq!((all.len(), &all[0]["name"], &all[0]["verified"]), (2, &json!("one"), &Value::Null));
    for one in &all {
        assert!(one["frozenTime"].as_u64().is_some_and(|time| time > 0), "{one}");
        assert!(one["shared"].as_u64().unwrap() < one["size"].as_u64().unwrap(), "{one}");
    }
    assert!(all[1]["shared"].as_u64() > all[0]["shared"].as_u64(), "{all:?}");
    checkpoints(&c, "verify", &[&flags[..], &["--all"]].concat(), &[]).ok();
    let problems = |n: usize| list(&c, &flags)[n]["verified"]["problems"].clone();
    assert_eq!((problems(0), problems(1)), (json!([]), json!([])));
    // A new checkpoint does not touch the packs of the old ones.
    c.call("checkpoint", &[&flags[..], &["--leave-running", "--checkpoint", "xx"]].concat()).ok();
    assert_eq!(problems(0), json!([]));
    let mut packs: Vec<_> =
        fs::read_dir(store.join("packs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    packs.retain(|path| path.extension().is_some_and(|is| is == "pack"));
    packs.sort();
    damage(&packs[0]);
    assert_eq!(problems(0), Value::Null);
    checkpoints(&c, "verify", &flags, &["one"]).exited(1);
    assert_ne!(problems(0), json!([]));
    c.runtime().run(&["store", "rm", flags[1], c.id(), "one"]).ok();
    assert!(!store.join("verified").join(c.id()).join("one.json").exists());
    checkpoints(&c, "verify", &flags, &["one"]).fails("checkpoint one does not exist");
    checkpoints(&c, "ls", &["--store", "/nowhere"], &[]).fails("/nowhere");
}
