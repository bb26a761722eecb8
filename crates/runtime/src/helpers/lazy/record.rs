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
    /// Some is in the images still, where other containers may use it, too, and is brought when it is touched.
    /// [`Task::wait_for_memory`](crate::Task::wait_for_memory) asks for all of it.
    Lazy,
    /// Some is still missing, and is brought when it is touched.
    Arriving,
    /// All of it is there.
    Arrived,
    /// It does not come any more, for which the container was ended.
    Failed {
        /// Why.
        reason: String,
    },
    /// It does not come any more from the machine that had the container, for which the container was ended. It is nowhere else.
    Lost {
        /// Why.
        reason: String,
    },
}

/// The place where memory is that has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Held {
    /// A checkpoint, or a source that goes on if not all of it arrives.
    #[default]
    Else,
    /// The machine that had the container, which does not run there any more.
    There,
}

impl Held {
    fn failed(self, reason: String) -> FollowingMemory {
        match self {
            Self::Else => FollowingMemory::Failed { reason },
            Self::There => FollowingMemory::Lost { reason },
        }
    }
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    #[serde(flatten)]
    memory: FollowingMemory,
    #[serde(default)]
    held: Held,
}

/// The file, from the side of who brings memory.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    held: Held,
}

impl Record {
    /// Makes and locks it; `memory` is on its way.
    pub(super) fn new(entry: &Entry, held: Held, memory: &FollowingMemory) -> Result<Self> {
        let path = entry.path().join(FILE);
        let make = || {
            let file = owned::create(&path)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        };
        let file = make().map_err(|e: std::io::Error| Error::file(&path, &e))?;
        let record = Self { file, held };
        record.write(memory);
        Ok(record)
    }

    /// Of a process that has got the descriptor.
    pub(super) fn of(file: OwnedFd, held: Held) -> Self {
        Self { file: file.into(), held }
    }

    /// There is nobody to be told that it cannot be written. No reader is there as long as it is locked.
    pub(super) fn write(&self, memory: &FollowingMemory) {
        let Ok(json) = serde_json::to_vec(&Content { memory: memory.clone(), held: self.held }) else {
            return;
        };
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all_at(&json, 0));
        let _ = (&self.file).flush();
    }
}

impl AsFd for Record {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// How far the memory is that follows a container; none of one whose memory was there from the beginning.
pub(crate) fn look(entry: &Entry) -> Result<Option<FollowingMemory>> {
    read(entry, FlockOperation::NonBlockingLockShared)
}

/// Why it does not come any more, if whoever brought it has said so.
pub(crate) fn failure(entry: &Entry) -> Option<Error> {
    match parse(open(entry).ok()??).ok()?.memory {
        FollowingMemory::Failed { reason } => Some(not_arrived(reason)),
        _ => None,
    }
}

/// Removes it: the container's memory was there from the beginning.
pub(super) fn forget(entry: &Entry) -> Result<()> {
    rustix::fs::unlinkat(entry.dir(), FILE, AtFlags::empty())
        .map_err(|e| Error::file(&entry.path().join(FILE), &e.into()))
}

const NOT_ARRIVED: &str = "the container's memory did not arrive";

/// Of a container that can be restored another time, or runs on where it was.
pub(crate) fn not_arrived(reason: String) -> Error {
    Error::host(NOT_ARRIVED, reason)
}

/// Of one that is nowhere any more.
pub(crate) fn lost(reason: String) -> Error {
    Error::lost(NOT_ARRIVED, reason)
}

/// Waits until it is there, or does not come any more.
pub(crate) fn await_end(entry: &Entry) -> Result<Option<FollowingMemory>> {
    read(entry, FlockOperation::LockShared)
}

fn read(entry: &Entry, lock: FlockOperation) -> Result<Option<FollowingMemory>> {
    let Some(file) = open(entry)? else { return Ok(None) };
    let fail = |e: std::io::Error| Error::file(&entry.path().join(FILE), &e);
    let ended = match retry_on_intr(|| rustix::fs::flock(&file, lock)) {
        Err(Errno::WOULDBLOCK) => false,
        other => other.map(|()| true).map_err(|e| fail(e.into()))?,
    };
    let Content { memory, held } = parse(file).map_err(fail)?;
    let reason = match memory {
        // A failure is written down before the container is ended.
        FollowingMemory::Arriving | FollowingMemory::Arrived if !ended => {
            return Ok(Some(FollowingMemory::Arriving));
        }
        FollowingMemory::Lazy if !ended => return Ok(Some(FollowingMemory::Lazy)),
        FollowingMemory::Lazy | FollowingMemory::Arriving => {
            "the processes that brought it were killed".into()
        }
        FollowingMemory::Failed { reason } => reason,
        ended => return Ok(Some(ended)),
    };
    Ok(Some(held.failed(reason)))
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
fn parse(file: File) -> std::io::Result<Content> {
    let mut json = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut json)?;
    let unknown = Content { memory: FollowingMemory::Arriving, held: Held::Else };
    Ok(serde_json::from_slice(&json).unwrap_or(unknown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::store::Store;

    #[test]
    fn who_was_killed_has_not_brought_it() {
        for held in [Held::Else, Held::There] {
            let dir = tempfile::tempdir().unwrap();
            let (entry, _lock) = Store::new(dir.path()).create(&"box".parse().unwrap()).unwrap();
            assert_eq!(look(&entry).unwrap(), None);
            let record = Record::new(&entry, held, &FollowingMemory::Arriving).unwrap();
            let other = Record::of(record.as_fd().try_clone_to_owned().unwrap(), held);
            drop(record);
            assert_eq!(look(&entry).unwrap(), Some(FollowingMemory::Arriving));
            drop(other);
            let reason = "the processes that brought it were killed".to_owned();
            assert_eq!(look(&entry).unwrap(), Some(held.failed(reason)));
        }
    }

    #[test]
    fn memory_that_was_nowhere_else_is_lost_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (entry, _lock) = Store::new(dir.path()).create(&"box".parse().unwrap()).unwrap();
        let record = Record::new(&entry, Held::There, &FollowingMemory::Arriving).unwrap();
        record.write(&FollowingMemory::Failed { reason: "the link was cut".into() });
        drop(record);
        assert_eq!(look(&entry).unwrap(), Some(FollowingMemory::Lost { reason: "the link was cut".into() }));
        // Where it failed before the decision, it runs on elsewhere.
        assert_eq!(failure(&entry).unwrap().kind(), crate::Kind::Failed);
    }

    #[test]
    fn who_waits_is_told_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (entry, _lock) = Store::new(dir.path()).create(&"box".parse().unwrap()).unwrap();
        let record = Record::new(&entry, Held::Else, &FollowingMemory::Arriving).unwrap();
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
