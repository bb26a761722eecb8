//! Removes cgroups, and never anything else.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx, unlinkat};
use rustix::io::Errno;

use super::dir::{Dir, if_there};
use super::walk::walk;
use crate::error::{Error, Result, SysError};

/// Removes the directories that a failed create made, the last one first. A directory in which someone else has made a cgroup
/// since stays.
pub(super) fn roll_back(created: &[PathBuf]) {
    for path in created.iter().rev() {
        match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(e) => tracing::warn!("clean up after a failed create: rmdir {}: {e}", path.display()),
        }
    }
}

/// Removes one cgroup by its path, with its children.
pub(super) fn remove(path: &Path, patience: &mut Duration) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid("cgroup path", format!("{path:?}: expected a directory below a mount")));
    };
    // The parent of a mount point is on another filesystem (EXDEV), or in another cgroup hierarchy.
    match if_there(Dir::open(parent))? {
        Some(parent) => remove_child(&parent, name, patience),
        None => Ok(()),
    }
}

fn remove_child(parent: &Dir, name: &OsStr, patience: &mut Duration) -> Result<()> {
    match statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed("statx", parent, name, e).into()),
        // rmdir(2) of a mount point detaches the mount, in every mount namespace. (Kernels before 5.8 do not report mount
        // points.)
        Ok(stat) if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
            return Err(failed("rmdir", parent, name, Errno::BUSY).into());
        }
        Ok(_) => {}
    }
    if matches!(unlinkat(parent, name, AtFlags::REMOVEDIR), Ok(()) | Err(Errno::NOENT)) {
        return Ok(());
    }
    let Some(dir) = if_there(parent.child(name))? else { return Ok(()) };
    if_there(walk(&dir, |_| Ok(()), |above, name| rmdir(above, name, patience)))?;
    Ok(rmdir(parent, name, patience)?)
}

/// Removes a cgroup without children. Waits for a busy one as long as there is patience.
fn rmdir(parent: &Dir, name: &OsStr, patience: &mut Duration) -> Result<(), SysError> {
    let mut pause = Duration::from_millis(1);
    loop {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if !patience.is_zero() => {
                sleep(pause.min(*patience));
                *patience = patience.saturating_sub(pause);
            }
            Err(e) => return Err(failed("rmdir", parent, name, e)),
        }
        pause *= 2;
    }
}

fn failed(call: &str, parent: &Dir, name: &OsStr, e: Errno) -> SysError {
    SysError::new(call, parent.path().join(name).display().to_string(), e.raw_os_error())
}
