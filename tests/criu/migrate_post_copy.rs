//! A container runs at its destination before its memory is there, and the rest of that follows; from the decision on both ends are
//! needed.

use crate::background::{bringers, memory, reason, record};
use crate::lazy::{holder, holds_all};
use crate::migrate::{
    Traveller, assert_gone, assert_nothing_below, migrate, migration, named_in, receiver, relayed,
    remembered, resolved, there, writer,
};
use crate::migrate_survivor::below;
use crate::pre_copy::{with_notes, works_on};
use hiber_tests::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How many moments of a migration somebody is killed at, and how long one takes.
const MOMENTS: usize = 12;
const SPAN: Duration = Duration::from_millis(1800);

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
fn begun(c: &Container, there: &Container, command: &str) -> Spawned {
    let flags = ["--post-copy", "--bandwidth", "10M", "--compress", "none", "--stall", "6s"];
    let mut source = migration(c, there, &flags, command);
    source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut source = Spawned::new(&mut source);
    let undecided = there.runtime().root().join(there.id()).join("incoming.json");
    let mut ended = false;
    wait_for("it to run there", || {
        ended = source.try_wait().unwrap().is_some();
        ended || there.status() == "running" && memory(there) == "arriving" && !undecided.exists()
    });
    if ended {
        panic!("{:?}", source.wait_with_output().unwrap());
    }
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

#[test]
fn a_terminal_is_told_beforehand_what_it_may_cost() {
    require!(Root, Criu, Redis);
    let (c, there) = held();
    let (master, slave) = hiber_tests::pty::open();
    let mut command = migration(&c, &there, &["--post-copy"], &receiver(&there));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(slave);
    let mut source = Spawned::new(&mut command);
    drop(command);
    let told = hiber_tests::pty::read_until(&master, "arrived");
    assert!(told.contains("is lost if either machine or the connection fails"), "{told:?}");
    assert!(source.wait().unwrap().success(), "{told:?}");
    holds_all(&there);
}

/// A process that is killed, or stopped, when the container runs there and its memory is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Source,
    Receiver,
    Link,
    /// The link is there, and nothing goes over it.
    Stalled,
    /// The processes that bring memory: the one that watches, and the one that works.
    Watcher,
    Worker,
    /// The CRIU that keeps the source's processes stopped.
    SourceCriu,
    /// The source, and before it the guard that would end its container.
    SourceAndGuard,
    /// The container, by `delete --force` here.
    Container,
}

impl Victim {
    fn strike(self, marks: &Path, source: &Child, (c, there): (&Container, &Container)) {
        let source = Pid::from_raw(source.id().cast_signed()).unwrap();
        let kill = |pid: Option<Pid>| kill_process(pid.unwrap(), Signal::KILL).unwrap();
        let bringer = |n: usize| Pid::from_raw(bringers(there)[n].cast_signed());
        match self {
            Self::Source => kill(Some(source)),
            Self::Receiver => kill(named_in(&marks.join("receiver"))),
            Self::Link => kill(named_in(&marks.join("relay"))),
            Self::Stalled => {
                kill_process(named_in(&marks.join("relay")).unwrap(), Signal::STOP).unwrap();
            }
            Self::Watcher => kill(bringer(0)),
            Self::Worker => kill(bringer(1)),
            Self::SourceCriu => kill(criu_of(source)),
            Self::Container => drop(c.delete(&["--force"])),
            Self::SourceAndGuard => {
                kill(below(source, "checkpoint-guard"));
                kill(Some(source));
            }
        }
    }

    /// The reasons that the destination and the source tell.
    fn reasons(self) -> (&'static str, &'static str) {
        match self {
            Self::Source | Self::SourceAndGuard => ("the connection to the source was closed", ""),
            Self::Receiver => {
                ("the process that received the container has ended", "the connection was closed")
            }
            // The other way is still open.
            Self::Link => {
                ("the connection to the source was closed", "the connection to the source was closed")
            }
            Self::Stalled => ("it has stalled for 10 s (--stall)", "it has stalled for"),
            Self::Watcher => {
                ("the process that watched over the container's memory was killed", "was killed")
            }
            Self::Worker => ("was killed by signal 9", "was killed by signal 9"),
            Self::SourceCriu => ("", ""),
            Self::Container => ("cannot be read: it has ended", "cannot be read: it has ended"),
        }
    }
}

