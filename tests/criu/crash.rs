//! hiber or CRIU is killed in the middle: the container is never lost, and nothing is left that cannot be cleared.
//!
//! After each kill either the whole checkpoint exists and the container is stopped (or runs on, where it was to), or there
//! is no checkpoint and the container runs and answers.

use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A redis server with a number that only grows.
struct Server {
    c: Container,
    number: u64,
}

impl Server {
    fn new() -> Self {
        let c = Runtime::hiber().container(Bundle::redis());
        c.run_detached().ok();
        wait_for("the server", || c.exec(&["redis-cli", "ping"]).stdout.trim() == "PONG");
        Self { c, number: 0 }
    }

    /// It answers, and knows the number.
    #[track_caller]
    fn answers(&mut self, when: &str) {
        self.number += 1;
        let answer = self.c.exec(&["redis-cli", "incr", "number"]);
        assert_eq!(answer.ok(), self.number.to_string(), "{when}");
    }

    fn is_published(&self) -> bool {
        self.c.images().join("inventory.img").exists()
    }

    /// Checks what must hold after a kill; whether there is a checkpoint.
    #[track_caller]
    fn is_one_or_the_other(&mut self, leave_running: bool, when: &str) -> bool {
        let c = &self.c;
        let mut last = String::new();
        let end = Instant::now() + hiber_tests::PATIENCE;
        // CRIU may still be at work on its own, and the guard waits for it.
        loop {
            let (status, published) = (c.status(), self.is_published());
            let settled = match status.as_str() {
                "running" => (leave_running || !published) && hidden(c).is_empty(),
                "stopped" | "gone" => published && !leave_running,
                _ => false,
            };
            if settled {
                break;
            }
            last = format!("{when}: {status}, published: {published}, beside it: {:?}", hidden(c));
            assert!(Instant::now() < end, "{last}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let published = self.is_published();
        if published {
            let images = c.images().display().to_string();
            c.runtime().run(&["inspect", "--verify", &images]).ok();
        }
        if published && !leave_running {
            c.delete(&["--force"]).ok();
            c.assert_clean();
            c.restore(&[]).ok();
        }
        self.answers(&format!("{when}: {last}"));
        published
    }

    fn forget(&self) {
        let _ = fs::remove_dir_all(self.c.images());
    }
}

/// The library that [`at_every_step`] preloads into CRIU.
#[track_caller]
pub(crate) fn killer(c: &Container) -> PathBuf {
    let library = c.bundle().join("killer.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/criu/killer.c");
    hiber_tests::tools::compile(source, &library, &["-shared", "-fPIC", "-O1", "-ldl"]);
    library
}

/// Kills `who` at each notification of CRIU's, before and after it is heard.
#[track_caller]
fn at_every_step(who: &str, leave_running: bool) {
    let mut server = Server::new();
    let killer = killer(&server.c);
    let mark = server.c.bundle().join("killed");
    let (mut kills, mut published) = (0, 0);
    for (step, side) in (1..20).flat_map(|step| [(step, "before"), (step, "after")]) {
        server.forget();
        let _ = fs::remove_file(&mark);
        let images = server.c.images().display().to_string();
        let mut flags = vec!["--image-path", &images];
        flags.extend(leave_running.then_some("--leave-running"));
        let mut command = server.c.command("checkpoint", &flags);
        command.env("LD_PRELOAD", &killer);
        command.env("KILL_AT", format!("{who} {side} {step} {}", mark.display()));
        let output = hiber_tests::command::run(command, b"");
        let when = format!("{who} killed {side} step {step} ({})", output.stderr.trim());
        published += u32::from(server.is_one_or_the_other(leave_running, &when));
        if !mark.exists() {
            output.ok();
            break;
        }
        kills += 1;
        if who == "hiber" {
            assert!(output.status.code().is_none(), "{when}");
        }
    }
    assert!(kills >= 6, "a dump has at least three notifications: {kills}");
    // With --leave-running it is published when CRIU is done.
    let least = if leave_running { 1 } else { 2 };
    assert!(published >= least, "once CRIU has heard that it is published, it stays: {published}");
}

#[test]
fn hiber_is_killed_at_every_step() {
    require!(Root, Criu, Redis, Program("cc"));
    at_every_step("hiber", false);
}

#[test]
fn criu_is_killed_at_every_step() {
    require!(Root, Criu, Redis, Program("cc"));
    at_every_step("criu", false);
}

#[test]
fn hiber_is_killed_at_every_step_and_the_container_is_to_run_on() {
    require!(Root, Criu, Redis, Program("cc"));
    at_every_step("hiber", true);
}

/// How many moments are tried, spread over the time that the command takes.
const MOMENTS: u32 = 50;

/// Starts a command and kills it, or its CRIU, after `delay`.
fn killed_after(c: &Container, name: &str, flags: &[&str], delay: Duration, criu: bool) {
    let mut command = c.command(name, flags);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().unwrap();
    std::thread::sleep(delay);
    if criu {
        for pid in criu_of(child.id()) {
            hiber_tests::command::quietly(Command::new("kill").args(["-KILL", &pid]));
        }
    } else {
        let _ = child.kill();
    }
    hiber_tests::command::wait(&mut child, name);
}

/// The criu process among a process's children.
pub(crate) fn criu_of(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children: String =
        tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    let is_criu =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "criu");
    children.split_whitespace().filter(is_criu).map(str::to_owned).collect()
}

fn paths(c: &Container) -> (String, String) {
    (c.images().display().to_string(), c.bundle_path())
}

/// How long an undisturbed command takes.
pub(crate) fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// Moments that are spread evenly in any order.
pub(crate) fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    (0..MOMENTS).map(move |i| whole.mul_f64((f64::from(i) * GOLDEN).fract() * 1.1))
}

