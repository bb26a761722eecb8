//! `restore --background`: the container runs before its memory is there.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use hiber_criu::pagemap::{self, IN_PARENT, LAZY, Run};
use hiber_criu::{ImageDirectory, Images};
use hiber_tests::prelude::*;

use crate::lazy::{holder, holds_all};

/// How far the memory is, as `state` tells it.
pub(crate) fn memory(c: &Container) -> String {
    c.state()["memory"]["status"].as_str().unwrap_or("there").to_owned()
}

pub(crate) fn reason(c: &Container) -> String {
    c.state()["memory"]["reason"].as_str().unwrap_or_default().to_owned()
}

/// The events of the container, by their types.
fn events(c: &Container) -> Vec<String> {
    let text = fs::read_to_string(c.runtime().root().join(c.id()).join("events")).unwrap();
    let kind = |line: &str| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned();
    text.lines().map(kind).filter(|kind| !kind.starts_with("exec")).collect()
}

/// The processes that bring a container's memory: the one that watches, and the one that works.
pub(crate) fn bringers(c: &Container) -> Vec<u32> {
    bringers_by(&record(c))
}

/// The record of a container's memory, which they have open.
pub(crate) fn record(c: &Container) -> PathBuf {
    c.runtime().root().join(c.id()).join("memory.json")
}

pub(crate) fn bringers_by(record: &Path) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let brings = |pid: &u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        command.contains("memory-arrival")
            && files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to == *record))
    };
    let mut found: Vec<u32> = numbers.filter(brings).collect();
    // The worker is the watcher's child.
    found.sort_by_key(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parent.is_some_and(bringer)
    });
    found
}

fn bringer(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("memory-arrival")
}

#[track_caller]
fn signal(name: &str, pids: &[u32]) {
    assert!(pids.is_empty() || reached(name, pids), "{name} to {pids:?}");
}

/// Whether all of these were there to get the signal.
pub(crate) fn reached(name: &str, pids: &[u32]) -> bool {
    let pids = pids.iter().map(u32::to_string);
    Command::new("kill").arg(format!("-{name}")).args(pids).status().unwrap().success()
}

/// A redis server with so many MiB, all of them text.
pub(crate) fn large(mib: usize) -> Container {
    let c = holder();
    let fill = "for i = 1, ARGV[1] * 16 do redis.call('set', 'l' .. i, string.rep(string.char(64 + i % 26), 65536)) end";
    assert_eq!(c.exec(&["redis-cli", "eval", fill, "0", &mib.to_string()]).ok(), "");
    c
}

/// Restores in the background, and stops who brings memory before it is all there.
#[track_caller]
fn halfway(c: &Container) -> Vec<u32> {
    for _ in 0..10 {
        c.restore(&["--background"]).ok();
        let both = bringers(c);
        // It may have ended meanwhile.
        if both.len() == 2 && reached("STOP", &both[1..]) {
            if memory(c) == "arriving" {
                return both;
            }
            signal("CONT", &both[1..]);
        }
        c.call("wait-memory", &[]).ok();
        c.delete(&["--force"]).ok();
    }
    panic!("all memory is there at once, ten times");
}

#[test]
fn a_server_answers_before_its_memory_is_there() {
    require!(Root, Criu, Redis);
    let c = holder();
    c.checkpoint(&[]).ok();
    let before: Vec<PathBuf> = fs::read_dir(c.images()).unwrap().flatten().map(|e| e.path()).collect();
    for recorded in [false, true] {
        let record = c.images().join("working-set.json");
        assert_eq!(record.exists(), recorded);
        c.restore(&["--background"]).ok();
        assert_eq!(c.status(), "running");
        assert_eq!(c.exec(&["redis-cli", "ping"]).stdout.trim(), "PONG");
        holds_all(&c);
        c.call("wait-memory", &[]).ok();
        assert_eq!(memory(&c), "arrived");
        holds_all(&c);
        assert_eq!(events(&c), ["restored", "memory-arriving", "memory-arrived"]);
        wait_for("its helpers to leave", || bringers(&c).is_empty());
        // The memory that it touched first is recorded once, and is no part of the checkpoint.
        let set: Value = serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
        assert!(!set["touches"].as_array().unwrap().is_empty());
        c.delete(&["--force"]).ok();
        c.assert_clean();
    }
    let mut verify = c.runtime().command();
    verify.args(["inspect", "--verify"]).arg(c.images());
    hiber_tests::command::run(verify, b"").ok();
    let after = fs::read_dir(c.images()).unwrap().flatten().map(|e| e.path());
    let new: Vec<_> = after.filter(|path| !before.contains(path)).collect();
    assert_eq!(new, [c.images().join("working-set.json")]);
    // Memory of an ordinary restore does not follow, and a checkpoint of one where it does is a whole one.
    c.restore(&[]).ok();
    assert_eq!(memory(&c), "there");
    c.call("wait-memory", &[]).ok();
    c.delete(&["--force"]).ok();
    c.restore(&["--background"]).ok();
    c.checkpoint(&[]).ok();
    c.restore(&[]).ok();
    holds_all(&c);
}

