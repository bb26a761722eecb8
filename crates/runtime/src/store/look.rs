//! Checkpoints of a container in a store: what a list shows, whether one is whole, and which stay.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hiber_criu::Images;
use hiber_store::{KeyId, Opened};

use super::CheckpointStore;
use super::key::{StoreKey, opening};
use super::verified::{self, Stamp};
use crate::checkpoint::elsewhere::STATISTICS;
use crate::checkpoint::inspect::Verification;
use crate::checkpoint::manifest::{self, FileSum, Manifest};
use crate::checkpoint::retention::{Retained, Retention};
use crate::checkpoint::verified::Verified;
use crate::error::{Error, Result, chain};
use crate::id::{CheckpointName, ContainerId};

/// A checkpoint in a store, with what can be said of it without reading its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredCheckpoint {
    /// Its name.
    pub name: CheckpointName,
    /// When it was made, in RFC 3339.
    pub created: String,
    /// The key that it is sealed by.
    pub key: KeyId,
    /// Size of its files, in bytes.
    pub size: u64,
    /// Bytes that it has added to the store.
    pub added: u64,
    /// For how long the container was frozen, if its statistics are there.
    pub frozen_time: Option<Duration>,
    /// The last verification, if record and packs are still the same.
    pub verified: Option<Verified>,
}

impl StoredCheckpoint {
    /// Bytes of its files that cost the store nothing: others had them, or they could be compressed.
    pub fn shared(&self) -> u64 {
        self.size.saturating_sub(self.added)
    }

    /// When it was made; none if its record does not say so.
    pub fn created(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.created).ok()
    }

    /// Whether a verification has found it damaged.
    pub fn is_damaged(&self) -> bool {
        self.verified.as_ref().is_some_and(|verified| !verified.problems.is_empty())
    }
}

impl CheckpointStore {
    /// The checkpoints of a container that one of the keys opens, the oldest first.
    ///
    /// # Errors
    /// A record that is damaged, or cannot be read.
    pub fn of(&self, container: &ContainerId, keys: &[StoreKey]) -> Result<Vec<StoredCheckpoint>> {
        let (keys, mut all) = (opening(keys), Vec::new());
        for listed in self.store.list_of(container.as_str(), &keys)? {
            let (Some(head), Ok(name)) = (listed.head, listed.name.parse::<CheckpointName>()) else {
                continue;
            };
            let now = self.record(container, &name).and_then(|record| Stamp::of(self.store.root(), &record));
            let opened = self.store.get((container.as_str(), name.as_str()), &keys).ok();
            all.push(StoredCheckpoint {
                size: head.size(),
                added: head.added,
                frozen_time: opened.and_then(|opened| frozen_time(&opened)),
                verified: now.ok().and_then(|now| verified::of(self.store.root(), container, &name, &now)),
                created: head.created,
                key: listed.key,
                name,
            });
        }
        Ok(all)
    }

    /// Reads a checkpoint, compares it with its manifest, hashes included, and keeps the result for [`of`](Self::of). Where nothing can be
    /// written the result is not kept, which is logged.
    ///
    /// # Errors
    /// There is none, none of the keys opens it, or it has no manifest with hashes.
    pub fn verify_one(
        &self,
        container: &ContainerId,
        name: &CheckpointName,
        keys: &[StoreKey],
    ) -> Result<Verification> {
        let record = self.record(container, name)?;
        let opened = self.opened(container, name, &opening(keys))?;
        // Nothing is collected while it is open.
        let stamp = Stamp::of(self.store.root(), &record)?;
        let verification = compared(&opened, &record)?;
        let kept = Verified::now(&verification.problems);
        if let Err(e) = verified::keep(self.store.root(), (container, name), stamp, kept) {
            tracing::warn!("the verification of checkpoint {name} is not kept: {}", chain(&e));
        }
        Ok(verification)
    }

