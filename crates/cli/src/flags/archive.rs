//! Archives of checkpoints: where they are, and how they are written.

use std::ffi::OsStr;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use hiber::archive::{Compression, Export, Identities, Import, OciImage, Place, Recipients, Source};

use hiber::store::StoreKey;
use hiber::{SigningKey, VerifyingKey};

use crate::line::flag::{Flag, Value};
use crate::line::refusal::Refusal;

pub(crate) const COMPRESS: Flag<Option<Compression>> = Flag::value(
    "compress",
    "HOW",
    "how an archive is compressed: zstd, zstd:LEVEL (1 to 19), lz4 or none (default: zstd, level 1)",
);

pub(crate) const ENCRYPT_TO: Flag<Vec<Recipient>> = Flag::list(
    "encrypt-to",
    "RECIPIENT",
    "encrypt the archive, so that a key of this recipient opens it (repeatable): age1..., an OpenSSH public key of the kind \
     ssh-ed25519, or a file with one on each line",
);
pub(crate) const IDENTITY: Flag<Vec<KeyFile>> = Flag::list(
    "identity",
    "FILE",
    "a file with a key that opens an encrypted archive (repeatable): age-keygen's, or OpenSSH's of the kind ssh-ed25519 \
     without a passphrase",
);

pub(crate) const SIGN_KEY: Flag<Option<PathBuf>> = Flag::value(
    "sign-key",
    "FILE",
    "sign the checkpoint with this private key of ed25519: openssl's (PKCS #8 in PEM), or OpenSSH's without a passphrase",
);
pub(crate) const VERIFY_KEY: Flag<Vec<KeyFile>> = Flag::list(
    "verify-key",
    "FILE",
    "a file with a public key of ed25519 (PEM, or OpenSSH's): the owner of one of these keys must have signed the checkpoint \
     (repeatable)",
);

pub(crate) const STORE_KEY: Flag<Option<KeyFile>> = Flag::value(
    "store-key",
    "FILE",
    "a file with the key that seals checkpoints in a store, which share pages with those of this key only: age-keygen's, or \
     OpenSSH's of the kind ssh-ed25519 without a passphrase",
);

/// A recipient as it was given: a key, or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recipient {
    Key(String),
    File(PathBuf),
}

impl Value for Recipient {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        match text.to_str() {
            Some("") => Err(Refusal::value(format!("invalid --{flag} \"\": expected a recipient or a file"))),
            // A file with such a name can be given as ./age1…
            Some(key) if key.starts_with("age1") || is_ssh(key) => Ok(Self::Key(key.to_owned())),
            _ => Ok(Self::File(text.into())),
        }
    }
}

/// Whether this is a line of a file of ssh's public keys: the kind of a key, and the key.
fn is_ssh(text: &str) -> bool {
    let kind = text.split_once(' ').map_or("", |(kind, _)| kind);
    ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix))
}

/// A file of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyFile(pub(crate) PathBuf);

impl Value for KeyFile {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        match text.is_empty() {
            true => Err(Refusal::value(format!("invalid --{flag} \"\": expected a file"))),
            false => Ok(Self(text.into())),
        }
    }
}

/// The recipients of all the times that the flag was given.
///
/// # Errors
/// One that is none.
pub(crate) fn recipients(given: &[Recipient]) -> anyhow::Result<Recipients> {
    let mut all = Recipients::default();
    for one in given {
        let added = match one {
            Recipient::Key(key) => all.add(key),
            Recipient::File(path) => all.add_file(path),
        };
        added.context("invalid --encrypt-to")?;
    }
    Ok(all)
}

/// The key in a file.
///
/// # Errors
/// There is none.
pub(crate) fn signing_key(given: Option<&PathBuf>) -> anyhow::Result<Option<Arc<SigningKey>>> {
    let read = |path: &PathBuf| SigningKey::read(path).map(Arc::new).context("invalid --sign-key");
    given.map(read).transpose()
}

/// The keys of signers.
///
/// # Errors
/// A file that has none.
pub(crate) fn verifying_keys(given: &[KeyFile]) -> anyhow::Result<Vec<VerifyingKey>> {
    let read = |KeyFile(path): &KeyFile| VerifyingKey::read(path).context("invalid --verify-key");
    given.iter().map(read).collect()
}

/// The key of a store's checkpoints.
///
/// # Errors
/// There is none in the file.
pub(crate) fn store_key(given: Option<&KeyFile>) -> anyhow::Result<Option<StoreKey>> {
    let read = |KeyFile(path): &KeyFile| StoreKey::read(path).context("invalid --store-key");
    given.map(read).transpose()
}

/// The keys of all files.
///
/// # Errors
/// One that has none.
pub(crate) fn identities(given: &[KeyFile]) -> anyhow::Result<Identities> {
    let mut all = Identities::default();
    for KeyFile(path) in given {
        all.add_file(path).context("invalid --identity")?;
    }
    Ok(all)
}

/// Standard output or input.
const STREAM: &str = "-";

impl Value for Compression {
    const WORDS: &'static [&'static str] = &["zstd", "lz4", "none"];
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        let text = text.to_string_lossy();
        text.parse().map_err(|e: hiber::Error| Refusal::value(format!("invalid --{flag} {e}")))
    }
}

/// Where an archive is to be written.
///
/// # Errors
/// A terminal, and recipients that are none.
pub(crate) fn export(
    to: &Path,
    compress: Option<Compression>,
    encrypt_to: &[Recipient],
    sign_key: Option<&PathBuf>,
) -> anyhow::Result<Export> {
    let (recipients, sign_key) = (recipients(encrypt_to)?, signing_key(sign_key)?);
    let place = if let Some(image) = image(to)? {
        Place::Oci(image)
    } else if is_stream(to) {
        if std::io::stdout().is_terminal() {
            bail!("an archive for standard output, which is a terminal: expected a file or a pipe");
        }
        Place::Stream(copy(std::io::stdout().as_fd())?)
    } else {
        Place::File(to.into())
    };
    Ok(Export::new(place).compress(compress.unwrap_or_default()).encrypt_to(recipients).sign_key(sign_key))
}

/// The archive to be read, and the keys.
///
/// # Errors
/// A terminal, and files without keys.
pub(crate) fn import(from: &Path, identity: &[KeyFile], verify_key: &[KeyFile]) -> anyhow::Result<Import> {
    let (identities, verify_keys) = (identities(identity)?, verifying_keys(verify_key)?);
    Ok(Import::new(source(from)?).identities(identities).verify_keys(verify_keys))
}

fn source(from: &Path) -> anyhow::Result<Source> {
    if let Some(image) = image(from)? {
        return Ok(Source::Oci(image));
    }
    if !is_stream(from) {
        return Ok(Source::File(from.into()));
    }
    if std::io::stdin().is_terminal() {
        bail!("an archive from standard input, which is a terminal: expected a file or a pipe");
    }
    copy(std::io::stdin().as_fd()).map(Source::Stream)
}

/// An image in a layout, if that is meant.
fn image(path: &Path) -> anyhow::Result<Option<OciImage>> {
    match path.to_str().filter(|text| OciImage::is_meant(text)) {
        Some(text) => Ok(Some(text.parse()?)),
        None => Ok(None),
    }
}

/// Whether it is no file.
pub(crate) fn is_stream(path: &Path) -> bool {
    path == Path::new(STREAM)
}

fn copy(fd: std::os::fd::BorrowedFd<'_>) -> anyhow::Result<OwnedFd> {
    let copy = fd.try_clone_to_owned().map(File::from).context("copy a standard stream")?;
    Ok(copy.into())
}