#[test]
fn the_first_answer_does_not_wait_for_the_memory() {
    require!(Root, Criu, Redis);
    let c = large(384);
    c.checkpoint(&["--no-hash"]).ok();
    // On a busy machine all of it may be there as soon as somebody looks; not each time.
    let answers_first = || {
        c.restore(&["--background"]).ok();
        let answered = c.exec(&["redis-cli", "ping"]).stdout.trim() == "PONG";
        let arriving = memory(&c) == "arriving";
        c.delete(&["--force"]).ok();
        assert!(answered);
        arriving
    };
    assert!((0..8).any(|_| answers_first()), "no answer came before all of the memory was there");
}

#[test]
fn no_page_is_wrong_while_memory_moves_and_processes_fork() {
    require!(Root, Criu);
    let bundle = Bundle::busybox();
    hiber_tests::programs::install("touchy", &bundle);
    let c = Runtime::hiber().container(bundle.args(["touchy"]));
    let shown =
        |name: &str| fs::read_to_string(format!("/proc/{}/root/dev/shm/{name}", c.pid())).unwrap_or_default();
    let rounds = || shown("rounds").trim().parse::<u64>().unwrap_or(0);
    let goes_on = |least: u64| {
        let since = rounds();
        wait_for("the program to go on", || rounds() >= since + least || !shown("wrong").is_empty());
        assert_eq!(shown("wrong"), "");
    };
    c.run_detached().ok();
    goes_on(1);
    let ways: [&[&str]; 3] = [&[], &["--pre-copy", "on"], &["--pre-copy", "off"]];
    for way in ways.iter().cycle().take(6) {
        c.checkpoint(way).ok();
        c.restore(&["--background"]).ok();
        c.call("wait-memory", &[]).ok();
        goes_on(2);
    }
}

#[test]
fn who_brings_memory_is_killed_and_the_container_is_ended() {
    require!(Root, Criu, Redis);
    let c = large(160);
    c.checkpoint(&[]).ok();
    for (victim, why) in [(1, "was killed by signal 9"), (0, "the process that watched over")] {
        let both = halfway(&c);
        signal("KILL", &both[victim..=victim]);
        signal("CONT", &both[1..].iter().copied().filter(|_| victim == 0).collect::<Vec<_>>());
        c.wait_stopped();
        c.call("wait-memory", &[]).fails(why);
        assert!(reason(&c).contains(why), "{}", reason(&c));
        assert_eq!(events(&c).last().map(String::as_str), Some("memory-failed"));
        wait_for("its helpers to leave", || bringers(&c).is_empty());
        c.delete(&["--force"]).ok();
        c.assert_clean();
        // The checkpoint is as it was.
        c.restore(&["--background"]).ok();
        holds_all(&c);
        c.delete(&["--force"]).ok();
    }
}

#[test]
fn an_image_that_is_cut_off_ends_the_container_and_says_so() {
    require!(Root, Criu, Redis);
    let c = large(160);
    c.checkpoint(&[]).ok();
    let pages = fs::read_dir(c.images()).unwrap().flatten().map(|entry| entry.path());
    let pages = pages.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("pages-"));
    let pages = pages.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let copy = c.bundle().join("pages");
    fs::copy(&pages, &copy).unwrap();
    let fails = || {
        let both = halfway(&c);
        File::options().write(true).open(&pages).unwrap().set_len(1 << 20).unwrap();
        signal("CONT", &both[1..]);
        let waited = c.call("wait-memory", &[]);
        // The last of it may have been read already.
        if waited.status.success() {
            c.delete(&["--force"]).ok();
            fs::copy(&copy, &pages).unwrap();
            return false;
        }
        waited.fails("cannot be read from the images: they are damaged");
        true
    };
    assert!((0..5).any(|_| fails()), "all of the memory was read before it was cut off, five times");
    c.wait_stopped();
    assert_eq!(memory(&c), "failed");
    c.delete(&["--force"]).ok();
    c.assert_clean();
    // Before anything is made, where it is known before.
    c.restore(&["--background"]).fails("expected");
    fs::copy(&copy, &pages).unwrap();
    c.restore(&["--background"]).ok();
    holds_all(&c);
}

