//! The beginning of encrypted files, and why one cannot be read.

use std::io;

/// The first bytes of an encrypted file, whatever its version.
pub(crate) const MAGIC: &[u8] = b"age-encryption.org/";
/// The first bytes of an encrypted file as text.
pub(crate) const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE";

/// Why an encrypted file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("is encrypted; name a file with your key by --identity")]
    NoIdentity,
    #[error("is encrypted to others: none of the keys of --identity opens it (its recipients: {0})")]
    NotForUs(String),
    #[error(
        "is encrypted with a passphrase; expected a recipient's key (`age --decrypt` asks for the passphrase)"
    )]
    Passphrase,
    #[error("is encrypted, as text (`age --armor`); expected the form without --armor")]
    Armored,
    #[error("is encrypted, and its header {0}")]
    Header(String),
    #[error("is encrypted, and was changed: chunk {0} of 64 KiB is not what was written")]
    Changed(u64),
    #[error(
        "is encrypted, and truncated, or was changed: chunk {0} of 64 KiB, the last one, is not what was written"
    )]
    Cut(u64),
    #[error("is encrypted, and truncated")]
    Truncated,
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::other(failure)
    }
}

/// The end of a file is an error of its own.
pub(super) fn ended(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::UnexpectedEof { Failure::Truncated.into() } else { e }
}
