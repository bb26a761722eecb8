//! Names and numbers of the format.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The length of a chunk in bytes: a page. The end of a file may be shorter.
pub const CHUNK: usize = 4096;
/// How many chunks are compressed together. More would compress a little better, and whoever waits for one page would wait for
/// all of them.
pub(crate) const FRAME: usize = 16;
/// The version of the format.
pub(crate) const VERSION: u32 = 1;

pub(crate) const MARKER: &str = "hiber-store.json";
pub(crate) const LOCK: &str = "lock";
pub(crate) const PACKS: &str = "packs";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const UNFINISHED: &str = "unfinished";
pub(crate) const PACK: &str = "pack";
pub(crate) const INDEX: &str = "index";
pub(crate) const RECORD: &str = "record";

/// The id of a chunk.
pub(crate) type Id = [u8; 32];

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the pack among those that are loaded.
    pub(crate) pack: u32,
    /// Number of the chunk in the pack.
    pub(crate) chunk: u32,
}

/// A name that no other file has that was, is or will be written here, and that sorts by time.
pub(crate) fn number() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("{now:020}-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

/// Opens a file of the store to be read. Another program that can write there may have put something else in its place.
///
/// # Errors
/// It is no plain file, or cannot be opened.
pub(crate) fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Err(Error::bad(path, "is a symbolic link; expected a file")),
        opened => File::from(opened.map_err(|e| Error::new(path, e))?),
    };
    match file.metadata().map_err(Error::at(path))?.is_file() {
        true => Ok(file),
        false => Err(Error::bad(path, "is no plain file")),
    }
}

/// The path of a record.
///
/// # Errors
/// A name that is no plain one.
pub(crate) fn record(root: &Path, owner: &str, name: &str) -> Result<PathBuf> {
    let all = root.join(CHECKPOINTS);
    let odd = |word: &str| {
        word.is_empty() || word.len() > 255 || word.contains(|c: char| c == '/' || c.is_control())
    };
    for (word, is_odd) in
        [(owner, odd(owner) || owner == "." || owner == ".."), (name, odd(name) || name.starts_with('.'))]
    {
        if is_odd {
            let why = format!("{word:?}: expected a name without slashes");
            return Err(Error::new(&all, io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
    }
    Ok(all.join(owner).join(name))
}
