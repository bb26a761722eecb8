//! Keys of checkpoints in a store.

use std::path::Path;

use hiber_store::Key;

use crate::age::Identities;
use crate::error::{Error, Result};

/// A key that seals checkpoints in a store, and opens them. Checkpoints share pages with others of the same key only.
#[derive(Debug, Clone)]
pub struct StoreKey(Key);

impl StoreKey {
    /// Reads it from a file with one key: age-keygen's, or OpenSSH's of the kind ssh-ed25519 without a passphrase.
    ///
    /// # Errors
    /// The file cannot be read, has no key or several.
    pub fn read(path: &Path) -> Result<Self> {
        let mut identities = Identities::default();
        identities.add_file(path)?;
        let several = || Error::File { path: path.into(), why: "has several keys; expected one".into() };
        Ok(Self(Key::of(identities.only_secret().ok_or_else(several)?.as_slice())))
    }
}

/// The key that seals; or none.
pub(super) fn sealing(key: Option<&StoreKey>) -> Key {
    key.map_or_else(Key::default, |StoreKey(key)| key.clone())
}

/// The keys that open, with that of what is not sealed.
pub(super) fn opening(keys: &[StoreKey]) -> Vec<Key> {
    keys.iter().map(|StoreKey(key)| key.clone()).chain([Key::default()]).collect()
}
