//! A container runs at its destination before its memory is there, and the rest of that follows; from the decision on both ends are
//! needed.

use crate::lazy::{holder, holds_all};
use crate::migrate::{assert_gone, assert_nothing_below, migrate, migration, receiver, there, writer};
use crate::pre_copy::{with_notes, works_on};
use hiber_tests::prelude::*;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Faster than that the writer writes.
const SLOW: [&str; 8] =
    ["--pre-copy", "on", "--bandwidth", "20M", "--max-rounds", "2", "--max-downtime", "20ms"];

/// The lines of `--format json`.
fn lines(output: &Output) -> Vec<Value> {
    output.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The phases, without the lines of progress.
fn phases(lines: &[Value]) -> Vec<&str> {
    let phases = lines.iter().map(|line| line["phase"].as_str().unwrap());
    phases.filter(|phase| *phase != "moving").collect()
}

/// How far the memory is, as `state` tells it.
fn memory(c: &Container) -> String {
    c.state()["memory"]["status"].as_str().unwrap_or("there").to_owned()
}

/// A redis with 48 MiB, and where it can go.
fn held() -> (Container, Container) {
    (holder(), there(Bundle::redis()))
}

/// A program that knows what must be in its memory, and changes that all the time.
fn who_writes_faster_than_the_link_goes_over() {
    let (c, there) = writer();
    migrate(&c, &there, &SLOW).fails("--on-miss post-copy sends them when it runs there").exited(1);
    works_on(&c, "a miss");
    let output = migrate(&c, &there, &[&SLOW[..], &["--on-miss", "post-copy", "--format", "json"]].concat());
    let lines = lines(&output);
    assert_eq!(
        phases(&lines),
        ["accepted", "dumping", "sending", "restoring", "committed", "arrived", "done"],
        "{output}"
    );
    let done = lines.last().unwrap();
    assert!(done["postCopyBytes"].as_u64().unwrap() > 0 && done["rounds"] == 2, "{done}");
    assert!(done["postCopyMilliseconds"].as_u64().is_some() && done["confirmed"] == true, "{done}");
    assert!(lines.iter().any(|line| line["stage"] == "post-copy" && line["totalBytes"].is_u64()), "{output}");
    assert_gone(&c);
    assert_eq!(memory(&there), "arrived");
    works_on(&c, "--on-miss post-copy");
    migrate(&there, &c, &["--post-copy"]).ok();
    assert_gone(&there);
    works_on(&c, "--post-copy");
}

#[test]
fn who_writes_faster_than_the_link_goes_over_by_post_copy() {
    require!(Root, Criu, CPrograms);
    who_writes_faster_than_the_link_goes_over();
}

#[test]
fn who_writes_faster_than_the_link_goes_over_by_post_copy_where_criu_leaves_memory_to_hiber() {
    require!(Root, Criu, CPrograms);
    with_notes(|| {
        // The first CRIU makes the notes.
        let first = crate::counter(&Runtime::hiber(), Bundle::busybox());
        first.checkpoint(&[]).ok();
        who_writes_faster_than_the_link_goes_over();
    });
}

/// Starts a migration by post-copy that takes some seconds, and waits until the container runs there.
#[track_caller]
fn begun(c: &Container, there: &Container, command: &str) -> Child {
    let flags = ["--post-copy", "--bandwidth", "10M", "--compress", "none", "--stall", "3s"];
    let mut source = migration(c, there, &flags, command);
    source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let source = source.spawn().unwrap();
    let runs = || there.status() == "running" && memory(there) == "arriving";
    wait_for("it to run there", || {
        let runs = runs();
        runs && !there.runtime().root().join(there.id()).join("incoming.json").exists()
    });
    source
}

#[test]
fn it_runs_there_before_its_memory_is_there() {
    require!(Root, Criu, Redis);
    let (c, there) = held();
    let began = Instant::now();
    let source = begun(&c, &there, &receiver(&there));
    // Pages that are wanted come before others.
    assert_eq!(there.exec(&["redis-cli", "ping"]).ok(), "PONG");
    assert_eq!(memory(&there), "arriving", "{:?}", began.elapsed());
    // Nothing runs here, and nobody lets it.
    assert_ne!(c.status(), "running");
    let resolve = hiber_tests::command::run(c.command("migrate", &["--resolve"]), b"");
    resolve.fails("the rest of its memory is on its way");
    there.call("wait-memory", &[]).ok();
    let output = source.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(memory(&there), "arrived");
    assert!(began.elapsed() > Duration::from_secs(3), "10 MiB a second take longer");
    assert_gone(&c);
    assert_nothing_below(c.runtime(), "it has gone");
    holds_all(&there);
    there.delete(&["--force"]).ok();
    assert_nothing_below(there.runtime(), "deleted");
}
