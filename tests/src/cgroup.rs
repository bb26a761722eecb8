//! Where the host's cgroups are, by what /proc/self/mountinfo says; independent of hiber's own code.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A mounted hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Whether it is the unified one.
    pub v2: bool,
    /// Its controllers: of a v1 mount, with `name=…`; of v2, those that the root offers.
    pub controllers: Vec<String>,
}

/// All hierarchies below /sys/fs/cgroup.
pub fn hierarchies() -> Vec<Hierarchy> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mountinfo.lines().filter_map(parse).collect()
}

/// One line of mountinfo (proc(5)): `id parent dev root mountpoint options … - type source superoptions`.
fn parse(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mount = PathBuf::from(left.split(' ').nth(4)?);
    let mut right = right.split(' ');
    let v2 = match right.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    if !mount.starts_with("/sys/fs/cgroup") {
        return None;
    }
    let controllers = if v2 {
        let offered = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        offered.split_whitespace().map(str::to_owned).collect()
    } else {
        right.nth(1)?.split(',').map(str::to_owned).collect()
    };
    Some(Hierarchy { mount, v2, controllers })
}

/// Where process `pid` is in each mounted hierarchy: `/system.slice/x.scope`. The kernel also shows a cgroup2 hierarchy
/// that somebody had mounted once.
///
/// # Panics
/// If the process is gone.
#[track_caller]
pub fn places(pid: i32) -> Vec<String> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let v2 = hierarchies().iter().any(|h| h.v2);
    let lines = text.lines().filter(|line| v2 || !line.starts_with("0::"));
    lines.filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect()
}

/// The hierarchy that has `controller`, if any.
pub fn mount_of(controller: &str) -> Option<Hierarchy> {
    hierarchies().into_iter().find(|h| h.controllers.iter().any(|c| c == controller))
}

/// Whether the host's v1 and v2 hierarchies both have controllers, which crun refuses.
pub fn is_mixed() -> bool {
    let all = hierarchies();
    all.iter().any(|h| !h.v2) && all.iter().any(|h| h.v2 && !h.controllers.is_empty())
}

/// Reads a cgroup's file: `v1` or `v2` names it, whichever hierarchy has the controller.
///
/// # Panics
/// If no hierarchy has the controller or the file cannot be read.
#[track_caller]
pub fn read(controller: &str, cgroup: &str, v1: &str, v2: &str) -> String {
    let Some(h) = mount_of(controller) else { panic!("no hierarchy has {controller}") };
    let file = h.mount.join(cgroup.trim_start_matches('/')).join(if h.v2 { v2 } else { v1 });
    match fs::read_to_string(&file) {
        Ok(text) => text.trim_end().to_owned(),
        Err(e) => panic!("{}: {e}", file.display()),
    }
}

/// The directories at and below `cgroup` in every hierarchy, deepest first; below the hierarchy's root and, as a
/// relative path means it, below the test's own cgroup.
pub fn directories(cgroup: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own_in = |h: &Hierarchy| {
        let mut lines = own.lines().filter_map(|l| l.split_once(':')?.1.split_once(':'));
        let line = lines.find(|(names, _)| h.controllers.iter().any(|c| names.split(',').any(|n| n == c)));
        line.map_or("", |(_, path)| path.trim_start_matches('/')).to_owned()
    };
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        let tops = [hierarchy.mount.clone(), hierarchy.mount.join(own_in(&hierarchy))];
        for parent in tops.iter().skip(usize::from(tops[0] == tops[1])) {
            let top = parent.join(cgroup.trim_start_matches('/'));
            assert!(top != hierarchy.mount && top != *parent, "a test never works on a cgroup of others");
            collect(&top, &mut found);
        }
    }
    found
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect(&entry.path(), found);
        }
    }
    found.push(directory.to_owned());
}

/// The pids in `cgroup` and below, over every hierarchy.
pub fn pids(cgroup: &str) -> Vec<i32> {
    let files = directories(cgroup).into_iter().map(|d| d.join("cgroup.procs"));
    let text: String = files.filter_map(|f| fs::read_to_string(f).ok()).collect();
    let mut pids: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Cgroups that were nested by a test: so deep that no path reaches the last one, and removed with this whatever happens.
#[derive(Debug)]
pub struct Nest(PathBuf);

/// The name of each cgroup of a [`Nest`].
const NESTED: &str = "nested-cgroup";

impl Nest {
    /// Makes so many cgroups in each other below the directory `top`.
    ///
    /// # Panics
    /// If one cannot be made.
    pub fn create(top: &Path, depth: usize) -> Self {
        let nest = Self(top.to_owned());
        let mut here = open_dir(CWD, top).unwrap_or_else(|e| panic!("{}: {e}", top.display()));
        for level in 0..depth {
            let made = mkdirat(&here, NESTED, Mode::from_raw_mode(0o755));
            made.unwrap_or_else(|e| panic!("cgroup {level} below {}: {e}", top.display()));
            here = open_dir(here.as_fd(), NESTED.as_ref()).unwrap_or_else(|e| panic!("cgroup {level}: {e}"));
        }
        nest
    }

    /// The innermost cgroup that is there, and how deep it is.
    pub fn innermost(&self) -> Option<(OwnedFd, usize)> {
        let mut here = open_dir(CWD, &self.0).ok()?;
        let mut depth = 0;
        while let Ok(below) = open_dir(here.as_fd(), NESTED.as_ref()) {
            (here, depth) = (below, depth + 1);
        }
        Some((here, depth))
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        let Some((mut here, depth)) = self.innermost() else { return };
        for _ in 0..depth {
            let Ok(above) = open_dir(here.as_fd(), "..".as_ref()) else { return };
            let _ = unlinkat(&above, NESTED, AtFlags::REMOVEDIR);
            here = above;
        }
    }
}

fn open_dir(at: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
