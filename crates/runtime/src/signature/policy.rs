//! The host's word on checkpoints: a file that says whose signature each must have. A file that is not understood refuses all.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use toml::Spanned;

use super::keys::{EXPECTED_PUBLIC, MAX_FILE, VerifyingKey};
use super::{Demand, SigningKey};
use crate::error::{Context, Error, Result};
use crate::{host::owned, key_file};

/// The file, which is no error where it is missing.
const FILE: &str = "/etc/hiber/trust.toml";
/// The environment variable that names another file, which must be there.
const ENV_VAR: &str = "HIBER_TRUST";
/// The largest file.
const MAX_POLICY: u64 = 1 << 20;
const EXPECTED: &str = "expected require-signature = true or false, and keys = [\"...\", ...]";

/// The content of the file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Policy {
    /// Whether a checkpoint that none of the keys has signed is refused. Nobody needs to guess.
    require_signature: Option<Spanned<bool>>,
    /// Public keys, or paths of files with one.
    #[serde(default)]
    keys: Vec<Spanned<String>>,
}

/// The host's demand of each checkpoint that is restored or imported, if it has one.
///
/// # Errors
/// The policy cannot be read, is not understood, or could have been written by others.
pub(crate) fn demand() -> Result<Option<Demand>> {
    named(env::var_os(ENV_VAR).map(PathBuf::from))
}

/// Why this host would not restore a checkpoint that this key signs, if it would not.
pub(crate) fn objection(signer: Option<&SigningKey>) -> Option<String> {
    let demand = match demand() {
        Ok(demand) => demand?,
        Err(e) => return Some(crate::error::chain(&e)),
    };
    let by = &demand.by;
    match signer {
        None => Some(format!("it is not signed, and {by} wants a signature")),
        Some(signer) if demand.keys.contains(&signer.public()) => None,
        Some(_) => Some(format!("the key of --sign-key is none of those in {by}")),
    }
}

/// The demand of the file that the environment names, or of the host's.
fn named(path: Option<PathBuf>) -> Result<Option<Demand>> {
    of_file(path).context("read the policy that says whom to trust")
}

fn of_file(path: Option<PathBuf>) -> Result<Option<Demand>> {
    let Some(path) = path else {
        return open(Path::new(FILE))?.map_or(Ok(None), |file| read(file, Path::new(FILE)));
    };
    if !path.is_absolute() {
        let why = format!("{ENV_VAR}={}: expected the absolute path of a file", path.display());
        return Err(Error::Invalid(why));
    }
    let missing = || Error::File { path: path.clone(), why: format!("is missing, and {ENV_VAR} names it") };
    read(open(&path)?.ok_or_else(missing)?, &path)
}

/// A file that nobody but root and the caller can have written, if there is one of that name.
fn open(path: &Path) -> Result<Option<File>> {
    let fail = |e: Errno| Error::file(path, &e.into());
    let (Some(place), Some(name)) = (path.parent(), path.file_name()) else { return Err(fail(Errno::ISDIR)) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(place, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(|e| Error::file(place, &e.into()))?,
    };
    // Others who could remove it from there would decide, too.
    owned::check_place(&dir, place)?;
    // No FIFO makes anybody wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => File::from(opened.map_err(fail)?),
    };
    owned::check_owner(&file, path)?;
    Ok(Some(file))
}

fn read(file: File, path: &Path) -> Result<Option<Demand>> {
    let text = key_file::text(file, path, MAX_POLICY, "a policy of trust")?;
    let keys = parse(&text).map_err(|why| Error::File { path: path.into(), why })?;
    Ok(keys.map(|keys| Demand { by: path.display().to_string(), keys }))
}

/// The keys of which one must have signed; none if nobody needs to.
fn parse(text: &str) -> Result<Option<Vec<VerifyingKey>>, String> {
    let at = |offset: usize, why: &str| {
        let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        format!("line {line}: {why}")
    };
    let policy: Policy = toml::from_str(text).map_err(|e| {
        let why = e.message().lines().map(str::trim).collect::<Vec<_>>().join(", ");
        let why = format!("{why}; {EXPECTED}");
        e.span().map_or(why.clone(), |span| at(span.start, &why))
    })?;
    let required = policy.require_signature.ok_or(format!("require-signature is missing; {EXPECTED}"))?;
    if !required.get_ref() {
        return Ok(None);
    }
    if policy.keys.is_empty() {
        let why = "a signature is required, and there is no key in keys; expected one at least, as \
                   keys = [\"/etc/hiber/ops.pub\"]";
        return Err(at(required.span().start, why));
    }
    let key = |given: &Spanned<String>| {
        key(given.get_ref()).map_err(|why| at(given.span().start, &format!("keys: {why}")))
    };
    policy.keys.iter().map(key).collect::<Result<_, _>>().map(Some)
}

/// The key that is meant by a path, or is there.
fn key(given: &str) -> Result<VerifyingKey, String> {
    let path = Path::new(given);
    if !path.is_absolute() {
        let shown = || given.lines().next().unwrap_or_default().escape_debug().to_string();
        return VerifyingKey::of_text(given)
            .map_err(|why| format!("{:?} {why}, or the absolute path of a file with one", shown()));
    }
    let read = || -> Result<VerifyingKey> {
        let missing = || Error::File { path: path.into(), why: format!("is missing; {EXPECTED_PUBLIC}") };
        let text = key_file::text(open(path)?.ok_or_else(missing)?, path, MAX_FILE, "a key")?;
        VerifyingKey::of_text(&text).map_err(|why| Error::File { path: path.into(), why })
    };
    read().map_err(|e| e.to_string())
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
