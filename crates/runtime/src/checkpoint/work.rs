//! Where CRIU writes what is no image while it restores: its log, its statistics, sockets, mounts of cgroups.
//!
//! Not into the images' directory, which may be read-only, full, or somebody's who has put links there: into one of the
//! container's own, unless the caller names another. Of a restore that fails the log is kept, beside the images if that
//! is possible and else with the temporary files.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hiber_criu::{CriuError, ImageDirectory};
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};

use super::custody::{LAZY_SOCKET, check_work};
use crate::error::{Error, Result};
use crate::host::paths::{absolute, make_dir};

/// The directory's name in that of the container.
const OWN: &str = "criu";

/// A work directory.
#[derive(Debug)]
pub(crate) struct Work {
    dir: ImageDirectory,
    own: bool,
}

impl Work {
    /// The caller's, or one in `container`, the container's directory. `daemon` is the images' directory where a daemon
    /// of the caller's own is to be found.
    pub(crate) fn open(given: Option<&Path>, container: &Path, daemon: Option<&Path>) -> Result<Self> {
        if let Some(path) = given {
            return Ok(Self { dir: open_given(path)?, own: false });
        }
        let path = container.join(OWN);
        make_dir(&path)?;
        if let Some(images) = daemon {
            let socket = absolute(images).join(LAZY_SOCKET);
            let link = path.join(LAZY_SOCKET);
            std::os::unix::fs::symlink(&socket, &link).map_err(|e| Error::file(&link, &e))?;
        }
        Ok(Self { dir: ImageDirectory::open(&path)?, own: true })
    }

    pub(crate) fn directory(&self) -> &ImageDirectory {
        &self.dir
    }

    /// It again, in the mount namespace of the calling thread: CRIU mounts something there.
    pub(crate) fn here(&self) -> Result<OwnedFd> {
        let fail = |e: std::io::Error| Error::file(self.dir.path(), &e);
        let here = ImageDirectory::open(self.dir.path())?;
        let [was, is] = [self.dir.stat().map_err(fail)?, here.stat().map_err(fail)?];
        if (was.st_dev, was.st_ino) != (is.st_dev, is.st_ino) {
            let why = "was exchanged for another directory meanwhile".into();
            return Err(Error::File { path: self.dir.path().into(), why });
        }
        Ok(here.descriptor()?)
    }

    /// After a restore: nobody asks for the log of one that was a success.
    pub(crate) fn clear(&self) {
        if self.own
            && let Err(e) = std::fs::remove_dir_all(self.dir.path())
        {
            tracing::warn!("remove {}: {e}", self.dir.path().display());
        }
    }

    /// Moves the log of a restore that failed to where it stays, and says so in the error. `images` are none where they do not stay.
    pub(crate) fn keep_log(&self, images: Option<&ImageDirectory>, id: &str, error: &mut CriuError) {
        let Some(failure) = error.failure_mut().filter(|_| self.own) else { return };
        let Some(name) = failure.log.take() else { return };
        let Some(name) = name.file_name().and_then(|name| name.to_str()) else { return };
        let beside = |images: &ImageDirectory| {
            put(&self.dir, name, images.as_fd(), name).map(|()| images.path().join(name)).ok()
        };
        let elsewhere = || -> std::io::Result<PathBuf> {
            let dir = std::env::temp_dir();
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&dir, flags, Mode::empty())?;
            let kept = format!("hiber-{id}-{name}");
            put(&self.dir, name, fd.as_fd(), &kept).map(|()| dir.join(kept))
        };
        failure.log = images.and_then(beside).or_else(|| elsewhere().ok());
    }
}

/// The directory that the caller names, made if need be.
pub(crate) fn open_given(path: &Path) -> Result<ImageDirectory> {
    make_dir(path)?;
    let dir = ImageDirectory::open(path)?;
    check_work(&dir)?;
    Ok(dir)
}

/// Copies a file into another's directory: a link that is there under the new name is replaced, not followed.
fn put(from: &ImageDirectory, name: &str, to: BorrowedFd<'_>, kept: &str) -> std::io::Result<()> {
    let new = format!(".{kept}.{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut copy = File::from(openat(to, &*new, flags, Mode::from_raw_mode(0o600))?);
    let copied = from.file(name).and_then(|mut log| std::io::copy(&mut log, &mut copy));
    let kept = copied.and_then(|_| Ok(renameat(to, &*new, to, kept)?));
    if kept.is_err() {
        let _ = unlinkat(to, &*new, AtFlags::empty());
    }
    kept
}
