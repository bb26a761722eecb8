//! Lookups of names below an open directory.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::tree::DIR_MODE;
use crate::{Result, SysError};

/// A directory, and a path below it.
pub(super) struct Base<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) rest: &'a Path,
    pub(super) maybe_procfs: bool,
}

/// No component of the path is a symbolic link.
const PLAINLY: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Base<'_> {
    /// Opens the path. The flag tells whether the file lies on the same mount as the directory.
    pub(super) fn open_plainly(&self) -> Result<(OwnedFd, bool), Errno> {
        match openat2(self.dir, self.rest, OFlags::PATH, PLAINLY | ResolveFlags::NO_XDEV) {
            Err(Errno::XDEV) => Ok((openat2(self.dir, self.rest, OFlags::PATH, PLAINLY)?, false)),
            found => Ok((found?, true)),
        }
    }

    /// Makes the missing directories. An error names the failed call.
    pub(super) fn make_plainly(&self, directory: bool) -> Result<OwnedFd, (&'static str, Errno)> {
        let (mut reached, mut names) = (None::<OwnedFd>, self.rest.components().peekable());
        while let Some(name) = names.next() {
            let here = reached.as_ref().map_or(self.dir, |fd| fd.as_fd());
            let open = || openat2(here, name.as_ref(), OFlags::PATH, PLAINLY);
            let last = names.peek().is_none();
            // The last component was just found to be missing.
            let found = if last { Err(Errno::NOENT) } else { open() };
            let next = match found {
                Err(Errno::NOENT) => {
                    let (call, made) = match last && !directory {
                        true => ("openat", create_file(here, name.as_os_str())),
                        false => ("mkdirat", rustix::fs::mkdirat(here, name.as_os_str(), DIR_MODE)),
                    };
                    match made {
                        Ok(()) | Err(Errno::EXIST) => open().map_err(|e| ("openat2", e))?,
                        Err(e) => return Err((call, e)),
                    }
                }
                found => found.map_err(|e| ("openat2", e))?,
            };
            reached = Some(next);
        }
        reached.ok_or(("openat2", Errno::NOENT))
    }
}

/// Makes an empty file. An existing file is not opened: a FIFO would block the caller.
pub(super) fn create_file(dir: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

pub(super) fn openat2(
    dir: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    // The kernel takes "/" and "" alike here, but an empty path needs AT_EMPTY_PATH.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match rustix::fs::openat2(&dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename somewhere raced with ".." (openat2(2)): ask again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The mount whose root a file is, if it is the root of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountId {
    pub(super) id: u64,
    pub(super) is_root: bool,
}

impl MountId {
    pub(super) fn of(fd: impl AsFd) -> Result<Self> {
        Self::read(fd, Path::new(""), AtFlags::EMPTY_PATH)
    }

    /// For the file at `path`; a symbolic link is not followed.
    pub(super) fn at(dir: impl AsFd, path: &Path) -> Result<Self> {
        Self::read(dir, path, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn read(dir: impl AsFd, path: &Path, flags: AtFlags) -> Result<Self> {
        let stat = rustix::fs::statx(dir, path, flags, StatxFlags::MNT_ID)
            .map_err(|e| SysError::new("statx", path.display().to_string(), e.raw_os_error()))?;
        let is_root = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        Ok(Self { id: stat.stx_mnt_id, is_root })
    }
}