#[test]
fn a_checkpoint_that_is_killed_exists_whole_or_the_container_runs_on() {
    require!(Root, Criu, Redis);
    let mut server = Server::new();
    let whole = timed(|| {
        server.c.checkpoint(&[]).ok();
    });
    server.c.restore(&[]).ok();
    let (mut lived, mut slept, mut lost) = (0, 0, 0);
    // On a busy machine the commands take longer than the first one did: go on until one has published.
    let later = (5..80).map(|i| whole * i / 4);
    for (i, delay) in moments(whole).chain(later).enumerate() {
        if i >= MOMENTS as usize && slept > 0 {
            break;
        }
        server.forget();
        let images = server.c.images().display().to_string();
        let criu = i % 2 == 1;
        killed_after(&server.c, "checkpoint", &["--image-path", &images], delay, criu);
        let when = format!("{} killed after {delay:?}", if criu { "CRIU" } else { "hiber" });
        // A CRIU that is killed may take along a process that its code is in (docs/limits.md).
        if criu && !server.is_published() && server.c.status() == "stopped" {
            (server, lost) = (Server::new(), lost + 1);
        } else if server.is_one_or_the_other(false, &when) {
            slept += 1;
        } else {
            lived += 1;
        }
    }
    assert!(lived > 0 && slept > 0, "the moments must cover both ends: {lived}, {slept}");
    assert!(lost <= lived, "of those with which CRIU was killed, {lost} have ended");
}

/// Directories of unfinished checkpoints.
pub(crate) fn hidden(c: &Container) -> Vec<String> {
    let images = c.images();
    let parent = fs::read_dir(images.parent().unwrap()).unwrap();
    let names = parent.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with(".images.hiber-")).collect()
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_that_delete_does_not_clear() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let (images, bundle) = paths(&c);
    let flags = ["--detach", "--image-path", &images, "--bundle", &bundle];
    let before = count(&c);
    c.checkpoint(&[]).ok();
    let whole = timed(|| {
        c.restore(&[]).ok();
    });
    for delay in moments(whole).take(24) {
        c.delete(&["--force"]).ok();
        c.assert_clean();
        killed_after(&c, "restore", &flags, delay, false);
    }
    c.delete(&["--force"]).ok();
    c.assert_clean();
    // and the images are as good as before
    c.restore(&[]).ok();
    counts_on(&c, before);
}
