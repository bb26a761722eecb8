//! The cgroups of version 2 that a container has made below its own: which there are, their limits, and who is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Gid, Uid, XattrFlags};
use serde::{Deserialize, Serialize};

use super::dir::Dir;
use super::handle::Cgroup;
use crate::error::Context;
use crate::{Error, Result, SysError};

/// The controllers that a cgroup gives to those in it.
const CONTROL: &str = "cgroup.subtree_control";
const PROCESSES: &str = "cgroup.procs";
/// The kinds of extended attributes that cgroups can have (xattr(7)).
const USER: &str = "user.";
const TRUSTED: &str = "trusted.";
/// The bytes that a value, or all names together, have at most (XATTR_SIZE_MAX).
const MAX_ATTRIBUTE: usize = 64 << 10;
/// The files that say what a cgroup may have; `hugetlb` has two for each size of pages.
const VALUES: [&str; 28] = [
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.pressure",
    "cpu.idle",
    "cpu.max",
    "cpu.max.burst",
    "cpu.uclamp.max",
    "cpu.uclamp.min",
    "cpu.weight",
    "cpuset.cpus",
    "cpuset.mems",
    "io.latency",
    "io.max",
    "io.prio.class",
    "io.weight",
    "memory.high",
    "memory.low",
    "memory.max",
    "memory.min",
    "memory.oom.group",
    "memory.swap.high",
    "memory.swap.max",
    "memory.zswap.max",
    "memory.zswap.writeback",
    "misc.max",
    "pids.max",
    "rdma.max",
    "cgroup.freeze",
];

/// A cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Group {
    owner: (u32, u32),
    /// The controllers that it gives to those in it.
    controllers: String,
    values: BTreeMap<String, String>,
    /// Extended attributes, as systemd gives to the cgroups of its units.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, Vec<u8>>,
    /// Whether it has threads instead of processes, which nobody makes again.
    #[serde(skip)]
    threaded: bool,
    /// Whether BPF programs are attached to it, which nobody attaches again.
    #[serde(skip)]
    programs: bool,
}

/// A container's cgroups by their path below the container's own, which is `""`; nothing if there is none below that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree(BTreeMap<String, Group>);

impl Tree {
    /// Whether there are no cgroups below the container's.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One that has threads instead of processes (`cgroup.type`).
    pub fn threaded(&self) -> Option<&str> {
        self.0.iter().find(|(_, group)| group.threaded).map(|(name, _)| name.as_str())
    }

    /// One below the container's own to which BPF programs are attached.
    pub fn with_programs(&self) -> Option<&str> {
        self.0.iter().find(|(_, group)| group.programs).map(|(name, _)| name.as_str())
    }

    /// One with extended attributes that only a privileged process can give (`trusted.` of xattr(7)).
    pub fn trusted(&self) -> Option<&str> {
        let is_trusted = |group: &Group| group.attributes.keys().any(|name| name.starts_with(TRUSTED));
        self.0.iter().find(|(_, group)| is_trusted(group)).map(|(name, _)| name.as_str())
    }

    /// Leaves such attributes out.
    pub fn forget_trusted(&mut self) {
        for group in self.0.values_mut() {
            group.attributes.retain(|name, _| !name.starts_with(TRUSTED));
        }
    }

    /// All of them.
    pub fn names(&self) -> Names {
        self.0.keys().cloned().collect()
    }
}

/// Paths of cgroups below the container's.
pub type Names = BTreeSet<String>;
/// A process's number, and the path of its cgroup below the container's.
pub type Place = (u32, String);

impl Cgroup {
    /// Reads the cgroups of version 2 below this one, and the places of processes. Threads that are apart from their process have
    /// none.
    ///
    /// # Errors
    /// If a cgroup cannot be read.
    pub fn tree(&self) -> Result<(Tree, Vec<Place>)> {
        let (mut tree, mut places) = (Tree::default(), Vec::new());
        let Some(path) = self.paths().v2.as_deref() else { return Ok((tree, places)) };
        let own = Dir::open(path)?;
        if own.children()?.is_empty() {
            return Ok((tree, places));
        }
        read(own, String::new(), &mut tree, &mut places).context("read the container's own cgroups")?;
        Ok((tree, places))
    }

    /// Those of the tree's cgroups that are there.
    ///
    /// # Errors
    /// If this one cannot be opened.
    pub fn existing(&self, tree: &Tree) -> Result<Names> {
        let Some(path) = self.paths().v2.as_deref() else { return Ok(Names::new()) };
        let own = Dir::open(path)?;
        Ok(tree.names().into_iter().filter(|name| at(&own, name).is_ok()).collect())
    }

