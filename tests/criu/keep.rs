//! `hiber keep`: checkpoints in time, and containers that come back.

use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::verified::damage;
use crate::{COUNT, count, counter, counts_on};
use hiber_tests::prelude::*;
use rustix::process::{Pid, Signal, kill_process};

/// How long a step of a keeper may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A keeper at work; it is killed with the test.
struct Keeper {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
}

impl Keeper {
    fn start(c: &Container, flags: &[&str]) -> Self {
        let mut command = c.command("keep", &[&["--format", "json"], flags].concat());
        let log = fs::File::options().create(true).append(true).open(c.bundle().join("keeper.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// The next step of that kind.
    #[track_caller]
    fn next(&mut self, kind: &str) -> Value {
        let begun = Instant::now();
        loop {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
                Ok(step) => {
                    self.seen.push(step.clone());
                    if step["type"] == kind {
                        return step;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {kind}: {}", self.story()),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended without {kind}: {}", self.story()),
            }
        }
    }

    /// A checkpoint that begins after this moment.
    #[track_caller]
    fn fresh_checkpoint(&mut self) -> String {
        while let Ok(step) = self.lines.try_recv() {
            self.seen.push(step);
        }
        self.next("checkpointed");
        self.next("checkpointed")["checkpoint"].as_str().unwrap().to_owned()
    }

    /// The last steps.
    fn story(&self) -> String {
        let last = self.seen.iter().rev().take(12).rev();
        last.map(|step| format!("{step}\n")).collect()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    #[track_caller]
    fn ends(&mut self, status: i32) {
        let ended = hiber_tests::command::wait(&mut self.child, "hiber keep");
        assert_eq!(ended.code(), Some(status), "{}", self.story());
    }

    /// Asks it to go, which leaves the container running.
    #[track_caller]
    fn stop(mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.next("stopped");
        self.ends(0);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends the container's first process as a crash would.
#[track_caller]
fn crash(c: &Container) {
    kill_process(Pid::from_raw(c.pid()).unwrap(), Signal::KILL).unwrap();
}

fn dir(c: &Container) -> PathBuf {
    c.bundle().join("checkpoints")
}

fn names(c: &Container) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir(c)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[test]
fn a_killed_redis_has_what_was_written_before_the_last_checkpoint() {
    require!(Root, Criu, Redis);
    let c = Runtime::hiber().container(Bundle::redis().args([
        "redis-server",
        "--save",
        "",
        "--appendonly",
        "no",
    ]));
    c.run_detached().ok();
    wait_for("redis", || c.exec(&["redis-cli", "ping"]).stdout.contains("PONG"));
    let mut keeper = Keeper::start(&c, &["--every", "300ms", "--last", "2", "--probation", "1s"]);
    for round in 0..2 {
        let value = format!("round-{round}");
        assert_eq!(c.exec(&["redis-cli", "set", "acknowledged", &value]).ok(), "OK");
        let name = keeper.fresh_checkpoint();
        assert!(name.starts_with("keep-"), "{name}");
        crash(&c);
        let ended = keeper.next("ended");
        assert_eq!((&ended["reason"], &ended["asked"]), (&json!("signal 9 ended it"), &json!(false)));
        let restored = keeper.next("restored");
        assert!(restored["checkpoint"].as_str() >= Some(&*name), "{restored}");
        assert_eq!(c.exec(&["redis-cli", "get", "acknowledged"]).ok(), value);
        keeper.next("well");
    }
    assert!(names(&c).len() <= 3, "{:?}", names(&c));
    keeper.stop();
    assert_eq!(c.status(), "running");
    let events = fs::read_to_string(c.runtime().root().join(c.id()).join("events")).unwrap();
    assert!(events.contains(r#""type":"brought-back""#) && events.contains("signal 9 ended it"), "{events}");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn an_end_that_was_asked_for_is_one() {
    require!(Root, Criu);
    let flags = ["--every", "1h", "--restart", "always"];
    let trap = format!("trap 'exit 0' TERM; {COUNT}");
    let c = Runtime::hiber().container(Bundle::busybox().shell(&trap));
    c.run_detached().ok();
    let mut keeper = Keeper::start(&c, &flags);
    keeper.next("checkpointed");
    c.kill("TERM").ok();
    assert_eq!(keeper.next("signalled")["signal"], 15);
    assert_eq!(keeper.next("ended")["asked"], true);
    keeper.ends(0);
    assert_eq!(c.status(), "stopped");
    c.delete(&[]).ok();

    c.run_detached().ok();
    let mut keeper = Keeper::start(&c, &flags);
    keeper.next("checkpointed");
    c.delete(&["--force"]).ok();
    assert_eq!(keeper.next("ended")["asked"], true);
    keeper.ends(0);
    assert_eq!(c.status(), "gone");

    c.run_detached().ok();
    let mut keeper = Keeper::start(&c, &flags);
    keeper.next("checkpointed");
    c.checkpoint(&[]).ok();
    let ended = keeper.next("ended");
    assert!(
        ended["reason"].as_str().unwrap().contains("it sleeps in") || ended["reason"] == "it was deleted",
        "{ended}"
    );
    assert_eq!(ended["asked"], true);
    keeper.ends(0);
    c.assert_clean();
}

#[test]
fn an_end_by_itself_is_followed_as_the_word_says() {
    require!(Root, Criu);
    // It runs until somebody makes a file in its tmpfs, with the status that is in the file.
    let script = "until [ -s /dev/shm/end ]; do sleep 0.05; done; exit $(cat /dev/shm/end)";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    for (restart, status, back, code) in
        [("crash", 0, false, 0), ("crash", 7, true, 0), ("always", 0, true, 0), ("never", 7, false, 3)]
    {
        c.run_detached().ok();
        let mut keeper = Keeper::start(&c, &["--every", "1h", "--restart", restart]);
        keeper.next("checkpointed");
        c.sh(&format!("echo {status} >/dev/shm/end"));
        let ended = keeper.next("ended");
        assert_eq!(ended["reason"], format!("it exited with status {status}"), "{restart}");
        if back {
            keeper.next("restored");
            assert_eq!(c.status(), "running");
            keeper.stop();
        } else {
            keeper.ends(code);
            assert_eq!(c.status(), "stopped");
        }
        c.delete(&["--force"]).ok();
    }
}

#[test]
fn from_the_newest_to_the_start_and_no_further() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let mut keeper = Keeper::start(&c, &["--every", "200ms", "--last", "3", "--probation", "30s"]);
    (0..4).for_each(|_| drop(keeper.next("checkpointed")));
    // Another one's is left alone, and is not used.
    c.runtime().run(&["checkpoints", "create", "--leave-running", c.id(), "mine"]).ok();
    keeper.fresh_checkpoint();
    crash(&c);
    keeper.next("ended");
    let first = keeper.next("restored")["checkpoint"].as_str().unwrap().to_owned();
    let all = names(&c);
    assert_eq!((all.len(), &all[2], &*all[3]), (4, &first, "mine"), "{all:?}");
    // The one before is damaged: images that are not those of the manifest are refused.
    damage(&dir(&c).join(&all[1]).join("core-1.img"));
    crash(&c);
    let failed = keeper.next("restore-failed");
    assert_eq!(
        (&failed["checkpoint"], failed["reason"].as_str().is_some_and(|why| why.contains("core-1.img"))),
        (&json!(all[1]), true),
        "{failed}"
    );
    assert_eq!(keeper.next("restored")["checkpoint"], json!(all[0]));
    counts_on(&c, 3);
    let before = count(&c);
    crash(&c);
    let started = keeper.next("started");
    assert_eq!(started["checkpoint"], Value::Null);
    wait_for("the count to begin anew", || (1..before.max(4)).contains(&count(&c)));
    crash(&c);
    assert_eq!(keeper.next("left-alone")["reason"], "nothing is left to try");
    keeper.ends(3);
    assert_eq!(c.status(), "gone");
    c.assert_clean();
    assert_eq!(names(&c).len(), 4, "the checkpoints stay");
}

#[test]
fn a_container_that_cannot_be_checkpointed_is_told_once() {
    require!(Root, Criu, Redis);
    let script = "exec 9>/lock; flock -x 9; touch /ready; while :; do sleep 0.1; done";
    // busybox has no flock here: the host's, on the libraries of redis
    let bundle = Bundle::redis().shell(script);
    fs::copy("/usr/bin/flock", bundle.rootfs().join("usr/bin/flock")).unwrap();
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("the lock", || c.bundle().rootfs().join("ready").exists());
    let mut keeper = Keeper::start(&c, &["--every", "100ms"]);
    let told = keeper.next("cannot-checkpoint");
    assert!(told["reason"].as_str().unwrap().contains("file-lock"), "{told}");
    std::thread::sleep(Duration::from_secs(4));
    let more: Vec<_> = keeper.lines.try_iter().collect();
    assert!(more.is_empty(), "{more:?}");
    keeper.stop();
    let mut keeper = Keeper::start(&c, &["--every", "100ms", "--file-locks"]);
    keeper.next("checkpointed");
    crash(&c);
    keeper.next("restored");
    keeper.stop();
}

#[test]
fn a_killed_keeper_is_followed_by_another() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let mut keeper = Keeper::start(&c, &["--every", "300ms"]);
    keeper.next("checkpointed");
    let mut other = c.command("keep", &[]);
    let other = hiber_tests::command::run(
        {
            other.arg("--every").arg("1s");
            other
        },
        b"",
    );
    other.fails("is kept already");
    keeper.fresh_checkpoint();
    let before = count(&c);
    drop(keeper);
    crash(&c);
    c.wait_stopped();
    let mut keeper = Keeper::start(&c, &["--every", "300ms"]);
    keeper.next("restored");
    assert!(count(&c) + 100 > before);
    counts_on(&c, 3);
    keeper.stop();
    c.delete(&["--force"]).ok();
    c.call("keep", &[]).fails("does not exist");
    // Another container of that id does not get the memory of the first one.
    c.run_detached().ok();
    wait_for("a count", || count(&c) >= 1);
    let mut keeper = Keeper::start(&c, &["--every", "1h"]);
    keeper.next("checkpointed");
    crash(&c);
    let restored = keeper.next("restored");
    let all = names(&c);
    assert_eq!(restored["checkpoint"].as_str(), all.last().map(String::as_str));
    keeper.stop();
}

#[test]
fn a_keeper_that_is_killed_while_it_brings_back_is_followed() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    for moment in [0, 5, 20, 60, 150] {
        let mut keeper = Keeper::start(&c, &["--every", "1h", "--probation", "1ms"]);
        keeper.next("checkpointed");
        crash(&c);
        keeper.next("ended");
        std::thread::sleep(Duration::from_millis(moment));
        drop(keeper);
        let keeper = Keeper::start(&c, &["--every", "1h", "--probation", "1ms"]);
        wait_for("the container to be back", || c.status() == "running");
        counts_on(&c, 1);
        keeper.stop();
    }
}

#[test]
fn pipes_are_kept_as_long_as_somebody_is_at_the_other_end() {
    require!(Root, Criu);
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    let (made, streams) = c.with_pipes("run", &["--detach"]);
    made.ok();
    let mut lines = BufReader::new(streams.stdout).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "line 1");
    let mut keeper = Keeper::start(&c, &["--every", "1h", "--probation", "100ms"]);
    keeper.next("checkpointed");
    // Some lines follow, which the restored container writes once more.
    std::thread::sleep(Duration::from_millis(500));
    crash(&c);
    keeper.next("restored");
    let number = |line: String| line.strip_prefix("line ").unwrap().parse::<u32>().unwrap();
    let (mut last, mut back) = (1, false);
    for line in lines.by_ref().take(60) {
        let now = number(line);
        back |= now <= last;
        last = now;
        if back && now > 10 {
            break;
        }
    }
    assert!(back, "the restored container writes into the same pipe, which ended at {last}");
    keeper.next("well");
    c.delete(&["--force"]).ok();
    keeper.next("ended");
    keeper.ends(0);
    // Nobody has the pipes any more.
    assert!(lines.all(|line| line.starts_with("line ")));
    let (mut errors, mut rest) = (streams.stderr, String::new());
    errors.read_to_string(&mut rest).unwrap();
}

#[test]
fn checkpoints_in_a_store_are_kept_and_removed() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let store = c.bundle().join("store").display().to_string();
    let mut keeper = Keeper::start(&c, &["--every", "200ms", "--last", "2", "--store", &store]);
    keeper.next("removed");
    keeper.next("removed");
    let before = count(&c);
    keeper.fresh_checkpoint();
    crash(&c);
    keeper.next("restored");
    assert!(count(&c) >= before);
    keeper.stop();
    let all = c.runtime().run(&["checkpoints", "ls", "--store", &store, "--format", "json", c.id()]).json();
    let all = all.as_array().unwrap().clone();
    assert!((1..=3).contains(&all.len()), "{all:?}");
    assert!(all.iter().all(|one| one["name"].as_str().unwrap().starts_with("keep-")));
}

#[test]
fn a_checkpoint_that_is_exported_stays_until_it_is() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let mut keeper = Keeper::start(&c, &["--every", "300ms", "--last", "2"]);
    let name = keeper.next("checkpointed")["checkpoint"].as_str().unwrap().to_owned();
    // Nobody reads the archive, which is more than a pipe takes, so the export waits.
    let mut export = c.command("checkpoints", &["export", "--compress", "none"]);
    export.args([&name, "-"]).stdout(Stdio::piped());
    let mut export = export.spawn().unwrap();
    (0..4).for_each(|_| drop(keeper.next("checkpointed")));
    assert!(names(&c).contains(&name), "it is read: {:?}", names(&c));
    let mut archive = Vec::new();
    export.stdout.take().unwrap().read_to_end(&mut archive).unwrap();
    assert!(export.wait().unwrap().success() && archive.len() > 64 << 10, "{}", archive.len());
    keeper.next("checkpointed");
    wait_for("it to be removed", || !names(&c).contains(&name));
    keeper.stop();
}

#[test]
fn what_cannot_be_kept_is_said_beforehand() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell(COUNT));
    c.call("keep", &[]).fails("does not exist");
    c.create(&[]).ok();
    c.call("keep", &[]).fails("is not running: it is created");
    c.delete(&["--force"]).ok();
    for (flags, why) in [
        (&["--every", "0s"][..], "--every"),
        (&["--last", "0"], "expected 1 or more"),
        (&["--max-bytes", "much"], "expected bytes"),
        (&["--restart", "often"], "expected crash or always or never"),
        (&["--store", "/s", "--checkpoint-dir", "/d"], "exclude each other"),
        (&["--shell-job"], "has no terminal"),
    ] {
        c.call("keep", flags).fails(why);
    }
}

