//! Keeps a checkpoint while it is read: retention leaves alone what somebody reads.
//!
//! A reader shares a lock (flock(2)) on the directory that it has open, and so does CRIU, which gets that descriptor. A program that removes
//! checkpoints by rule needs the lock for itself. Both ask and never wait. Where a file system has no locks there are none: the reader
//! reads, and what is read may be removed.

use std::os::fd::OwnedFd;
use std::path::Path;

use hiber_criu::ImageDirectory;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// From now on the checkpoint is read, as long as this directory or a copy of its descriptor is open.
pub(crate) fn begin(dir: &ImageDirectory) {
    if let Err(e) = rustix::fs::flock(dir, FlockOperation::NonBlockingLockShared) {
        tracing::debug!("{} is read without a lock: {e}", dir.path().display());
    }
}

/// Opens a directory to read the checkpoint in it.
pub(crate) fn open(path: &Path) -> Result<ImageDirectory> {
    let dir = ImageDirectory::open(path)?;
    begin(&dir);
    Ok(dir)
}

/// Holds the checkpoint at `path` against readers, until the result is dropped; none if somebody reads or writes it.
pub(crate) fn seize(path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::file(path, &e.into()))?;
    match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        _ => Ok(Some(dir)),
    }
}