    /// Makes missing cgroups below this one, puts processes into theirs, and gives all but those in `left` the limits that they
    /// had. The processes are frozen, and nobody else is in this cgroup.
    ///
    /// # Errors
    /// If a cgroup cannot be made or entered, or the path of one leads elsewhere. A value that is refused is logged.
    pub fn make_tree(&self, tree: &Tree, places: &[Place], left: &Names) -> Result<()> {
        let Some(path) = self.paths().v2.as_deref().filter(|_| !tree.is_empty()) else { return Ok(()) };
        let made = || -> Result<()> {
            let own = Dir::open(path)?;
            for (name, group) in tree.0.iter().filter(|(name, _)| !name.is_empty()) {
                make(&own, name, group)?;
            }
            let mut inside: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
            for (pid, name) in places {
                if !inside.contains_key(name.as_str()) {
                    inside.insert(name, processes(&at(&own, name)?));
                }
                if !inside[name.as_str()].contains(pid) {
                    at(&own, name)?.write(PROCESSES, &pid.to_string())?;
                }
            }
            // A cgroup gets a controller's files when the one above gives it the controller.
            for (name, group) in &tree.0 {
                let dir = at(&own, name)?;
                for controller in group.controllers.split_whitespace() {
                    put(&dir, CONTROL, &format!("+{controller}"));
                }
                // The container's own is config.json's.
                let values = group.values.iter().filter(|_| !name.is_empty() && !left.contains(name));
                values.for_each(|(file, value)| put(&dir, file, value));
                if !name.is_empty() && !left.contains(name) {
                    group.attributes.iter().for_each(|(name, value)| put_attribute(&dir, name, value));
                }
            }
            Ok(())
        };
        made().context("make the container's own cgroups again")
    }
}

fn read(dir: Dir, name: String, tree: &mut Tree, places: &mut Vec<Place>) -> Result<()> {
    let stat = rustix::fs::fstat(&dir)
        .map_err(|e| SysError::new("fstat", dir.path().display().to_string(), e.raw_os_error()))?;
    let mut group = Group { owner: (stat.st_uid, stat.st_gid), ..Group::default() };
    group.threaded = dir.read("cgroup.type").is_ok_and(|kind| kind.trim() == "threaded");
    // The container's own has its device filter, which every restore makes.
    group.programs = !name.is_empty() && hiber_sys::bpf::has_programs(dir.as_fd());
    group.controllers = dir.read(CONTROL).unwrap_or_default().trim().to_owned();
    let files =
        std::fs::read_dir(dir.path()).map(|files| files.flatten().collect::<Vec<_>>()).unwrap_or_default();
    for file in
        files.iter().filter_map(|file| file.file_name().into_string().ok()).filter(|file| is_value(file))
    {
        let value = dir.read(&file).unwrap_or_default().trim().to_owned();
        if !value.is_empty() {
            group.values.insert(file, value);
        }
    }
    if !name.is_empty() {
        group.attributes = attributes(&dir);
    }
    places.extend(processes(&dir).into_iter().map(|pid| (pid, name.clone())));
    for child in dir.children()? {
        let Some(inner) = child.to_str() else { continue };
        let inner = if name.is_empty() { inner.to_owned() } else { format!("{name}/{inner}") };
        read(dir.child(&child)?, inner, tree, places)?;
    }
    tree.0.insert(name, group);
    Ok(())
}

fn is_value(file: &str) -> bool {
    VALUES.contains(&file) || (file.starts_with("hugetlb.") && file.ends_with(".max"))
}

/// Those that somebody has given; none where the kernel has none for cgroups.
fn attributes(dir: &Dir) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; MAX_ATTRIBUTE];
    let length = rustix::fs::flistxattr(dir, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let mut value = vec![0; MAX_ATTRIBUTE];
    let mut read = |name: &str| {
        let length = rustix::fs::fgetxattr(dir, name, &mut value[..]).ok()?;
        Some((name.to_owned(), value[..length].to_vec()))
    };
    names.filter(|name| is_attribute(name)).filter_map(&mut read).collect()
}

fn is_attribute(name: &str) -> bool {
    name.starts_with(USER) || name.starts_with(TRUSTED)
}

fn put_attribute(dir: &Dir, name: &str, value: &[u8]) {
    if !is_attribute(name) {
        return;
    }
    if let Err(e) = rustix::fs::fsetxattr(dir, name, value, XattrFlags::empty()) {
        tracing::warn!("{}: a cgroup of the container's own has not its {name}: {e}", dir.path().display());
    }
}

fn processes(dir: &Dir) -> BTreeSet<u32> {
    let all = dir.read(PROCESSES).unwrap_or_default();
    all.lines().filter_map(|line| line.parse().ok()).collect()
}

fn at(own: &Dir, name: &str) -> Result<Dir> {
    let mut dir = own.child(OsStr::new("."))?;
    for part in Path::new(name).components() {
        let Component::Normal(part) = part else {
            return Err(Error::invalid("cgroups", format!("{name:?} is no path below a cgroup")));
        };
        dir = dir.child(part)?;
    }
    Ok(dir)
}

/// One that is above has been made before: its name comes first.
fn make(own: &Dir, name: &str, group: &Group) -> Result<()> {
    let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
    let above = at(own, above)?;
    if !above.make_child(OsStr::new(last))? {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(group.owner.0), Gid::from_raw(group.owner.1));
    let dir = at(own, name)?;
    for file in [".", PROCESSES, "cgroup.threads", CONTROL] {
        rustix::fs::chownat(&dir, file, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| {
            SysError::new("chown", dir.path().join(file).display().to_string(), e.raw_os_error())
        })?;
    }
    Ok(())
}

/// Writes a value that differs, line by line: io.max has one for each device.
fn put(dir: &Dir, file: &str, value: &str) {
    let known = file == CONTROL || is_value(file);
    if !known || dir.read(file).is_ok_and(|here| here.trim() == value) {
        return;
    }
    for line in value.lines() {
        if let Err(e) = dir.write(file, line) {
            tracing::warn!("a cgroup of the container's own has not its value: {e}");
        }
    }
}
