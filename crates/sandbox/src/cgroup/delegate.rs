//! Delegated cgroup v2 directories: delegation to a container's user namespace, and joining a container that has moved its
//! processes to another directory.

use std::path::Path;

use rustix::fs::AtFlags;

use super::dir::{if_there, read_file};
use super::handle::{Cgroup, denied};
use super::layout::Layout;
use crate::error::{Context, Result, SysError};
use crate::ids;

/// The files that cgroup-v2.rst ("Model of Delegation") names, for kernels before 4.15, which have no list.
const DELEGATED: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

/// The most levels of cgroups, and the most cgroups in all, that a container may make below its own. Several nested runtimes need
/// fewer, and every tool can still walk through so many.
const NESTING: [(&str, &str); 2] = [("cgroup.max.depth", "128"), ("cgroup.max.descendants", "8192")];

impl Cgroup {
    /// Limits the depth and number of the cgroups that a container may make below its own, unless they are limited already.
    /// Otherwise a container could nest cgroups too deep for tools of the host, and make so many that the kernel runs short of
    /// memory.
    ///
    /// # Errors
    /// The bounds cannot be written.
    pub fn limit_nesting(&self) -> Result<()> {
        let Some(path) = &self.paths().v2 else { return Ok(()) };
        let dir = self.dir(path)?;
        for (file, limit) in NESTING {
            if if_there(dir.read(file))?.is_none_or(|now| now != "max") {
                continue;
            }
            match dir.write(file, limit) {
                Err(e) if denied(&e) && self.on_denied().skips() => {
                    tracing::debug!("go on without a limit: {e}");
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Makes `uid`, root of the container's user namespace on the host, the owner of the cgroup2 directory and of
    /// the files in it that the kernel lists as safe (`/sys/kernel/cgroup/delegate`): it can then make cgroups below,
    /// and not change its own limits.
    ///
    /// # Errors
    /// The owner cannot be changed.
    pub fn delegate(&self, uid: u32) -> Result<()> {
        let Some(path) = &self.paths().v2 else { return Ok(()) };
        let dir = self.dir(path)?;
        let list =
            read_file(Path::new("/sys/kernel/cgroup/delegate")).unwrap_or_else(|_| DELEGATED.to_owned());
        for name in list.lines().chain(["."]) {
            let owned = ids::uid(uid)
                .and_then(|uid| rustix::fs::chownat(&*dir, name, Some(uid), None, AtFlags::SYMLINK_NOFOLLOW));
            let owned =
                owned.map_err(|e| SysError::new("fchownat", format!("{name} to {uid}"), e.raw_os_error()));
            // Files of controllers that the cgroup does not have are on the list, too.
            if_there(owned).context(format!("give cgroup {} to the user namespace", path.display()))?;
        }
        Ok(())
    }

    /// This cgroup as a further process can join it. A cgroup2 directory that passes controllers on holds no process
    /// (cgroup-v2.rst, "No Internal Process Constraint"): the container has moved its own below, and the new one
    /// goes where process `init` is.
    ///
    /// # Errors
    /// The cgroup or procfs cannot be read.
    pub fn joinable(&self, init: i32) -> Result<Self> {
        let Some(path) = &self.paths().v2 else { return Ok(self.clone()) };
        // The first process may have left its cgroup, and somebody have removed that.
        let passed_on = if_there(self.dir(path).and_then(|dir| dir.read("cgroup.subtree_control")))?;
        if passed_on.as_ref().is_some_and(String::is_empty) {
            return Ok(self.clone());
        }
        let mut paths = self.paths().clone();
        let found = Layout::detect()?.v2_dir_of(&read_file(Path::new(&format!("/proc/{init}/cgroup")))?);
        // Another program moved it elsewhere; then the kernel reports that the container's own cgroup is busy.
        paths.v2 = found.filter(|found| passed_on.is_none() || found.starts_with(path)).or(paths.v2);
        Self::open(paths, self.on_denied())
    }
}
