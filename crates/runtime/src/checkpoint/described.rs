//! Checkpoints by name, as a list shows them; and what a verification of one has found.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hiber_criu::ImageDirectory;

use super::inspect::{Verification, verify_in};
use super::manifest::{self, Hashed, Manifest};
use super::named::{Checkpoint, CheckpointConfig, Checkpoints};
use super::reading;
use super::verified::{self, Stamp, Verified};
use crate::error::Result;
use crate::id::CheckpointName;

/// The file without which nothing is a checkpoint that can be restored.
const INVENTORY: &str = "inventory.img";

/// A checkpoint with a name, with what can be said of it without reading its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The directory with the images.
    pub path: PathBuf,
    /// When and how it was made.
    pub config: CheckpointConfig,
    /// Size of its files but logs and statistics, in bytes.
    pub size: u64,
    /// Bytes of these that it shares with other checkpoints: none in a directory.
    pub shared: u64,
    /// For how long the container was frozen, if its statistics are there.
    pub frozen_time: Option<Duration>,
    /// Whether all its files are there, with the sizes that its manifest says. One that another runtime has made has no manifest, and
    /// is whole if it can be a checkpoint at all.
    pub whole: bool,
    /// Whether it was restored on trial when it was made.
    pub proved: bool,
    /// The last verification, if the files are still the same.
    pub verified: Option<Verified>,
}

impl Description {
    /// When it was made; none if its note does not say so.
    pub fn created(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.config.created).ok()
    }

    /// Whether a verification has found that its files are not what was written.
    pub fn is_damaged(&self) -> bool {
        self.verified.as_ref().is_some_and(|verified| !verified.problems.is_empty())
    }
}

impl Checkpoints {
    /// Describes the checkpoint of that name. Its files are counted and not read.
    ///
    /// # Errors
    /// There is none, or its notes cannot be read.
    pub fn describe(&self, name: &CheckpointName) -> Result<Description> {
        let Checkpoint { path, config } = self.get(name)?;
        let dir = ImageDirectory::open(&path)?;
        let sums = manifest::sums(&dir, Hashed::None)?;
        let manifest = Manifest::read_in(&dir)?;
        let named = manifest.as_ref().is_none_or(|manifest| manifest.compare(&sums).is_empty());
        Ok(Description {
            size: sums.values().map(|file| file.size).sum(),
            shared: 0,
            frozen_time: hiber_criu::images::dump_stats(&path).ok().map(|statistics| statistics.frozen_time),
            whole: named && dir.has(INVENTORY),
            proved: manifest.is_some_and(|manifest| manifest.proved),
            verified: verified::of(&dir)?,
            path,
            config,
        })
    }

    /// Compares the checkpoint of that name with its manifest, hashes included, and keeps the result in its directory for
    /// [`describe`](Self::describe). Where nothing can be written there the result is not kept, which is logged.
    ///
    /// # Errors
    /// There is none; it has no manifest, or one without hashes.
    pub fn verify(&self, name: &CheckpointName) -> Result<Verification> {
        let Checkpoint { path, .. } = self.get(name)?;
        let dir = ImageDirectory::open(&path)?;
        reading::begin(&dir);
        let before = Stamp::of(&dir)?;
        let verification = verify_in(&dir)?;
        let kept = Stamp::of(&dir).and_then(|after| match after == before {
            true => verified::keep(&dir, after, &Verified::now(&verification.problems)),
            // It says nothing of what is there now.
            false => Ok(()),
        });
        if let Err(e) = kept {
            tracing::warn!("the verification of checkpoint {name} is not kept: {}", crate::error::chain(&e));
        }
        Ok(verification)
    }
}

#[cfg(test)]
#[path = "described_tests.rs"]
mod tests;