/// While it waits, the pages of the program are not its own.
#[test]
fn a_keeper_is_small() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let mut keeper = Keeper::start(&c, &["--every", "1s", "--last", "2"]);
    (0..5).for_each(|_| drop(keeper.next("checkpointed")));
    let field = |name: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", keeper.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // A debug build has more of everything.
    let debug = hiber_tests::tools::hiber().unwrap().to_string_lossy().contains("/debug/");
    let most = if debug { 12 << 10 } else { 4 << 10 };
    wait_for("it to wait with little memory", || field("VmRSS:") <= most);
    assert!(field("RssAnon:") <= if debug { 3072 } else { 1024 });
    keeper.stop();
}

#[test]
fn the_units_of_systemd_are_understood() {
    require!(Root, Program("systemd-analyze"));
    let installed = "/usr/local/bin/hiber";
    let units = [
        ("hiber-keep@web.service", include_str!("../../packaging/systemd/hiber-keep@.service")),
        ("hiber-suspend.service", include_str!("../../packaging/systemd/hiber-suspend.service")),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, unit) in units {
        assert!(unit.contains(installed));
        let path = dir.path().join(name);
        fs::write(&path, unit.replace(installed, hiber_tests::tools::hiber().unwrap().to_str().unwrap()))
            .unwrap();
        let mut verify = std::process::Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(&path);
        let verified = hiber_tests::command::run(verify, b"");
        verified.ok();
        assert!(!verified.stderr.contains("hiber-"), "{verified}");
    }
}
