//! The decision of a migration, written down at its source.
//!
//! ```text
//! ROOT/~migrations/TOKEN/record.json   whose the container is
//! ROOT/~migrations/TOKEN/images        the checkpoint, in memory, while somebody is at it
//! ```
//!
//! The program that carries a migration out holds a lock (flock(2)) on the directory. A record that says [`Decision::Open`] and is
//! not locked was left by a program that was killed before it had decided: the container is the source's.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::in_memory::{self, Room};
use crate::host::owned;
use crate::id::ContainerId;
use crate::state::entry::Entry;
use crate::state::store::Store;

/// Of no container: no id has a tilde.
const DIRECTORY: &str = "~migrations";
const RECORD: &str = "record.json";
const INCOMING: &str = "incoming.json";
const IMAGES: &str = "images";
/// Begins the name of a migration to here, whose record decides nothing: both ends may be of one machine.
const INCOMING_PREFIX: &str = "to-";
const VERSION: u32 = 1;
/// In a bundle that a migration has made and that is not decided about: its token.
const BUNDLE_MARK: &str = ".hiber-incoming";

/// Whose a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Not decided yet: the source's program is still at it.
    Open,
    /// The destination's: the source's has ended, or will before it runs again.
    Committed,
    /// The source's: the copy at the destination is to go.
    Aborted,
    /// The source knows nothing of that migration.
    Unknown,
}

/// The files by which one end of a migration shows the other who it is, and knows the other. All are in PEM form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The certificate, and those between it and the CA's, if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificate of the CA that the other end's has to be of; there may be several.
    pub ca: PathBuf,
}

/// The way to the other end, for a later connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Way {
    /// Where the container went.
    pub(crate) destination: String,
    /// The command that ran at the other end.
    pub(crate) receiver: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Identity>,
}

/// A migration, as its source remembers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    version: u32,
    pub(crate) decision: Decision,
    /// The container here.
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) way: Way,
    /// The bundle that is made for it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<PathBuf>,
    /// Whether some of its memory was to follow when that had been decided.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) following: bool,
    /// RFC 3339.
    pub(crate) time: String,
}

/// A migration that this program is at.
#[derive(Debug)]
pub(crate) struct Migration {
    path: PathBuf,
    record: Record,
    _locked: OwnedFd,
}

impl Migration {
    /// Writes a migration down, undecided. `token` is its name.
    pub(crate) fn begin(store: &Store, token: &str, id: &str, way: Way) -> Result<Self> {
        let all = store.own_directory(DIRECTORY)?;
        let path = all.join(token);
        let fail = |e: std::io::Error| Error::file(&path, &e);
        // Nobody takes it for one that was left before it is locked.
        let _sweepers = lock_all(&all).map_err(|e| Error::file(&all, &e.into()))?;
        rustix::fs::mkdir(&path, owned::PRIVATE_DIR).map_err(|e| fail(e.into()))?;
        let locked = open_directory(&path).map_err(|e| fail(e.into()))?;
        rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive).map_err(|e| fail(e.into()))?;
        let record = Record {
            version: VERSION,
            decision: Decision::Open,
            id: id.to_owned(),
            way,
            bundle: None,
            following: false,
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        };
        let migration = Self { path, record, _locked: locked };
        migration.write()?;
        Ok(migration)
    }

    /// Makes a place for a container that comes here, perhaps with a new bundle.
    pub(crate) fn receive(store: &Store, token: &str, id: &str, bundle: Option<&Path>) -> Result<Self> {
        let mut new = Self::begin(store, &format!("{INCOMING_PREFIX}{token}"), id, Way::default())?;
        if bundle.is_some() {
            new.record.bundle = bundle.map(Path::to_owned);
            new.write()?;
        }
        Ok(new)
    }

    /// The file that says what was decided.
    pub(crate) fn record_path(&self) -> PathBuf {
        self.path.join(RECORD)
    }

    /// Where images can be written that reach no disk, until this is dropped.
    pub(crate) fn images(&self) -> Result<PathBuf> {
        let at = self.path.join(IMAGES);
        in_memory::make(&at, Room::MUCH)?;
        Ok(at)
    }

    /// Decides. When this returns, the decision survives whatever happens to this program.
    pub(crate) fn decide(&mut self, decision: Decision) -> Result<()> {
        self.record.decision = decision;
        self.write()
    }

    /// As [`decide`](Self::decide) for the destination, which has not got all memory yet.
    pub(crate) fn commit_following(&mut self) -> Result<()> {
        self.record.following = true;
        self.decide(Decision::Committed)
    }

    /// Nobody will ask for it any more.
    pub(crate) fn forget(self) {
        remove(&self.path);
    }

    fn write(&self) -> Result<()> {
        let json =
            serde_json::to_vec(&self.record).map_err(|e| Error::internal("write down a migration", e))?;
        let (path, new) = (self.record_path(), self.path.join(".new"));
        let write = || -> std::io::Result<()> {
            let mut file = owned::create(&new)?;
            file.write_all(&json)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|e| Error::file(&path, &e))
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        clear(&self.path);
    }
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Keeps others from making or sweeping migrations, until the result is dropped.
fn lock_all(all: &Path) -> rustix::io::Result<OwnedFd> {
    let locked = open_directory(all)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&locked, FlockOperation::LockExclusive))?;
    Ok(locked)
}

