//! A container moves to another root directory, as it would to another machine; whatever happens meanwhile, one copy survives.

use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Where a container goes: a container of another runtime's root that is not there yet.
pub(crate) fn there(bundle: Bundle) -> Container {
    Runtime::hiber().container(bundle)
}

/// The way there, as `exec:COMMAND`, for a shell to run.
pub(crate) fn receiver(there: &Container) -> String {
    let command = there.runtime().command();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    format!("{} receive --stdio", words.join(" "))
}

/// `migrate FLAGS ID DESTINATION`.
pub(crate) fn migration(
    c: &Container,
    there: &Container,
    flags: &[&str],
    command: &str,
) -> std::process::Command {
    let bundle = there.bundle_path();
    let mut all = vec!["--id", there.id(), "--bundle", &bundle];
    all.extend(flags);
    let mut migrate = c.command("migrate", &all);
    migrate.arg(format!("exec:{command}"));
    migrate
}

pub(crate) fn migrate(c: &Container, there: &Container, flags: &[&str]) -> Output {
    hiber_tests::command::run(migration(c, there, flags, &receiver(there)), b"")
}

fn resolve(c: &Container, flags: &[&str], other: Option<&str>) -> Output {
    let mut command = c.command("migrate", &[&["--resolve"], flags].concat());
    command.args(other.map(|other| format!("exec:{other}")));
    hiber_tests::command::run(command, b"")
}

/// Migrations that are written down below a root, and what is mounted for them.
pub(crate) fn remembered(runtime: &Runtime) -> Vec<PathBuf> {
    let entries = fs::read_dir(runtime.root().join("~migrations"));
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Neither a container nor a migration is below that root, and nothing is mounted there.
#[track_caller]
pub(crate) fn assert_nothing_below(runtime: &Runtime, when: &str) {
    assert_eq!(remembered(runtime), Vec::<PathBuf>::new(), "{when}");
    let entries = fs::read_dir(runtime.root()).into_iter().flatten().flatten();
    let left: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| !path.ends_with("~migrations")).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "{when}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = runtime.root().display().to_string();
    assert!(!mounts.contains(&root), "{when}: {mounts}");
}

/// Nothing is left of the container or its migration below that root.
#[track_caller]
pub(crate) fn assert_gone(c: &Container) {
    assert_eq!(c.status(), "gone");
    c.assert_clean();
    assert_eq!(remembered(c.runtime()), Vec::<PathBuf>::new());
}

#[test]
fn it_runs_on_there_and_is_gone_here() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    let before = count(&c);
    let output = migrate(&c, &there, &["--format", "json"]);
    let lines: Vec<serde_json::Value> =
        output.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let phases: Vec<_> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["accepted", "dumping", "sending", "restoring", "committed", "done"]);
    assert_eq!(lines[5]["confirmed"], true, "{output}");
    assert_gone(&c);
    assert_eq!(there.status(), "running");
    counts_on(&there, before);
    assert_eq!(remembered(there.runtime()), Vec::<PathBuf>::new());
    // It is a container like any other: it can go back.
    let events = fs::read_to_string(there.runtime().root().join(there.id()).join("events")).unwrap();
    assert!(events.contains("restored"), "{events}");
    let before = count(&there);
    migrate(&there, &c, &[]).ok();
    assert_gone(&there);
    counts_on(&c, before);
}

/// As `nc` does where the connection is closed at the other end.
#[test]
fn a_program_that_reads_to_the_end_is_not_waited_for() {
    const STALL: std::time::Duration = std::time::Duration::from_secs(60);
    require!(Root, Criu);
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    let way = format!("{}; cat >/dev/null", receiver(&there));
    let began = std::time::Instant::now();
    let stall = format!("{}s", STALL.as_secs());
    hiber_tests::command::run(migration(&c, &there, &["--stall", &stall], &way), b"").ok();
    assert!(began.elapsed() < STALL / 2, "{:?}", began.elapsed());
    assert_eq!(there.status(), "running");
    assert_gone(&c);
}

