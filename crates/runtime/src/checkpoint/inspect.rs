//! Looking into a checkpoint: hiber's, runc's or crun's directory, or podman's archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hiber_criu::inspect::Contents;
use hiber_criu::{ImageDirectory, Images};
use serde::Serialize;

use crate::checkpoint::manifest::{self, FileSum, Hashed, Manifest};
use crate::checkpoint::{reading, signed};
use crate::error::{Error, Result};
use crate::signature::{self, Demand};

#[cfg(feature = "archive")]
use crate::age::Identities;

/// Keys for archives, which this program cannot read.
#[cfg(not(feature = "archive"))]
#[derive(Default)]
pub(crate) struct Identities;

/// A checkpoint, described.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Inspection {
    /// The directory or archive.
    pub path: PathBuf,
    /// Size of all its files but logs and statistics, in bytes.
    pub size: u64,
    /// How many files that are.
    pub files: usize,
    /// Absent in checkpoints of other runtimes.
    pub manifest: Option<Manifest>,
    /// Podman's description of the container in its archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub podman: Option<serde_json::Value>,
    /// The contents of the images.
    #[serde(flatten)]
    pub contents: Contents,
}

/// The result of comparing a checkpoint with its manifest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Verification {
    /// The directory or archive.
    pub path: PathBuf,
    /// How many files the manifest names.
    pub files: usize,
    /// Their size in bytes.
    pub size: u64,
    /// The differences; empty if each file is as it was written.
    pub problems: Vec<String>,
}

/// The use that is made of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Its images are read.
    Description,
    /// Its files are hashed.
    Comparison,
}

/// A checkpoint's directory, or what is kept of its archive.
pub(crate) struct Found {
    images: Option<Images>,
    manifest: Option<Manifest>,
    podman: Option<serde_json::Value>,
    sums: BTreeMap<String, FileSum>,
    /// The bytes of the manifest, and its signature.
    signed: signed::Parts,
}

/// Describes the checkpoint at `path`, a directory or an archive that is not encrypted.
///
/// # Errors
/// If there is none, or if its images are truncated or malformed.
pub fn inspect(path: &Path) -> Result<Inspection> {
    Found::at(path, &Identities::default(), For::Description)?.described(path)
}

/// Compares the checkpoint at `path`, a directory or an archive that is not encrypted, with its manifest, hashes included.
///
/// # Errors
/// If there is no manifest, or one without hashes.
pub fn verify(path: &Path) -> Result<Verification> {
    Found::at(path, &Identities::default(), For::Comparison)?.compared(path, None)
}

/// As [`verify`], of a directory that is open.
///
/// # Errors
/// Those of [`verify`].
pub(crate) fn verify_in(dir: &ImageDirectory) -> Result<Verification> {
    Found::in_directory(dir, For::Comparison)?.compared(dir.path(), None)
}

impl Found {
    pub(crate) fn described(self, shown: &Path) -> Result<Inspection> {
        let images = self.images.ok_or_else(|| none(shown))?;
        Ok(Inspection {
            path: shown.into(),
            size: self.sums.values().map(|file| file.size).sum(),
            files: self.sums.len(),
            // The output may reach other people than the container's owner.
            manifest: self.manifest.map(|manifest| Manifest { memory_token: None, ..manifest }),
            podman: self.podman,
            contents: Contents::read(&images)?,
        })
    }

    /// `demand` is of somebody who wants it to be signed, too.
    pub(crate) fn compared(self, shown: &Path, demand: Option<&Demand>) -> Result<Verification> {
        let refuse = |why: &str| Err(Error::File { path: shown.into(), why: why.into() });
        let Some(manifest) = self.manifest else {
            return refuse("has no hiber.json to be verified by: it was not written by hiber");
        };
        if !manifest.is_hashed() {
            return refuse("cannot be verified: it was written with --no-hash");
        }
        let mut problems = manifest.compare(&self.sums);
        if let Some(demand) = demand {
            let (json, signature) = self.signed;
            let verdict = demand.check(&json.unwrap_or_default(), signature.as_deref());
            problems.extend(verdict.err().map(|why| format!("hiber.json: {why}")));
            problems.extend(signed::uncovered(&manifest).map(|why| format!("hiber.json: {why}")));
            problems.extend(
                signed::strange(&manifest, &self.sums)
                    .map(|name| format!("{name}: is not of this checkpoint")),
            );
        }
        let size = manifest.files.values().fold(0, |sum: u64, file| sum.saturating_add(file.size));
        Ok(Verification { path: shown.into(), files: manifest.files.len(), size, problems })
    }

    /// The one at `path`.
    pub(crate) fn at(path: &Path, keys: &Identities, aim: For) -> Result<Self> {
        let meta = std::fs::metadata(path).map_err(|e| Error::file(path, &e))?;
        if meta.is_dir() {
            return Self::in_directory(&ImageDirectory::open(path)?, aim);
        }
        if !meta.is_file() {
            let why = "is neither a directory nor an archive".into();
            return Err(Error::File { path: path.into(), why });
        }
        archived(path, keys, aim)
    }

