//! Reading archives, which come from elsewhere.
//!
//! Nothing is made but files with plain names in one directory, and no more of them than fits. Their content is for the checks of a
//! restore to judge.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use hiber_criu::ImageDirectory;
use tar::EntryType;

use super::layout::{CONFIG, DELETED, DIFF, Part, SHM, SPEC, part};
use crate::age::Identities;
use crate::checkpoint::manifest::{self, FileSum, Manifest};
use crate::checkpoint::signed;
use crate::error::{Error, Result};
use crate::signature::Demand;
use crate::tarball::{Entry, Tar, unreadable};

/// Bytes that are read at once.
const READ: usize = 256 << 10;
/// The largest config.json.
const MAX_SPEC: u64 = 16 << 20;
/// How much of an archive may be passed over, compressed well or not: changes of a root file system, for instance.
const MAX_PASSED: u64 = 64 << 30;
/// Files of an archive that are none of the images, and that somebody looks at.
const BESIDE: [&str; 5] = [SPEC, CONFIG, DIFF, DELETED, SHM];
/// The image that every checkpoint has.
const INVENTORY: &str = "inventory.img";

/// How much is taken out of an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of bytes.
    pub(crate) bytes: u64,
    /// Of files.
    pub(crate) files: u64,
    /// The reason of the limit of bytes, for messages.
    pub(crate) by: &'static str,
}

/// The parts of an archive beside images.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// None in those of other runtimes.
    pub(crate) manifest: Option<Manifest>,
    /// Its config.json.
    pub(crate) spec: Option<Vec<u8>>,
    /// Its config.dump.
    pub(crate) config: Option<Vec<u8>>,
    /// Files that a restore does not look at.
    pub(crate) passed: Vec<String>,
    /// Files of the container's own, by name, if they were to be taken. No directory has them.
    pub(crate) files: BTreeMap<&'static str, File>,
    /// Whether hiber has written the archive, and not only the images in it.
    pub(crate) ours: bool,
    /// Whether its config.json is left out because no signature covers it, and somebody wants one.
    pub(crate) unsigned: bool,
}

/// How an archive is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How<'a> {
    /// Its name for messages.
    pub(crate) shown: &'a Path,
    /// The keys, of which one opens it if it is encrypted.
    pub(crate) keys: &'a Identities,
    /// Whether its files must be what the manifest says.
    pub(crate) verify: bool,
    /// Those who want the checkpoint to be signed. Its files are compared with the manifest then.
    pub(crate) demands: &'a [Demand],
    /// Whether files of the container's own are taken as well.
    pub(crate) files: bool,
}

/// Puts the images of an archive into a directory, where none is yet.
///
/// # Errors
/// It is none, is truncated, goes beyond the limits, or has something that no archive of a checkpoint has. Files stay in the directory
/// then.
pub(crate) fn unpack(
    from: impl Read,
    how: &How<'_>,
    into: &ImageDirectory,
    limits: Limits,
) -> Result<Unpacked> {
    let How { shown, keys, verify, demands, files } = *how;
    let mut unpacking = Unpacking {
        shown,
        keys,
        into,
        limits,
        left: limits.bytes,
        passed: 0,
        files: 0,
        sums: BTreeMap::new(),
        unpacked: Unpacked {
            manifest: None,
            spec: None,
            config: None,
            passed: Vec::new(),
            files: BTreeMap::new(),
            ours: false,
            unsigned: false,
        },
        takes_files: files,
        buffer: vec![0; READ],
    };
    unpacking.run(from)?;
    let Unpacking { sums, mut unpacked, .. } = unpacking;
    let refuse = |why: String| Err(Error::File { path: shown.into(), why });
    if !into.has(INVENTORY) {
        return refuse(format!("holds no checkpoint: there is no checkpoint/{INVENTORY} in it"));
    }
    unpacked.manifest = Manifest::read_in(into)?;
    unpacked.ours = unpacked.manifest.as_ref().is_some_and(|manifest| !manifest.archive.is_empty());
    if let (Some(manifest), true) = (&unpacked.manifest, verify) {
        let (beside, images): (BTreeMap<_, _>, BTreeMap<_, _>) =
            sums.into_iter().partition(|(name, _)| BESIDE.contains(&&**name));
        if let Some(demand) = demands.first() {
            for name in beside.keys().filter(|name| !manifest.archive.contains_key(*name)) {
                match &**name {
                    // They describe the container, which the caller may know better.
                    SPEC => unpacked.unsigned |= unpacked.spec.take().is_some(),
                    CONFIG => unpacked.config = None,
                    _ => {
                        let why = format!("{name}: is not covered by a signature, which {} wants", demand.by);
                        return refuse(why);
                    }
                }
            }
        }
        let images = images.into_iter().filter(|(name, _)| manifest::is_listed(name)).collect();
        let problems = compare(manifest, &images).into_iter().map(|problem| format!("checkpoint/{problem}"));
        // podman describes an archive itself, after its runtime has written the manifest.
        let whole = Manifest { files: manifest.archive.clone(), ..manifest.clone() };
        let others = if unpacked.ours { compare(&whole, &beside) } else { Vec::new() };
        if let Some(problem) = problems.chain(others).next() {
            let way_out = if demands.is_empty() { "; --trust-images restores it nevertheless" } else { "" };
            return refuse(format!("{problem}{way_out}"));
        }
    }
    signed::check(into, shown, demands, verify)?;
    Ok(unpacked)
}

