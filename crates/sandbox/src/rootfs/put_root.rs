//! The directory for the old root, for a program that enters a root by pivot_root(2) itself. Such a program moves the old root
//! to a directory below the new one, here below /tmp, and unmounts it there. A read-only root without a /tmp (that of an image
//! with a single program, for instance) gets this directory until the program has entered.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::{Result, SysError};

/// Programs look for no other directory.
const NAME: &str = "tmp";

/// The state of /tmp in a root file system.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The program can use or make a directory.
    Usable,
    /// There is no /tmp, and the directory can be made.
    Missing,
    /// There is none and none can be made, for this reason.
    Unusable(&'static str),
}

/// A directory that was made in a root file system. Dropping it removes the directory and restores the times of the root.
#[derive(Debug)]
pub(super) struct PutRoot {
    root: OwnedFd,
    times: Timestamps,
}

impl PutRoot {
    /// Makes the directory where it is missing.
    pub(super) fn make(root: BorrowedFd<'_>, readonly: bool) -> Result<Option<Self>> {
        match look(root, readonly)? {
            Found::Usable => return Ok(None),
            Found::Unusable(why) => return Err(crate::Error::invalid("root", why)),
            Found::Missing => {}
        }
        let fail = |call, e: Errno| SysError::new(call, NAME, e.raw_os_error());
        let stat = rustix::fs::fstat(root).map_err(|e| fail("fstat", e))?;
        let root = rustix::fs::openat(
            root,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| fail("openat", e))?;
        rustix::fs::mkdirat(&root, NAME, Mode::from_raw_mode(0o700)).map_err(|e| fail("mkdirat", e))?;
        let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec as _),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
        };
        Ok(Some(Self { root, times }))
    }
}

impl Drop for PutRoot {
    fn drop(&mut self) {
        let removed = rustix::fs::unlinkat(&self.root, NAME, AtFlags::REMOVEDIR)
            .and_then(|()| rustix::fs::futimens(&self.root, &self.times));
        if let Err(e) = removed {
            tracing::warn!("an empty directory {NAME} stays in the root file system: {e}");
        }
    }
}

/// The reason why a program that puts the old root below /tmp cannot enter the root file system at `path`, if there is one; `configured` is
/// what config.json says of it.
pub fn cannot_be_entered(path: &Path, configured: Option<&oci_spec::runtime::Root>) -> Option<String> {
    let readonly = configured.and_then(oci_spec::runtime::Root::readonly).unwrap_or(false);
    let root = super::resolve::Root::open_path(path).ok()?;
    match look(root.as_fd(), readonly).ok()? {
        Found::Unusable(why) => Some(why.to_owned()),
        Found::Usable | Found::Missing => None,
    }
}

/// Whether [`PutRoot::make`] will make a directory.
pub(super) fn is_needed(root: &Path, readonly: bool) -> bool {
    let root = super::resolve::Root::open_path(root);
    root.is_ok_and(|root| look(root.as_fd(), readonly).is_ok_and(|found| found == Found::Missing))
}

/// Removes the directory that [`DetachedRoot`](super::DetachedRoot) made in a process that was killed since. A directory with
/// content stays.
pub fn remove_put_root(root: &Path) {
    if let Ok(root) = super::resolve::Root::open_path(root) {
        let _ = rustix::fs::unlinkat(&root, NAME, AtFlags::REMOVEDIR);
    }
}

fn look(root: BorrowedFd<'_>, readonly: bool) -> Result<Found> {
    let fail = |e: Errno| SysError::new("statat", NAME, e.raw_os_error());
    let writable = || rustix::fs::accessat(root, ".", Access::WRITE_OK, AtFlags::EACCESS) != Err(Errno::ROFS);
    let kind = match rustix::fs::statat(root, NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) if writable() => return Ok(Found::Missing),
        Err(Errno::NOENT) => {
            return Ok(Found::Unusable("has no /tmp, and its file system is read-only"));
        }
        Err(e) => return Err(fail(e).into()),
    };
    if kind == FileType::Directory {
        return Ok(Found::Usable);
    }
    // Before pivot_root(2) a link is followed on the host: one that leads out of the root leads to a directory of the host.
    let is_dir = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if rustix::fs::statat(root, NAME, AtFlags::empty()).is_ok_and(is_dir) {
        let inside = rustix::fs::openat2(
            root,
            NAME,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        );
        let out = "has a link at /tmp that leads out of it on the host";
        return Ok(if inside.is_ok() { Found::Usable } else { Found::Unusable(out) });
    }
    // /tmp is no directory: the program makes another one beside it.
    let none = "has no directory /tmp, and is read-only";
    Ok(if readonly || !writable() { Found::Unusable(none) } else { Found::Usable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn open(path: &Path) -> super::super::resolve::Root {
        super::super::resolve::Root::open_path(path).unwrap()
    }

    #[test]
    fn a_directory_is_made_where_there_is_none_and_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let root = open(dir.path());
        let before = std::fs::metadata(dir.path()).unwrap();
        let made = PutRoot::make(root.as_fd(), true).unwrap();
        assert!(dir.path().join(NAME).is_dir());
        drop(made);
        let after = std::fs::metadata(dir.path()).unwrap();
        assert!(!dir.path().join(NAME).exists());
        assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
        std::fs::create_dir(dir.path().join(NAME)).unwrap();
        assert!(PutRoot::make(root.as_fd(), true).unwrap().is_none());
        assert!(dir.path().join(NAME).is_dir(), "the root's own stays");
    }

    #[test]
    fn a_link_out_of_the_root_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, tmp) = (open(dir.path()), dir.path().join(NAME));
        std::fs::create_dir_all(dir.path().join("var/tmp")).unwrap();
        let found = |target: &str, readonly| {
            symlink(target, &tmp).unwrap();
            let found = look(root.as_fd(), readonly).unwrap();
            std::fs::remove_file(&tmp).unwrap();
            found
        };
        assert_eq!(found("var/tmp", true), Found::Usable);
        for out in ["/var", "/proc/self/cwd", "../"] {
            let Found::Unusable(why) = found(out, false) else { panic!("{out}") };
            assert!(why.contains("leads out of it"), "{why}");
        }
        assert_eq!(found("/nowhere/at/all", false), Found::Usable, "another one is made");
        let Found::Unusable(why) = found("/nowhere/at/all", true) else { panic!("no place") };
        assert!(why.contains("is read-only"), "{why}");
        std::fs::write(&tmp, "").unwrap();
        let mut readonly = oci_spec::runtime::Root::default();
        readonly.set_readonly(Some(true));
        assert!(cannot_be_entered(dir.path(), Some(&readonly)).unwrap().contains("no directory /tmp"));
        assert_eq!(cannot_be_entered(dir.path(), None), None);
    }
}