#[test]
fn what_only_the_processes_can_set_is_there_before_they_run() {
    require!(Root, Criu);
    // Such properties are set when CRIU is done: the processes must not run between that and the decision.
    let bundle =
        || Bundle::busybox().edit(|config| config["linux"]["personality"] = json!({"domain": "LINUX32"}));
    let c = counter(&Runtime::hiber(), bundle());
    let there = there(bundle());
    let before = count(&c);
    migrate(&c, &there, &[]).ok();
    counts_on(&there, before);
    let personality = fs::read_to_string(format!("/proc/{}/personality", there.pid())).unwrap();
    assert_eq!(personality.trim(), "00000008");
}

/// A container whose memory changes all the time, and where it can go: it has files open, which both ends must have.
pub(crate) fn writer() -> (Container, Container) {
    // So much that it runs there before all of its memory is in its place.
    let c = crate::pre_copy::torture(|bundle| bundle.args(["/bin/torture", "3", "5000"]));
    let root = c.bundle().rootfs().display().to_string();
    let args = c.bundle().config()["process"]["args"].clone();
    let there = there(Bundle::busybox().edit(|config| {
        config["root"]["path"] = json!(root);
        config["process"]["args"] = args;
    }));
    (c, there)
}

/// Memory goes ahead in rounds; no page is missing or old where the program arrives.
#[test]
fn memory_that_changes_all_the_time_arrives_whole() {
    require!(Root, Criu, CPrograms);
    let (c, there) = writer();
    let (mut from, mut to) = (&c, &there);
    for flags in
        [&["--pre-copy", "on"][..], &["--pre-copy", "off"], &["--pre-copy", "on", "--max-rounds", "1"]]
    {
        migrate(from, to, &[flags, &["--on-miss", "force"]].concat()).ok();
        assert_gone(from);
        assert_eq!(to.status(), "running");
        crate::pre_copy::works_on(&c, &format!("{flags:?}"));
        (from, to) = (to, from);
    }
}

#[test]
fn who_writes_faster_than_the_link_stays_unless_forced() {
    require!(Root, Criu, CPrograms);
    let (c, there) = writer();
    let slow = ["--pre-copy", "on", "--bandwidth", "20M", "--max-rounds", "2", "--max-downtime", "20ms"];
    let began = Instant::now();
    let output = migrate(&c, &there, &slow);
    output.fails("writes memory faster than it can be copied: after 2 rounds").fails("(--max-downtime;");
    assert!(began.elapsed() > Duration::from_secs(1), "20 MiB a second take longer: {output}");
    assert_eq!(c.status(), "running");
    crate::pre_copy::works_on(&c, "a miss");
    assert_gone(&there);
    migrate(&c, &there, &["--pre-copy", "on", "--max-downtime", "1ms", "--on-miss", "force"]).ok();
    crate::pre_copy::works_on(&c, "forced");
    assert_gone(&c);
    migrate(&there, &c, &["--bandwidth", "0"]).fails("expected bytes in a second, such as 100M");
    migrate(&there, &c, &["--on-miss", "hope"]).fails("expected abort or force or post-copy");
}

#[test]
fn a_dry_run_moves_nothing() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    migrate(&c, &there, &["--dry-run"]).ok();
    assert_gone(&there);
    assert_eq!(remembered(c.runtime()), Vec::<PathBuf>::new());
    counts_on(&c, 3);
}

#[test]
fn a_dry_run_looks_at_this_end_too() {
    require!(Root, Criu, Redis);
    let connected = "redis-server --bind 127.0.0.1 --save '' --appendonly no & \
                     until redis-cli ping; do sleep 0.05; done; sleep 1000 | nc 127.0.0.1 6379";
    let c = Runtime::hiber().container(Bundle::redis().shell(connected));
    c.run_detached().ok();
    let there = there(Bundle::redis());
    wait_for("the connection", || !migrate(&c, &there, &["--dry-run"]).status.success());
    migrate(&c, &there, &["--dry-run"]).fails("pass --tcp-established").exited(1);
    migrate(&c, &there, &["--dry-run", "--tcp-established"]).ok();
    assert_gone(&there);
    assert_eq!(c.status(), "running");
}

