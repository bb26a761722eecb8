//! The directory of a clone: its bundle, with a root filesystem of its own. It goes with the container; only if that ends by a checkpoint it
//! stays, for the container that is restored.
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
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::{FlockOperation, Mode, chmod};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::overlay::{self, Overlay};
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
    /// Whether its container was checkpointed, and has ended by that.
    #[serde(default)]
    asleep: bool,
    /// The overlay that is its root filesystem; a copy needs none.
    #[serde(default)]
    pub(crate) overlay: Option<Overlay>,
}

/// A directory that is being made for a clone. Dropped, it is removed, unless a container has it.
#[derive(Debug)]
pub(crate) struct NewClone {
    pub(crate) record: CloneRecord,
    locked: File,
    kept: bool,
}

impl NewClone {
    /// Makes it, and nothing in it but the mark. One that was left by a program which was killed is removed first.
    pub(crate) fn make(directory: PathBuf, store: &Store, id: &ContainerId) -> Result<Self> {
        let fail = |e: std::io::Error| Error::file(&directory, &e);
        if let Err(e) = std::fs::create_dir(&directory) {
            let exists = e.kind() == ErrorKind::AlreadyExists;
            match left(&directory).filter(|_| exists) {
                Some(record) => record.remove(),
                None if exists && remove_begun(&directory) => {}
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
            asleep: false,
            overlay: None,
        };
        let path = record.directory.join(MARK);
        let mark = || {
            let file = owned::create(&path)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        };
        let locked = mark().map_err(|e: std::io::Error| Error::file(&path, &e))?;
        let new = Self { record, locked, kept: false };
        new.write()?;
        Ok(new)
    }

    /// Notes the overlay, which is about to be mounted.
    pub(crate) fn set_overlay(&mut self, overlay: Overlay) -> Result<()> {
        self.record.overlay = Some(overlay);
        self.write()
    }

    /// Into the file that is locked.
    fn write(&self) -> Result<()> {
        let json = self.record.to_json()?;
        self.locked
            .write_all_at(&json, 0)
            .and_then(|()| self.locked.set_len(json.len() as u64))
            .map_err(|e| Error::file(&self.record.directory.join(MARK), &e))
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

/// The record in a directory that nobody makes and no container has or will have.
fn left(directory: &Path) -> Option<CloneRecord> {
    let path = directory.join(MARK);
    let file = File::open(&path).ok()?;
    owned::check_file(&file, &path).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let record: CloneRecord = serde_json::from_slice(&hiber_sys::file::read_record(&file).ok()?).ok()?;
    let entry = record.id.parse().ok().and_then(|id| Store::new(&record.root).open(&id).ok());
    let other = entry.and_then(|entry| CloneRecord::of(&entry).ok().flatten());
    let has = other.is_some_and(|other| other.token == record.token);
    Some(record).filter(|record| record.directory == directory && !has && !record.asleep)
}

/// Removes a directory that somebody has left who was killed before anything was written into its mark. False of any other.
fn remove_begun(directory: &Path) -> bool {
    let names =
        std::fs::read_dir(directory).map(|all| all.flatten().map(|entry| entry.file_name()).collect());
    let names: Vec<_> = names.unwrap_or_else(|_| vec![ROOTFS.into()]);
    let path = directory.join(MARK);
    let marked = match names.as_slice() {
        [] => false,
        [name] if name == MARK => true,
        _ => return false,
    };
    let nobodys = || {
        let file = File::open(&path).ok().filter(|file| file.metadata().is_ok_and(|of| of.len() == 0))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()
    };
    if marked && (nobodys().is_none() || std::fs::remove_file(&path).is_err()) {
        return false;
    }
    std::fs::remove_dir(directory).is_ok()
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

    /// The one of the bundle `directory`, if that is of a clone which sleeps and whose container is this one.
    pub(crate) fn asleep(directory: &Path, store: &Store, id: &ContainerId) -> Option<Self> {
        let record = Self::read(directory)?;
        let root = std::path::absolute(store.root()).ok()?;
        let own =
            record.asleep && record.directory == directory && record.id == id.as_str() && record.root == root;
        own.then_some(record)
    }

    /// Whether its container has ended by a checkpoint.
    pub(crate) fn sleeps(&self) -> bool {
        Self::read(&self.directory).is_some_and(|record| record.token == self.token && record.asleep)
    }

    fn read(directory: &Path) -> Option<Self> {
        let path = directory.join(MARK);
        let file = File::open(&path).ok()?;
        owned::check_file(&file, &path).ok()?;
        serde_json::from_slice(&hiber_sys::file::read_record(&file).ok()?).ok()
    }

    fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal("write a clone's record", e))
    }

    /// The container has ended by a checkpoint: the directory stays, and nobody takes it for one that was left.
    pub(crate) fn sleep(self) -> Result<()> {
        Self { asleep: true, ..self }.mark()
    }

    /// The container was restored from there: the directory goes with it again.
    pub(crate) fn wake(self, entry: &Entry) -> Result<()> {
        let awake = Self { asleep: false, ..self };
        awake.write(entry)?;
        awake.mark()
    }

    /// Into the directory.
    fn mark(&self) -> Result<()> {
        let path = self.directory.join(MARK);
        owned::replace(&path, &self.to_json()?).map_err(|e| Error::file(&path, &e))
    }

    /// Mounts the root filesystem of one that sleeps, unless it is: a boot unmounts it.
    pub(crate) fn mount(&self) -> Result<()> {
        self.overlay.as_ref().map_or(Ok(()), |overlay| overlay.mount_again(&self.rootfs()))
    }

    /// The clone's root filesystem.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join(ROOTFS)
    }

