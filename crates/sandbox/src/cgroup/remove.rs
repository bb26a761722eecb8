//! Removing cgroups, and never anything else.

use std::ffi::OsStr;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx, unlinkat};
use rustix::io::Errno;

use super::dir::{Dir, if_there};
use super::handle::Cgroup;
use crate::error::{Error, Result, SysError};

/// Retries of a rmdir that answers EBUSY, with pauses of 1, 2, 4 … ms: half a second. Dying
/// processes keep a cgroup busy for a moment.
const RETRIES: u32 = 9;

impl Cgroup {
    /// Removes the cgroup's directories and all below them; what is gone already is fine.
    /// Parents stay.
    ///
    /// # Errors
    /// A process is in it still (EBUSY), or it is a mount point. Every directory is tried, and the
    /// first error returned.
    pub fn remove(&self) -> Result<()> {
        let mut result = Ok(());
        for (path, _) in self.paths().directories() {
            result = result.and(remove(path));
        }
        result
    }
}

/// Removes one cgroup by its path, with its children.
pub(super) fn remove(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid("cgroup path", format!("{path:?}: expected a directory below a mount")));
    };
    // The parent of a mount point is no cgroup (EXDEV), or a cgroup of which it is a mount.
    match if_there(Dir::open(parent))? {
        Some(parent) => remove_child(&parent, name),
        None => Ok(()),
    }
}

fn remove_child(parent: &Dir, name: &OsStr) -> Result<()> {
    let path = parent.path().join(name);
    let failed = |call: &str, e: Errno| SysError::new(call, path.display().to_string(), e.raw_os_error());
    match statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed("statx", e).into()),
        // rmdir(2) of a mount point detaches the mount, in every mount namespace. Kernels before
        // 5.8 do not tell; there nothing is mounted over a cgroup but by who wants to lose it.
        Ok(stat) if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
            return Err(failed("rmdir", Errno::BUSY).into());
        }
        Ok(_) => {}
    }
    let rmdir = || unlinkat(parent, name, AtFlags::REMOVEDIR);
    if matches!(rmdir(), Ok(()) | Err(Errno::NOENT)) {
        return Ok(());
    }
    let Some(dir) = if_there(parent.child(name))? else { return Ok(()) };
    for child in if_there(dir.children())?.unwrap_or_default() {
        remove_child(&dir, &child)?;
    }
    for n in 0.. {
        match rmdir() {
            Ok(()) | Err(Errno::NOENT) => break,
            Err(Errno::BUSY) if n < RETRIES => sleep(Duration::from_millis(1 << n)),
            Err(e) => return Err(failed("rmdir", e).into()),
        }
    }
    Ok(())
}