/// Nothing runs here, and nothing is left when what is there is deleted.
#[track_caller]
fn is_lost(c: &Container, there: &Container, when: &str) {
    wait_for("the end there", || ["stopped", "gone"].contains(&there.status().as_str()));
    assert_eq!(memory(there), "lost", "{when}");
    // The next command that touches it ends it, if all are dead who would have done so.
    wait_for("the end here", || ["stopped", "gone", "paused"].contains(&c.status().as_str()));
    assert_ne!(c.call("resume", &[]).status.code(), Some(0), "{when}");
    wait_for("the end here", || ["stopped", "gone"].contains(&c.status().as_str()));
    for end in [c, there] {
        end.delete(&["--force"]);
        assert_eq!(end.status(), "gone", "{when}");
        end.assert_clean();
    }
    resolved(c, there, when);
    for end in [c, there] {
        assert_nothing_below(end.runtime(), when);
    }
}

/// The time that a process has run, in its own code.
fn time_of(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').nth(11)?.to_owned())
}

/// The CRIU that a process has started; it gives itself other arguments.
fn criu_of(parent: Pid) -> Option<Pid> {
    let parent = parent.as_raw_nonzero();
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: String = children.collect();
    let is_criu = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "criu")
    };
    Pid::from_raw(children.split_whitespace().find(is_criu)?.parse().ok()?)
}

#[track_caller]
fn loses(victim: Victim) {
    let (c, there) = held();
    let marks = tempfile::tempdir().unwrap();
    let source = begun(&c, &there, &relayed(marks.path(), &there));
    let pid = c.pid();
    victim.strike(marks.path(), &source, (&c, &there));
    if victim == Victim::SourceCriu {
        // The source needs it no more: the processes come no further than into the freezer, and have their memory still.
        let before = time_of(pid);
        std::thread::sleep(Duration::from_millis(500));
        assert!(before.is_some() && time_of(pid) == before, "{before:?}");
        let output = source.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        holds_all(&there);
        assert_gone(&c);
        return;
    }
    let output = source.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let (there_says, here_says) = victim.reasons();
    let when = format!("{victim:?}: {told}");
    wait_for("the end there", || there.status() == "stopped");
    assert!(reason(&there).contains(there_says), "{when}{}", reason(&there));
    assert!(told.contains(here_says), "{when}");
    if !here_says.is_empty() {
        let what = "the container was the destination's, and has ended there, since not all of its memory has arrived";
        assert!(told.contains(what), "{when}");
        assert_gone(&c);
    }
    if victim == Victim::Stalled {
        let _ = kill_process(named_in(&marks.path().join("relay")).unwrap(), Signal::KILL);
    }
    is_lost(&c, &there, &when);
}

