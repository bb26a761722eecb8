//! Checkpoints in a store: a directory in which checkpoints share what they have in common, page by page. docs/store.md has the layout.
//!
//! On both ways images pass through memory alone. A checkpoint that goes into a store is the container as soon as its record has its
//! name there; not before. One that comes from a store leaves its memory there until it is wanted.

mod fetch;
mod key;
mod look;
mod put;
mod similar;
mod verified;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use fetch::{Fetch, Fetched};
pub use hiber_store::{Collected, Head, KeyId, Listed, Problem, Stored};
pub use key::StoreKey;
pub use look::StoredCheckpoint;
pub use put::Put;

use crate::error::{Error, Result};
use crate::id::{CheckpointError, CheckpointName, ContainerId};

/// zstd's level for what a collection writes anew.
const LEVEL: Option<i32> = Some(1);

/// A store of checkpoints.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    store: hiber_store::Store,
}

impl From<hiber_store::Error> for Error {
    fn from(e: hiber_store::Error) -> Self {
        Self::file(&e.path, &e.why)
    }
}

fn missing(container: &ContainerId, name: &CheckpointName) -> Error {
    CheckpointError::Missing { name: name.clone(), container: container.as_str().into() }.into()
}

impl CheckpointStore {
    /// The store in a directory.
    ///
    /// # Errors
    /// There is none, or it is of a version that this code does not know.
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self { store: hiber_store::Store::open(dir)? })
    }

    /// The same; it is made if nothing is there, or an empty directory.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and why it cannot be made.
    pub fn make(dir: &Path) -> Result<Self> {
        Ok(Self { store: hiber_store::Store::make(dir)? })
    }

    /// All checkpoints, by container and the time at which they were made. Those that none of the keys opens have no description.
    ///
    /// # Errors
    /// A record that is damaged, or cannot be read.
    pub fn list(&self, keys: &[StoreKey]) -> Result<Vec<Listed>> {
        Ok(self.store.list(&key::opening(keys))?)
    }

    /// Removes a checkpoint. Its pages are there until garbage is collected.
    ///
    /// # Errors
    /// There is none, or it cannot be removed.
    pub fn remove(&self, container: &ContainerId, name: &CheckpointName) -> Result<()> {
        self.store.remove(container.as_str(), name.as_str()).map_err(|e| match e.why.kind() {
            ErrorKind::NotFound => missing(container, name),
            _ => e.into(),
        })?;
        verified::forget(self.store.root(), container, name);
        Ok(())
    }

    /// Removes pages that no checkpoint has any more, and what killed programs have left.
    ///
    /// # Errors
    /// The store is in use, or a checkpoint is damaged.
    pub fn gc(&self, keys: &[StoreKey]) -> Result<Collected> {
        Ok(self.store.gc(&key::opening(keys), LEVEL)?)
    }

    /// Reads all pages, and compares each with its hash. The damaged checkpoints; and the keys of those that none of the keys opens.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn verify(&self, keys: &[StoreKey]) -> Result<(Vec<Problem>, Vec<KeyId>)> {
        let (problems, unknown) = self.store.verify(&key::opening(keys))?;
        Ok((problems, unknown.into_iter().collect()))
    }

    /// A checkpoint that one of the keys opens.
    fn opened(
        &self,
        container: &ContainerId,
        name: &CheckpointName,
        keys: &[hiber_store::Key],
    ) -> Result<hiber_store::Opened> {
        let record = self.record(container, name)?;
        self.store.get((container.as_str(), name.as_str()), keys).map_err(|e| match e.why.kind() {
            ErrorKind::NotFound if e.path == record => missing(container, name),
            _ => Error::from(e),
        })
    }

    /// The file of a checkpoint, which is there as long as the checkpoint is.
    fn record(&self, container: &ContainerId, name: &CheckpointName) -> Result<PathBuf> {
        Ok(self.store.record(container.as_str(), name.as_str())?)
    }
}
