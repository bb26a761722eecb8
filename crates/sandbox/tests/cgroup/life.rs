//! From create to remove: processes, freezing, killing, and what is left alone.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, Kind, Layout, Limits, OnDenied};
use rustix::process::Signal;

use crate::host::*;

#[test]
fn the_life_of_a_cgroup() {
    let Some(layout) = layout() else { return };
    let mut s = create(&layout, "{}");
    assert!(s.cgroup.exists());
    assert_eq!(s.cgroup.created().len(), s.cgroup.paths().v1.len() + usize::from(layout.v2().is_some()));
    assert_eq!(s.cgroup.pids().unwrap(), [0; 0]);
    let child = s.shell("sleep 1000 & echo $!; wait");
    let (parent, grandchild) = (child.id(), first_line(child).parse::<u32>().unwrap());
    let mut pids = s.cgroup.pids().unwrap();
    pids.sort_unstable();
    let mut expected = [parent, grandchild];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    let own = std::fs::read_to_string(format!("/proc/{grandchild}/cgroup")).unwrap();
    let name = s.cgroup.created()[0].file_name().unwrap().to_str().unwrap();
    assert!(own.lines().all(|line| line.ends_with(name)), "in every hierarchy: {own}");
    // Persisted paths reach the same cgroup.
    let json = serde_json::to_string(s.cgroup.paths()).unwrap();
    let reopened = Cgroup::open(serde_json::from_str(&json).unwrap(), OnDenied::Fail).unwrap();
    assert_eq!(reopened.pids().unwrap().len(), 2);
    // Another container cannot have it.
    let error = Cgroup::create(&layout, s.cgroup.paths(), &Limits::default(), OnDenied::Fail).unwrap_err();
    assert!(error.to_string().ends_with("container's cgroup is not empty: 2 process(es) found"), "{error}");
    assert!(reopened.remove().is_err(), "busy");
    reopened.kill(Signal::KILL).unwrap();
    assert_eq!(s.cgroup.pids().unwrap(), [0; 0]);
    s.children.pop().unwrap().wait().unwrap();
    reopened.remove().unwrap();
    reopened.remove().unwrap();
    assert!(!s.cgroup.exists());
    assert_eq!(reopened.pids().unwrap(), [0; 0]);
    assert!(!reopened.frozen().unwrap());
    assert!(reopened.freeze().is_err());
    reopened.thaw().unwrap();
}

/// Whether a process is scheduled: its CPU time grows.
fn runs(pid: u32) -> bool {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
        fields.skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum::<u64>()
    };
    let (start, begin) = (ticks(), Instant::now());
    while begin.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(20));
        if ticks() > start {
            return true;
        }
    }
    false
}

fn freeze_and_kill(layout: &Layout) {
    let mut s = create(layout, "{}");
    let pid = s.shell("trap 'echo got; exit 7' TERM; while :; do :; done").id();
    assert!(runs(pid));
    s.cgroup.freeze().unwrap();
    assert!(s.cgroup.frozen().unwrap());
    assert!(!runs(pid));
    s.cgroup.freeze().unwrap();
    // A signal to a paused container waits for it to be resumed.
    s.cgroup.kill(Signal::TERM).unwrap();
    assert!(s.cgroup.frozen().unwrap());
    s.cgroup.thaw().unwrap();
    assert!(!s.cgroup.frozen().unwrap());
    let output = s.children.pop().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"got\n".as_slice()));
    // An empty one that is frozen would freeze a container at its start.
    s.cgroup.freeze().unwrap();
    let error = Cgroup::create(layout, s.cgroup.paths(), &Limits::default(), OnDenied::Fail).unwrap_err();
    assert!(error.to_string().ends_with("container's cgroup unexpectedly frozen"), "{error}");
    s.cgroup.thaw().unwrap();
    // SIGKILL ends frozen processes, too.
    s.shell("sleep 1000 & sleep 1000");
    s.cgroup.freeze().unwrap();
    s.cgroup.kill(Signal::KILL).unwrap();
    assert_eq!(s.cgroup.pids().unwrap(), [0; 0]);
}

