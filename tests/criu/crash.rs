//! hiber itself is killed in the middle: the container is never lost, and nothing is left that cannot be cleared.

use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How many moments are tried, spread over the time that the command takes.
const MOMENTS: u32 = 24;

/// Starts a command and kills it after `delay`; whether it had ended by itself.
fn killed_after(c: &Container, name: &str, flags: &[&str], delay: Duration) -> bool {
    let mut command = c.command(name, flags);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().unwrap();
    std::thread::sleep(delay);
    let ended = child.try_wait().unwrap().is_some();
    let _ = child.kill();
    child.wait().unwrap();
    ended
}

fn paths(c: &Container) -> (String, String) {
    (c.images().display().to_string(), c.bundle_path())
}

/// How long an undisturbed command takes.
fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    (0..MOMENTS).map(move |i| whole * i / (MOMENTS - 4))
}

#[test]
fn a_checkpoint_that_is_killed_exists_whole_or_the_container_runs_on() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let (images, _) = paths(&c);
    let whole = timed(|| {
        c.checkpoint(&[]).ok();
    });
    c.restore(&[]).ok();
    let (mut lived, mut slept) = (0, 0);
    // On a busy machine the commands take longer than the first one did: go on until one has published.
    let later = (5..80).map(|i| whole * i / 4);
    for (i, delay) in moments(whole).chain(later).enumerate() {
        if i >= MOMENTS as usize && slept > 0 {
            break;
        }
        let _ = fs::remove_dir_all(&images);
        let before = count(&c);
        killed_after(&c, "checkpoint", &["--image-path", &images], delay);
        let published = || c.images().join("inventory.img").exists();
        // CRIU may still be at work on its own, and the guard waits for it.
        wait_for("the container to live or to sleep", || match c.status().as_str() {
            "running" => !published() && count(&c) > before,
            "stopped" | "gone" => published(),
            _ => false,
        });
        if published() {
            slept += 1;
            c.delete(&["--force"]).ok();
            c.assert_clean();
            c.restore(&[]).ok();
        } else {
            lived += 1;
        }
        wait_for("the unfinished checkpoint to be removed", || hidden(&c).is_empty());
        counts_on(&c, before);
    }
    assert!(lived > 0 && slept > 0, "the moments must cover both ends: {lived}, {slept}");
}

/// Directories of unfinished checkpoints.
fn hidden(c: &Container) -> Vec<String> {
    let images = c.images();
    let parent = fs::read_dir(images.parent().unwrap()).unwrap();
    let names = parent.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with(".images.")).collect()
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
    for delay in moments(whole) {
        c.delete(&["--force"]).ok();
        c.assert_clean();
        killed_after(&c, "restore", &flags, delay);
    }
    c.delete(&["--force"]).ok();
    c.assert_clean();
    // and the images are as good as before
    c.restore(&[]).ok();
    counts_on(&c, before);
}
