//! The remains of a container on the machine, found by its unique name; and clearing it by force.

use crate::cgroup;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// All that is left of `name`: its state below `root`, mounts, cgroups below `parent`, processes.
fn leftovers(name: &str, parent: &str, root: &Path) -> Vec<String> {
    let mut left = Vec::new();
    if let Ok(entries) = fs::read_dir(root) {
        let entries = entries.flatten().filter(|e| e.file_name().to_string_lossy().contains(name));
        left.extend(entries.map(|e| format!("state {}", e.path().display())));
    }
    left.extend(mount_points(name).into_iter().map(|m| format!("mount {m}")));
    // the directory over the container's own is the caller's: runtimes make it and leave it
    let own = |d: &std::path::PathBuf| !d.ends_with(parent.trim_start_matches('/'));
    left.extend(
        cgroup::directories(parent).into_iter().filter(own).map(|d| format!("cgroup {}", d.display())),
    );
    left.extend(processes(name, parent).into_iter().map(|p| format!("process {p}: {}", command_line(p))));
    left
}

/// Checks that nothing is left of `name`: its state below `root`, mounts and processes with the name in
/// their path or command line, cgroups below `parent`.
///
/// # Panics
/// With a list of what is left, if it is still there after two seconds.
#[track_caller]
pub fn assert_none(name: &str, parent: &str, root: &Path) {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let left = leftovers(name, parent, root);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left behind by {name}:\n  {}", left.join("\n  "));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends, unmounts and removes all that is left of `name` and in the cgroups from `parent` down.
pub fn clear(name: &str, parent: &str) {
    for directory in cgroup::directories(parent) {
        // a frozen process cannot die on v1
        let _ = fs::write(directory.join("freezer.state"), "THAWED");
        let _ = fs::write(directory.join("cgroup.freeze"), "0");
    }
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let left = processes(name, parent);
        for pid in left.iter().filter_map(|&p| Pid::from_raw(p)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if left.is_empty() || Instant::now() > end {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for point in mount_points(name).iter().rev() {
        let _ = unmount(point.as_str(), UnmountFlags::DETACH);
    }
    for directory in cgroup::directories(parent) {
        let _ = fs::remove_dir(directory);
    }
}

/// Mount points with `name` in their path, in the order of mounting.
fn mount_points(name: &str) -> Vec<String> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mountinfo.lines().filter_map(|l| l.split(' ').nth(4));
    points.filter(|p| p.contains(name)).map(str::to_owned).collect()
}

/// Live processes in the cgroups below `parent`, or with `name` in their command line.
fn processes(name: &str, parent: &str) -> Vec<i32> {
    let mut found = cgroup::pids(parent);
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()));
    found.extend(all.filter(|&p| command_line(p).contains(name)));
    found.sort_unstable();
    found.dedup();
    found.retain(|&p| !is_zombie(p));
    found
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// A zombie is its parent's business, and so not one of the runtime's when the test is the parent.
fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
