//! The harness of the tests: this host's layout, and cgroups that clean up after themselves.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use hiber_sandbox::cgroup::{Cgroup, Layout, Limits, OnDenied};
use rustix::process::Signal;

/// Says what a test needs; in CI that is a failure.
pub(crate) fn skip<T>(missing: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "this test needs {missing}");
    eprintln!("skipped: this test needs {missing}");
    None
}

pub(crate) fn layout() -> Option<Layout> {
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    Layout::detect().map_or_else(|e| skip(&format!("cgroups ({e})")), Some)
}

/// This host, seen as one that has its cgroup2 mount alone.
pub(crate) fn v2_layout() -> Option<Layout> {
    let whole = layout()?;
    let Some(mount) = whole.v2() else { return skip("a cgroup2 mount") };
    let mountinfo =
        format!("1 0 0:1 {} {} rw - cgroup2 cgroup2 rw\n", mount.root.display(), mount.point.display());
    let controllers = read(&mount.point, "cgroup.controllers");
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    Some(Layout::from_text(&mountinfo, &own, &controllers).unwrap())
}

/// The layout of a host with this v1 controller.
pub(crate) fn v1_layout(controller: &str) -> Option<Layout> {
    let layout = layout()?;
    if layout.v1().contains_key(controller) {
        return Some(layout);
    }
    eprintln!("this host has no v1 controller {controller}: nothing to test");
    None
}

/// A cgroup that is killed and removed with the test, whatever happens.
pub(crate) struct Scratch {
    pub(crate) cgroup: Cgroup,
    pub(crate) children: Vec<Child>,
}

pub(crate) fn unique() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("/hiber-test-{}-{n}", std::process::id()).into()
}

pub(crate) fn limits(layout: &Layout, json: &str) -> Limits {
    Limits::from_spec(&serde_json::from_str(json).unwrap(), layout, None).unwrap()
}

pub(crate) fn create(layout: &Layout, json: &str) -> Scratch {
    create_at(layout, &unique(), &limits(layout, json))
}

pub(crate) fn create_at(layout: &Layout, path: &Path, limits: &Limits) -> Scratch {
    let paths = layout.resolve(Some(path), "unused").unwrap();
    let cgroup = Cgroup::create(layout, &paths, limits, OnDenied::Fail).unwrap();
    Scratch { cgroup, children: Vec::new() }
}

impl Scratch {
    /// Starts a shell that waits for a line, moves it into the cgroup, and lets it go on.
    pub(crate) fn shell(&mut self, script: &str) -> &mut Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go\n{script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let moved = self.cgroup.add_pid(child.id());
        let mut go = child.stdin.take().unwrap();
        self.children.push(child);
        moved.unwrap();
        go.write_all(b"\n").unwrap();
        self.children.last_mut().unwrap()
    }

    /// The output of a script in the cgroup, after its end.
    pub(crate) fn output(&mut self, script: &str) -> Output {
        self.shell(script);
        self.children.pop().unwrap().wait_with_output().unwrap()
    }

    pub(crate) fn file(&self, controller: &str, file: &str) -> String {
        read(&self.cgroup.paths().v1[controller], file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let killed = self.cgroup.kill(Signal::KILL);
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let removed = self.cgroup.remove();
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
            assert!(!self.cgroup.exists());
        }
    }
}

pub(crate) fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file))
        .unwrap_or_else(|e| panic!("{dir:?} {file}: {e}"))
        .trim()
        .to_owned()
}

pub(crate) fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}
