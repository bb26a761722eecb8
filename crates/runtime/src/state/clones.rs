//! The directory of a clone: its bundle, with a root filesystem of its own. It goes with the container.
//!
//! ```text
//! DIR/NAME/.hiber-clone    whose it is; locked (flock(2)) as long as it is being made
//! DIR/NAME/config.json     the bundle's configuration, for this clone
//! DIR/NAME/rootfs          its root: an overlay that is mounted here, or a copy
//! DIR/NAME/upper, work     of the overlay
//! ROOT/NAME/clone.json     the container's record of it
//! ```

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::{FlockOperation, Mode, chmod};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::owned;
use crate::host::random::random;
use crate::id::ContainerId;
use crate::state::entry::Entry;
use crate::state::store::Store;

/// The root filesystem in the directory.
pub(crate) const ROOTFS: &str = "rootfs";
const MARK: &str = ".hiber-clone";
const RECORD: &str = "clone.json";

/// The record of a clone's directory, by the container in `ROOT/ID/clone.json` and in the directory itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CloneRecord {
    /// The directory, absolute.
    pub(crate) directory: PathBuf,
    /// Where its container is found.
    root: PathBuf,
    id: String,
    /// Tells the directory from a later one of the same name.
    token: String,
}

/// A directory that is being made for a clone. Dropped, it is removed, unless a container has it.
#[derive(Debug)]
pub(crate) struct NewClone {
    pub(crate) record: CloneRecord,
    _locked: File,
    kept: bool,
}

impl NewClone {
    /// Makes it, and nothing in it but the mark. One that was left by a program which was killed is removed first.
    pub(crate) fn make(directory: PathBuf, store: &Store, id: &ContainerId) -> Result<Self> {
        let fail = |e: std::io::Error| Error::file(&directory, &e);
        if let Err(e) = std::fs::create_dir(&directory) {
            let left =
                Some(&directory).filter(|_| e.kind() == ErrorKind::AlreadyExists).and_then(|d| left(d));
            match left {
                Some(record) => record.remove(),
                None => return Err(fail(e)),
            }
            std::fs::create_dir(&directory).map_err(fail)?;
        }
        // The container's user need not be root, and has to get into its root.
        chmod(&directory, Mode::from_raw_mode(0o711)).map_err(|e| fail(e.into()))?;
        let root = std::path::absolute(store.root()).map_err(|e| Error::file(store.root(), &e))?;
        let record = CloneRecord {
            directory,
            root,
            id: id.to_string(),
            token: blake3::Hash::from_bytes(random()?).to_string(),
        };
        let path = record.directory.join(MARK);
        let json = serde_json::to_vec(&record).map_err(|e| Error::internal("write a clone's record", e))?;
        let mark = || {
            let file = owned::create(&path)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            std::io::Write::write_all(&mut &file, &json)?;
            Ok(file)
        };
        let locked = mark().map_err(|e: std::io::Error| Error::file(&path, &e))?;
        Ok(Self { record, _locked: locked, kept: false })
    }

    /// A container has it.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewClone {
    fn drop(&mut self) {
        if !self.kept {
            self.record.remove();
        }
    }
}

/// The record in a directory that nobody makes and no container has.
fn left(directory: &Path) -> Option<CloneRecord> {
    let path = directory.join(MARK);
    let file = File::open(&path).ok()?;
    owned::check_file(&file, &path).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let record: CloneRecord = serde_json::from_slice(&hiber_sys::file::read_record(&file).ok()?).ok()?;
    let entry = record.id.parse().ok().and_then(|id| Store::new(&record.root).open(&id).ok());
    let other = entry.and_then(|entry| CloneRecord::of(&entry).ok().flatten());
    Some(record).filter(|record| record.directory == directory && other.as_ref() != Some(record))
}

impl CloneRecord {
    /// Keeps it with the container.
    pub(crate) fn write(&self, entry: &Entry) -> Result<()> {
        entry.replace(RECORD, self)
    }

    /// None of a container that is no clone.
    pub(crate) fn of(entry: &Entry) -> Result<Option<Self>> {
        let bad = |e: serde_json::Error| Error::File { path: entry.path().join(RECORD), why: e.to_string() };
        entry.read(RECORD)?.map(|bytes| serde_json::from_slice(&bytes).map_err(bad)).transpose()
    }

    /// The clone's root filesystem.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join(ROOTFS)
    }

    /// Removes the directory, if it is this one; what stays is told.
    pub(crate) fn remove(&self) {
        let mark = std::fs::read(self.directory.join(MARK)).ok();
        let own = mark.and_then(|json| serde_json::from_slice::<Self>(&json).ok());
        if own.as_ref() != Some(self) {
            return;
        }
        if let Err(e) = self.try_to_remove() {
            tracing::warn!("the clone's directory {} stays: {e}", self.directory.display());
        }
    }

    fn try_to_remove(&self) -> std::io::Result<()> {
        let rootfs = self.rootfs();
        while umount2(&rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        let device = |path: &Path| std::fs::symlink_metadata(path).map(|of| of.dev());
        match device(&rootfs) {
            Ok(of) if of != device(&self.directory)? => return Err(Errno::EBUSY.into()),
            _ => {}
        }
        // The mark last: half of it can be removed another time.
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else if entry.file_name() != MARK {
                std::fs::remove_file(entry.path())?;
            }
        }
        std::fs::remove_dir_all(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_unless_a_container_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = (Store::new(&dir.path().join("root")), "c".parse::<ContainerId>().unwrap());
        let place = dir.path().join("c");
        let made = NewClone::make(place.clone(), &store, &id).unwrap();
        std::fs::create_dir_all(place.join("upper/etc")).unwrap();
        let taken = NewClone::make(place.clone(), &store, &id).unwrap_err().to_string();
        assert!(taken.contains("exists"), "{taken}");
        drop(made);
        assert!(!place.exists());

        let made = NewClone::make(place.clone(), &store, &id).unwrap();
        let (entry, _lock) = store.create(&id).unwrap();
        made.record.write(&entry).unwrap();
        made.keep();
        assert!(NewClone::make(place.clone(), &store, &id).is_err(), "the container has it");
        let record = CloneRecord::of(&entry).unwrap().unwrap();
        CloneRecord { token: "another".into(), ..record.clone() }.remove();
        assert!(place.exists(), "another's");
        entry.remove().unwrap();
        drop(NewClone::make(place.clone(), &store, &id).unwrap());
        assert!(!place.exists(), "left by a container that is gone");
    }
}