#[test]
fn freezing_and_killing() {
    let Some(layout) = layout() else { return };
    freeze_and_kill(&layout);
}

#[test]
fn freezing_and_killing_v2() {
    let Some(layout) = v2_layout() else { return };
    freeze_and_kill(&layout);
}

/// A process that forever starts its successor and ends: a list of pids is stale once it is read.
/// Only who freezes first reaches it with one signal.
fn kill_what_forks(layout: &Layout, signal: Signal) {
    let mut s = create(layout, "{}");
    // It ends by itself if the test fails.
    s.shell("f() { [ $1 -gt 0 ] && ( ( f $(($1 - 1)) ) & ); exit; }; f 20000");
    let mut seen = std::collections::BTreeSet::new();
    let begin = Instant::now();
    while seen.len() < 5 && begin.elapsed() < Duration::from_secs(5) {
        seen.extend(s.cgroup.pids().unwrap());
    }
    assert!(seen.len() >= 5, "it forks: {seen:?}");
    s.cgroup.kill(signal).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(s.cgroup.pids().unwrap(), [0; 0]);
}

#[test]
fn kill_reaches_processes_that_fork() {
    let Some(layout) = layout() else { return };
    kill_what_forks(&layout, Signal::KILL);
    for _ in 0..8 {
        kill_what_forks(&layout, Signal::TERM);
    }
}

#[test]
fn kill_reaches_processes_that_fork_v2() {
    let Some(layout) = v2_layout() else { return };
    kill_what_forks(&layout, Signal::KILL);
    for _ in 0..8 {
        kill_what_forks(&layout, Signal::TERM);
    }
}

#[test]
fn children_are_listed_killed_and_removed() {
    let Some(layout) = layout() else { return };
    let mut s = create(&layout, "{}");
    let pid = s.shell("sleep 1000").id();
    for (name, dir) in &s.cgroup.paths().v1 {
        std::fs::create_dir_all(dir.join("inner/most")).unwrap();
        if name != "cpuset" {
            std::fs::write(dir.join("inner/most/cgroup.procs"), pid.to_string()).unwrap();
        }
    }
    if let Some(dir) = &s.cgroup.paths().v2 {
        std::fs::create_dir_all(dir.join("inner/most")).unwrap();
        std::fs::write(dir.join("inner/most/cgroup.procs"), pid.to_string()).unwrap();
    }
    let listed = s.cgroup.pids().unwrap();
    assert!(!listed.is_empty() && listed.contains(&pid), "{listed:?}");
    s.cgroup.kill(Signal::KILL).unwrap();
    s.cgroup.remove().unwrap();
    assert!(!s.cgroup.exists());
}

/// As an `exec` beside a `delete` does it.
#[test]
fn what_enters_while_a_cgroup_is_destroyed_is_killed_too() {
    let Some(layout) = layout() else { return };
    let s = create(&layout, "{}");
    let entered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let entering = scope.spawn(|| {
            let enter = || {
                let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
                std::thread::sleep(Duration::from_millis(5));
                match s.cgroup.add_pid(child.id()) {
                    Ok(()) => drop(entered.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => child.kill().unwrap(),
                }
                child
            };
            let all: Vec<_> = (0..60).map(|_| enter()).collect();
            for mut child in all {
                child.wait().unwrap();
            }
        });
        while entered.load(Ordering::Relaxed) < 2 && !entering.is_finished() {
            std::thread::yield_now();
        }
        assert!(!entering.is_finished(), "not one was left to enter while the cgroup is destroyed");
        s.cgroup.destroy().unwrap();
        assert!(!s.cgroup.exists());
    });
}

