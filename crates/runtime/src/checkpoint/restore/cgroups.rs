//! The cgroups that CRIU and the tasks of a restore are in.

use std::path::PathBuf;

use hiber_criu::{CgroupRoot, work_of};
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, OnDenied};

use crate::error::{Context, Error, Result, chain};
use crate::host::procfs;

/// Freezes the tasks, but not CRIU, which is in their cgroup, and what it has started.
pub(crate) fn hold(cgroup: &Cgroup, criu: Option<u32>) -> Result<()> {
    let criu = criu.and_then(|pid| i32::try_from(pid).ok());
    for pid in cgroup.pids()? {
        let number = i32::try_from(pid).ok();
        if criu.is_some() && (number == criu || number.and_then(procfs::parent) == criu) {
            cgroup.let_out(pid)?;
        }
    }
    cgroup.freeze().context("hold the restored processes until they have what CRIU does not keep")
}

/// The work in the cgroup that holds the tasks while CRIU waits for them. Images of a paused container freeze that, and CRIU in
/// it: who restores a container wants it to run, unless they are `held`.
pub(super) fn work_in(paths: &CgroupPaths, held: bool) -> u64 {
    let Ok(cgroup) = Cgroup::open(paths.clone(), OnDenied::Skip) else { return 0 };
    if !held
        && cgroup.frozen().unwrap_or(false)
        && let Err(e) = cgroup.thaw()
    {
        tracing::warn!("the restore is frozen: {}", chain(&e));
    }
    let pids = cgroup.pids().unwrap_or_default();
    pids.into_iter().map(work_of).fold(0, u64::wrapping_add)
}

/// Where a process is in each hierarchy, as CRIU wants to be told.
pub(crate) fn cgroup_roots(pid: u32) -> Result<Vec<CgroupRoot>> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = hiber_sys::file::read_to_string(&path).map_err(|e| Error::file(&path, &e))?;
    let root = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        Some(CgroupRoot { controllers: Some(controllers.to_owned()), path: path.to_owned() })
    };
    Ok(text.lines().filter_map(root).collect())
}
