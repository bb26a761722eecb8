//! `checkpoints` and `restore --checkpoint`.

use std::fs;
use std::io::{BufRead, BufReader};

use hiber_tests::prelude::*;

use crate::{COUNT, count, counter, counts_on};

/// `checkpoints ACTION FLAGS ID NAME`.
#[track_caller]
fn checkpoints(c: &Container, action: &str, flags: &[&str], name: &[&str]) -> Output {
    let mut args = vec!["checkpoints", action];
    args.extend(flags);
    args.push(c.id());
    args.extend(name);
    c.runtime().run(&args)
}

#[test]
fn checkpoints_are_kept_by_name() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let bundle = c.bundle_path();
    assert_eq!(checkpoints(&c, "ls", &["--format", "json"], &[]).json(), json!([]));
    checkpoints(&c, "create", &["--leave-running"], &["first"]).ok();
    assert_eq!(c.status(), "running");
    let again = checkpoints(&c, "create", &["--leave-running"], &["first"]);
    again.fails(&format!("checkpoint with name first already exists for container {}", c.id()));
    let nowhere = ["--bundle", "/nowhere"];
    checkpoints(&c, "ls", &nowhere, &[]).fails("--bundle /nowhere: has no config.json");
    c.runtime().run(&["checkpoints", "ls", "nobody"]).fails("does not exist");
    let before = count(&c);
    checkpoints(&c, "create", &["--file-locks"], &["second.2"]).ok();
    assert_eq!(c.status(), "gone");
    c.assert_clean();

    // The container is gone; its bundle has its checkpoints.
    let here = ["--bundle", bundle.as_str()];
    let list = checkpoints(&c, "ls", &here, &[]).ok().to_owned();
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["NAME", "first", "second.2"]);
    let shown = checkpoints(&c, "inspect", &here, &["second.2"]).json();
    let expected = [("name", json!("second.2")), ("exit", json!(true)), ("tcp", json!(false))];
    expected.iter().for_each(|(key, value)| assert_eq!(&shown[*key], value, "{shown}"));
    let path = c.bundle().join("checkpoints/second.2");
    assert_eq!(shown["path"], path.to_str().unwrap());
    c.runtime().run(&["inspect", "--verify", path.to_str().unwrap()]).ok();

    let args = ["--detach", "--bundle", &bundle, "--checkpoint", "second.2"];
    c.call_detached("restore", &args).ok();
    counts_on(&c, before);
    checkpoints(&c, "rm", &[], &["first"]).ok();
    checkpoints(&c, "rm", &[], &["first"])
        .fails(&format!("checkpoint first does not exist for container {}", c.id()));
    assert_eq!(fs::read_dir(c.bundle().join("checkpoints")).unwrap().count(), 1);
    // The whole story is in the container's events, which began with its restore.
    let mut events =
        c.command("events", &["--lifecycle"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!((&first["type"], &first["data"]["path"]), (&json!("restored"), &json!(path)));
    c.delete(&["--force"]).ok();
    let last: Vec<_> = (0..3).map(|_| next()["type"].clone()).collect();
    assert_eq!(last, ["signalled", "exit", "deleted"]);
    assert!(events.wait().unwrap().success());
}

#[test]
fn another_directory_and_what_is_in_the_way() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell(COUNT));
    let dir = c.bundle().join("kept");
    let flags = ["--checkpoint-dir", dir.to_str().unwrap()];
    c.create(&[]).ok();
    checkpoints(&c, "create", &flags, &["one"])
        .fails(&format!("Container {} is not running: it is created", c.id()));
    c.start().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    let file = dir.join("file").display().to_string();
    checkpoints(&c, "create", &flags, &["file"]).fails(&format!("{file} exists and is not a directory"));
    checkpoints(&c, "rm", &flags, &["file"]).fails("is not a directory");
    checkpoints(&c, "create", &flags, &["x"]).fails("Invalid checkpoint ID (x), only [a-zA-Z0-9]");
    checkpoints(&c, "create", &flags, &["one"]).ok();
    let bundle = c.bundle_path();
    let args = ["--detach", "--bundle", &bundle, "--checkpoint", "two", flags[0], flags[1]];
    c.call_detached("restore", &args).fails("checkpoint two does not exist");
    let args = ["--detach", "--bundle", &bundle, "--checkpoint", "one", flags[0], flags[1]];
    c.call_detached("restore", &args).ok();
    counts_on(&c, 3);
}
