//! mount_setattr(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use crate::{Result, SysError};

/// Attributes to set and clear on a mount, as in `struct mount_attr` (`MOUNT_ATTR_*`, `MS_*` propagation).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAttributes {
    /// `attr_set`.
    pub set: u64,
    /// `attr_clr`.
    pub clear: u64,
    /// `propagation`: one of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, or 0.
    pub propagation: u64,
}

impl MountAttributes {
    /// Whether there is nothing to change.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Changes the attributes of the mount whose root is `mount`, or of all below it (Linux 5.12).
pub fn mount_setattr(mount: BorrowedFd<'_>, attributes: MountAttributes, recursive: bool) -> Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is a live structure of the size that is passed.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if r == 0 {
        return Ok(());
    }
    let args = format!(
        "set {:#x} clear {:#x} propagation {:#x}",
        attributes.set, attributes.clear, attributes.propagation
    );
    Err(SysError::new("mount_setattr", args, nix::errno::Errno::last_raw()).into())
}