#[test]
fn a_checkpoint_that_fails_leaves_nothing_there() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell("exec 9</proc/self/ns/net; sleep 1000"));
    c.run_detached().ok();
    let there = there(Bundle::busybox());
    // CRIU cannot be asked beforehand for what is not known yet: a CRIU that fails.
    let false_criu = c.bundle().join("criu");
    fs::write(&false_criu, "#!/bin/sh\n[ \"$1\" = swrk ] && exit 3\n").unwrap();
    let mut command = migration(&c, &there, &[], &receiver(&there));
    command.env("HIBER_CRIU", &false_criu);
    hiber_tests::command::run(command, b"").exited(1);
    assert_eq!(c.status(), "running");
    assert_gone(&there);
}

#[test]
fn an_other_end_that_is_none_is_told() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    let said =
        |command: &str, flags: &[&str]| hiber_tests::command::run(migration(&c, &there, flags, command), b"");
    said("exit 7", &[]).fails("the connection was closed (exit status: 7)");
    said("echo welcome", &[]).fails("unknown kind 0x77");
    said("cat >/dev/null", &["--stall", "300ms"]).fails("stalled for 0.3 s");
    let other = r#"printf 'W\066\000\000\000{"word":"hello","of":{"protocol":9,"program":"other"}}'"#;
    said(other, &[]).fails("it is other, which speaks version 9 of the protocol; expected 6");
    said("no-such-program", &[])
        .fails("the connection was closed (exit status: 127); hiber must be in the PATH");
    counts_on(&c, count(&c));
    assert_eq!(remembered(c.runtime()), Vec::<PathBuf>::new());
    let command = c.command("migrate", &[]);
    hiber_tests::command::run(command, b"").fails("a destination is missing");
    resolve(&c, &[], None).fails("there is no migration in doubt");
}

/// A program that counts in its memory, and writes each number to a file that both ends share: were two copies to run at any time,
/// they would write the same number.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >>/shared/log; sleep 0.05; done";

/// A counter that moves to and fro.
pub(crate) struct Traveller {
    pub(crate) ends: [Container; 2],
    shared: tempfile::TempDir,
    /// The end that has it.
    pub(crate) at: usize,
}

impl Traveller {
    pub(crate) fn new() -> Self {
        let shared = tempfile::tempdir().unwrap();
        let mount = json!({
            "destination": "/shared", "type": "bind", "source": shared.path(), "options": ["bind", "rw"]
        });
        let end = || there(Bundle::busybox().mount(mount.clone()).shell(COUNT));
        let ends = [end(), end()];
        ends[0].run_detached().ok();
        let new = Self { ends, shared, at: 0 };
        wait_for("a count", || new.written().len() > 3);
        new
    }

