//! The directories of a container's cgroups.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::{Kind, Layout, Mount};
use super::systemd::Unit;
use crate::error::{Context, Error, Result};

/// The absolute paths of one cgroup: the facts that a state file keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPaths {
    /// Directory by v1 controller (`memory`) or named hierarchy (`name=systemd`). Controllers that
    /// are mounted together share a directory.
    pub v1: BTreeMap<String, PathBuf>,
    /// Directory in the cgroup2 hierarchy.
    pub v2: Option<PathBuf>,
    /// The systemd unit whose cgroup it is, where systemd makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Unit>,
}

impl Layout {
    /// The cgroup of container `id` with this `linux.cgroupsPath`, in every hierarchy.
    ///
    /// An absolute path lies below the mount points. A relative one, and `id` when there is none,
    /// lies below this process's own cgroup on v1 and beside it on v2, where its own cgroup has
    /// processes and can pass no controllers on; on a hybrid's cgroup2, which passes none anyway,
    /// below the mount point. This is runc's rule, and as there systemd's `slice:prefix:name` is a plain
    /// relative path unless systemd is asked for ([`Unit`]). `..` never leads out.
    ///
    /// # Errors
    /// The path is the root cgroup or holds a byte that cgroup names cannot have, or this
    /// process's own cgroup is outside the mounts it sees.
    pub fn resolve(&self, cgroups_path: Option<&Path>, id: &str) -> Result<CgroupPaths> {
        let given = cgroups_path.filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(id));
        let inner = clean(given)?;
        let mut paths = CgroupPaths::default();
        for (name, mount) in &self.v1 {
            let parent = match given.is_absolute() {
                true => mount.point.clone(),
                false => self.own_below(name, mount)?,
            };
            paths.v1.insert(name.clone(), parent.join(&inner));
        }
        if let Some(mount) = &self.v2 {
            let parent = match given.is_absolute() || self.kind() == Kind::Hybrid {
                true => mount.point.clone(),
                false => {
                    let own = self.own_below("", mount)?;
                    // Never above the mount point.
                    if own == mount.point { own } else { own.parent().unwrap_or(&own).to_owned() }
                }
            };
            paths.v2 = Some(parent.join(&inner));
        }
        Ok(paths)
    }

    /// The cgroup `inside`, a path from the root of every hierarchy.
    ///
    /// # Errors
    /// If it is outside of the mounted hierarchies.
    pub(super) fn at(&self, inside: &Path) -> Result<CgroupPaths> {
        let through = |mount: &Mount| match inside.strip_prefix(&mount.root) {
            Ok(rest) => Ok(mount.point.join(rest)),
            Err(_) => {
                let (root, point) = (mount.root.display(), mount.point.display());
                let why = format!("it is outside of {root}, which is mounted at {point}");
                Err(Error::unsupported(format!("cgroup {}", inside.display()), why))
            }
        };
        let v1 = self.v1.iter().map(|(name, mount)| Ok((name.clone(), through(mount)?)));
        let v2 = self.v2.as_ref().map(through).transpose()?;
        Ok(CgroupPaths { v1: v1.collect::<Result<_>>()?, v2, systemd: None })
    }

    /// This process's own cgroup, as a path through `mount`.
    fn own_below(&self, name: &str, mount: &Mount) -> Result<PathBuf> {
        let own = self.own.get(name).map_or(Path::new("/"), PathBuf::as_path);
        match own.strip_prefix(&mount.root) {
            Ok(rest) if rest.components().all(|c| c != Component::ParentDir) => Ok(mount.point.join(rest)),
            _ => Err(Error::invalid(
                "linux.cgroupsPath",
                format!(
                    "a relative path lies below the runtime's own cgroup, {}, which is outside of {} \
                     (mounted at {}); expected an absolute path",
                    own.display(),
                    mount.root.display(),
                    mount.point.display()
                ),
            )),
        }
    }
}

impl Unit {
    /// The directories in which systemd will make the unit's cgroup.
    ///
    /// # Errors
    /// systemd does not run here or cannot be reached, or is a user's and there is no cgroup v2 for it.
    pub fn resolve(self, layout: &Layout) -> Result<CgroupPaths> {
        let mut paths = layout.at(&self.cgroup(layout.kind() == Kind::V2)?)?;
        paths.systemd = Some(self);
        Ok(paths)
    }
}

impl CgroupPaths {
    /// The distinct directories, each with the v1 controllers that it serves (none: cgroup2).
    pub fn directories(&self) -> Vec<(&Path, Vec<&str>)> {
        let mut by_path: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
        for (name, path) in &self.v1 {
            by_path.entry(path).or_default().push(name);
        }
        if let Some(path) = &self.v2 {
            by_path.entry(path).or_default();
        }
        by_path.into_iter().collect()
    }

    /// Checks paths that come from outside of this process, such as a state file's.
    ///
    /// # Errors
    /// A path is not absolute or has `..` in it.
    pub fn check(&self) -> Result<()> {
        for (path, _) in self.directories() {
            let ok = path.is_absolute() && path.components().all(|c| c.as_os_str() != OsStr::new(".."));
            if !ok {
                return Err(Error::invalid("cgroup path", format!("{path:?}: expected an absolute path")))
                    .context("read the container's cgroup paths");
            }
        }
        Ok(())
    }
}

/// `path` without `.` and `..`, relative, as if `/` were the top.
fn clean(path: &Path) -> Result<PathBuf> {
    let invalid = |problem| Err(Error::invalid("linux.cgroupsPath", format!("{path:?} {problem}")));
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::ParentDir => {
                inner.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if inner.as_os_str().is_empty() {
        return invalid("is the root cgroup; expected a cgroup below it");
    }
    // kernel/cgroup/cgroup.c, cgroup_mkdir(): no newline, as it would forge lines of /proc/PID/cgroup.
    if inner.as_os_str().as_bytes().iter().any(|b| matches!(b, 0 | b'\n')) {
        return invalid("holds a newline or NUL, which cgroup names cannot have");
    }
    Ok(inner)
}