/// Those who follow the container there hear why it has ended.
#[test]
fn the_end_of_a_lost_container_says_why() {
    require!(Root, Criu, Redis);
    let (c, there) = held();
    let marks = tempfile::tempdir().unwrap();
    let source = begun(&c, &there, &relayed(marks.path(), &there));
    let mut events = there.command("events", &["--interval", "60s"]);
    let events = Spawned::new(events.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
    std::thread::sleep(Duration::from_millis(200));
    kill_process(named_in(&marks.path().join("relay")).unwrap(), Signal::KILL).unwrap();
    let told = String::from_utf8(events.wait_with_output().unwrap().stdout).unwrap();
    let of = |kind: &str| -> Value {
        let lines = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.into_iter().find(|line| line["type"] == kind).unwrap_or_else(|| panic!("no {kind}: {told}"))
    };
    let reason = "the connection to the source was closed";
    let memory = &of("exit")["data"]["memory"];
    assert_eq!(memory["status"], "lost", "{told}");
    assert!(memory["reason"].as_str().unwrap().contains(reason), "{told}");
    let lines = std::fs::read_to_string(there.runtime().root().join(there.id()).join("events")).unwrap();
    assert!(lines.contains("memory-lost") && lines.contains(reason), "{lines}");
    there.call("wait-memory", &[]).fails(reason).exited(1);
    drop(source);
}

#[test]
fn without_the_source_it_ends_there_and_does_not_run_here() {
    require!(Root, Criu, Redis);
    loses(Victim::Source);
}

#[test]
fn without_the_source_and_its_guard_it_does_not_run_here() {
    require!(Root, Criu, Redis);
    loses(Victim::SourceAndGuard);
}

#[test]
fn without_the_sources_criu_it_goes_over() {
    require!(Root, Criu, Redis);
    loses(Victim::SourceCriu);
}

#[test]
fn without_its_processes_here_it_ends_there() {
    require!(Root, Criu, Redis);
    loses(Victim::Container);
}

#[test]
fn without_the_receiver_it_ends_there_and_does_not_run_here() {
    require!(Root, Criu, Redis);
    loses(Victim::Receiver);
}

#[test]
fn without_the_link_it_ends_there_and_does_not_run_here() {
    require!(Root, Criu, Redis);
    loses(Victim::Link);
    loses(Victim::Stalled);
}

#[test]
fn without_those_who_bring_its_memory_it_ends_there_and_does_not_run_here() {
    require!(Root, Criu, Redis);
    loses(Victim::Watcher);
    loses(Victim::Worker);
}

/// A moment before the decision: the source is stopped when the destination has the images, and is to decide.
#[track_caller]
fn before_the_decision(c: &Container, there: &Container, command: &str) -> (Spawned, Pid) {
    let mut source = migration(c, there, &["--post-copy", "--stall", "6s"], command);
    source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut source = Spawned::new(&mut source);
    let undecided = there.runtime().root().join(there.id()).join("incoming.json");
    wait_for("the restore", || undecided.exists() || source.try_wait().unwrap().is_some());
    let pid = Pid::from_raw(source.id().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    assert_eq!(remembered(c.runtime()).len(), 1);
    (source, pid)
}

#[test]
fn before_the_decision_a_failure_lets_the_source_run_on() {
    require!(Root, Criu, Redis);
    let (c, there) = held();
    let marks = tempfile::tempdir().unwrap();
    for who in ["receiver", "relay", "source"] {
        let (source, pid) = before_the_decision(&c, &there, &relayed(marks.path(), &there));
        let victim = if who == "source" { pid } else { named_in(&marks.path().join(who)).unwrap() };
        kill_process(victim, Signal::KILL).unwrap();
        let _ = kill_process(pid, Signal::CONT);
        let output = source.wait_with_output().unwrap();
        let when = format!("{who} is killed: {output:?}");
        assert!(!output.status.success(), "{when}");
        resolved(&c, &there, &when);
        wait_for(&when, || c.status() == "running");
        holds_all(&c);
        there.delete(&["--force"]);
        assert_eq!(there.status(), "gone", "{when}");
        assert_nothing_below(there.runtime(), &when);
        assert_eq!(remembered(c.runtime()), Vec::<std::path::PathBuf>::new(), "{when}");
    }
    migrate(&c, &there, &["--post-copy"]).ok();
    holds_all(&there);
}

/// A counter moves by post-copy and somebody is killed at any moment: it counts at one end, or at none, and never at both.
#[test]
fn at_any_moment_one_copy_runs_or_none() {
    require!(Root, Criu);
    let marks = tempfile::tempdir().unwrap();
    let mut counter = Traveller::new();
    let (mut moved, mut stayed, mut lost) = (0, 0, 0);
    for moment in 0..MOMENTS {
        let (here, there) = (&counter.ends[counter.at], &counter.ends[1 - counter.at]);
        // Its few hundred KiB take as long as all else.
        let flags = ["--post-copy", "--bandwidth", "150K", "--compress", "none", "--stall", "3s"];
        let mut source = migration(here, there, &flags, &relayed(marks.path(), there));
        source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut source = Spawned::new(&mut source);
        let who = ["source", "receiver", "relay"][moment % 3];
        if moment % 2 == 0 {
            std::thread::sleep(SPAN * (moment * 7 % MOMENTS) as u32 / MOMENTS as u32);
        } else {
            let arrives = || record(there).exists() && memory(there) == "arriving";
            wait_for(who, || arrives() || source.try_wait().unwrap().is_some());
            std::thread::sleep(Duration::from_millis(100 * (moment % 4) as u64));
        }
        let victim = match who {
            "source" => Pid::from_raw(source.id().cast_signed()),
            who => named_in(&marks.path().join(who)),
        };
        if let Some(pid) = victim.filter(|_| source.try_wait().unwrap().is_none()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        source.wait().unwrap();
        let when = format!("moment {moment}, {who}");
        resolved(here, there, &when);
        let was = counter.at;
        let running = || [here, there].map(Container::status).iter().any(|status| status == "running");
        let ended = || {
            let states = [here, there].map(Container::status);
            states.iter().all(|status| ["gone", "stopped"].contains(&status.as_str()))
        };
        // One that was lost is said to run until its processes are gone.
        let end = Instant::now() + Duration::from_secs(3);
        while !ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        if running() {
            counter.is_at_one_end(&when);
            if counter.at == was {
                stayed += 1;
            } else {
                moved += 1;
            }
            continue;
        }
        wait_for(&when, ended);
        lost += 1;
        let written = counter.written();
        let expected: Vec<_> = (1..=written.len() as u64).collect();
        assert_eq!(written, expected, "{when}");
        for end in &counter.ends {
            end.delete(&["--force"]);
            end.assert_clean();
            assert_nothing_below(end.runtime(), &when);
        }
        counter = Traveller::new();
    }
    assert!(moved > 0 && stayed > 0 && lost > 0, "moved {moved}, stayed {stayed}, lost {lost}");
}

/// One end of an earlier version, and ends that send what is no page, or was not asked for.
#[test]
fn an_end_that_does_not_know_it_refuses_it_and_the_source_runs_on() {
    require!(Root, Criu);
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    let word = |json: &str| [&[b'W'][..], &(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
    let old = c.bundle().join("old");
    std::fs::write(&old, word(r#"{"word":"hello","of":{"protocol":4,"program":"hiber 0.1.0"}}"#)).unwrap();
    let command = format!("cat {}; cat >/dev/null", old.display());
    let output = hiber_tests::command::run(migration(&c, &there, &["--post-copy"], &command), b"");
    output.fails("it is hiber 0.1.0, which speaks version 4 of the protocol; expected 6").exited(1);
    assert_eq!(output.stderr.lines().count(), 1, "{output}");
    crate::counts_on(&c, crate::count(&c));
    // As an old source does.
    let receive = |bytes: &[u8]| {
        let mut receive = there.runtime().command();
        receive.args(["receive", "--stdio"]);
        hiber_tests::command::run(receive, bytes)
    };
    let offer = r#"{"word":"hello","of":{"protocol":4,"program":"hiber 0.1.0"}}"#;
    receive(&word(offer)).fails("which speaks version 4 of the protocol; expected 6").exited(1);
    assert_gone(&there);
    let both = ["--post-copy", "--pre-copy", "on"];
    migrate(&c, &there, &both).fails("--post-copy and --pre-copy on exclude each other");
    let resolve = c.command("migrate", &["--post-copy", "--resolve"]);
    hiber_tests::command::run(resolve, b"").fails("--resolve and --post-copy exclude each other");
}

#[test]
fn memory_that_cannot_follow_is_refused_before_anything_moves() {
    require!(Root, Criu);
    let bundle = || Bundle::busybox().user_namespace(100_000);
    let c = crate::counter(&Runtime::hiber(), bundle());
    let there = there(bundle());
    if std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap().trim() == "0" {
        for flags in [&["--post-copy"][..], &["--on-miss", "post-copy"], &["--post-copy", "--dry-run"]] {
            migrate(&c, &there, flags).fails("(post-copy): it has a user namespace").exited(1);
            crate::counts_on(&c, crate::count(&c));
            assert_gone(&there);
        }
    }
    migrate(&c, &there, &[]).ok();
}

#[test]
fn a_destination_that_cannot_restore_it_has_nothing_and_the_source_runs_on() {
    require!(Root, Criu, Redis);
    let c = holder();
    let fails = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no room >&2; exit 3"]}]);
    let there = there(Bundle::redis().edit(|config| config["hooks"] = json!({"createRuntime": fails})));
    let output = migrate(&c, &there, &["--post-copy"]);
    output.fails("refuses: ").fails("no room").exited(1);
    assert_gone(&there);
    assert_eq!(c.status(), "running");
    holds_all(&c);
    assert_eq!(remembered(c.runtime()), Vec::<std::path::PathBuf>::new());
}
