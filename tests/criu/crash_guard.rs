//! hiber is killed together with the guard that would settle what it leaves: the container is still there, whoever comes
//! next is told what has happened to it, and clears up.

use crate::crash::{criu_of, hidden, moments, timed};
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The processes that the tests kill.
#[derive(Clone, Copy, PartialEq)]
enum With {
    Guard,
    GuardAndCriu,
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let all: String =
        tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn guard_of(pid: u32) -> Vec<String> {
    let is_guard = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("checkpoint-guard"))
    };
    children(pid).iter().filter(|pid| is_guard(pid)).map(ToString::to_string).collect()
}

fn kill(pids: &[String]) {
    hiber_tests::command::quietly(Command::new("kill").arg("-KILL").args(pids));
}

/// Starts a checkpoint and kills it after `delay`. The numbers of its guard, which is about to end, and of its CRIUs.
fn killed_after(c: &Container, delay: Duration, with: With) -> Vec<String> {
    let images = c.images().display().to_string();
    let mut command = c.command("checkpoint", &["--image-path", &images]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().unwrap();
    std::thread::sleep(delay);
    let (guard, criu) = (guard_of(child.id()), criu_of(child.id()));
    let mut all = guard.clone();
    all.push(child.id().to_string());
    if with == With::GuardAndCriu {
        all.extend_from_slice(&criu);
    }
    kill(&all);
    hiber_tests::command::wait(&mut child, "checkpoint");
    [guard, criu].concat()
}

fn is_published(c: &Container) -> bool {
    c.images().join("inventory.img").exists()
}

/// Waits until the container runs again, by what its user is told to do, or has become the checkpoint. A CRIU that is killed may
/// take along a process that its code is in (docs/limits.md). Whether it had to be resumed.
#[track_caller]
fn settled(c: &Container, when: &str, with: With) -> bool {
    let mut frozen = false;
    if c.status() == "paused" {
        frozen = true;
        let told = c.exec(&["true"]);
        told.fails("a checkpoint that was killed has left it frozen: `resume` lets it go on");
        assert_eq!(c.state()["leftPaused"], json!(true), "{when}");
        c.call("resume", &[]).ok();
        assert!(hidden(c).is_empty(), "{when}: resumed, what was written goes: {:?}", hidden(c));
    }
    // A process that is about to end still runs, but no longer counts; and it may be gone before it is looked at.
    let counted = || {
        let state: Option<Value> = serde_json::from_str(&c.call("state", &[]).stdout).ok();
        let pid = state.and_then(|state| state["pid"].as_u64()).unwrap_or(0);
        let text = fs::read_to_string(format!("/proc/{pid}/root/dev/shm/count")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let before = counted();
    let is_settled = || match c.status().as_str() {
        "running" => counted() > before + 1,
        "stopped" | "gone" => with == With::GuardAndCriu || is_published(c),
        _ => false,
    };
    wait_for(when, is_settled);
    frozen
}

#[test]
fn hiber_and_its_guard_are_killed_at_many_moments() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let whole = timed(|| {
        c.checkpoint(&["--leave-running"]).ok();
    });
    let (mut frozen, mut left, mut lost, mut least) = (0, 0, 0, count(&c));
    for (i, delay) in moments(whole).take(40).enumerate() {
        let _ = fs::remove_dir_all(c.images());
        let with = if i % 3 == 2 { With::GuardAndCriu } else { With::Guard };
        let others = killed_after(&c, delay, with);
        let when = format!("round {i}, killed after {delay:?}");
        wait_for("the end of guard and CRIU", || others.iter().all(|pid| !is_alive(pid)));
        left += hidden(&c).len();
        frozen += u32::from(settled(&c, &when, with));
        let runs = c.status() == "running";
        if !runs && !is_published(&c) {
            c.delete(&["--force"]).ok();
            c.run_detached().ok();
            wait_for("a count of 3", || count(&c) >= 3);
            (lost, least) = (lost + 1, 0);
        } else if !runs {
            let images = c.images().display().to_string();
            c.runtime().run(&["inspect", "--verify", &images]).ok();
            c.delete(&["--force"]).ok();
            c.assert_clean();
            c.restore(&[]).ok();
        }
        counts_on(&c, least);
        least = count(&c);
    }
    assert!(left > 0 && frozen > 0, "the moments must cover the middle: {left}, {frozen}");
    assert!(lost <= 4, "of those with which CRIU was killed, {lost} have ended");
    let _ = fs::remove_dir_all(c.images());
    c.checkpoint(&["--leave-running"]).ok();
    assert!(hidden(&c).is_empty(), "{:?}", hidden(&c));
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Left in a directory where others checkpoint, too: whoever comes next clears up, and a removal of the container does.
#[test]
fn what_the_dead_have_written_goes_with_the_container_or_the_next_checkpoint() {
    require!(Root, Criu);
    let (mut by_delete, mut by_another) = (false, false);
    let other = counter(&Runtime::hiber(), Bundle::busybox());
    for (i, delay) in (1..200).map(|i| (i, Duration::from_millis(i % 40 * 5))) {
        if by_delete && by_another {
            return;
        }
        let c = counter(&Runtime::hiber(), Bundle::busybox());
        let others = killed_after(&c, delay, With::GuardAndCriu);
        wait_for("the end of guard and CRIU", || others.iter().all(|pid| !is_alive(pid)));
        if hidden(&c).is_empty() {
            continue;
        }
        if i % 2 == 0 {
            c.delete(&["--force"]).ok();
            by_delete = true;
        } else {
            let images = c.bundle().join("another").display().to_string();
            other.checkpoint(&["--leave-running", "--image-path", &images]).ok();
            by_another = true;
        }
        assert!(hidden(&c).is_empty(), "{:?}", hidden(&c));
        c.delete(&["--force"]).ok();
        c.assert_clean();
    }
    panic!("no kill left anything: {by_delete}, {by_another}");
}

/// One that was paused on purpose stays so. CRIU lets the cgroup go while it traces the tasks, and freezes it again when it
/// finds that nobody is there any more.
#[test]
fn a_paused_container_stays_paused_when_its_checkpoint_is_killed() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let mut paused = 0;
    for delay in (1..13).map(|i| 8 * i) {
        c.call("pause", &[]).ok();
        let others = killed_after(&c, Duration::from_millis(delay), With::Guard);
        wait_for("the end of guard and CRIU", || others.iter().all(|pid| !is_alive(pid)));
        match c.status().as_str() {
            "paused" => {
                let told = c.exec(&["true"]);
                told.fails("cannot exec in a paused container");
                assert!(!told.stderr.contains("checkpoint"), "{told}");
                assert_eq!(c.state()["leftPaused"], json!(null));
                c.call("resume", &[]).ok();
                paused += 1;
            }
            // The checkpoint was faster.
            status => {
                assert!(c.images().join("inventory.img").exists(), "{status} after {delay} ms");
                c.delete(&["--force"]).ok();
                c.restore(&[]).ok();
            }
        }
        counts_on(&c, 3);
        c.checkpoint(&["--leave-running"]).ok();
        let _ = fs::remove_dir_all(c.images());
        assert!(hidden(&c).is_empty());
    }
    assert!(paused > 0, "the moments must cover the beginning");
}
