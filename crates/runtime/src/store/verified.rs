//! The result of a verification of a checkpoint in a store, kept until its record or one of the packs changes.
//!
//! `verified/CONTAINER/NAME.json` names the record and all packs that were there, by size, inode and times of change. Packs that came later
//! have nothing of the checkpoint. One that is gone or was written anew, as a collection of garbage does, makes the result void.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::verified::Verified;
use crate::error::{Error, Result};
use crate::host::owned;
use crate::id::{CheckpointName, ContainerId};

/// The version of the file.
const VERSION: u32 = 1;
const DIRECTORY: &str = "verified";
/// Where the store has its packs.
const PACKS: &str = "packs";

/// A file, short of its content: size, inode, and times of change.
type Mark = (u64, u64, i64, i64, i64, i64);

/// The files of a store that a checkpoint may need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    record: Mark,
    packs: BTreeMap<String, Mark>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    stamp: Stamp,
    #[serde(flatten)]
    verified: Verified,
}

fn mark(path: &Path) -> Result<Mark> {
    let meta = std::fs::symlink_metadata(path).map_err(|e| Error::file(path, &e))?;
    Ok((meta.size(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()))
}

impl Stamp {
    /// # Errors
    /// The store cannot be read.
    pub(super) fn of(root: &Path, record: &Path) -> Result<Self> {
        let (dir, mut packs) = (root.join(PACKS), BTreeMap::new());
        for entry in std::fs::read_dir(&dir).map_err(|e| Error::file(&dir, &e))? {
            let entry = entry.map_err(|e| Error::file(&dir, &e))?;
            packs.insert(entry.file_name().to_string_lossy().into_owned(), mark(&entry.path())?);
        }
        Ok(Self { record: mark(record)?, packs })
    }

    /// Whether what was there at `self` is still there.
    fn holds(&self, now: &Self) -> bool {
        self.record == now.record && self.packs.iter().all(|(name, mark)| now.packs.get(name) == Some(mark))
    }
}

fn place(root: &Path, container: &ContainerId, name: &CheckpointName) -> PathBuf {
    root.join(DIRECTORY).join(container).join(format!("{name}.json"))
}

/// Keeps a result.
///
/// # Errors
/// The store cannot be written.
pub(super) fn keep(
    root: &Path,
    (container, name): (&ContainerId, &CheckpointName),
    stamp: Stamp,
    verified: Verified,
) -> Result<()> {
    let path = place(root, container, name);
    let kept = Kept { version: VERSION, stamp, verified };
    let json = serde_json::to_vec(&kept).map_err(|e| Error::internal("write down a verification", e))?;
    let dir = root.join(DIRECTORY).join(container);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| Error::file(&dir, &e))?;
    owned::write(&path, &json).map_err(|e| Error::file(&path, &e))
}

/// The last result, if it still holds. `now` is the present stamp.
pub(super) fn of(
    root: &Path,
    container: &ContainerId,
    name: &CheckpointName,
    now: &Stamp,
) -> Option<Verified> {
    let json = std::fs::read(place(root, container, name)).ok()?;
    let kept: Kept = serde_json::from_slice(&json).ok()?;
    (kept.version == VERSION && kept.stamp.holds(now)).then_some(kept.verified)
}

/// The checkpoint is gone.
pub(super) fn forget(root: &Path, container: &ContainerId, name: &CheckpointName) {
    let path = place(root, container, name);
    let _ = std::fs::remove_file(&path);
    // Others of this container may be there.
    path.parent().map(std::fs::remove_dir);
}
