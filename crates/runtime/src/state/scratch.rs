//! Images that are on their way into an archive or out of one.
//!
//! ```text
//! ROOT/~scratch/NUMBER/images   in memory, while somebody is at it
//! ```
//!
//! The program that is at it holds a lock (flock(2)) on the directory with the number; what is not locked was left by a program that
//! was killed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::host::in_memory::{self, Room};
use crate::host::owned;
use crate::host::paths::own_number;
use crate::state::store::Store;

/// Of no container: no id has a tilde.
const DIRECTORY: &str = "~scratch";
const IMAGES: &str = "images";

/// A directory in memory. Dropped, it goes.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _locked: OwnedFd,
}

impl Scratch {
    pub(crate) fn new(store: &Store, room: Room) -> Result<Self> {
        sweep(store);
        let all = store.own_directory(DIRECTORY)?;
        loop {
            let path = all.join(own_number());
            let fail = |e: Errno| Error::file(&path, &e.into());
            match rustix::fs::mkdir(&path, owned::PRIVATE_DIR) {
                // Of a dead process that had this number.
                Err(Errno::EXIST) => continue,
                other => other.map_err(fail)?,
            }
            match locked(&path) {
                Ok(locked) => {
                    let scratch = Self { path, _locked: locked };
                    in_memory::make(&scratch.images(), room)?;
                    return Ok(scratch);
                }
                // Another process took it for a left-over one.
                Err(Errno::WOULDBLOCK | Errno::NOENT) => {}
                Err(e) => return Err(fail(e)),
            }
        }
    }

    /// The directory.
    pub(crate) fn images(&self) -> PathBuf {
        self.path.join(IMAGES)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Opens and locks what has this path, and still has it then.
fn locked(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    rustix::fs::stat(path)?;
    Ok(directory)
}

fn remove(path: &Path) {
    in_memory::let_go(&path.join(IMAGES));
    let _ = rustix::fs::rmdir(path);
}

/// Removes those of killed programs.
pub(crate) fn sweep(store: &Store) {
    let entries = std::fs::read_dir(store.root().join(DIRECTORY)).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if locked(&path).is_ok() {
            remove(&path);
        }
    }
}

/// Removes that with these images, whose program is gone.
pub(crate) fn remove_of(images: &Path) {
    if images.ends_with(IMAGES) {
        images.parent().into_iter().for_each(remove);
    }
}
