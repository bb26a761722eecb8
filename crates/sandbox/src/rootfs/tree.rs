//! Detached mounts, and where to attach them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::messages::FdRole;
use crate::{Error, Result, SysError};
use hiber_sys::mount::{MountAttributes, Reach, mount_setattr};

/// Mode of directories that the image lacks.
pub(super) const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

/// Detached trees that the parent opens, for sources that init itself may not reach.
pub struct Trees<'a> {
    /// The trees that the parent has opened beforehand.
    pub opened: Vec<(FdRole, OwnedFd)>,
    /// Asks the parent for the source of the mount with this number, after an earlier mount has made the source.
    pub ask: &'a dyn Fn(usize) -> Result<OwnedFd>,
}

impl Trees<'_> {
    pub(super) fn take(&mut self, role: &FdRole) -> Option<OwnedFd> {
        let at = self.opened.iter().position(|(r, _)| r == role)?;
        Some(self.opened.swap_remove(at).1)
    }

    pub(super) fn source(&mut self, index: usize) -> Result<OwnedFd> {
        self.take(&FdRole::MountSource(index)).map_or_else(|| (self.ask)(index), Ok)
    }
}

/// Whether a file is one of a procfs.
pub(super) fn is_procfs(file: &OwnedFd) -> Result<bool> {
    let stat =
        rustix::fs::fstatfs(file).map_err(|e| SysError::new("fstatfs", "a mount", e.raw_os_error()))?;
    Ok(stat.f_type as u64 == libc::PROC_SUPER_MAGIC as u64)
}

pub(super) fn change_propagation(path: &Path, flags: u64) -> Result<()> {
    nix::mount::mount(None::<&str>, path, None::<&str>, MsFlags::from_bits_retain(flags), None::<&str>)
        .map_err(|e| {
            SysError::new("mount", format!("{} with propagation {flags:#x}", path.display()), e as i32).into()
        })
}

/// A detached copy of the mount at `path` (open_tree(2)).
pub fn clone_path(path: &Path, reach: Reach) -> Result<OwnedFd> {
    rustix::mount::open_tree(rustix::fs::CWD, path, tree_flags(reach)).map_err(|e| {
        let why = match (e, reach) {
            (Errno::INVAL, Reach::Tree) => ", which is unbindable",
            (Errno::INVAL, Reach::One) => {
                ", which is unbindable, or has mounts below it that a user namespace keeps together (rbind)"
            }
            _ => "",
        };
        SysError::new("open_tree", format!("{}{why}", path.display()), e.raw_os_error()).into()
    })
}

/// A detached copy of the mount at an open file, which must be one of the caller's mount namespace.
pub fn clone_fd(fd: impl AsFd, reach: Reach) -> Result<OwnedFd> {
    rustix::mount::open_tree(fd.as_fd(), "", tree_flags(reach) | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(|e| SysError::new("open_tree", "a descriptor", e.raw_os_error()).into())
}

/// Takes a detached mount out of its peer group. The mounts that the runtime puts in place by itself get no mounts of the host's
/// then, and devices and masks form no peer group, which no tool could rebuild.
pub(super) fn private(tree: OwnedFd) -> Result<OwnedFd> {
    let attributes = MountAttributes { propagation: MsFlags::MS_PRIVATE.bits(), ..Default::default() };
    mount_setattr(tree.as_fd(), attributes, Reach::One)?;
    Ok(tree)
}

pub(super) fn tree_flags(reach: Reach) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if reach == Reach::Tree { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Mounts `tree` on the open file or directory `target`.
pub(super) fn attach(tree: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", target.as_fd(), "", flags)
        .map_err(|e| explain_move(tree.as_fd(), target.as_fd(), e))
}

/// Mounts `tree` on the name `name` in a directory that nobody else can change.
pub(super) fn attach_below(tree: impl AsFd, dir: impl AsFd, name: &str) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", dir.as_fd(), name, flags)
        .map_err(|e| SysError::new("move_mount", format!("onto {name}"), e.raw_os_error()).into())
}

/// The kernel's EINVAL has several meanings. Docker looks for "not a directory".
pub(super) fn explain_move(tree: BorrowedFd<'_>, target: BorrowedFd<'_>, e: Errno) -> Error {
    let is_dir = |fd: BorrowedFd<'_>| {
        rustix::fs::fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
    };
    let error = |what: &str, errno: i32| Error::from(SysError::new("move_mount", what, errno));
    match (e, is_dir(tree), is_dir(target)) {
        (Errno::INVAL, true, false) => error("a directory onto a file", libc::ENOTDIR),
        (Errno::INVAL, false, true) => error("a file onto a directory", libc::ENOTDIR),
        (Errno::INVAL, ..) => error(
            "onto its target, which is not in this mount namespace, or is shared and would get an unbindable mount",
            libc::EINVAL,
        ),
        (e, ..) => error("onto its target", e.raw_os_error()),
    }
}

/// Mounts a detached tree at a path.
pub fn attach_at_path(tree: impl AsFd, target: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", rustix::fs::CWD, target, flags).map_err(|e| {
        SysError::new("move_mount", format!("onto {}", target.display()), e.raw_os_error()).into()
    })
}

/// Opens a name in a directory that nobody else can change.
pub(super) fn open_below(dir: impl AsFd, name: &str) -> Result<OwnedFd> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("openat", name, e.raw_os_error()).into())
}
