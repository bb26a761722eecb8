//! `hiber.json`: what a checkpoint is, where and how it was made, and what its files must be.
//!
//! It is written into the directory before that is published, so a published checkpoint always has it. Checkpoints of
//! other runtimes have none, and are restored by flags alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::SystemTime;

use hiber_criu::{ImageDirectory, descriptors};
use oci_spec::runtime::Spec;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::image_hasher::Heads;
use super::kept;
use super::options::{CheckpointOptions, CriuOptions, DumpChoices};
use crate::error::{Error, Result};
use crate::helpers::lazy::{self, Token};
use crate::signature;

/// The file's name in a checkpoint's directory.
pub const FILE_NAME: &str = "hiber.json";
/// The file beside the images that says what the last verification has found.
pub(crate) const VERIFIED: &str = "verified.json";
/// The version of [`Manifest`] that this code writes.
const VERSION: u32 = 1;
/// The largest file that is read: one line for each image of some hundred thousand processes.
const MAX_SIZE: u64 = 64 << 20;
/// Files of ours that a restore reads beside the images.
const READ: [&str; 2] = [kept::FILE_NAME, descriptors::FILE_NAME];
/// The prefix of each digest.
const BLAKE3: &str = "blake3:";

/// A checkpoint's manifest; its JSON has these names in camelCase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Manifest {
    /// Format of this file; readers refuse what they do not know.
    pub version: u32,
    /// A whole container or its memory alone.
    pub kind: Kind,
    /// The container's id.
    pub container: String,
    /// When the dump began, in RFC 3339.
    pub created: String,
    /// CRIU's version, as in `4.2`.
    pub criu: String,
    /// The kernel's release (uname(2)).
    pub kernel: String,
    /// The processor that the tasks ran on.
    pub cpu: Cpu,
    /// The options of the dump.
    pub options: Options,
    /// Whether it was restored on trial before it was published.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proved: bool,
    /// The accepted losses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted: Vec<AcceptedLoss>,
    /// The token that a destination shows to get the memory, if the memory is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_token: Option<Token>,
    /// Digest of the container's config.json: of its JSON without spaces, keys and capabilities sorted.
    pub config: String,
    /// The files by name, without logs and statistics, which CRIU goes on to write when the rest is whole.
    pub files: BTreeMap<String, FileSum>,
    /// Files of the archive that this is in, outside of the directory with the images; none in a directory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub archive: BTreeMap<String, FileSum>,
}

/// A loss that a checkpoint was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AcceptedLoss {
    /// The [`Check`](crate::preflight::Check)'s name.
    pub check: String,
    /// The part that is not in the checkpoint.
    pub what: String,
}

/// The description of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A container, to be restored.
    Dump,
    /// Memory, for a later dump to build on.
    PreDump,
}

/// A processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cpu {
    /// As uname(2) calls it: `x86_64`.
    pub architecture: String,
    /// The flags of /proc/cpuinfo, sorted.
    pub features: Vec<String>,
}

/// The options of a dump that matter later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Options {
    /// The options that a restore shares.
    #[serde(flatten)]
    pub criu: CriuOptions,
    /// The options of the dump alone.
    #[serde(flatten)]
    pub dump: DumpChoices,
    /// The network namespace had its loopback device, up, and nothing else: it is made anew.
    pub loopback: bool,
}

impl Options {
    /// Those of a dump with `chosen`, as far as they are known before the container is looked at.
    pub(crate) fn new(chosen: &CheckpointOptions) -> Self {
        Self { criu: chosen.criu.clone(), dump: chosen.dump.clone(), loopback: false }
    }
}

/// The expected size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileSum {
    /// In bytes.
    pub size: u64,
    /// BLAKE3 of its content in hexadecimal; absent with `--no-hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

