//! Signatures of checkpoints: ed25519 over `hiber.json`, whose hashes cover all images.

mod keys;
pub(crate) mod policy;

pub use keys::{SigningKey, VerifyingKey};

/// The file with the 64 bytes of a signature, beside `hiber.json`.
pub(crate) const FILE_NAME: &str = "hiber.json.sig";
/// The length of a signature in bytes.
pub(crate) const LENGTH: u64 = 64;

/// Somebody who wants a checkpoint to be signed by one of these keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demand {
    /// For messages.
    pub(crate) by: String,
    pub(crate) keys: Vec<VerifyingKey>,
}

impl Demand {
    /// Whether the signature, if there is one, is by one of the keys.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn check(&self, manifest: &[u8], signature: Option<&[u8]>) -> Result<(), String> {
        let by = &self.by;
        let Some(signature) = signature else {
            return Err(format!("is not signed (there is no {FILE_NAME}), and {by} wants a signature"));
        };
        if self.keys.iter().any(|key| key.verifies(manifest, signature)) {
            return Ok(());
        }
        let which = if self.keys.len() == 1 { "the key" } else { "any of the keys" };
        Err(format!("is not signed by {which} of {by}: {FILE_NAME} is another's, or hiber.json was changed"))
    }
}

#[cfg(test)]
mod tests;