fn clear(path: &Path) {
    in_memory::let_go(&path.join(IMAGES));
}

fn remove(path: &Path) {
    clear(path);
    let _ = std::fs::remove_dir_all(path);
}

/// Whether this record says that its container is the destination's.
pub(crate) fn is_committed(record: &Path) -> bool {
    read(record).is_some_and(|record| record.decision == Decision::Committed)
}

fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The decision about the migration of that token.
///
/// # Errors
/// If its record can be neither read nor completed.
pub(crate) fn decision(store: &Store, token: &str) -> Result<Decision> {
    let path = store.root().join(DIRECTORY).join(token);
    let locked = match open_directory(&path) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(Decision::Unknown),
        Err(e) => return Err(Error::file(&path, &e.into())),
    };
    let Some(record) = read(&path.join(RECORD)) else { return Ok(Decision::Unknown) };
    if record.decision != Decision::Open {
        return Ok(record.decision);
    }
    match rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(Decision::Open),
        Err(e) => Err(Error::file(&path, &e.into())),
        Ok(()) => {
            // It may have been decided between the two looks.
            let Some(record) = read(&path.join(RECORD)) else { return Ok(Decision::Unknown) };
            let mut left = Migration { path, record, _locked: locked };
            if left.record.decision == Decision::Open {
                left.decide(Decision::Aborted)?;
            }
            Ok(left.record.decision)
        }
    }
}

/// Whether a program is at the migration of that token.
pub(crate) fn is_at_work(store: &Store, token: &str) -> bool {
    let Ok(directory) = open_directory(&store.root().join(DIRECTORY).join(token)) else { return false };
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

/// The container that the migration of that token is about.
pub(crate) fn container(store: &Store, token: &str) -> Option<ContainerId> {
    read(&store.root().join(DIRECTORY).join(token).join(RECORD))?.id.parse().ok()
}

/// Removes the record of a migration of which nobody is in doubt.
pub(crate) fn settled(store: &Store, token: &str) {
    remove(&store.root().join(DIRECTORY).join(token));
}

/// The migrations of that container whose destination has not said that it knows the decision: tokens and records, the latest last.
pub(crate) fn unsettled(store: &Store, id: &ContainerId) -> Vec<(String, Record)> {
    let entries = std::fs::read_dir(store.root().join(DIRECTORY)).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| {
        let record = read(&entry.path().join(RECORD))?;
        Some((entry.file_name().into_string().ok()?, record))
    };
    let mut found: Vec<_> = entries.filter_map(one).filter(|(_, record)| record.id == id.as_str()).collect();
    found.sort_by(|a, b| a.1.time.cmp(&b.1.time));
    found
}

/// Lets go of images that killed programs have left in memory, and of migrations that had not begun or end elsewhere.
pub(crate) fn sweep(store: &Store) {
    let all = store.root().join(DIRECTORY);
    let Ok(_makers) = lock_all(&all) else { return };
    for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(locked) = open_directory(&path) else { continue };
        if rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let name = entry.file_name();
        let incoming = name.as_bytes().strip_prefix(INCOMING_PREFIX.as_bytes());
        let record = read(&path.join(RECORD));
        if let (Some(token), Some(record)) = (incoming.and_then(|token| str::from_utf8(token).ok()), &record)
        {
            sweep_bundle(store, record, token);
        }
        if incoming.is_some() || record.is_none() {
            remove(&path);
        } else {
            clear(&path);
        }
    }
}

