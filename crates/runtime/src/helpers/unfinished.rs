//! Directories and files beside checkpoints that are being written or removed: their names, and what the dead have left of them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::host::owned;
use crate::host::paths::own_number;

/// The part between a checkpoint's name and a number in the name of such a directory.
const MARK: &str = ".hiber-";

/// A name that this process has given to no other, for a directory or file beside `target`, which has a name.
pub(crate) fn hidden(target: &Path) -> PathBuf {
    let mut hidden = OsString::from(".");
    hidden.push(target.file_name().unwrap_or_default());
    hidden.push(format!("{MARK}{}", own_number()));
    target.with_file_name(hidden)
}

fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let numbers = name.windows(MARK.len()).rposition(|at| at == MARK.as_bytes());
    let numbers = numbers.map(|at| &name[at + MARK.len()..]);
    name.starts_with(b".")
        && numbers.is_some_and(|n| !n.is_empty() && n.iter().all(|b| b.is_ascii_digit() || *b == b'-'))
}

/// The identity of a directory, whatever its name.
pub(crate) type Identity = (u64, u64);

/// That of a directory or whatever else has this path.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Locks a directory or file that was just made at `path`. False if a sweep was faster: the directory is gone, or is about to be. Where a file
/// system has no locks none is held, and none can be taken by a sweep.
fn lock(made: impl AsFd, path: &Path) -> bool {
    match rustix::fs::flock(&made, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => false,
        _ => is_at(made, path),
    }
}

/// Makes a private file beside `target`, under a hidden name that it holds against every sweep. A file that another process takes for a
/// left-over one, before it is locked, is left to that process: whatever has its name is removed.
pub(crate) fn make_file(target: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let path = hidden(target);
        let mode = owned::PRIVATE.as_raw_mode();
        let file = File::options().write(true).create_new(true).mode(mode).open(&path)?;
        if lock(&file, &path) {
            return Ok((path, file));
        }
    }
}

/// As [`make_file`], a directory with this mode, which `open` opens. It has the hidden name `first`, unless another process takes what has
/// that for a left-over one.
pub(crate) fn make_dir<D: AsFd>(
    first: PathBuf,
    target: &Path,
    mode: Mode,
    open: impl Fn(&Path) -> Result<D>,
) -> Result<(PathBuf, D)> {
    let mut path = first;
    loop {
        // The umask is not asked.
        let made = rustix::fs::mkdir(&path, mode).and_then(|()| rustix::fs::chmod(&path, mode));
        match made.map_err(|e| Error::file(&path, &e.into())).and_then(|()| open(&path)) {
            Ok(dir) if lock(&dir, &path) => return Ok((path, dir)),
            Ok(_) => {}
            // It was made, and another process was faster.
            Err(_) if made.is_ok() && !path.exists() => {}
            Err(e) => {
                let _ = rustix::fs::rmdir(&path);
                return Err(e);
            }
        }
        path = hidden(target);
    }
}

/// Whether an open directory is what has this path.
fn is_at(dir: impl AsFd, path: &Path) -> bool {
    rustix::fs::fstat(dir).is_ok_and(|stat| identity(path) == Some((stat.st_dev, stat.st_ino)))
}

/// Removes what the dead have left in `parent`.
pub(crate) fn sweep(parent: &Path) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for left in entries.filter(|entry| is_hidden(&entry.file_name())) {
        sweep_one(&left.path());
    }
}

fn open(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

/// Whether somebody who lives has locked what has this path.
pub(crate) fn is_held(path: &Path) -> bool {
    let share = FlockOperation::NonBlockingLockShared;
    open(path).is_some_and(|file| rustix::fs::flock(&file, share) == Err(Errno::WOULDBLOCK))
}

/// Removes a directory or file of the caller's at which nobody works.
pub(crate) fn sweep_one(path: &Path) {
    let Some(dir) = open(path) else { return };
    let own = rustix::process::geteuid().as_raw();
    let is_own = rustix::fs::fstat(&dir).is_ok_and(|s| s.st_uid == own && s.st_mode & 0o022 == 0);
    let locked = is_own && rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok();
    // It may have been published before it was locked.
    if locked && is_at(&dir, path) {
        remove(path);
    }
}

/// Removes a directory with all that is in it, or a file.
pub(crate) fn remove(path: &Path) {
    let _ = match rustix::fs::unlink(path) {
        Err(Errno::ISDIR | Errno::PERM) => std::fs::remove_dir_all(path),
        other => other.map_err(Into::into),
    };
}

#[cfg(test)]
mod tests {
    use hiber_criu::ImageDirectory;

    use super::*;

    #[test]
    fn only_what_nobody_holds_and_is_called_so_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let (dead, living) = (hidden(&dir.path().join("c")), hidden(&dir.path().join("c")));
        let others = ["c", ".c.1", ".hiber-x", ".c.hiber-", "c.hiber-1-1"].map(|name| dir.path().join(name));
        for path in others.iter().chain([&dead, &living]) {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("pages-1.img"), "").unwrap();
        }
        let held = ImageDirectory::open(&living).unwrap();
        assert!(lock(&held, &living));
        assert!(!lock(ImageDirectory::open(&living).unwrap(), &living));
        let file = hidden(&dir.path().join("f"));
        std::fs::write(&file, "").unwrap();
        sweep(dir.path());
        assert!(!dead.exists() && !file.exists() && living.exists());
        assert!(others.iter().all(|path| path.join("pages-1.img").exists()));
        drop(held);
        // A process that another test is just starting may have it for a moment.
        let swept = (0..100).any(|_| {
            sweep(dir.path());
            std::thread::sleep(std::time::Duration::from_millis(10));
            !living.exists()
        });
        assert!(swept);
    }

    #[test]
    fn what_a_sweep_has_removed_is_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = hidden(&dir.path().join("c"));
        std::fs::create_dir(&path).unwrap();
        let made = ImageDirectory::open(&path).unwrap();
        sweep(dir.path());
        assert!(!path.exists() && !lock(&made, &path));
    }
}