    /// Those of these names that are not known to be damaged, the newest first.
    ///
    /// # Errors
    /// Those of [`of`](Self::of).
    pub fn restorable(
        &self,
        container: &ContainerId,
        keys: &[StoreKey],
        of: impl Fn(&CheckpointName) -> bool,
    ) -> Result<Vec<StoredCheckpoint>> {
        let mut all = self.of(container, keys)?;
        all.retain(|one| of(&one.name) && !one.is_damaged());
        all.sort_by_cached_key(|one| std::cmp::Reverse((one.created(), one.name.clone())));
        Ok(all)
    }

    /// Forgets those of these names that the rule does not keep; the bytes of one are those that it has added. A checkpoint that is being
    /// read loses its name alone: its pages stay until it is read, and then until garbage is collected.
    ///
    /// # Errors
    /// Those of [`of`](Self::of), or one cannot be removed.
    pub fn retain(
        &self,
        container: &ContainerId,
        keys: &[StoreKey],
        rule: &Retention,
        of: impl Fn(&CheckpointName) -> bool,
    ) -> Result<Retained> {
        let all = self.restorable(container, keys, of)?;
        let made = |one: &StoredCheckpoint| (one.created().unwrap_or(SystemTime::UNIX_EPOCH), one.added);
        let staying = rule.staying(&all.iter().map(made).collect::<Vec<_>>(), SystemTime::now());
        let mut retained = Retained::default();
        for (index, one) in all.into_iter().enumerate() {
            if index < staying {
                retained.kept.push(one.name);
            } else {
                self.remove(container, &one.name)?;
                retained.removed.push(one.name);
            }
        }
        Ok(retained)
    }
}

/// A file of the checkpoint, whole.
fn content(opened: &Opened, name: &str) -> std::io::Result<Option<Vec<u8>>> {
    let Some((number, _)) = opened.file(name) else { return Ok(None) };
    let mut content = Vec::new();
    opened.read(number).read_to_end(&mut content)?;
    Ok(Some(content))
}

fn frozen_time(opened: &Opened) -> Option<Duration> {
    // Without an inventory nothing is taken for images.
    let file = |name: &str| Some((name.to_owned(), Arc::from(content(opened, name).ok()??)));
    let files = ["inventory.img", STATISTICS].into_iter().filter_map(file).collect();
    Some(Images::from_memory(Path::new("store"), files).ok()?.dump_stats().ok()??.frozen_time)
}

fn compared(opened: &Opened, record: &Path) -> Result<Verification> {
    let refuse = |why: &str| Error::File { path: record.into(), why: why.into() };
    let mut verification = Verification { path: record.into(), files: 0, size: 0, problems: Vec::new() };
    let json = content(opened, manifest::FILE_NAME).map_err(|e| Error::file(record, &e));
    let manifest = match json.and_then(|json| json.map(|json| Manifest::parse(&json, record)).transpose()) {
        Ok(manifest) => manifest.ok_or_else(|| refuse("has no hiber.json to be verified by"))?,
        // It cannot be read: that is what was asked.
        Err(e) => {
            verification.problems.push(format!("{}: {}", manifest::FILE_NAME, chain(&e)));
            return Ok(verification);
        }
    };
    if !manifest.is_hashed() {
        return Err(refuse("cannot be verified: it was written with --no-hash"));
    }
    let mut sums = BTreeMap::new();
    for (number, (name, size)) in opened.head().files.iter().enumerate() {
        match FileSum::of(opened.read(number)) {
            Ok(sum) if manifest::is_listed(name) => drop(sums.insert(name.clone(), sum)),
            Ok(_) => {}
            Err(e) => {
                verification.problems.push(format!("{name}: {e}"));
                sums.insert(name.clone(), FileSum { size: *size, blake3: None });
            }
        }
    }
    verification.problems.extend(manifest.compare(&sums));
    verification.files = manifest.files.len();
    verification.size = manifest.files.values().fold(0, |sum: u64, file| sum.saturating_add(file.size));
    Ok(verification)
}
