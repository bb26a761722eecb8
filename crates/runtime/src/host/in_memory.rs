//! Directories whose files reach no disk: a tmpfs each, which only its owner can enter.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::error::{Error, Result};
use crate::host::owned;

/// How much one may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// In bytes; none: as much as the machine has.
    pub(crate) bytes: Option<u64>,
    /// How many files; none: as many as the kernel thinks fit.
    pub(crate) files: Option<u64>,
}

impl Room {
    pub(crate) const MUCH: Self = Self { bytes: None, files: None };
}

/// Makes one at `at`, where nothing is yet.
pub(crate) fn make(at: &Path, room: Room) -> Result<()> {
    rustix::fs::mkdir(at, owned::PRIVATE_DIR).map_err(|e| Error::file(at, &e.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mut options = String::from("mode=0700");
    options += &room.bytes.map_or_else(|| ",size=100%".into(), |bytes| format!(",size={bytes}"));
    options += &room.files.map(|files| format!(",nr_inodes={files}")).unwrap_or_default();
    let options = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount("hiber", at, "tmpfs", flags, &*options)
        .map_err(|e| Error::sys("mount", format!("a tmpfs at {}", at.display()), e))
}

/// Takes it away, if there is one. An open file of it lives on.
pub(crate) fn let_go(at: &Path) {
    let _ = rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    match rustix::fs::rmdir(at) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => tracing::debug!("remove {}: {e}", at.display()),
    }
}
