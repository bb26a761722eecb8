//! Whether a process may be moved to a cgroup.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

use super::dir::read_file;
use super::layout::Layout;
use crate::error::SysError;

/// Checks that this process may move its children to the cgroup2 directory `path`. An unprivileged process may do so only below a
/// directory whose `cgroup.procs` it can write (cgroup-v2.rst, "Delegation Containment").
///
/// # Errors
/// EACCES, for the `cgroup.procs` of the nearest directory that is above `path` and this process's own.
pub(super) fn check_movable(layout: &Layout, path: &Path) -> Result<(), SysError> {
    let own = layout.v2_dir_of(&read_file(Path::new("/proc/self/cgroup"))?);
    // The kernel decides about a directory that is not visible here.
    let Some(common) = own.as_ref().and_then(|own| own.ancestors().find(|dir| path.starts_with(dir))) else {
        return Ok(());
    };
    let procs = common.join("cgroup.procs");
    rustix::fs::accessat(CWD, &procs, Access::WRITE_OK, AtFlags::EACCESS)
        .map_err(|e| SysError::new("faccessat", format!("{} for writing", procs.display()), e.raw_os_error()))
}