#[test]
fn images_may_be_deleted_while_memory_comes() {
    require!(Root, Criu, Redis);
    let c = large(160);
    c.checkpoint(&[]).ok();
    let both = halfway(&c);
    fs::remove_dir_all(c.images()).unwrap();
    signal("CONT", &both[1..]);
    c.call("wait-memory", &[]).ok();
    assert_eq!(memory(&c), "arrived");
    holds_all(&c);
    assert!(!c.images().exists());
}

#[test]
fn a_container_may_end_while_its_memory_comes() {
    require!(Root, Criu, Redis);
    let c = large(160);
    c.checkpoint(&[]).ok();
    let both = halfway(&c);
    c.delete(&["--force"]).ok();
    signal("CONT", &both[1..]);
    wait_for("its helpers to leave", || !both.iter().any(|pid| bringer(*pid)));
    c.assert_clean();
}

/// Has `child` leave what can be lazy to its parent `whole`, as a dump after a pre-dump does.
fn leave_to_parent(whole: &Path, child: &Path) {
    let (from, to) = (ImageDirectory::open(whole).unwrap(), ImageDirectory::open(child).unwrap());
    let images = Images::in_directory(&from).unwrap();
    for task in images.tasks().unwrap() {
        let name = format!("pagemap-{}.img", task.pid);
        let (number, runs) = pagemap::runs(&images, &name).unwrap();
        let runs: Vec<Run> = runs.map(Result::unwrap).collect();
        let all = fs::read(whole.join(format!("pages-{number}.img"))).unwrap();
        let (mut kept, mut at) = (Vec::new(), 0);
        for run in runs.iter().filter(|run| run.is_present()) {
            let next = at + run.len() as usize;
            if run.flags & LAZY == 0 {
                kept.extend_from_slice(&all[at..next]);
            }
            at = next;
        }
        let left =
            |run: &Run| Run { flags: if run.flags & LAZY != 0 { IN_PARENT } else { run.flags }, ..*run };
        pagemap::write(&to, &name, number, &runs.iter().map(left).collect::<Vec<_>>()).unwrap();
        fs::write(child.join(format!("pages-{number}.img")), kept).unwrap();
    }
    symlink("../whole", child.join("parent")).unwrap();
}

#[test]
fn memory_comes_from_parents_too() {
    require!(Root, Criu, Redis);
    // So large that a daemon brings it also before it runs.
    let c = large(64);
    c.checkpoint(&["--no-hash"]).ok();
    let whole = c.bundle().join("whole");
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(c.images()).arg(&whole);
    hiber_tests::command::run(copy, b"").ok();
    leave_to_parent(&whole, &c.images());
    // The manifest says what the whole one had.
    c.restore(&["--trust-images"]).ok();
    holds_all(&c);
    c.delete(&["--force"]).ok();
    c.restore(&["--trust-images", "--background"]).ok();
    holds_all(&c);
    c.call("wait-memory", &[]).ok();
    holds_all(&c);
    let set = fs::metadata(c.images().join("working-set.json"));
    assert!(set.is_ok(), "it was brought lazily");
}

/// A setting of the machine, which is as it was when this is dropped.
pub(crate) struct Setting(&'static str, String);

impl Setting {
    pub(crate) fn set(path: &'static str, value: &str) -> Self {
        let before = fs::read_to_string(path).unwrap();
        fs::write(path, value).unwrap();
        Self(path, before)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.0, &self.1);
    }
}

#[test]
fn in_a_user_namespace_it_takes_a_setting_of_the_machine() {
    const UNPRIVILEGED: &str = "/proc/sys/vm/unprivileged_userfaultfd";
    require!(Root, Criu);
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    c.checkpoint(&[]).ok();
    let off = Setting::set(UNPRIVILEGED, "0");
    c.restore(&["--background"]).fails(UNPRIVILEGED);
    c.assert_clean();
    let on = Setting::set(UNPRIVILEGED, "1");
    c.restore(&["--background"]).ok();
    crate::counts_on(&c, 3);
    c.call("wait-memory", &[]).ok();
    crate::counts_on(&c, 3);
    drop((on, off));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    require!(Root, Criu);
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    for flags in [
        &["--background", "--lazy-pages"][..],
        &["--background", "--auto-dedup"],
        &["--background", "--prove"],
    ] {
        c.restore(flags).fails("exclude each other");
        c.assert_clean();
    }
}
