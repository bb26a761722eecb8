//! Cgroups that a container has made below its own, and those above it: nothing that is done with them keeps it from being
//! listed, killed and deleted.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use hiber_tests::cgroup::{self, Hierarchy, Nest};
use hiber_tests::command;
use hiber_tests::prelude::*;

/// More than there are descriptors for, and more than a path has room for.
const DEEP: usize = 3000;
/// For all that is done with a container that is nested so deep.
const LIMIT: Duration = Duration::from_secs(40);

fn sleeper(runtime: &Runtime) -> Container {
    let c = runtime.container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    c
}

/// The container's own cgroup in a hierarchy.
fn own(c: &Container, hierarchy: &Hierarchy) -> PathBuf {
    hierarchy.mount.join(&c.bundle().cgroup()[1..])
}

/// A command of the runtime's with few descriptors and a small stack.
fn confined(c: &Container, name: &str, flags: &[&str]) -> Output {
    let full = c.command(name, flags);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64 && ulimit -s 256 && exec \"$@\"", "sh"]);
    command.arg(full.get_program()).args(full.get_args());
    command.envs(full.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command::run(command, b"")
}

/// A container with cgroups nested in one hierarchy, and a process of its own in the innermost one.
fn check_deep(runtime: &Runtime, hierarchy: &Hierarchy) {
    let c = sleeper(runtime);
    let mut exec = c.runtime().command();
    exec.args(["exec", "--detach", c.id(), "sleep", "1000"]);
    command::run_detached(exec, &c.bundle().path().join("log")).ok();
    let pids = || c.call("ps", &["--format", "json"]).json();
    let inner = pids().as_array().unwrap().iter().map(|p| p.as_i64().unwrap()).max().unwrap();
    let nest = Nest::create(&own(&c, hierarchy), DEEP);
    let begin = Instant::now();
    let (innermost, depth) = nest.innermost().unwrap();
    assert_eq!(depth, DEEP);
    let procs = format!("/proc/self/fd/{}/cgroup.procs", std::os::fd::AsRawFd::as_raw_fd(&innermost));
    fs::write(procs, inner.to_string()).unwrap();
    let listed = confined(&c, "ps", &["--format", "json"]).json();
    assert!(listed.as_array().unwrap().contains(&json!(inner)), "{listed} lacks {inner}");
    let all =
        cgroup::mount_of("freezer").is_none_or(|freezer| freezer.mount == hierarchy.mount || hierarchy.v2);
    if all {
        confined(&c, "pause", &[]).ok();
        confined(&c, "resume", &[]).ok();
    }
    confined(&c, "delete", &["--force"]).ok();
    assert!(nest.innermost().is_none(), "it is gone with the container's cgroup");
    c.assert_clean();
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
}

/// The hierarchies that the container's processes are listed by, and one that is only to be removed.
#[test]
fn nests_of_any_depth_are_listed_killed_and_removed() {
    require!(Root);
    let all = cgroup::hierarchies();
    let named = |name: &str| all.iter().find(|h| !h.v2 && h.controllers.iter().any(|c| c == name));
    for hierarchy in ["freezer", "name=systemd"].into_iter().filter_map(named) {
        check_deep(&Runtime::hiber(), hierarchy);
    }
    if let Some(v2) = all.iter().find(|h| h.v2) {
        check_deep(&Runtime::hiber_on_v2(), v2);
    }
}

/// On v1 a frozen process does not die, and to thaw the container's cgroup does not thaw it.
#[test]
fn what_the_container_froze_below_its_cgroup_is_killed() {
    require!(Root, Controller("freezer"));
    let Some(hierarchy) = cgroup::mount_of("freezer") else { return };
    let c = sleeper(&Runtime::hiber());
    let inner = own(&c, &hierarchy).join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("cgroup.procs"), c.pid().to_string()).unwrap();
    fs::write(inner.join("freezer.state"), "FROZEN").unwrap();
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

/// It says so at once, and works when that is thawed.
#[test]
fn a_frozen_cgroup_above_the_containers_is_named() {
    require!(Root, Controller("freezer"));
    let Some(hierarchy) = cgroup::mount_of("freezer") else { return };
    let c = sleeper(&Runtime::hiber());
    let above = own(&c, &hierarchy).parent().unwrap().join("freezer.state");
    fs::write(&above, "FROZEN").unwrap();
    let begin = Instant::now();
    let refused = c.delete(&["--force"]);
    let took = begin.elapsed();
    fs::write(&above, "THAWED").unwrap();
    refused.fails("a cgroup above it is frozen");
    assert!(took < Duration::from_secs(5), "{took:?}");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn below_a_frozen_cgroup_of_v2_a_container_is_deleted() {
    require!(Root);
    let Some(hierarchy) = cgroup::hierarchies().into_iter().find(|h| h.v2) else { return };
    let c = sleeper(&Runtime::hiber_on_v2());
    let above = own(&c, &hierarchy).parent().unwrap().join("cgroup.freeze");
    fs::write(&above, "1").unwrap();
    let deleted = c.delete(&["--force"]);
    fs::write(&above, "0").unwrap();
    deleted.ok();
    c.assert_clean();
}

/// A container that may make cgroups, with and without limits of its own in the configuration.
#[test]
fn a_delegated_cgroup_has_bounds() {
    require!(Root);
    let Some(hierarchy) = cgroup::hierarchies().into_iter().find(|h| h.v2) else { return };
    for (given, depth) in [(None, "128"), (Some("3"), "3")] {
        let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            for mount in mounts.iter_mut().filter(|mount| mount["type"] == "cgroup") {
                mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
            }
            if let Some(given) = given {
                config["linux"]["resources"]["unified"] = json!({"cgroup.max.depth": given});
            }
        });
        let c = Runtime::hiber_on_v2().container(bundle);
        c.run_detached().ok();
        let read = |file: &str| fs::read_to_string(own(&c, &hierarchy).join(file)).unwrap();
        assert_eq!(read("cgroup.max.depth").trim(), depth);
        assert_eq!(read("cgroup.max.descendants").trim(), "8192");
        let mut deeper = String::from("/sys/fs/cgroup");
        for _ in 0..depth.parse::<usize>().unwrap() {
            deeper.push_str("/d");
        }
        c.sh(&format!("mkdir -p {deeper} && ! mkdir {deeper}/d 2>/dev/null"));
        c.delete(&["--force"]).ok();
        c.assert_clean();
    }
    // Nothing changes for containers that may not make any.
    let c = sleeper(&Runtime::hiber_on_v2());
    assert_eq!(fs::read_to_string(own(&c, &hierarchy).join("cgroup.max.depth")).unwrap().trim(), "max");
}