    /// Removes the directory, if it is this one; what stays is told.
    pub(crate) fn remove(&self) {
        if Self::read(&self.directory).is_none_or(|own| own.token != self.token) {
            return;
        }
        if let Err(e) = self.try_to_remove() {
            tracing::warn!("the clone's directory {} stays: {e}", self.directory.display());
        }
    }

    fn try_to_remove(&self) -> std::io::Result<()> {
        let rootfs = self.rootfs();
        while umount2(&rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        if overlay::is_mount(&rootfs).unwrap_or(false) {
            return Err(Errno::EBUSY.into());
        }
        owned::remove_marked(&self.directory, MARK)
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
        std::fs::create_dir(&place).unwrap();
        drop(NewClone::make(place.clone(), &store, &id).unwrap());
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join(MARK), "").unwrap();
        drop(NewClone::make(place.clone(), &store, &id).unwrap());
        std::fs::create_dir_all(place.join("data")).unwrap();
        assert!(NewClone::make(place.clone(), &store, &id).is_err(), "somebody's directory");
        std::fs::remove_dir_all(&place).unwrap();

        let made = NewClone::make(place.clone(), &store, &id).unwrap();
        let (entry, _lock) = store.create(&id).unwrap();
        made.record.write(&entry).unwrap();
        made.keep();
        assert!(NewClone::make(place.clone(), &store, &id).is_err(), "the container has it");
        let record = CloneRecord::of(&entry).unwrap().unwrap();
        CloneRecord { token: "another".into(), ..record.clone() }.remove();
        assert!(place.exists(), "another's");
        entry.remove().unwrap();
        record.clone().sleep().unwrap();
        assert!(NewClone::make(place.clone(), &store, &id).is_err(), "it sleeps");
        assert!(CloneRecord::asleep(&place, &store, &"d".parse().unwrap()).is_none(), "another's");
        let (entry, _lock) = store.create(&id).unwrap();
        CloneRecord::asleep(&place, &store, &id).unwrap().wake(&entry).unwrap();
        assert!(CloneRecord::asleep(&place, &store, &id).is_none());
        assert_eq!(CloneRecord::of(&entry).unwrap(), Some(record));
        entry.remove().unwrap();
        drop(NewClone::make(place.clone(), &store, &id).unwrap());
        assert!(!place.exists(), "left by a container that is gone");
    }
}
