//! Removing cgroups, and never anything else.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx, unlinkat};
use rustix::io::Errno;

use super::dir::{Dir, if_there};
use super::handle::Cgroup;
use crate::error::{Error, Result, SysError};

/// How long a removal, of all directories together, waits for cgroups that dying processes keep
/// busy for a moment.
const PATIENCE: Duration = Duration::from_millis(500);

impl Cgroup {
    /// Removes the cgroup's directories and all below them; what is gone already is fine.
    /// Parents stay.
    ///
    /// # Errors
    /// A process is in it still (EBUSY), or it is a mount point. Every directory is tried, and the
    /// first error returned.
    pub fn remove(&self) -> Result<()> {
        if let Some(unit) = &self.paths().systemd
            && let Err(e) = unit.stop()
        {
            // What it was for ends with the directories, and systemd sees that.
            tracing::warn!("{e}");
        }
        let deadline = Instant::now() + PATIENCE;
        let mut result = Ok(());
        for (path, _) in self.paths().directories() {
            result = result.and(remove(path, deadline));
        }
        result
    }
}

/// Removes the directories that a failed create made, the last one first. One that someone else
/// has put a cgroup into since stays, so nothing below them is touched.
pub(super) fn roll_back(created: &[PathBuf]) {
    for path in created.iter().rev() {
        match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(e) => tracing::warn!("clean up after a failed create: rmdir {}: {e}", path.display()),
        }
    }
}

/// Removes one cgroup by its path, with its children.
fn remove(path: &Path, deadline: Instant) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid("cgroup path", format!("{path:?}: expected a directory below a mount")));
    };
    // The parent of a mount point is no cgroup (EXDEV), or a cgroup of which it is a mount.
    match if_there(Dir::open(parent))? {
        Some(parent) => remove_child(&parent, name, deadline),
        None => Ok(()),
    }
}

fn remove_child(parent: &Dir, name: &OsStr, deadline: Instant) -> Result<()> {
    let path = parent.path().join(name);
    let failed = |call: &str, e: Errno| SysError::new(call, path.display().to_string(), e.raw_os_error());
    match statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed("statx", e).into()),
        // rmdir(2) of a mount point detaches the mount, in every mount namespace. (Kernels
        // before 5.8 do not say what is one.)
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
        remove_child(&dir, &child, deadline)?;
    }
    let mut pause = Duration::from_millis(1);
    loop {
        match rmdir() {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => sleep(pause),
            Err(e) => return Err(failed("rmdir", e).into()),
        }
        pause *= 2;
    }
}