    /// The numbers that were written so far.
    pub(crate) fn written(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.shared.path().join("log")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// One of the ends runs and counts on, and the other is gone; no number was written twice, and none is missing.
    #[track_caller]
    pub(crate) fn is_at_one_end(&mut self, when: &str) {
        let end = Instant::now() + hiber_tests::PATIENCE;
        let running = loop {
            let states = [self.ends[0].status(), self.ends[1].status()];
            let running: Vec<_> = (0..2).filter(|n| states[*n] == "running").collect();
            // A copy that is being restored or ended is for a moment said to run.
            if running.len() == 1 && !states.iter().any(|state| state == "paused") {
                break running[0];
            }
            assert!(Instant::now() < end, "{when}: {states:?}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let before = self.written().len();
        wait_for(when, || self.written().len() > before + 3);
        // A receiver that was killed could not remove its half; the next one would.
        self.ends[1 - running].delete(&["--force"]);
        self.ends[1 - running].assert_clean();
        let written = self.written();
        let expected: Vec<_> = (1..=written.len() as u64).collect();
        assert!(written == expected, "{when}: {written:?}");
        self.at = running;
    }
}

/// The process that a file names, when it does.
pub(crate) fn named_in(file: &Path) -> Option<rustix::process::Pid> {
    named_in_text(&fs::read_to_string(file).ok()?)
}

fn named_in_text(text: &str) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(text.trim().parse().ok()?)
}

/// The command that leads to a receiver through a relay. Their process numbers are in the files `receiver` and `relay`.
pub(crate) fn relayed(marks: &Path, there: &Container) -> String {
    let (receiver_pid, relay_pid) = (marks.join("receiver"), marks.join("relay"));
    let _ = (fs::remove_file(&receiver_pid), fs::remove_file(&relay_pid));
    let script = format!(
        "sh -c 'echo $$ >{}; exec cat' | sh -c 'echo $$ >{}; exec {}'\n",
        relay_pid.display(),
        receiver_pid.display(),
        receiver(there)
    );
    let link = marks.join("link");
    fs::write(&link, script).unwrap();
    format!("sh {}", link.display())
}

/// Where the ends have lost each other, it is the source that knows; a migration that is settled has no doubt.
#[track_caller]
pub(crate) fn resolved(here: &Container, there: &Container, when: &str) {
    let end = Instant::now() + hiber_tests::PATIENCE;
    while !remembered(here.runtime()).is_empty() {
        let output = resolve(here, &[], Some(&receiver(there)));
        assert!(Instant::now() < end, "{when}: {output}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The process that ends a copy whose receiver is dead, if there is one already.
fn guard_of(receiver: rustix::process::Pid) -> Option<rustix::process::Pid> {
    let receiver = receiver.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{receiver}/task/{receiver}/children")).ok()?;
    let is_guard = |pid: &&str| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|b| *b == 0).any(|w| w == b"restore-guard"))
    };
    children.split_whitespace().find(is_guard)?.parse().ok().and_then(rustix::process::Pid::from_raw)
}

/// CRIU would let the processes run when its caller is dead: it must not get so far before the guard has ended them.
#[test]
fn a_copy_without_its_receiver_never_runs_however_slow_its_guard_is() {
    require!(Root, Criu);
    use rustix::process::{Signal, kill_process};
    let mut counter = Traveller::new();
    let marks = tempfile::tempdir().unwrap();
    let mut met = 0;
    for round in 0..6 {
        let (here, there) = (&counter.ends[counter.at], &counter.ends[1 - counter.at]);
        // The relay outlives the receiver.
        let mut source = migration(here, there, &["--stall", "2s"], &relayed(marks.path(), there));
        source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut source = Spawned::new(&mut source);
        let mut found = None;
        wait_for("the receiver's guard", || {
            let receiver = named_in(&marks.path().join("receiver"));
            found = receiver.and_then(|receiver| Some((receiver, guard_of(receiver)?)));
            found.is_some()
        });
        let (receiver, guard) = found.unwrap();
        kill_process(guard, Signal::STOP).unwrap();
        // CRIU asks its caller a last time, and goes on whatever the answer is.
        let log = there.runtime().root().join(there.id()).join("criu/restore.log");
        let asks = || fs::read(&log).is_ok_and(|log| log.windows(10).any(|words| words == b"pre-resume"));
        let end = Instant::now() + Duration::from_secs(2);
        while !asks() && Instant::now() < end {}
        met += u32::from(asks());
        kill_process(receiver, Signal::KILL).unwrap();
        source.wait().unwrap();
        // Time enough for CRIU.
        std::thread::sleep(Duration::from_millis(200));
        let _ = kill_process(guard, Signal::CONT);
        let when = format!("round {round}");
        resolved(here, there, &when);
        counter.is_at_one_end(&when);
    }
    assert!(met > 0, "no moment was met");
}

/// A migration of which nobody knows where its container is: the destination has restored it, which a source that is killed never
/// heard.
fn in_doubt() -> Traveller {
    use rustix::process::{Pid, Signal, kill_process};
    let counter = Traveller::new();
    let (here, there) = (&counter.ends[0], &counter.ends[1]);
    let marks = tempfile::tempdir().unwrap();
    let said = marks.path().join("said");
    let command = format!("{} | tee {}", receiver(there), said.display());
    let mut source = migration(here, there, &["--pre-copy", "off"], &command);
    source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut source = Spawned::new(&mut source);
    wait_for("the restore", || there.runtime().root().join(there.id()).join("incoming.json").exists());
    kill_process(Pid::from_raw(source.id().cast_signed()).unwrap(), Signal::STOP).unwrap();
    wait_for("the copy", || {
        String::from_utf8_lossy(&fs::read(&said).unwrap_or_default()).contains("restored")
    });
    source.kill().unwrap();
    source.wait().unwrap();
    // The receiver ends by itself.
    wait_for("the lock", || locked(there).is_some());
    counter
}

/// The lock on a container's directory, if nobody has it.
fn locked(c: &Container) -> Option<fs::File> {
    let directory = fs::File::open(c.runtime().root().join(c.id())).ok()?;
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(directory)
}

#[test]
fn an_end_that_waits_for_a_lock_is_not_taken_for_one_that_has_stalled() {
    require!(Root, Criu, Program("flock"));
    let mut counter = in_doubt();
    let (here, there) = (&counter.ends[0], &counter.ends[1]);
    // No ancestor of the receiver's: it would know that one.
    let directory = there.runtime().root().join(there.id());
    let mut holder = std::process::Command::new("flock").arg(directory).args(["sleep", "5"]).spawn().unwrap();
    wait_for("the holder", || locked(there).is_none());
    let output = resolve(here, &["--stall", "2s"], Some(&receiver(there)));
    holder.wait().unwrap();
    output.ok();
    assert_eq!(there.status(), "gone");
    counter.is_at_one_end("resolved");
}

#[test]
fn nobody_outlives_a_migration_that_gives_up() {
    require!(Root, Criu);
    let counter = in_doubt();
    // Below the shell that the migration has started, and deaf.
    let there = "trap '' HUP TERM PIPE; sh -c 'echo $$; exec sleep 50' >&2; true";
    let began = Instant::now();
    let output = resolve(&counter.ends[0], &["--stall", "1s"], Some(there));
    output.fails("stalled for 1 s");
    assert!(began.elapsed() < Duration::from_secs(30), "{output}");
    let sleeper = named_in_text(output.stderr.lines().next().unwrap_or_default());
    let gone = || sleeper.is_some_and(|pid| rustix::process::test_kill_process(pid).is_err());
    wait_for("the end of what the shell has started", gone);
}

/// Moves a counter to and fro, and kills `who` at moments that are spread over the whole.
#[track_caller]
fn killed_at(moments: u64, who: &str) {
    let mut counter = Traveller::new();
    let marks = tempfile::tempdir().unwrap();
    counter.is_at_one_end("before");
    // As long as a migration takes that nobody disturbs, and as long again: others may keep the processors busy.
    let began = Instant::now();
    // A relay does not notice that its receiver is dead before it has something for it.
    let in_rounds = ["--stall", "3s", "--pre-copy", "on", "--on-miss", "force"];
    migrate(&counter.ends[0], &counter.ends[1], &in_rounds).ok();
    let span = began.elapsed() * 2;
    counter.is_at_one_end("undisturbed");
    let (mut moved, mut stayed) = (0, 0);
    for moment in 0..moments {
        let (here, there) = (&counter.ends[counter.at], &counter.ends[1 - counter.at]);
        let (receiver_pid, relay_pid) = (marks.path().join("receiver"), marks.path().join("relay"));
        let command = relayed(marks.path(), there);
        let began = Instant::now();
        let flags = if moment % 2 == 0 { &in_rounds[..] } else { &in_rounds[..2] };
        let mut source = migration(here, there, flags, &command);
        source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut source = Spawned::new(&mut source);
        // Spread evenly, not in order.
        let fraction = (moment * 7 % moments) as u32;
        std::thread::sleep(span * fraction / u32::try_from(moments).unwrap());
        let victim = match who {
            "source" => rustix::process::Pid::from_raw(source.id().cast_signed()),
            "receiver" => named_in(&receiver_pid),
            _ => named_in(&relay_pid),
        };
        if let Some(pid) = victim.filter(|_| source.try_wait().unwrap().is_none()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        source.wait().unwrap();
        let when = format!("{who} killed after {:?}", began.elapsed());
        let was = counter.at;
        resolved(here, there, &when);
        counter.is_at_one_end(&when);
        if counter.at == was { stayed += 1 } else { moved += 1 }
    }
    assert!(moved > 0 && stayed > 0, "{who}: moved {moved} times, stayed {stayed} times");
}

#[test]
fn the_source_is_killed() {
    require!(Root, Criu);
    killed_at(12, "source");
}

#[test]
fn the_receiver_is_killed() {
    require!(Root, Criu);
    killed_at(12, "receiver");
}

#[test]
fn the_link_is_cut() {
    require!(Root, Criu);
    killed_at(12, "relay");
}
