//! The result of a verification, kept beside the files until one of them changes.
//!
//! `verified.json` is no part of the checkpoint: the manifest does not list it, and no restore reads it. It says which files it is about by
//! a hash over their names, sizes, inodes and times of change, so that a copy of the checkpoint counts as not verified, as does one whose
//! file was written to, or replaced by another of the same size and time of modification.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};
use std::time::SystemTime;

use hiber_criu::ImageDirectory;
use serde::{Deserialize, Serialize};

use super::manifest::{self, VERIFIED};
use crate::error::{Error, Result};
use crate::signature;

/// The version of the file.
const VERSION: u32 = 1;
/// The largest file that is read, in bytes.
const MAX: u64 = 1 << 20;
/// The problems that are kept; the first ones say enough.
const MAX_PROBLEMS: usize = 100;

/// When a checkpoint was compared with its manifest, and how that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Verified {
    /// When, in RFC 3339.
    pub time: String,
    /// The differences; empty if each file was as it was written.
    pub problems: Vec<String>,
}

impl Verified {
    /// A verification that has ended now.
    pub(crate) fn now(problems: &[String]) -> Self {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self { time, problems: problems.iter().take(MAX_PROBLEMS).cloned().collect() }
    }
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    files: String,
    #[serde(flatten)]
    verified: Verified,
}

/// The files of a checkpoint, short of their content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp(String);

impl Stamp {
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn of(dir: &ImageDirectory) -> Result<Self> {
        let own = [manifest::FILE_NAME, signature::FILE_NAME];
        let mut all = String::new();
        for name in
            dir.names()?.iter().filter(|name| manifest::is_listed(name) || own.contains(&name.as_str()))
        {
            let stat = dir.stat_of(name).map_err(|e| Error::file(&dir.path().join(name), &e))?;
            let (modified, changed) =
                ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec));
            let _ = writeln!(all, "{name:?} {} {} {modified:?} {changed:?}", stat.st_size, stat.st_ino);
        }
        Ok(Self(blake3::hash(all.as_bytes()).to_hex().to_string()))
    }
}

/// Keeps the result for files that have this stamp.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn keep(dir: &ImageDirectory, stamp: Stamp, verified: &Verified) -> Result<()> {
    let kept = Kept { version: VERSION, files: stamp.0, verified: verified.clone() };
    let json = serde_json::to_vec(&kept).map_err(|e| Error::internal("write down a verification", e))?;
    Ok(dir.write(VERIFIED, &json)?)
}

/// The last result, if the files are still those of it. A file that cannot be understood is none.
pub(crate) fn of(dir: &ImageDirectory) -> Result<Option<Verified>> {
    let path = dir.path().join(VERIFIED);
    let mut json = Vec::new();
    match dir.file(VERIFIED).and_then(|file| file.take(MAX).read_to_end(&mut json)) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(&path, &e)),
    }
    let Ok(kept) = serde_json::from_slice::<Kept>(&json) else { return Ok(None) };
    let current = kept.version == VERSION && kept.files == Stamp::of(dir)?.0;
    Ok(current.then_some(kept.verified))
}
