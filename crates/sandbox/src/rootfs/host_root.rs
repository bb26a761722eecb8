//! The root of a container in the host's mount namespace: a copy of the root, mounted over the root itself. All mounts of the
//! container lie below that copy, and are unmounted with it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::tree::{attach_at_path, clone_path};
use crate::plan::RootPlan;
use crate::{Result, SysError};
use hiber_sys::mount::{MountAttributes, Reach, mount_setattr};

/// The copy, which is mounted nowhere yet.
#[derive(Debug)]
pub struct HostRoot(OwnedFd);

impl HostRoot {
    /// Makes the copy. `None` if the container has a mount namespace of its own, or no mounts.
    ///
    /// # Errors
    /// If the root cannot be copied (open_tree(2)).
    pub fn prepare(plan: &RootPlan) -> Result<Option<Self>> {
        if plan.own_mount_namespace || (plan.mounts.is_empty() && !plan.readonly) {
            return Ok(None);
        }
        let tree = clone_path(&plan.path, Reach::Tree)?;
        // Private: mounts below the copy do not appear elsewhere.
        let private = MountAttributes { propagation: MsFlags::MS_PRIVATE.bits(), ..Default::default() };
        mount_setattr(tree.as_fd(), private, Reach::Tree)?;
        Ok(Some(Self(tree)))
    }

    /// The mount's id, for [`unmount_host_root`].
    ///
    /// # Errors
    /// On kernels before 5.8, which do not report the id.
    pub fn mount_id(&self) -> Result<u64> {
        let stat = rustix::fs::statx(&self.0, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        let stat = stat.map_err(|e| SysError::new("statx", "the root filesystem", e.raw_os_error()))?;
        if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            return Err(SysError::new("statx", "STATX_MNT_ID", libc::EOPNOTSUPP).into());
        }
        Ok(stat.stx_mnt_id)
    }

    /// Mounts the copy at `path`, the path of the root.
    ///
    /// # Errors
    /// Those of move_mount(2).
    pub fn attach(self, path: &Path) -> Result<()> {
        attach_at_path(&self.0, path)
    }
}

/// Unmounts the copy with all mounts below. If the mount at `path` has another id, it stays.
///
/// # Errors
/// Those of umount2(2).
pub fn unmount_host_root(path: &Path, mount_id: u64) -> Result<()> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID);
    if !stat.is_ok_and(|stat| stat.stx_mnt_id == mount_id) {
        return Ok(());
    }
    nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|e| SysError::new("umount2", path.display().to_string(), e as i32).into())
}
