//! The record of memory that follows a restored container: `ROOT/ID/memory.json`.
//!
//! The processes that bring it hold a lock on the file as long as one of them lives, and write into it how it ended. A record of
//! memory on its way that is not locked comes from processes that were killed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::owned;
use crate::state::entry::Entry;

/// The file's name in the container's directory.
pub(crate) const FILE: &str = "memory.json";
/// No more is read.
const MAX_SIZE: u64 = 4 << 10;

/// How far the memory of a restored container is that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
#[non_exhaustive]
pub enum FollowingMemory {
    /// Some is still missing, and is brought when it is touched.
    Arriving,
    /// All of it is there.
    Arrived,
    /// It does not come any more, for which the container was ended.
    Failed {
        /// Why.
        reason: String,
    },
}

/// The file, from the side of who brings memory.
#[derive(Debug)]
pub(super) struct Record(File);

impl Record {
    /// Makes and locks it.
    pub(super) fn new(entry: &Entry) -> Result<Self> {
        let path = entry.path().join(FILE);
        let make = || {
            let file = owned::create(&path)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        };
        let record = Self(make().map_err(|e: std::io::Error| Error::file(&path, &e))?);
        record.write(&FollowingMemory::Arriving);
        Ok(record)
    }

    /// Of a process that has got the descriptor.
    pub(super) fn of(file: OwnedFd) -> Self {
        Self(file.into())
    }

    /// There is nobody to be told that it cannot be written. No reader is there as long as it is locked.
    pub(super) fn write(&self, memory: &FollowingMemory) {
        let Ok(json) = serde_json::to_vec(memory) else { return };
        let _ = self.0.set_len(0).and_then(|()| self.0.write_all_at(&json, 0));
        let _ = (&self.0).flush();
    }
}

impl AsFd for Record {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How far the memory is that follows a container; none of one whose memory was there from the beginning.
pub(crate) fn look(entry: &Entry) -> Result<Option<FollowingMemory>> {
    read(entry, FlockOperation::NonBlockingLockShared)
}

/// Why it does not come any more, if whoever brought it has said so.
pub(crate) fn failure(entry: &Entry) -> Option<Error> {
    match parse(open(entry).ok()??).ok()? {
        FollowingMemory::Failed { reason } => Some(not_arrived(reason)),
        _ => None,
    }
}

/// Removes it: the container's memory was there from the beginning.
pub(super) fn forget(entry: &Entry) -> Result<()> {
    rustix::fs::unlinkat(entry.dir(), FILE, AtFlags::empty())
        .map_err(|e| Error::file(&entry.path().join(FILE), &e.into()))
}

pub(crate) fn not_arrived(reason: String) -> Error {
    Error::host("the container's memory did not arrive", reason)
}

/// Waits until it is there, or does not come any more.
pub(crate) fn await_end(entry: &Entry) -> Result<Option<FollowingMemory>> {
    read(entry, FlockOperation::LockShared)
}

fn read(entry: &Entry, lock: FlockOperation) -> Result<Option<FollowingMemory>> {
    let Some(file) = open(entry)? else { return Ok(None) };
    let fail = |e: std::io::Error| Error::file(&entry.path().join(FILE), &e);
    match retry_on_intr(|| rustix::fs::flock(&file, lock)) {
        Err(Errno::WOULDBLOCK) => return Ok(Some(FollowingMemory::Arriving)),
        other => other.map_err(|e| fail(e.into()))?,
    }
    Ok(Some(match parse(file).map_err(fail)? {
        FollowingMemory::Arriving => {
            FollowingMemory::Failed { reason: "the processes that brought it were killed".into() }
        }
        ended => ended,
    }))
}

fn open(entry: &Entry) -> Result<Option<File>> {
    let path = entry.path().join(FILE);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat(entry.dir(), FILE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|e| Error::file(&path, &e.into()))?,
    };
    owned::check_file(&file, &path)?;
    Ok(Some(file.into()))
}

/// A truncated record comes from a process that was killed while it wrote.
fn parse(file: File) -> std::io::Result<FollowingMemory> {
    let mut json = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json).unwrap_or(FollowingMemory::Arriving))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::store::Store;

    #[test]
    fn who_was_killed_has_not_brought_it() {
        let dir = tempfile::tempdir().unwrap();
        let (entry, _lock) = Store::new(dir.path()).create(&"box".parse().unwrap()).unwrap();
        assert_eq!(look(&entry).unwrap(), None);
        let record = Record::new(&entry).unwrap();
        let other = Record::of(record.as_fd().try_clone_to_owned().unwrap());
        drop(record);
        assert_eq!(look(&entry).unwrap(), Some(FollowingMemory::Arriving));
        drop(other);
        let Some(FollowingMemory::Failed { reason }) = look(&entry).unwrap() else { panic!() };
        assert!(reason.contains("killed"), "{reason}");
    }

    #[test]
    fn who_waits_is_told_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (entry, _lock) = Store::new(dir.path()).create(&"box".parse().unwrap()).unwrap();
        let record = Record::new(&entry).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| await_end(&entry).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waiting.is_finished());
            record.write(&FollowingMemory::Arrived);
            drop(record);
            assert_eq!(waiting.join().unwrap(), Some(FollowingMemory::Arrived));
        });
    }
}