/// Differences from a manifest. No notes of the host's are packed, so that there is nothing but what is listed.
fn compare(manifest: &Manifest, found: &BTreeMap<String, FileSum>) -> Vec<String> {
    let mut problems = manifest.compare(found);
    let strange = found.keys().find(|name| !manifest.files.contains_key(*name));
    problems.extend(strange.map(|name| format!("{name}: is not of this checkpoint")));
    problems
}

struct Unpacking<'a> {
    shown: &'a Path,
    keys: &'a Identities,
    into: &'a ImageDirectory,
    limits: Limits,
    /// How many bytes may still come.
    left: u64,
    /// Bytes that were passed over, and files.
    passed: u64,
    files: u64,
    sums: BTreeMap<String, FileSum>,
    unpacked: Unpacked,
    takes_files: bool,
    buffer: Vec<u8>,
}

impl Unpacking<'_> {
    fn run(&mut self, from: impl Read) -> Result<()> {
        let shown = self.shown;
        let bad = |e: io::Error| unreadable(shown, &e);
        let mut tar = Tar::new(from, self.keys).map_err(bad)?;
        while let Some(entry) = tar.next().map_err(bad)? {
            self.files += 1;
            if self.files > self.limits.files {
                return self.refuse(
                    &entry.name,
                    &format!("is beyond the {} files that a checkpoint may have", self.limits.files),
                );
            }
            match entry.kind {
                EntryType::Regular | EntryType::Continuous => self.file(&mut tar, &entry, bad)?,
                // None is made.
                EntryType::Directory if entry.size == 0 => {}
                kind => return self.refuse(&entry.name, strange(kind)),
            }
        }
        tar.end().map_err(bad)
    }

    fn refuse<T>(&self, name: &str, why: &str) -> Result<T> {
        // Whatever a terminal would make of it.
        Err(Error::File { path: self.shown.into(), why: format!("{}: {why}", name.escape_debug()) })
    }

    fn file(&mut self, tar: &mut Tar<'_>, entry: &Entry, bad: impl Fn(io::Error) -> Error) -> Result<()> {
        let part = match part(&entry.name) {
            Ok(part) => part,
            Err(why) => return self.refuse(&entry.name, why),
        };
        match part {
            Part::Image(name) => self.image(tar, entry, name, bad),
            Part::Spec | Part::Config if entry.size > MAX_SPEC => {
                self.refuse(&entry.name, &format!("has {} bytes; expected {MAX_SPEC} at most", entry.size))
            }
            Part::Spec | Part::Config => {
                let mut json = Vec::new();
                tar.read_to_end(&mut json).map_err(&bad)?;
                let name = if part == Part::Spec { SPEC } else { CONFIG };
                self.sums.insert(name.to_owned(), FileSum::of(&*json).map_err(bad)?);
                let Unpacked { spec, config, .. } = &mut self.unpacked;
                match if part == Part::Spec { spec } else { config }.replace(json) {
                    Some(_) => self.refuse(&entry.name, "comes twice"),
                    None => Ok(()),
                }
            }
            Part::Files(name) if self.sums.contains_key(name) => self.refuse(&entry.name, "comes twice"),
            Part::Files(name) if self.takes_files => {
                self.image(tar, entry, name, bad)?;
                let fail = |e: io::Error| Error::file(&self.into.path().join(name), &e);
                let file = self.into.file(name).map_err(fail)?;
                self.into.remove(name).map_err(fail)?;
                self.unpacked.files.insert(name, file);
                Ok(())
            }
            Part::Files(name) => {
                self.pass(entry)?;
                let sum = FileSum::of(&mut *tar).map_err(bad)?;
                self.sums.insert(name.to_owned(), sum);
                Ok(())
            }
            Part::Other => self.pass(entry),
        }
    }

    fn pass(&mut self, entry: &Entry) -> Result<()> {
        self.passed = self.passed.saturating_add(entry.size);
        if self.passed > MAX_PASSED {
            return self
                .refuse(&entry.name, &format!("has {} bytes, too many to be passed over", entry.size));
        }
        self.unpacked.passed.push(entry.name.clone());
        Ok(())
    }

    fn image(
        &mut self,
        tar: &mut Tar<'_>,
        entry: &Entry,
        name: &str,
        bad: impl Fn(io::Error) -> Error,
    ) -> Result<()> {
        // The size is what the header says. Nothing is written of what cannot be right.
        if entry.size > self.left {
            let (bytes, by) = (self.limits.bytes, self.limits.by);
            let why = format!("has {} bytes, and all images together may have {bytes}: {by}", entry.size);
            return self.refuse(&entry.name, &why);
        }
        self.left -= entry.size;
        let fail = |e: io::Error| Error::file(&self.into.path().join(name), &e);
        let mut file: File = match self.into.create(name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return self.refuse(&entry.name, "comes twice");
            }
            made => made.map_err(fail)?,
        };
        let mut hasher = blake3::Hasher::new();
        loop {
            let read = tar.read(&mut self.buffer).map_err(&bad)?;
            if read == 0 {
                break;
            }
            hasher.update(&self.buffer[..read]);
            file.write_all(&self.buffer[..read]).map_err(fail)?;
        }
        self.sums.insert(name.to_owned(), FileSum::of_hashed(&hasher));
        Ok(())
    }
}

/// The kind of an entry that is none of a checkpoint's.
fn strange(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink => "is a symbolic link; expected a file or a directory",
        EntryType::Link => "is a hard link; expected a file or a directory",
        EntryType::Char | EntryType::Block => "is a device; expected a file or a directory",
        EntryType::Fifo => "is a FIFO; expected a file or a directory",
        EntryType::GNUSparse => "is a sparse file; expected a plain one",
        EntryType::Directory => "is a directory with content",
        _ => "is of no known kind; expected a file or a directory",
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