/// Removes the bundle that a killed receiver has made, unless a container has it: that one's removal is the bundle's.
fn sweep_bundle(store: &Store, record: &Record, token: &str) {
    let entry = record.id.parse().ok().and_then(|id: ContainerId| store.open(&id).ok());
    let incoming = entry.and_then(|entry| Incoming::of(&entry).ok().flatten());
    if let Some(bundle) = record.bundle.as_ref().filter(|_| incoming.is_none_or(|other| other.token != token))
    {
        remove_bundle(bundle, token);
    }
}

/// Writes into a bundle that the migration of that token has made it, and is not decided.
pub(crate) fn mark_bundle(bundle: &Path, token: &str) -> Result<()> {
    let path = bundle.join(BUNDLE_MARK);
    owned::write(&path, token.as_bytes()).map_err(|e| Error::file(&path, &e))
}

/// Removes a bundle that the migration of that token has made and that is not decided about; no other.
fn remove_bundle(bundle: &Path, token: &str) {
    if !std::fs::read(bundle.join(BUNDLE_MARK)).is_ok_and(|mark| mark == token.as_bytes()) {
        return;
    }
    if let Err(e) = owned::remove_marked(bundle, BUNDLE_MARK) {
        tracing::warn!("the bundle {} stays: {e}", bundle.display());
    }
}

/// The record of a container that has come from another machine and is not decided about, in `ROOT/ID/incoming.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Incoming {
    /// The name of its migration, a secret of the two ends.
    pub(crate) token: String,
    /// Whether it is whole, and the source has been told so: then only the source knows whose it is.
    pub(crate) whole: bool,
    /// The bundle that was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bundle: Option<PathBuf>,
}

impl Incoming {
    /// Keeps it.
    pub(crate) fn write(&self, entry: &Entry) -> Result<()> {
        entry.replace(INCOMING, self)
    }

    /// None of a container that was made here, or whose migration is decided.
    pub(crate) fn of(entry: &Entry) -> Result<Option<Self>> {
        let bad =
            |e: serde_json::Error| Error::File { path: entry.path().join(INCOMING), why: e.to_string() };
        entry.read(INCOMING)?.map(|bytes| serde_json::from_slice(&bytes).map_err(bad)).transpose()
    }

    /// It is dropped: the bundle that was made for it goes, too.
    pub(crate) fn remove_bundle(&self) {
        self.bundle.iter().for_each(|bundle| remove_bundle(bundle, &self.token));
    }

    /// It is decided: the container is this machine's, and the bundle with it.
    pub(crate) fn forget(entry: &Entry) -> Result<()> {
        if let Some(bundle) = Self::of(entry)?.and_then(|incoming| incoming.bundle) {
            let path = bundle.join(BUNDLE_MARK);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::file(&path, &e)),
                _ => {}
            }
        }
        match rustix::fs::unlinkat(entry.dir(), INCOMING, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::file(&entry.path().join(INCOMING), &e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(store: &Store) -> Migration {
        let way = Way {
            destination: "ssh://there".into(),
            receiver: "hiber receive --stdio".into(),
            identity: None,
        };
        Migration::begin(store, "f00d", "c", way).unwrap()
    }

    #[test]
    fn a_decision_stays_and_an_open_one_is_the_sources() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("root"));
        assert_eq!(decision(&store, "f00d").unwrap(), Decision::Unknown);
        let mut migration = begun(&store);
        assert_eq!(decision(&store, "f00d").unwrap(), Decision::Open);
        assert!(!is_committed(&migration.record_path()));
        migration.decide(Decision::Committed).unwrap();
        assert!(is_committed(&migration.record_path()));
        drop(migration);
        assert_eq!(decision(&store, "f00d").unwrap(), Decision::Committed);
        settled(&store, "f00d");
        assert_eq!(decision(&store, "f00d").unwrap(), Decision::Unknown);

        drop(begun(&store));
        assert_eq!(decision(&store, "f00d").unwrap(), Decision::Aborted, "its program is gone");
        let unsettled = unsettled(&store, &"c".parse().unwrap());
        assert_eq!(unsettled.len(), 1);
        assert_eq!(unsettled[0].1.decision, Decision::Aborted);
        assert!(store.ids().unwrap().is_empty(), "a migration is no container");
    }
}
