//! What a killed CRIU leaves behind is removed: the container keeps its network, and no file of CRIU's stays.

use crate::counts_on;
use crate::failures::{odd, run_odd};
use hiber_tests::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a program in the container's network namespace; what it printed, if it succeeded.
fn in_network(c: &Container, program: &[&str]) -> Option<String> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", c.pid())).args(program);
    let output = hiber_tests::command::run(command, b"");
    output.status.success().then_some(output.stdout)
}

/// CRIU's marks in the firewall.
fn locks(c: &Container) -> String {
    let lists: [&[&str]; 3] = [&["iptables", "-S"], &["ip6tables", "-S"], &["nft", "list", "tables"]];
    let all: Vec<_> = lists.iter().filter_map(|list| in_network(c, list)).collect();
    all.join("\n").lines().filter(|line| line.contains("CRIU")).collect::<Vec<_>>().join("\n")
}

/// A checkpoint that was begun, in a process group of its own.
fn begin(c: &Container, flags: &[&str]) -> Child {
    let images = c.images().display().to_string();
    let mut command = c.command("checkpoint", &[&["--image-path", &images], flags].concat());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(c.bundle().join("stderr")).unwrap());
    command.spawn().unwrap()
}

fn error(c: &Container) -> String {
    fs::read_to_string(c.bundle().join("stderr")).unwrap()
}

/// The criu process of a hiber.
fn criu_of(hiber: &Child) -> Option<Pid> {
    let pid = hiber.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let is_criu = |p: &&str| fs::read_to_string(format!("/proc/{p}/comm")).is_ok_and(|n| n.trim() == "criu");
    Pid::from_raw(children.split_whitespace().find(is_criu)?.parse().ok()?)
}

fn kill(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
}

/// Begins checkpoints until one was killed with the network locked, with hiber or without.
#[track_caller]
fn kill_while_locked(c: &Container, flags: &[&str], with_hiber: bool) {
    for _ in 0..20 {
        let mut hiber = begin(c, flags);
        let end = Instant::now() + Duration::from_secs(20);
        while hiber.try_wait().unwrap().is_none() && Instant::now() < end {
            if locks(c).is_empty() {
                continue;
            }
            let criu = criu_of(&hiber);
            if with_hiber {
                // First, or it would hear of CRIU's end.
                kill(Pid::from_raw(hiber.id() as i32).unwrap());
            }
            let Some(criu) = criu else { break };
            kill(criu);
            let status = hiber.wait().unwrap();
            assert!(!status.success());
            return;
        }
        hiber.wait().unwrap();
        let _ = fs::remove_dir_all(c.images());
    }
    panic!("the network was never seen locked");
}

/// A container of some memory with a connection of its own, so that the lock is held for a while.
#[track_caller]
fn connected() -> Container {
    run_odd(odd("memory=150000000 tcp")).unwrap()
}

/// Packets still pass over loopback.
#[track_caller]
fn network_works(c: &Container) {
    let ping = [
        "exec 3<>/dev/null; nc -l -p 7099 >/tmp/heard & sleep 0.3; echo word | nc -w 2 127.0.0.1 7099; wait; cat /tmp/heard",
    ];
    assert_eq!(c.exec(&["timeout", "10", "sh", "-c", ping[0]]).ok(), "word");
}

fn a_killed_criu_leaves_the_network(method: &str) {
    let c = connected();
    let flags = ["--tcp-established", "--leave-running", "--network-lock", method];
    kill_while_locked(&c, &flags, false);
    let error = error(&c);
    assert!(error.contains("CRIU left behind, and was removed: "), "{error}");
    assert!(error.contains("criu dump died (signal: 9"), "{error}");
    assert_eq!(locks(&c), "", "{error}");
    assert_eq!(c.status(), "running");
    network_works(&c);
    counts_on(&c, 3);
    assert!(!c.images().join("inventory.img").exists());
    c.checkpoint(&flags).ok();
}

#[test]
fn iptables_rules_of_a_killed_criu() {
    require!(Root, Criu, Program("cc"), Program("iptables"), Program("nft"));
    a_killed_criu_leaves_the_network("iptables");
}

#[test]
fn nftables_of_a_killed_criu() {
    require!(Root, Criu, Program("cc"), Program("iptables"), Program("nft"));
    a_killed_criu_leaves_the_network("nftables");
}

#[test]
fn the_guard_unlocks_the_network_when_hiber_is_killed_as_well() {
    require!(Root, Criu, Program("cc"), Program("iptables"), Program("nft"));
    let c = connected();
    kill_while_locked(&c, &["--tcp-established", "--leave-running", "--network-lock", "iptables"], true);
    wait_for("the guard", || c.status() == "running" && locks(&c).is_empty());
    network_works(&c);
    counts_on(&c, 3);
    let hidden = || {
        fs::read_dir(c.bundle().path())
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with(".images"))
    };
    wait_for("the unfinished checkpoint to be removed", || !hidden());
}

/// CRIU's links in a directory.
fn links_in(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().flatten().map(|e| e.path());
    all.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("link_remap."))).collect()
}

#[test]
fn links_to_removed_files_of_a_killed_criu() {
    require!(Root, Criu, Program("cc"));
    let c = run_odd(odd("removed-with-link memory=150000000")).unwrap();
    let links = || links_in(&c.bundle().rootfs().join("tmp"));
    // Somebody else's file of such a name is no business of ours.
    let other = c.bundle().rootfs().join("tmp/link_remap.999");
    fs::write(&other, "").unwrap();
    for _ in 0..20 {
        let mut hiber = begin(&c, &["--link-remap", "--leave-running"]);
        while hiber.try_wait().unwrap().is_none() && links().len() < 2 {}
        if let (2.., Some(criu)) = (links().len(), criu_of(&hiber)) {
            kill(criu);
            assert!(!hiber.wait().unwrap().success());
            assert_eq!(links(), [other], "{}", error(&c));
            assert!(error(&c).contains("link_remap."), "{}", error(&c));
            counts_on(&c, 3);
            return;
        }
        hiber.wait().unwrap();
        let _ = fs::remove_dir_all(c.images());
    }
    panic!("no link was ever seen");
}

#[test]
fn ghosts_of_an_earlier_restore() {
    require!(Root, Criu, Program("cc"));
    let c = run_odd(odd("deleted=900000")).unwrap();
    c.checkpoint(&[]).ok();
    // As CRIU names them; it is gone too soon to be killed at the right moment.
    let tmp = c.bundle().rootfs().join("tmp");
    let (ghost, other) = (tmp.join("deleted.cr.1f.ghost"), tmp.join("deleted.cr.mine.ghost"));
    for file in [&ghost, &other] {
        fs::write(file, "").unwrap();
    }
    let mm = c.images().join("mm-1.img");
    let kept = fs::read(&mm).unwrap();
    fs::write(&mm, [&[0; 8], &kept[8..]].concat()).unwrap();
    c.restore(&[]).fails("magic doesn't match");
    assert!(!ghost.exists() && other.exists());
    fs::write(&mm, kept).unwrap();
    c.restore(&[]).ok();
    counts_on(&c, 3);
}
