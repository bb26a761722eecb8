//! The remains of a killed CRIU are removed: the container keeps its network, and no file of CRIU's stays.

use crate::counts_on;
use crate::failures::{finding, odd, preflight, run_odd};
use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// A program that CRIU runs late in a dump, the tasks being seized but whole again: it kills CRIU, and hiber before
/// if there is a file `hiber` beside it.
const KILLER: &str = "#!/bin/sh
own=$(dirname \"$0\")
pid=$PPID
while parent=$(sed -n 's/^PPid:\t//p' /proc/$pid/status); [ \"$(cat /proc/$parent/comm)\" = criu ]; do pid=$parent; done
[ -e \"$own/hiber\" ] && kill -9 \"$parent\"
kill -9 \"$pid\"
";

/// A checkpoint whose CRIU is killed after it has locked the network, and hiber as well if wanted.
#[track_caller]
fn killed_checkpoint(c: &Container, flags: &[&str], with_hiber: bool) -> Output {
    let programs = c.bundle().join("programs");
    fs::create_dir_all(&programs).unwrap();
    fs::write(programs.join("ip"), KILLER).unwrap();
    fs::set_permissions(programs.join("ip"), PermissionsExt::from_mode(0o755)).unwrap();
    if with_hiber {
        fs::write(programs.join("hiber"), "").unwrap();
    }
    let images = c.images().display().to_string();
    // So that the network is saved at all.
    let all = [&["--image-path", &images, "--tcp-established", "--leave-running"], flags].concat();
    let mut command = c.command("checkpoint", &all);
    command.env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()));
    let output = hiber_tests::command::run(command, b"");
    assert!(!output.status.success(), "{output}");
    output
}

#[track_caller]
fn connected() -> Container {
    run_odd(odd("tcp"))
}

/// Packets still pass over loopback.
#[track_caller]
fn network_works(c: &Container) {
    let ping = [
        "exec 3<>/dev/null; nc -l -p 7099 >/tmp/heard & until grep -q ':1BBB .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.05; done; echo word | nc -w 2 127.0.0.1 7099; wait; cat /tmp/heard",
    ];
    // busybox's nc now and then loses a word that comes with the end.
    wait_for("a word over loopback", || c.exec(&["timeout", "10", "sh", "-c", ping[0]]).ok() == "word");
}

fn a_killed_criu_leaves_the_network(method: &str) {
    let c = connected();
    let output = killed_checkpoint(&c, &["--network-lock", method], false);
    output.fails("criu dump died (signal: 9").fails("CRIU left behind, and was removed: ").fails("CRIU");
    assert_eq!(locks(&c), "", "{output}");
    assert_eq!(c.status(), "running");
    network_works(&c);
    counts_on(&c, 3);
    assert!(!c.images().join("inventory.img").exists());
    c.checkpoint(&["--tcp-established", "--leave-running", "--network-lock", method]).ok();
}

#[test]
fn iptables_rules_of_a_killed_criu() {
    require!(Root, Criu, CPrograms, Program("iptables"), Program("nft"));
    a_killed_criu_leaves_the_network("iptables");
}

#[test]
fn nftables_of_a_killed_criu() {
    require!(Root, Criu, CPrograms, Program("iptables"), Program("nft"));
    a_killed_criu_leaves_the_network("nftables");
}

#[test]
fn the_guard_unlocks_the_network_when_hiber_is_killed_as_well() {
    require!(Root, Criu, CPrograms, Program("iptables"), Program("nft"));
    let c = connected();
    killed_checkpoint(&c, &["--network-lock", "iptables"], true);
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
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("removed-with-link"));
    // Somebody else's file of such a name is no business of ours.
    let other = c.bundle().rootfs().join("tmp/link_remap.999");
    fs::write(&other, "").unwrap();
    let output = killed_checkpoint(&c, &["--link-remap"], false);
    output.fails("removed: ").fails("link_remap.");
    assert_eq!(links_in(&c.bundle().rootfs().join("tmp")), [other], "{output}");
    counts_on(&c, 3);
}

/// A process has a file open whose directory has since become a link to one of the host's, where there are names that the
/// file might have.
#[test]
fn no_link_of_the_container_leads_out_of_it() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("flock").edit(|c| c["process"]["capabilities"] = json!({})));
    let outside = c.bundle().join("outside");
    fs::create_dir(&outside).unwrap();
    let script = format!(
        "mkdir /d; echo x >/d/f; ln /d/f /other; exec 3</d/f; rm /d/f; rmdir /d; ln -s {} /d
        sleep 1000 </dev/null >/dev/null 2>&1 &",
        outside.display()
    );
    c.sh(&script);
    let names = ["f (deleted)", "link_remap.1"].map(|name| outside.join(name));
    for name in &names {
        fs::hard_link(c.bundle().rootfs().join("other"), name).unwrap();
    }
    let report = preflight(&c, &["--file-locks"]);
    assert_eq!(finding(&report, "link-remap").unwrap()["path"], json!("/d/f"), "{report:#}");
    let output = c.checkpoint(&["--link-remap"]);
    output.fails("file locks");
    assert!(names.iter().all(|name| name.exists()), "{output}");
}

#[test]
fn ghosts_of_an_earlier_restore() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("deleted=900000"));
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
    c.restore(&["--trust-images"]).fails("magic doesn't match");
    assert!(!ghost.exists() && other.exists());
    fs::write(&mm, kept).unwrap();
    c.restore(&[]).ok();
    counts_on(&c, 3);
}