impl Manifest {
    /// A manifest of a checkpoint that is yet to be written, by a CRIU that is yet to tell its version: it has neither files nor that.
    pub(crate) fn new(container: &str, spec: &Spec, options: &CheckpointOptions) -> Result<Self> {
        let kind = if options.pre_dump { Kind::PreDump } else { Kind::Dump };
        let options = Options::new(options);
        let system = rustix::system::uname();
        Ok(Self {
            version: VERSION,
            kind,
            container: container.to_owned(),
            created: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            criu: String::new(),
            kernel: system.release().to_string_lossy().into_owned(),
            cpu: Cpu::here(),
            options,
            proved: false,
            accepted: Vec::new(),
            memory_token: None,
            config: config_digest(spec)?,
            files: BTreeMap::new(),
            archive: BTreeMap::new(),
        })
    }

    /// Lists the files of `dir`, with their hashes if `hash`, and writes the manifest there. Files of which `heads` has
    /// the beginning are read from there on. Files that are `away` belong to the checkpoint, but are elsewhere.
    pub(crate) fn write(
        &mut self,
        dir: &ImageDirectory,
        hash: bool,
        heads: Heads,
        away: BTreeMap<String, FileSum>,
    ) -> Result<()> {
        self.files = sums_from(dir, if hash { Hashed::All } else { Hashed::None }, heads)?;
        self.files.extend(away);
        self.write_in(dir)
    }

    /// Writes it, as it is, into the directory of its checkpoint.
    pub(crate) fn write_in(&self, dir: &ImageDirectory) -> Result<()> {
        Ok(dir.write(FILE_NAME, &self.to_json()?)?)
    }

    /// Its content.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        let mut json =
            serde_json::to_vec_pretty(self).map_err(|e| Error::internal("encode hiber.json", e))?;
        json.push(b'\n');
        Ok(json)
    }

    /// The manifest of the checkpoint in `dir`; none if it has none, being another runtime's.
    ///
    /// # Errors
    /// If it cannot be read, is malformed, or of a version that this code does not know.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        Self::read_in(&ImageDirectory::open(dir)?)
    }

    /// As [`read`](Self::read), of a directory that is open.
    pub(crate) fn read_in(dir: &ImageDirectory) -> Result<Option<Self>> {
        let path = dir.path().join(FILE_NAME);
        let mut json = Vec::new();
        match dir.file(FILE_NAME).and_then(|file| file.take(MAX_SIZE).read_to_end(&mut json)) {
            Ok(_) => Self::parse(&json, &path).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file(&path, &e)),
        }
    }

    /// The manifest in `json`, which was read from `path`.
    pub(crate) fn parse(json: &[u8], path: &Path) -> Result<Self> {
        let bad = |why: String| Error::File { path: path.into(), why };
        /// The member that every version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } =
            serde_json::from_slice(json).map_err(|e| bad(format!("is no manifest: {e}")))?;
        if version != VERSION {
            return Err(bad(format!("has format version {version}; this program knows {VERSION}")));
        }
        serde_json::from_slice(json).map_err(|e| bad(format!("is malformed: {e}")))
    }

    /// Compares the files `found` beside the manifest with it. Reports missing files, other sizes or hashes, and files that a restore
    /// reads and the manifest does not name. Hashes are compared where both sides have one.
    pub fn compare(&self, found: &BTreeMap<String, FileSum>) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, expected) in &self.files {
            match found.get(name) {
                None => problems.push(format!("{name}: is missing")),
                Some(is) if is.size != expected.size => {
                    problems.push(format!("{name}: has {} bytes, expected {}", is.size, expected.size));
                }
                Some(FileSum { blake3: Some(is), .. })
                    if expected.blake3.as_ref().is_some_and(|expected| expected != is) =>
                {
                    problems.push(format!("{name}: its content is not what was written"));
                }
                Some(_) => {}
            }
        }
        // A page server puts memory beside what was written here.
        let sent = |name: &str| {
            self.options.dump.page_server.is_some()
                && (name.starts_with("pages-") || name.starts_with("pagemap-"))
        };
        let read = |name: &str| name.ends_with(".img") || READ.contains(&name);
        let listed = |name: &str| self.files.contains_key(name) || !read(name) || sent(name);
        let strange = found.keys().filter(|name| !listed(name));
        problems.extend(strange.map(|name| format!("{name}: is not of this checkpoint")));
        problems
    }

    /// Whether every file has a hash, so that [`compare`](Self::compare) sees each change.
    pub fn is_hashed(&self) -> bool {
        self.files.values().all(|file| file.blake3.is_some())
    }
}

