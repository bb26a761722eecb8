//! podman's checkpoints, archives of them, and pods.

use crate::podman::Podman;
use crate::{count, counted_to, counts_on};
use hiber_tests::prelude::*;

#[test]
fn a_container_sleeps_and_wakes_twice() {
    require!(Root, Criu, Program("podman"));
    let podman = Podman::new();
    podman.counter("c", &["--memory", "64m"]);
    for _ in 0..2 {
        let before = count(podman.pid("c"));
        podman.call(&["container", "checkpoint", "c"]).ok();
        assert_eq!(podman.status("c"), "exited");
        podman.call(&["container", "restore", "c"]).ok();
        counts_on(podman.pid("c"), before);
    }
    podman.call(&["exec", "c", "sh", "-c", "exit 5"]).exited(5);
    assert!(podman.sh("c", "ip -o addr show lo").contains("127.0.0.1/8"), "loopback is up after a restore");
    podman.call(&["pause", "c"]).ok();
    podman.call(&["unpause", "c"]).ok();
    podman.call(&["kill", "c"]).ok();
    assert_eq!(podman.call(&["wait", "c"]).ok(), "137");
    podman.remove_all();
}

#[test]
fn leave_running_leaves_it_running() {
    require!(Root, Criu, Program("podman"));
    let podman = Podman::new();
    podman.counter("c", &[]);
    let pid = podman.pid("c");
    podman.call(&["container", "checkpoint", "--leave-running", "c"]).ok();
    assert_eq!((podman.status("c").as_str(), podman.pid("c")), ("running", pid));
    counted_to(pid, count(pid) + 1);
    podman.remove_all();
}

#[test]
fn an_archive_becomes_another_container() {
    require!(Root, Criu, Program("podman"));
    let podman = Podman::new();
    podman.counter("c", &["--volume", "data:/data"]);
    podman.sh("c", "echo changed >/etc/motd");
    let at = counted_to(podman.pid("c"), 20);
    let archive = podman.home().path("c.tar.gz");
    let checkpoint =
        ["container", "checkpoint", "--leave-running", "--print-stats", "--export", &archive, "c"];
    let stats = podman.call(&checkpoint).json();
    let criu = &stats["container_statistics"][0]["criu_statistics"];
    assert!(criu["pages_written"].as_u64().is_some_and(|n| n > 0), "{stats}");
    let before = count(podman.pid("c"));
    let restore =
        ["container", "restore", "--print-stats", "--ignore-volumes", "--import", &archive, "--name", "d"];
    let stats = podman.call(&restore).json();
    let criu = &stats["container_statistics"][0]["criu_statistics"];
    assert!(criu["pages_restored"].as_u64().is_some_and(|n| n > 0), "{stats}");
    // the clone continues from the checkpoint, beside the first one
    counts_on(podman.pid("d"), at);
    counts_on(podman.pid("c"), before);
    assert_eq!(podman.sh("d", "cat /etc/motd"), "changed", "the written layer is in the archive");
    podman.remove_all();
}

#[test]
fn a_removed_container_comes_back_from_its_archive() {
    require!(Root, Criu, Program("podman"));
    let podman = Podman::new();
    podman.counter("c", &[]);
    let before = count(podman.pid("c"));
    let archive = podman.home().path("c.tar");
    let checkpoint = ["container", "checkpoint", "--keep", "--compress", "none", "--export", &archive, "c"];
    podman.call(&checkpoint).ok();
    podman.call(&["rm", "c"]).ok();
    podman.call(&["container", "restore", "--import", &archive]).ok();
    counts_on(podman.pid("c"), before);
    podman.remove_all();
}

#[test]
fn the_first_round_of_a_precopy() {
    require!(Root, Criu, Program("podman"));
    let podman = Podman::new();
    podman.counter("c", &[]);
    let (pre, archive) = (podman.home().path("pre.tar"), podman.home().path("c.tar"));
    let first = podman.call(&["container", "checkpoint", "--pre-checkpoint", "--export", &pre, "c"]);
    assert_eq!(podman.status("c"), "running");
    let pid = podman.pid("c");
    counted_to(pid, count(pid) + 1);
    if !first.status.success() {
        // not every kernel can tell what was written since: that is said, and nothing happens
        first.fails("CONFIG_MEM_SOFT_DIRTY");
        return podman.remove_all();
    }
    let before = count(podman.pid("c"));
    podman.call(&["container", "checkpoint", "--with-previous", "--export", &archive, "c"]).ok();
    podman.call(&["rm", "c"]).ok();
    let restore = ["container", "restore", "--import-previous", &pre, "--import", &archive];
    podman.call(&restore).ok();
    counts_on(podman.pid("c"), before);
    podman.remove_all();
}

/// The namespaces of a container's first process.
fn namespace(podman: &Podman, name: &str, kind: &str) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{}/ns/{kind}", podman.pid(name))).unwrap()
}

#[test]
fn members_of_a_pod_share_namespaces_also_after_a_restore() {
    require!(Root, Criu, Program("podman"));
    let podman = Podman::new();
    // the infra container of podman 4 asks for limits that only CAP_SYS_RESOURCE can set, and takes no
    // --ulimit: the first member stands in for it
    let parent = podman.home().cgroup();
    podman.call(&["pod", "create", "--name", "p", "--infra=false", "--cgroup-parent", &parent]).ok();
    podman.run(&["-d", "--pod", "p", "--name", "first", "--ipc", "shareable"], &["sleep", "600"]).ok();
    let shared = [
        "--pod",
        "p",
        "--network",
        "container:first",
        "--ipc",
        "container:first",
        "--uts",
        "container:first",
    ];
    podman.counter("second", &shared);
    let check = || {
        for kind in ["net", "ipc", "uts"] {
            assert_eq!(namespace(&podman, "first", kind), namespace(&podman, "second", kind), "{kind}");
        }
        assert_ne!(namespace(&podman, "first", "pid"), namespace(&podman, "second", "pid"));
    };
    check();
    let before = count(podman.pid("second"));
    podman.call(&["container", "checkpoint", "second"]).ok();
    podman.call(&["container", "restore", "second"]).ok();
    check();
    counts_on(podman.pid("second"), before);
    podman.call(&["pod", "pause", "p"]).ok();
    assert_eq!(podman.status("second"), "paused");
    podman.call(&["pod", "unpause", "p"]).ok();
    podman.call(&["pod", "stop", "--time", "0", "p"]).ok();
    podman.call(&["pod", "rm", "--force", "p"]).ok();
    podman.remove_all();
}