    fn in_directory(dir: &ImageDirectory, aim: For) -> Result<Self> {
        reading::begin(dir);
        let hashed = if aim == For::Comparison { Hashed::All } else { Hashed::None };
        Ok(Self {
            images: (aim == For::Description).then(|| Images::in_directory(dir)).transpose()?,
            manifest: Manifest::read_in(dir)?,
            podman: None,
            signed: signed::parts(dir)?,
            sums: manifest::sums(dir, hashed)?,
        })
    }
}

fn none(path: &Path) -> Error {
    Error::File { path: path.into(), why: "holds no checkpoint: there is no inventory.img in it".into() }
}

#[cfg(not(feature = "archive"))]
fn archived(path: &Path, _keys: &Identities, _aim: For) -> Result<Found> {
    let why = "is not a directory, and this program was built without support for archives".into();
    Err(Error::File { path: path.into(), why })
}

#[cfg(feature = "archive")]
fn archived(path: &Path, keys: &Identities, aim: For) -> Result<Found> {
    let file = std::fs::File::open(path).map_err(|e| Error::file(path, &e))?;
    Found::in_archive(file, path, keys, aim)
}

#[cfg(feature = "archive")]
impl Found {
    /// The one in an archive, whose name for messages is `shown`.
    pub(crate) fn in_archive(
        from: impl std::io::Read,
        shown: &Path,
        keys: &Identities,
        aim: For,
    ) -> Result<Self> {
        let archive = crate::checkpoint::archive::Archive::read(from, shown, keys, aim == For::Comparison)?;
        // The checkpoint is the directory of the inventory; podman calls it "checkpoint".
        let inventories = archive.kept.keys().filter_map(|name| name.strip_suffix("inventory.img"));
        let whole = inventories.filter(|dir| dir.is_empty() || dir.ends_with('/'));
        let dir = whole.min_by_key(|dir| dir.len()).ok_or_else(|| none(shown))?.to_owned();
        let inside =
            |name: &str| name.strip_prefix(&dir).filter(|rest| !rest.contains('/')).map(str::to_owned);
        let mut files: BTreeMap<_, _> =
            archive.kept.iter().filter_map(|(name, bytes)| Some((inside(name)?, bytes.clone()))).collect();
        // podman has the statistics one level up.
        let (statistics, outer) =
            ("stats-dump", dir.trim_end_matches('/').rsplit_once('/').map_or("", |(outer, _)| outer));
        let at_top =
            |name: &str| archive.kept.get(name).or_else(|| archive.kept.get(&format!("{outer}/{name}")));
        if let (false, Some(bytes)) = (files.contains_key(statistics), at_top(statistics)) {
            files.insert(statistics.to_owned(), bytes.clone());
        }
        let part = |name: &str| files.get(name).map(|bytes| bytes.to_vec());
        let signed = (part(manifest::FILE_NAME), part(signature::FILE_NAME));
        let manifest = files
            .get(manifest::FILE_NAME)
            .map(|json| Manifest::parse(json, &shown.join(manifest::FILE_NAME)));
        let mut manifest = manifest.transpose()?;
        let sums = archive.sums.iter().filter_map(|(name, sum)| Some((inside(name)?, sum.clone())));
        let mut sums: BTreeMap<_, _> = sums.filter(|(name, _)| manifest::is_listed(name)).collect();
        // Files of the archive are one level up, too, where none passes for an image. Its descriptions are used if they are listed.
        let level = if outer.is_empty() { String::new() } else { format!("{outer}/") };
        let compared = !dir.is_empty() && aim == For::Comparison;
        for (path, sum) in archive.sums.iter().filter(|_| compared) {
            if let Some(name) = path.strip_prefix(&*level)
                && manifest::is_listed(name)
                && !name.contains('/')
                && !["spec.dump", "config.dump"].contains(&name)
            {
                sums.entry(name.to_owned()).or_insert_with(|| sum.clone());
            }
        }
        let of_archive = manifest.as_ref().map(|manifest| manifest.archive.clone()).unwrap_or_default();
        for (name, expected) in of_archive {
            let sum = archive.sums.get(&name).or_else(|| archive.sums.get(&format!("{outer}/{name}")));
            sum.and_then(|sum| sums.insert(name.clone(), sum.clone()));
            manifest.as_mut().and_then(|manifest| manifest.files.insert(name, expected));
        }
        Ok(Self {
            signed,
            manifest,
            podman: at_top("config.dump").and_then(|json| serde_json::from_slice(json).ok()),
            sums,
            images: (aim == For::Description).then(|| Images::from_memory(shown, files)).transpose()?,
        })
    }
}

#[cfg(all(test, feature = "archive"))]
#[path = "inspect_tests.rs"]
mod tests;