impl Cpu {
    /// This machine's.
    pub(crate) fn here() -> Self {
        let architecture = rustix::system::uname().machine().to_string_lossy().into_owned();
        let cpuinfo = hiber_sys::file::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self { architecture, features: cpu_features(&cpuinfo) }
    }
}

/// The digest of a configuration, whatever the order and layout of its text.
pub(crate) fn config_digest(spec: &Spec) -> Result<String> {
    let bad = |e| Error::internal("encode config.json", e);
    // serde_json's objects are sorted by key; sets come in any order.
    let mut value = serde_json::to_value(spec).map_err(bad)?;
    let sets = value.pointer_mut("/process/capabilities").and_then(serde_json::Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(serde_json::Value::as_array_mut)
    {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    let text = serde_json::to_vec(&value).map_err(bad)?;
    Ok(format!("{BLAKE3}{}", blake3::hash(&text)))
}

fn cpu_features(cpuinfo: &str) -> Vec<String> {
    // "flags" on x86, "Features" on ARM; one processor is like the other.
    let line = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then_some(value)
    });
    let mut features: Vec<_> = line.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    features.sort_unstable();
    features
}

/// Whether a manifest names a file: logs and statistics change after it was written, and it cannot hash itself. The order in which
/// memory comes and the result of a verification are noted later.
pub(crate) fn is_listed(name: &str) -> bool {
    name != FILE_NAME
        && name != signature::FILE_NAME
        && name != lazy::WORKING_SET
        && name != VERIFIED
        && !name.ends_with(".log")
        && !name.starts_with("stats-")
}

/// Which files are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashed {
    None,
    /// The files that describe a checkpoint, without its memory, which is long.
    AllButPages,
    All,
}

impl Hashed {
    fn has(self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::AllButPages => !name.starts_with("pages-"),
            Self::All => true,
        }
    }
}

/// The files of a checkpoint's directory, some with their hashes.
pub(crate) fn sums(dir: &ImageDirectory, hash: Hashed) -> Result<BTreeMap<String, FileSum>> {
    sums_from(dir, hash, Heads::default())
}

fn sums_from(dir: &ImageDirectory, hash: Hashed, mut heads: Heads) -> Result<BTreeMap<String, FileSum>> {
    let mut files = BTreeMap::new();
    for name in dir.names()? {
        let fail = |e: std::io::Error| Error::file(&dir.path().join(&name), &e);
        let stat = dir.stat_of(&name).map_err(fail)?;
        // The link to a parent checkpoint is no file of this one.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_listed(&name) {
            continue;
        }
        let size = stat.st_size.cast_unsigned();
        let sum = if !hash.has(&name) {
            FileSum { size, blake3: None }
        } else if let Some(hash) = heads.whole(&name, size) {
            FileSum::new(size, hash)
        } else {
            dir.file(&name).and_then(|file| hashed(file, &name, &mut heads)).map_err(fail)?
        };
        files.insert(name, sum);
    }
    Ok(files)
}

fn hashed(mut file: File, name: &str, heads: &mut Heads) -> std::io::Result<FileSum> {
    FileSum::go_on(heads.of(name, &mut file)?, file)
}

impl FileSum {
    /// Size and hash of all that a reader gives.
    pub(crate) fn of(reader: impl Read) -> std::io::Result<Self> {
        Self::go_on(blake3::Hasher::new(), reader)
    }

    /// Of what a hasher has read already, and of the rest.
    fn go_on(mut hasher: blake3::Hasher, rest: impl Read) -> std::io::Result<Self> {
        hasher.update_reader(rest)?;
        Ok(Self::of_hashed(&hasher))
    }

    /// Of all that a hasher has read.
    pub(crate) fn of_hashed(hasher: &blake3::Hasher) -> Self {
        Self::new(hasher.count(), hasher.finalize())
    }

    fn new(size: u64, hash: blake3::Hash) -> Self {
        Self { size, blake3: Some(hash.to_hex().to_string()) }
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
