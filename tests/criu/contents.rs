//! Kinds of containers that must survive: streams, mounts, processes, namespaces, cgroups.

use crate::{COUNT, Network, count, counter, counts_on, sleep_and_wake};
use hiber_tests::cgroup::{self, read};
use hiber_tests::prelude::*;
use hiber_tests::pty::{ConsoleSocket, read_until, write_all};
use std::fs;
use std::io::Write as _;
use std::process::Command;

#[test]
fn pipes_as_standard_streams() {
    require!(Root, Criu);
    let script = "n=0; while read line; do n=$((n+1)); echo $n $line; echo err $line >&2; done";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    let (output, mut streams) = c.with_pipes("run", &["--detach"]);
    output.ok();
    streams.stdin.write_all(b"one\n").unwrap();
    assert_eq!(read_until(&streams.stdout, "\n"), "1 one\n");
    c.checkpoint(&[]).ok();
    assert_eq!(c.status(), "gone");
    let images = c.images();
    let (output, mut streams) =
        c.with_pipes("restore", &["--detach", "--image-path", images.to_str().unwrap()]);
    output.ok();
    streams.stdin.write_all(b"two\n").unwrap();
    assert_eq!(read_until(&streams.stdout, "\n"), "2 two\n");
    assert_eq!(read_until(&streams.stderr, "\n"), "err two\n");
}

/// The host's /dev/null lies on no mount of the container's: as a stream of its own the container could never be saved again.
#[test]
fn pipes_that_nobody_has_any_more_are_the_containers_own_null() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell(COUNT));
    let (output, streams) = c.with_pipes("run", &["--detach"]);
    output.ok();
    wait_for("a count of 3", || count(&c) >= 3);
    for _ in 0..2 {
        let before = count(&c);
        c.checkpoint(&[]).ok();
        // Its streams are /dev/null.
        c.restore(&[]).ok();
        counts_on(&c, before);
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
        for (number, flags) in [(0, 0), (1, 1), (2, 1)] {
            let read =
                |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}/{number}", c.pid())).unwrap();
            assert_eq!(
                std::fs::read_link(format!("/proc/{}/fd/{number}", c.pid())).unwrap(),
                std::path::Path::new("/dev/null")
            );
            let info = read("fdinfo");
            let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
            let mount = format!("{} ", field("mnt_id:"));
            assert!(mounts.lines().any(|line| line.starts_with(&mount)), "{number}: {info}{mounts}");
            assert_eq!(u32::from_str_radix(field("flags:"), 8).unwrap() & 3, flags, "{number}");
        }
    }
    drop(streams);
}

#[test]
fn a_terminal() {
    require!(Root, Criu);
    let bundle = Bundle::busybox()
        .shell("n=0; while read line; do n=$((n+1)); echo got $n $line; done")
        .edit(|c| c["process"]["terminal"] = json!(true));
    let c = Runtime::hiber().container(bundle);
    let socket = ConsoleSocket::listen(c.bundle().path());
    c.create(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    c.start().ok();
    write_all(&master, "one\n");
    read_until(&master, "got 1 one");
    c.checkpoint(&[]).ok();
    drop(master);
    c.restore(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    write_all(&master, "two\n");
    read_until(&master, "got 2 two");
    c.exec(&["true"]).ok();
}

#[test]
fn bind_mounts_tmpfs_and_masked_paths() {
    require!(Root, Criu);
    let bundle = Bundle::busybox();
    fs::create_dir(bundle.join("share")).unwrap();
    fs::write(bundle.join("word"), "a file").unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/share", "source": "share", "options": ["bind"]}))
        .mount(json!({"destination": "/share-ro", "source": "share", "options": ["rbind", "ro"]}))
        .mount(json!({"destination": "/etc/word", "source": "word", "options": ["bind", "ro"]}))
        .mount(
            json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}),
        );
    let c = counter(&Runtime::hiber(), bundle);
    c.sh("echo in the tmpfs >/scratch/word; echo in shm >/dev/shm/word; echo shared >/share/out");
    let before = c.sh("awk '{ print $2 }' /proc/mounts | sort");
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(
        c.sh("cat /scratch/word /dev/shm/word /share-ro/out /etc/word"),
        "in the tmpfs\nin shm\nshared\na file"
    );
    assert_eq!(c.sh("awk '{ print $2 }' /proc/mounts | sort"), before, "the same mounts");
    c.exec(&["touch", "/share-ro/x"]).fails("Read-only");
    assert_eq!(c.sh("ls -A /sys/firmware; wc -c </proc/keys"), "0", "masked paths are masked still");
    c.exec(&["sh", "-c", "echo 1 >/proc/sys/kernel/printk"]).fails("Read-only");
    counts_on(&c, 3);
}

#[test]
fn a_read_only_root_filesystem() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().edit(|c| c["root"]["readonly"] = json!(true));
    let c = Runtime::hiber().container(bundle.args(["sleep", "1000"]));
    c.run_detached().ok();
    sleep_and_wake(&c, &[], &[]);
    c.exec(&["touch", "/x"]).fails("Read-only");
    assert_eq!(c.sh("cat /proc/1/comm"), "sleep");
}

