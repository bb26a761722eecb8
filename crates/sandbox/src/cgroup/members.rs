//! The processes in a container's cgroup.

use std::sync::Arc;

use super::dir::{Dir, if_there};
use super::handle::Cgroup;
use super::walk::walk;
use crate::error::{Result, SysError};

impl Cgroup {
    /// The directory that contains all processes of the container: the one with the freezer, otherwise any.
    pub(super) fn main_dir(&self) -> Result<Option<Arc<Dir>>, SysError> {
        let v1 = &self.paths().v1;
        let by_rank =
            v1.get("freezer").into_iter().chain(&self.paths().v2).chain(v1.get("devices")).chain(v1.values());
        for path in by_rank {
            if let Some(dir) = if_there(self.dir(path))? {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }

    /// The processes in the cgroup and below it, as this process's pid namespace numbers them;
    /// none if it does not exist. Not sorted; zombies are not among them.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        if let Some(dir) = self.main_dir()? {
            let collect = |dir: &Dir| listed(dir).map(|mut own| pids.append(&mut own));
            if_there(walk(&dir, collect, |_, _| Ok(())))?;
        }
        Ok(pids)
    }
}

/// The processes in a cgroup itself, or the threads of a threaded one, as this process's pid namespace numbers them.
pub(super) fn listed(dir: &Dir) -> Result<Vec<u32>, SysError> {
    let text = match dir.read_list("cgroup.procs") {
        // A threaded cgroup has threads alone.
        Err(e) if e.errno == libc::EOPNOTSUPP => dir.read_list("cgroup.threads"),
        other => other,
    }?;
    // 0 stands for a process that this pid namespace does not see.
    Ok(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0).collect())
}
