//! A checkpoint out of an archive.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use hiber_criu::ImageDirectory;

use super::layout::{ConfigDump, DELETED, DIFF, SHM};
use super::oci::{self, OciImage};
use super::unpack::{How, Limits, Unpacked, unpack};
use crate::age::Identities;
use crate::checkpoint::RestoreContainerOptions;
use crate::checkpoint::restore_options::demands;
use crate::error::{Context, Error, Result};
use crate::host::in_memory::Room;
use crate::host::procfs;
use crate::runtime::Runtime;
use crate::signature::VerifyingKey;
use crate::state::scratch::Scratch;

/// Six files for each process, and one more for each thread: no machine that is checkpointed has so many.
pub(super) const MAX_FILES: u64 = 1 << 17;

/// Where an archive is read.
#[derive(Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A stream, as standard input.
    Stream(OwnedFd),
    /// An image in an OCI image layout.
    Oci(OciImage),
}

/// An archive that is read. Its content is good only after [`finish`](Self::finish).
pub(super) enum Opened {
    Plain(File),
    Image(Box<oci::Opened>),
}

impl Opened {
    /// Compares what was read with its digest, where there is one.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Image(image) => image.finish(),
        }
    }
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Image(image) => image.read(buffer),
        }
    }
}

impl Source {
    /// Its name for messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Stream(_) => Path::new("standard input"),
            Self::Oci(image) => &image.dir,
        }
    }

    pub(super) fn open(&self) -> Result<Opened> {
        let opened = match self {
            Self::File(path) => File::open(path),
            Self::Stream(fd) => fd.try_clone().map(File::from),
            Self::Oci(image) => return image.open().map(Box::new).map(Opened::Image),
        };
        opened.map(Opened::Plain).map_err(|e| Error::file(self.path(), &e))
    }
}

/// An archive to be read, and what opens it.
#[derive(Debug, Setters)]
#[non_exhaustive]
pub struct Import {
    /// Where it is.
    #[setters(skip)]
    pub from: Source,
    /// Keys, of which one opens it if it is encrypted.
    pub identities: Identities,
    /// Keys, of which one must have signed it; with none, nobody needs to, but for the host's policy.
    pub verify_keys: Vec<VerifyingKey>,
    /// Whether files may be others than its manifest says.
    pub trust: bool,
}

impl Import {
    /// One that is not encrypted, and as its manifest says.
    pub fn new(from: Source) -> Self {
        Self { from, identities: Identities::default(), verify_keys: Vec::new(), trust: false }
    }

    /// How it is read.
    pub(super) fn how(&self) -> How<'_> {
        How {
            shown: self.from.path(),
            keys: &self.identities,
            verify: !self.trust,
            demands: &[],
            files: true,
        }
    }
}

/// A checkpoint that came out of an archive, in memory until this is dropped.
#[derive(Debug)]
pub struct Imported {
    scratch: Scratch,
    archive: PathBuf,
    unpacked: Unpacked,
    verify_keys: Vec<VerifyingKey>,
    /// Whether its files were compared with its manifest.
    compared: bool,
}

impl Runtime {
    /// Unpacks the archive of a checkpoint, of hiber or podman, into memory. It may be half as large as the memory that is available:
    /// the container needs as much again. All that is in it is checked, and its files are compared with its manifest unless they are
    /// trusted; what the images ask for is for a restore to judge.
    ///
    /// # Errors
    /// It is no archive of a checkpoint, has something that none has, or does not fit. Nothing is left of it then.
    pub fn unpack(&self, import: &Import) -> Result<Imported> {
        let available = procfs::available_memory().unwrap_or(u64::MAX);
        let bytes = available / 2;
        let limits = Limits { bytes, files: MAX_FILES, by: "half of the memory that is available" };
        let demands = demands(&import.verify_keys)?;
        let (from, mut reader) = (&import.from, import.from.open().context("open the archive")?);
        let compared = !import.trust || !demands.is_empty();
        let how = How { verify: compared, demands: &demands, ..import.how() };
        // Files fill whole pages.
        let room = Room { bytes: Some(available), files: Some(MAX_FILES + 16) };
        let scratch = Scratch::new(&self.store, room)?;
        let images = ImageDirectory::open(&scratch.images())?;
        let unpacked = unpack(&mut reader, &how, &images, limits).context("import the checkpoint")?;
        reader.finish().context("import the checkpoint")?;
        tracing::debug!("of {} a restore does not look at {:?}", from.path().display(), unpacked.passed);
        let (archive, verify_keys) = (from.path().to_owned(), import.verify_keys.clone());
        Ok(Imported { scratch, archive, unpacked, verify_keys, compared })
    }
}

impl Imported {
    pub(super) fn archive(&self) -> &Path {
        &self.archive
    }

    /// Its config.json.
    pub(super) fn spec(&self) -> Option<&[u8]> {
        self.unpacked.spec.as_deref()
    }

    /// Why it has none, if it has none.
    pub(super) fn no_spec(&self) -> &'static str {
        if self.unpacked.unsigned { "no spec.dump that a signature covers" } else { "no spec.dump" }
    }

    /// The image that its root file system was made from, as the engine has called it.
    pub(super) fn image(&self) -> ConfigDump {
        let json = self.unpacked.config.as_deref().unwrap_or_default();
        serde_json::from_slice(json).unwrap_or_default()
    }

    /// Added and changed files of the root file system, and the list of removed ones.
    pub(super) fn root_changes(&self) -> (Option<&File>, Option<&File>) {
        (self.unpacked.files.get(DIFF), self.unpacked.files.get(DELETED))
    }

    /// Whether the container has changed its root file system, as the archive says.
    pub fn has_root_changes(&self) -> bool {
        let (diff, deleted) = self.root_changes();
        diff.is_some() || deleted.is_some()
    }

    /// The content of /dev/shm, where that was outside of the container.
    pub(super) fn shm(&self) -> Option<&File> {
        self.unpacked.files.get(SHM)
    }

    /// Whether hiber has written the archive, and not only the images in it.
    pub(super) fn is_ours(&self) -> bool {
        self.unpacked.ours
    }

    /// The images are where a restore with these options looks.
    pub fn choose(&self, options: &mut RestoreContainerOptions<'_>) {
        options.criu.image_path = self.scratch.images();
        options.archive = Some(self.archive.clone());
        for key in &self.verify_keys {
            if !options.verify_keys.contains(key) {
                options.verify_keys.push(key.clone());
            }
        }
        options.compared = self.compared;
    }
}
