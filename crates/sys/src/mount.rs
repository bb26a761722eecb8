//! mount_setattr(2), and the attributes that it sets.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::mount::MsFlags;
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

/// MS_NOSYMFOLLOW of linux/mount.h, which nix lacks.
pub const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);

/// The flags of mount(2) that are about the mount, as its attributes; with the same precedence as in the kernel.
pub fn attributes(flags: u64) -> u64 {
    let pairs = [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        (MS_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
    ];
    let has = |flag: MsFlags| flags & flag.bits() != 0;
    let set: u64 = pairs.iter().filter(|(flag, _)| has(*flag)).map(|(_, attribute)| attribute).sum();
    set | match (has(MsFlags::MS_STRICTATIME), has(MsFlags::MS_NOATIME)) {
        (true, _) => libc::MOUNT_ATTR_STRICTATIME,
        (false, true) => libc::MOUNT_ATTR_NOATIME,
        (false, false) => libc::MOUNT_ATTR_RELATIME,
    }
}

/// The mounts that a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// One mount.
    One,
    /// It and all below it.
    Tree,
}

impl Reach {
    /// The tree if `recursive`, as a mount's options say.
    pub const fn if_recursive(recursive: bool) -> Self {
        if recursive { Self::Tree } else { Self::One }
    }
}

/// Shows the owners of the files of a mount, or of all below it too, as `user_namespace` maps them
/// (MOUNT_ATTR_IDMAP, Linux 5.12).
pub fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>, reach: Reach) -> Result<()> {
    let userns_fd = user_namespace.as_raw_fd() as u64;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set(mount, &attr, reach).map_err(|errno| SysError::new("mount_setattr", "MOUNT_ATTR_IDMAP", errno))
}

/// Changes the attributes of the mount whose root is `mount`, or of all below it (Linux 5.12).
pub fn mount_setattr(mount: BorrowedFd<'_>, attributes: MountAttributes, reach: Reach) -> Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    set(mount, &attr, reach).map_err(|errno| {
        let args = format!(
            "set {:#x} clear {:#x} propagation {:#x}",
            attributes.set, attributes.clear, attributes.propagation
        );
        SysError::new("mount_setattr", args, errno)
    })
}

fn set(mount: BorrowedFd<'_>, attr: &libc::mount_attr, reach: Reach) -> Result<(), i32> {
    let flags = libc::AT_EMPTY_PATH | if reach == Reach::Tree { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is a live structure of the size that is passed.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if r == 0 { Ok(()) } else { Err(nix::errno::Errno::last_raw()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_mean_what_mount_takes_them_for() {
        let ms = |flags: MsFlags| attributes(flags.bits());
        assert_eq!(ms(MsFlags::empty()), libc::MOUNT_ATTR_RELATIME);
        assert_eq!(ms(MsFlags::MS_RELATIME | MsFlags::MS_SYNCHRONOUS), libc::MOUNT_ATTR_RELATIME);
        assert_eq!(ms(MsFlags::MS_NOATIME | MsFlags::MS_STRICTATIME), libc::MOUNT_ATTR_STRICTATIME);
        let all = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME | MS_NOSYMFOLLOW;
        let expected = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOATIME
            | libc::MOUNT_ATTR_NODIRATIME
            | libc::MOUNT_ATTR_NOSYMFOLLOW;
        assert_eq!(ms(all), expected);
    }
}
