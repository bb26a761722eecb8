//! The processes in a container's cgroup.

use std::sync::Arc;

use super::dir::{Dir, if_there};
use super::handle::Cgroup;
use crate::error::{Result, SysError};

impl Cgroup {
    /// The directory that stands for the whole container: the one that freezes it, else any.
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
            if_there(collect_pids(&dir, &mut pids))?;
        }
        Ok(pids)
    }
}

fn collect_pids(dir: &Dir, pids: &mut Vec<u32>) -> Result<(), SysError> {
    let text = match dir.read_list("cgroup.procs") {
        // A threaded cgroup has threads alone.
        Err(e) if e.errno == libc::EOPNOTSUPP => dir.read_list("cgroup.threads"),
        other => other,
    }?;
    // 0 stands for a process that this pid namespace does not see.
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
    for name in dir.children()? {
        // A child may go while we walk.
        if_there(dir.child(&name).and_then(|child| collect_pids(&child, pids)))?;
    }
    Ok(())
}
