//! Signed checkpoints: how one becomes that, and whether one is.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::Path;

use hiber_criu::ImageDirectory;

use super::custody;
use super::manifest::{self, FileSum, Hashed, Manifest};
use super::named::CONFIG;
use super::options::CheckpointOptions;
use crate::error::{Error, Result};
use crate::signature::{self, Demand, SigningKey, policy};

/// The largest manifest.
const MAX_MANIFEST: u64 = 64 << 20;

/// Refuses what no signature would cover.
pub(crate) fn check_options(options: &CheckpointOptions) -> Result<()> {
    let found = [
        ("--no-hash", options.no_hash, "a signature covers files by their hashes"),
        ("--pre-dump", options.pre_dump, "a checkpoint is signed, and no part of one"),
        ("--parent-path", options.dump.parent_path.is_some(), "the parent's memory would not be signed"),
        ("--lazy-pages", options.criu.lazy_pages, "the memory would not be signed"),
        ("--page-server", options.dump.page_server.is_some(), "the memory would not be signed"),
    ];
    match found.iter().find(|(_, given, _)| *given && options.sign_key.is_some()) {
        Some((flag, _, why)) => {
            Err(Error::Invalid(format!("--sign-key and {flag} exclude each other: {why}")))
        }
        None => Ok(()),
    }
}

/// Why this host's policy would refuse a restore of the checkpoint, if it would.
pub(crate) fn unwelcome(options: &CheckpointOptions) -> Option<String> {
    // Nobody restores a part.
    if options.pre_dump { None } else { policy::objection(options.sign_key.as_deref()) }
}

/// Signs the manifest in a directory.
pub(crate) fn sign(dir: &ImageDirectory, key: &SigningKey) -> Result<()> {
    Ok(dir.write(signature::FILE_NAME, &key.sign(&manifest(dir)?))?)
}

/// The bytes of the manifest in a directory.
pub(crate) fn manifest(dir: &ImageDirectory) -> Result<Vec<u8>> {
    let manifest = read(dir, manifest::FILE_NAME, MAX_MANIFEST)?;
    manifest.ok_or_else(|| refusal(dir.path(), "has no hiber.json, which would be signed"))
}

/// Whether the checkpoint in a directory is signed as all demand, and each of its files as the manifest says. `shown` is its place for
/// messages. Memory is looked at, unless it was compared with the manifest before.
///
/// # Errors
/// Why it is not.
pub(crate) fn check(dir: &ImageDirectory, shown: &Path, demands: &[Demand], compared: bool) -> Result<()> {
    let Some(first) = demands.first() else { return Ok(()) };
    let refuse = |why: String| Err(refusal(shown, why));
    if let Err(why) = custody::check_writers(dir) {
        return Err(Error::Invalid(format!(
            "{why}, and a signature shows nothing of what others can change"
        )));
    }
    let (Some(json), signature) = parts(dir)? else {
        return refuse(format!("has no hiber.json that could be signed, and {} wants a signature", first.by));
    };
    for demand in demands {
        demand.check(&json, signature.as_deref()).or_else(refuse)?;
    }
    let manifest = Manifest::parse(&json, &shown.join(manifest::FILE_NAME))?;
    if let Some(why) = uncovered(&manifest) {
        return refuse(why.into());
    }
    if dir.parent()?.is_some() {
        return refuse("builds on another checkpoint, which its signature does not cover".into());
    }
    let found = manifest::sums(dir, if compared { Hashed::AllButPages } else { Hashed::All })?;
    let strange = || strange(&manifest, &found).map(|name| format!("{name}: is not of this checkpoint"));
    let problem = manifest.compare(&found).into_iter().next().or_else(strange);
    problem.map_or(Ok(()), |problem| refuse(format!("is signed, and not what was signed: {problem}")))
}

/// The first file that the manifest does not name, whatever it is.
pub(crate) fn strange<'a>(manifest: &Manifest, found: &'a BTreeMap<String, FileSum>) -> Option<&'a String> {
    // The host's own note of a checkpoint with a name is no part of it.
    found.keys().find(|name| !manifest.files.contains_key(*name) && *name != CONFIG)
}

/// The bytes of the manifest, and of its signature.
pub(crate) type Parts = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Those of the checkpoint in a directory.
pub(crate) fn parts(dir: &ImageDirectory) -> Result<Parts> {
    let manifest = read(dir, manifest::FILE_NAME, MAX_MANIFEST)?;
    Ok((manifest, read(dir, signature::FILE_NAME, signature::LENGTH + 1)?))
}

/// Why a signature does not show of a checkpoint that all of it is what was written.
pub(crate) fn uncovered(manifest: &Manifest) -> Option<&'static str> {
    if !manifest.is_hashed() {
        return Some("was written with --no-hash: its signature does not cover its files");
    }
    let away = manifest.options.criu.lazy_pages || manifest.options.dump.page_server.is_some();
    away.then_some("has left its memory elsewhere, which its signature does not cover")
}

fn read(dir: &ImageDirectory, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match dir.file(name).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(&dir.path().join(name), &e)),
    }
}

fn refusal(path: &Path, why: impl Into<String>) -> Error {
    Error::File { path: path.into(), why: why.into() }
}