#[test]
fn several_processes_with_their_pids_and_pipes() {
    require!(Root, Criu);
    let script = "mkfifo /p; for n in 1 2 3 4 5; do sleep 1000 & done; \
                  (i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done) | while read i; do echo $i >/dev/shm/.count; mv /dev/shm/.count /dev/shm/count; done";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    c.run_detached().ok();
    wait_for("the pipeline", || crate::count(&c) > 3);
    let tree = "cd /proc; for p in [0-9]*; do [ -e $p/comm ] && [ $p != $$ ] && echo $p $(cat $p/comm) \
                $(cut -d' ' -f4 $p/stat); done | grep ' sleep 1$'";
    let before: Vec<String> = c.sh(tree).lines().map(str::to_owned).collect();
    assert!(before.len() >= 5, "{before:?}");
    sleep_and_wake(&c, &[], &[]);
    let after: Vec<String> = c.sh(tree).lines().map(str::to_owned).collect();
    assert_eq!(before, after, "pids, names and parents");
    let at = crate::count(&c);
    wait_for("the pipeline to go on", || crate::count(&c) > at);
}

#[test]
fn a_joined_network_namespace() {
    require!(Root, Criu);
    let network = Network::new();
    let c = counter(&Runtime::hiber(), Bundle::busybox().namespace("network", Some(&network.path())));
    sleep_and_wake(&c, &[], &[]);
    let own = fs::read_link(format!("/proc/{}/ns/net", c.pid())).unwrap();
    assert_eq!(own, fs::read_link(network.path()).unwrap(), "it is back in the same namespace");
    counts_on(&c, 3);
    let mut rules = Command::new("nsenter");
    rules.arg(format!("--net={}", network.path())).args(["iptables-save"]);
    let rules = hiber_tests::command::run(rules, b"");
    assert!(!rules.stdout.contains("CRIU"), "CRIU's lock is gone: {rules}");
}

#[test]
fn another_user_in_a_user_namespace() {
    require!(Root, Criu, UserNamespaces);
    let bundle = Bundle::busybox()
        .user_namespace(400_000)
        .shell("i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done")
        .edit(|c| c["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let count = || {
        let text = fs::read_to_string(c.bundle().rootfs().join("tmp/count")).unwrap_or_default();
        text.trim().parse::<u32>().unwrap_or(0)
    };
    wait_for("a count of 3", || count() >= 3);
    let ids = "grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status";
    let before = c.sh(ids);
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(c.sh(ids), before);
    let at = count();
    wait_for("the count to go on", || count() > at.max(3));
}

#[test]
fn a_memory_limit_and_its_cgroup() {
    require!(Root, Criu, Controller("memory"), Controller("pids"));
    let bundle = Bundle::busybox().edit(|c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
        c["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let c = counter(&Runtime::hiber(), bundle);
    sleep_and_wake(&c, &[], &[]);
    let cg = c.bundle().cgroup();
    assert_eq!(read("memory", &cg, "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(read("pids", &cg, "pids.max", "pids.max"), "50");
    assert!(cgroup::pids(&cg).contains(&c.pid()));
    let all = cgroup::places(c.pid());
    assert!(all.iter().all(|place| place.ends_with(&cg)), "{all:?}");
    counts_on(&c, 3);
}

#[test]
fn seccomp_capabilities_and_limits() {
    require!(Root, Criu);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}]
    });
    let bundle = Bundle::busybox()
        .shell("while :; do mkdir /tmp/d 2>/tmp/e; sleep 0.05; done")
        .edit(|c| c["linux"]["seccomp"] = profile);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let facts = "grep -E '^(Cap|NoNew|Seccomp)' /proc/1/status; grep 'open files' /proc/1/limits";
    let before = c.sh(facts);
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(c.sh(facts), before);
    c.exec(&["mkdir", "/tmp/x"]).fails("cross-device link");
}

#[test]
fn files_that_are_locked_open_or_deleted() {
    require!(Root, Criu, Redis);
    let script = "exec 3>/kept; flock -x 3; echo first >&3; exec 4<>/gone; echo hidden >&4; rm /gone; \
                  touch /ready; while [ ! -e /go ]; do sleep 0.05; done; echo second >&3; sleep 1000";
    // busybox has no flock here: the host's, on the libraries of redis
    let bundle = Bundle::redis().shell(script);
    fs::copy("/usr/bin/flock", bundle.rootfs().join("usr/bin/flock")).unwrap();
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let file = |name: &str| c.bundle().rootfs().join(name);
    wait_for("the files", || file("ready").exists());
    sleep_and_wake(&c, &["--file-locks"], &["--file-locks"]);
    c.exec(&["flock", "-n", "/kept", "true"]).exited(1);
    assert_eq!(c.sh("cat /proc/1/fd/4"), "hidden");
    fs::write(file("go"), "").unwrap();
    wait_for("the second line", || fs::read_to_string(file("kept")).unwrap() == "first\nsecond\n");
}

#[test]
fn a_process_that_nobody_has_waited_for() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell("true & exec sleep 1000"));
    c.run_detached().ok();
    let zombie = || {
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", c.pid())).unwrap_or_default();
        let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        children.split_whitespace().any(|pid| stat(pid).contains(") Z "))
    };
    wait_for("the zombie", zombie);
    sleep_and_wake(&c, &[], &[]);
    assert!(zombie(), "it is restored, too");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}
