//! The directory in which CRIU puts the old root away for a moment, when it enters the restored one (cr_pivot_root): the root
//! file system's /tmp, else one that it makes. A root that is read-only and has no /tmp, as of images with one program in
//! them, gets one for that moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::{Result, SysError};

/// CRIU looks for no other.
const NAME: &str = "tmp";

/// What CRIU will find in a root file system.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// All that it needs.
    Fine,
    /// A directory can be made for it.
    Missing,
    /// No way.
    Bad(&'static str),
}

/// A directory that was made in a root file system; removed when dropped, and the root's times are as they were.
#[derive(Debug)]
pub(super) struct PutRoot {
    root: OwnedFd,
    times: Timestamps,
}

impl PutRoot {
    /// Makes the directory if CRIU will need it.
    pub(super) fn make(root: BorrowedFd<'_>, readonly: bool) -> Result<Option<Self>> {
        match place(root, readonly)? {
            Place::Fine => return Ok(None),
            Place::Bad(why) => return Err(crate::Error::invalid("root", why)),
            Place::Missing => {}
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

/// What keeps CRIU from entering the root file system at `path` after a restore, if anything does.
pub fn cannot_be_entered(path: &Path, readonly: bool) -> Option<String> {
    let root = super::resolve::Root::open_path(path).ok()?;
    match place(root.as_fd(), readonly).ok()? {
        Place::Bad(why) => Some(why.to_owned()),
        Place::Fine | Place::Missing => None,
    }
}

/// Whether [`PutRoot::make`] will make a directory.
pub(super) fn is_needed(root: &Path, readonly: bool) -> bool {
    let root = super::resolve::Root::open_path(root);
    root.is_ok_and(|root| place(root.as_fd(), readonly).is_ok_and(|place| place == Place::Missing))
}

/// Removes the directory that a restore has made which was killed, unless something is in it.
pub fn remove_put_root(root: &Path) {
    if let Ok(root) = super::resolve::Root::open_path(root) {
        let _ = rustix::fs::unlinkat(&root, NAME, AtFlags::REMOVEDIR);
    }
}

fn place(root: BorrowedFd<'_>, readonly: bool) -> Result<Place> {
    let fail = |e: Errno| SysError::new("statat", NAME, e.raw_os_error());
    let writable = || rustix::fs::accessat(root, ".", Access::WRITE_OK, AtFlags::EACCESS) != Err(Errno::ROFS);
    let kind = match rustix::fs::statat(root, NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) if writable() => return Ok(Place::Missing),
        Err(Errno::NOENT) => {
            return Ok(Place::Bad(
                "has no /tmp, which CRIU needs for a moment, and its file system is read-only",
            ));
        }
        Err(e) => return Err(fail(e).into()),
    };
    if kind == FileType::Directory {
        return Ok(Place::Fine);
    }
    // CRIU follows a link on the host's own paths: one that leads out of the root leads it astray.
    let is_dir = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if rustix::fs::statat(root, NAME, AtFlags::empty()).is_ok_and(is_dir) {
        let inside = rustix::fs::openat2(
            root,
            NAME,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        );
        let out = "has a link at /tmp that leads out of it on the host, where CRIU follows it";
        return Ok(if inside.is_ok() { Place::Fine } else { Place::Bad(out) });
    }
    // It makes a directory of another name.
    let none = "has no directory /tmp, which CRIU needs for a moment, and is read-only";
    Ok(if readonly || !writable() { Place::Bad(none) } else { Place::Fine })
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
    fn what_leads_criu_astray_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (root, tmp) = (open(dir.path()), dir.path().join(NAME));
        std::fs::create_dir_all(dir.path().join("var/tmp")).unwrap();
        let found = |target: &str, readonly| {
            symlink(target, &tmp).unwrap();
            let found = place(root.as_fd(), readonly).unwrap();
            std::fs::remove_file(&tmp).unwrap();
            found
        };
        assert_eq!(found("var/tmp", true), Place::Fine);
        for out in ["/var", "/proc/self/cwd", "../"] {
            let Place::Bad(why) = found(out, false) else { panic!("{out}") };
            assert!(why.contains("leads out of it"), "{why}");
        }
        assert_eq!(found("/nowhere/at/all", false), Place::Fine, "CRIU makes another");
        let Place::Bad(why) = found("/nowhere/at/all", true) else { panic!("no place") };
        assert!(why.contains("is read-only"), "{why}");
        std::fs::write(&tmp, "").unwrap();
        assert!(cannot_be_entered(dir.path(), true).unwrap().contains("no directory /tmp"));
        assert_eq!(cannot_be_entered(dir.path(), false), None);
    }
}