#[test]
fn a_failed_create_leaves_nothing() {
    let Some(layout) = v1_layout("cpuset") else { return };
    let paths = layout.resolve(Some(&unique().join("a")), "unused").unwrap();
    let wrong = limits(&layout, r#"{"cpu":{"cpus":"100000"}}"#);
    Cgroup::create(&layout, &paths, &wrong, OnDenied::Fail).unwrap_err();
    for path in paths.v1.values().chain(&paths.v2) {
        assert!(!path.parent().unwrap().exists(), "{path:?}");
    }
}

#[test]
fn what_is_no_cgroup_is_left_alone() {
    let Some(layout) = layout() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("child")).unwrap();
    let remove = |path: &Path| {
        let paths = CgroupPaths { v2: Some(path.to_owned()), ..CgroupPaths::default() };
        Cgroup::open(paths, OnDenied::Fail).and_then(|cgroup| cgroup.remove())
    };
    assert!(remove(&dir.path().join("child")).is_err());
    assert!(dir.path().join("child").exists());
    let s = create(&layout, "{}");
    let cgroup = &s.cgroup.created()[0];
    // A cgroup with a mount on it, as another mount namespace sees it: there, rmdir would not
    // answer EBUSY but detach the mount.
    let mut holder = Command::new("unshare")
        .args([
            "-m",
            "sh",
            "-c",
            "mount --make-rprivate / && mount --bind \"$0\" \"$0\" && echo ok && read x",
        ])
        .arg(cgroup)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut holder), "ok");
    let seen = format!("/proc/{}/root{}", holder.id(), cgroup.display());
    let refused = remove(Path::new(&seen));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(refused.unwrap_err().to_string().ends_with(": device or resource busy"));
    assert!(cgroup.exists());
    assert!(remove(Path::new("a/b")).unwrap_err().to_string().contains("read the container's cgroup paths"));
    let dots = s.cgroup.created()[0].join("../y");
    assert!(remove(&dots).is_err());
}

#[test]
fn a_hierarchy_that_cannot_be_written_is_skipped_if_asked() {
    let Some(layout) = v1_layout("pids") else { return };
    // A read-only bind mount of the pids hierarchy, as a rootless container may see it.
    let dir = tempfile::tempdir().unwrap();
    let script = "mount --make-rprivate / && mount --bind \"$0\" \"$1\" && mount -o remount,bind,ro \"$1\" \
                  && echo ok && read x";
    let mut holder = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .args([layout.v1()["pids"].point.as_os_str(), dir.path().as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut holder), "ok");
    let seen = format!("/proc/{}/root{}", holder.id(), dir.path().display());
    let mountinfo = format!("1 0 0:1 / {seen} rw - cgroup cgroup rw,pids\n");
    let read_only = Layout::from_text(&mountinfo, "1:pids:/\n", "").unwrap();
    let paths = read_only.resolve(Some(&unique()), "unused").unwrap();
    let limited = limits(&read_only, r#"{"pids":{"limit":5}}"#);
    let failed = Cgroup::create(&read_only, &paths, &Limits::default(), OnDenied::Fail);
    let skipped = Cgroup::create(&read_only, &paths, &Limits::default(), OnDenied::Skip);
    let limited = Cgroup::create(&read_only, &paths, &limited, OnDenied::Skip);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let failed = failed.unwrap_err();
    let source = std::error::Error::source(&failed).unwrap().to_string();
    assert!(source.starts_with("mkdir ") && source.ends_with(": read-only file system"), "{source}");
    assert_eq!(*skipped.unwrap().paths(), CgroupPaths::default());
    assert_eq!(
        limited.unwrap_err().to_string(),
        "linux.resources.pids.limit: not supported: cannot set pids limit: container could not join or create cgroup; \
         without root it needs a delegated cgroup v2"
    );
}

#[test]
fn a_process_is_born_in_all_hierarchies() {
    let name = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    if let Some(hybrid) = layout().filter(|l| l.kind() == Kind::Hybrid) {
        let s = create(&hybrid, "{}");
        let place = s.cgroup.birthplace().unwrap().unwrap();
        assert!(!place.v1.is_empty() && place.v1.iter().all(|tasks| name(tasks).ends_with("tasks")));
        assert_eq!(place.v1.len() + place.v2.iter().count(), s.cgroup.paths().directories().len());
    }
    let s = create(&v2_layout().unwrap(), "{}");
    let place = s.cgroup.birthplace().unwrap().unwrap();
    assert!(place.v1.is_empty());
    assert_eq!(place.v2.as_ref().map(name), s.cgroup.paths().v2);
}
