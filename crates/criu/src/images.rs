//! Image files: what a checkpoint holds.
//!
//! A file starts with one or two magic numbers; entries follow, each a little-endian u32 length and a
//! protobuf message. Checkpoints come from elsewhere, so that nothing in them is trusted: an entry's
//! length is compared with what is left of its file before anything is allocated.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criu_proto::Message;
use criu_proto::MessageField;
use criu_proto::images::inventory::InventoryEntry;
use criu_proto::images::pstree::PstreeEntry;
use criu_proto::images::stats::{DumpStatsEntry, StatsEntry};
use serde::Serialize;

use crate::directory::ImageDirectory;
#[cfg(doc)]
use crate::error::CriuError;
use crate::error::{Result, bad};
use crate::image_file::{ImageFile, encode};

/// Second magic of image files proper, after the common one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magic(pub(crate) u32);

impl Magic {
    /// pstree.img
    pub const PSTREE: Self = Self(0x5027_3030);
    /// core-PID.img
    pub const CORE: Self = Self(0x5505_3847);
    /// mm-PID.img
    pub const MM: Self = Self(0x5749_2820);
    /// pagemap-PID.img and pagemap-shmem-ID.img
    pub const PAGEMAP: Self = Self(0x5608_4025);
    /// files.img
    pub const FILES: Self = Self(0x5630_3138);
    /// filelocks.img
    pub const FILE_LOCKS: Self = Self(0x5443_3636);
    /// fdinfo-ID.img
    pub const FDINFO: Self = Self(0x5621_3732);
    /// mountpoints-ID.img
    pub const MNTS: Self = Self(0x5556_3928);
    /// cgroup.img
    pub const CGROUP: Self = Self(0x5938_3330);
    /// seccomp.img
    pub const SECCOMP: Self = Self(0x6441_3049);
    /// userns-ID.img
    pub const USERNS: Self = Self(0x5547_4906);
    /// netns-ID.img
    pub const NETNS: Self = Self(0x5593_3752);
    /// netdev-ID.img
    pub const NETDEV: Self = Self(0x5737_3951);
    /// pidns-ID.img
    pub const PIDNS: Self = Self(0x6115_7326);
    /// ids-PID.img
    pub const IDS: Self = Self(0x5443_2030);
    /// fs-PID.img
    pub(crate) const FS: Self = Self(0x5140_3912);
    /// remap-fpath.img
    pub(crate) const REMAP_FPATH: Self = Self(0x5913_3954);
    /// memfd.img
    pub(crate) const MEMFD: Self = Self(0x4845_3499);
    /// tty-info.img
    pub const TTY_INFO: Self = Self(0x5945_3036);
}

/// First magic of every image but the inventory, since version 2.
pub(crate) const COMMON: u32 = 0x5456_4319;
/// First magic of statistics.
const SERVICE: u32 = 0x5510_5940;
pub(crate) const INVENTORY_FILE: &str = "inventory.img";
pub(crate) const INVENTORY: u32 = 0x5831_3116;
const STATS: u32 = 0x5709_3306;

/// The dump's statistics.
const DUMP_STATS: &str = "stats-dump";

/// The inventory's versions: 1 has no common magic, 2 has.
const VERSION_1: u32 = 1;
pub(crate) const VERSION_2: u32 = 2;

/// In an image's scheduling policy: children have the ordinary one (linux/sched.h, SCHED_RESET_ON_FORK).
pub const RESET_ON_FORK: u32 = 0x4000_0000;

/// Names and contents of files.
pub type ChangedFiles = Vec<(String, Vec<u8>)>;

/// A checkpoint's images, with a sound inventory.
#[derive(Debug)]
pub struct Images {
    source: Source,
    /// Files that are read instead of the source's.
    changed: BTreeMap<String, Arc<[u8]>>,
    inventory: InventoryEntry,
}

/// Where images are.
#[derive(Debug)]
enum Source {
    Dir(ImageDirectory),
    /// Out of an archive, whose path is for messages.
    Memory(PathBuf, BTreeMap<String, Arc<[u8]>>),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Dir(dir) => dir.path(),
            Self::Memory(path, _) => path,
        }
    }

    fn open(&self, name: &str) -> Result<ImageFile> {
        match self {
            Self::Dir(dir) => ImageFile::open(dir, name),
            Self::Memory(path, files) => match files.get(name) {
                Some(bytes) => ImageFile::from_bytes(&path.join(name), Arc::clone(bytes)),
                None => Err(bad(&path.join(name), "missing")),
            },
        }
    }
}

/// A task of the checkpoint; numbers are those in its pid namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its process number.
    pub pid: u32,
    /// Its parent's; 0 for the first one.
    pub ppid: u32,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// Its threads, itself included; of a zombie one number that means nothing.
    pub threads: Vec<u32>,
}

/// How long a dump took and what it wrote (stats-dump).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DumpStats {
    /// Until all tasks were frozen.
    #[serde(serialize_with = "as_micros")]
    pub freezing_time: Duration,
    /// For how long they were.
    #[serde(serialize_with = "as_micros")]
    pub frozen_time: Duration,
    /// Taking memory out of the tasks.
    #[serde(serialize_with = "as_micros")]
    pub memdump_time: Duration,
    /// Writing it to files.
    #[serde(serialize_with = "as_micros")]
    pub memwrite_time: Duration,
    /// Pages that were looked at.
    pub pages_scanned: u64,
    /// Pages that the parent checkpoint has already.
    pub pages_skipped_parent: u64,
    /// Pages that were written.
    pub pages_written: u64,
    /// Pages left behind for lazy transfer.
    pub pages_lazy: u64,
}

impl DumpStats {
    /// The content of a file stats-dump with these figures.
    ///
    /// # Errors
    /// None in practice: the message is small.
    pub fn to_file(&self) -> Result<Vec<u8>> {
        let micros = |time: Duration| Some(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
        let mut dump = DumpStatsEntry::new();
        (dump.freezing_time, dump.frozen_time) = (micros(self.freezing_time), micros(self.frozen_time));
        (dump.memdump_time, dump.memwrite_time) = (micros(self.memdump_time), micros(self.memwrite_time));
        dump.pages_scanned = Some(self.pages_scanned);
        dump.pages_skipped_parent = Some(self.pages_skipped_parent);
        dump.pages_written = Some(self.pages_written);
        dump.pages_lazy = Some(self.pages_lazy);
        let entry = StatsEntry { dump: MessageField::some(dump), ..StatsEntry::default() };
        encode(Path::new(DUMP_STATS), &[SERVICE, STATS], &[entry])
    }
}

/// How long a restore took and what it read (stats-restore).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreStats {
    /// Making the tasks.
    pub forking_time: Duration,
    /// All of it.
    pub restore_time: Duration,
    /// Pages that were read, if CRIU counted them.
    pub pages_restored: Option<u64>,
    /// Pages that were compared with a parent task's.
    pub pages_compared: u64,
    /// Pages that stayed shared with a parent task.
    pub pages_skipped_cow: u64,
}

impl Images {
    /// Opens a checkpoint by reading its inventory alone: a cheap test that there is one.
    ///
    /// # Errors
    /// [`CriuError::Image`] naming the file if the directory is none, has no inventory, or one that is
    /// empty, truncated, no inventory at all or of an unknown version.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::in_directory(&ImageDirectory::open(dir)?)
    }

    /// As [`Images::open`], of a directory that is open.
    ///
    /// # Errors
    /// As [`Images::open`].
    pub fn in_directory(dir: &ImageDirectory) -> Result<Self> {
        Self::from_source(Source::Dir(dir.clone()))
    }

    /// A checkpoint whose images are in memory, by file name; `path` is where they are from, for messages.
    ///
    /// # Errors
    /// As [`Images::open`].
    pub fn from_memory(path: &Path, files: BTreeMap<String, Arc<[u8]>>) -> Result<Self> {
        Self::from_source(Source::Memory(path.into(), files))
    }

    fn from_source(source: Source) -> Result<Self> {
        let mut file = source.open(INVENTORY_FILE)?;
        file.expect_magic(INVENTORY, "an inventory")?;
        let inventory: InventoryEntry = file.only()?;
        match inventory.img_version {
            Some(VERSION_1 | VERSION_2) => Ok(Self { source, changed: BTreeMap::new(), inventory }),
            // CRIU's pre-dumps, which have memory alone, leave it out (cr_pre_dump_finish() does not prepare it).
            None | Some(0) if source.open("pstree.img").is_err() => {
                Ok(Self { source, changed: BTreeMap::new(), inventory })
            }
            other => {
                let version = other.unwrap_or(0);
                Err(file.bad(format!("images of version {version}; known are 1 and 2")))
            }
        }
    }

    /// The same, with these files instead of those of the same names. The inventory stays as it was read.
    #[must_use]
    pub fn with(mut self, changed: &ChangedFiles) -> Self {
        self.changed.extend(changed.iter().map(|(name, content)| (name.clone(), content.as_slice().into())));
        self
    }

    /// The directory, or the archive that the images are from.
    pub fn dir(&self) -> &Path {
        self.source.path()
    }

    /// The directory, if the images are in one.
    pub(crate) fn real_dir(&self) -> Option<&ImageDirectory> {
        match &self.source {
            Source::Dir(dir) => Some(dir),
            Source::Memory(..) => None,
        }
    }

    /// The names of all files.
    ///
    /// # Errors
    /// [`CriuError::Io`] if the directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        match &self.source {
            Source::Memory(_, files) => Ok(files.keys().cloned().collect()),
            Source::Dir(dir) => dir.names(),
        }
    }

    /// Whether there is a file of that name.
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Dir(dir) => dir.has(name),
            Source::Memory(_, files) => files.contains_key(name),
        }
    }

    /// Statistics of the dump; none if they are elsewhere, as with a work directory.
    ///
    /// # Errors
    /// [`CriuError::Image`] if they are malformed.
    pub fn dump_stats(&self) -> Result<Option<DumpStats>> {
        if !self.has(DUMP_STATS) {
            return Ok(None);
        }
        dump_stats_of(self.source.open(DUMP_STATS)?).map(Some)
    }

    /// The content of one of these images, with other entries.
    pub(crate) fn encode<M: Message>(&self, name: &str, magic: Magic, entries: &[M]) -> Result<Vec<u8>> {
        let magics = [COMMON, magic.0];
        let magics = if self.has_common_magic() { &magics[..] } else { &magics[1..] };
        encode(&self.dir().join(name), magics, entries)
    }

    /// Whether files start with the magic that all images have.
    fn has_common_magic(&self) -> bool {
        self.inventory.img_version == Some(VERSION_2)
    }

    /// The images that describe the whole checkpoint.
    pub fn inventory(&self) -> &InventoryEntry {
        &self.inventory
    }

    /// The process tree, first task first.
    ///
    /// # Errors
    /// [`CriuError::Image`] as [`Images::entries`], or if there is no task at all.
    pub fn tasks(&self) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        let mut seen = HashSet::new();
        for entry in self.entries::<PstreeEntry>("pstree.img", Magic::PSTREE)? {
            let e = entry?;
            let n = |field: Option<u32>| field.unwrap_or(0);
            tasks.push(Task {
                pid: n(e.pid),
                ppid: n(e.ppid),
                pgid: n(e.pgid),
                sid: n(e.sid),
                threads: e.threads,
            });
            // A walk along the numbers must not go in circles.
            if let Some(twice) = e.pid.filter(|pid| !seen.insert(*pid)) {
                return Err(bad(&self.dir().join("pstree.img"), format!("names task {twice} twice")));
            }
        }
        if tasks.is_empty() {
            return Err(bad(&self.dir().join("pstree.img"), "has no task"));
        }
        Ok(tasks)
    }

    /// The entries of an image file, one at a time.
    ///
    /// # Errors
    /// [`CriuError::Image`] if the file is missing or of another kind; per entry, if it is truncated or
    /// malformed.
    pub fn entries<M: Message>(&self, name: &str, magic: Magic) -> Result<Entries<M>> {
        let mut file = match self.changed.get(name) {
            Some(content) => ImageFile::from_bytes(&self.dir().join(name), Arc::clone(content))?,
            None => self.source.open(name)?,
        };
        if self.has_common_magic() {
            file.expect_magic(COMMON, "a CRIU image")?;
        }
        file.expect_magic(magic.0, name)?;
        Ok(Entries { file, message: std::marker::PhantomData, failed: false })
    }

    /// As [`Images::entries`]; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`Images::entries`].
    pub fn entries_if_any<M: Message>(&self, name: &str, magic: Magic) -> Result<Option<Entries<M>>> {
        if self.has(name) { self.entries(name, magic).map(Some) } else { Ok(None) }
    }
}

/// Reads the statistics of a dump from its image or work directory.
///
/// # Errors
/// [`CriuError::Image`] if they are missing or malformed.
pub fn dump_stats(dir: &Path) -> Result<DumpStats> {
    dump_stats_of(ImageFile::open(&ImageDirectory::open(dir)?, DUMP_STATS)?)
}

fn dump_stats_of(mut file: ImageFile) -> Result<DumpStats> {
    let entry = stats(&mut file)?;
    let Some(s) = entry.dump.as_ref() else { return Err(file.bad("has no statistics of a dump")) };
    let n = |field: Option<u64>| field.unwrap_or(0);
    Ok(DumpStats {
        freezing_time: micros(s.freezing_time),
        frozen_time: micros(s.frozen_time),
        memdump_time: micros(s.memdump_time),
        memwrite_time: micros(s.memwrite_time),
        pages_scanned: n(s.pages_scanned),
        pages_skipped_parent: n(s.pages_skipped_parent),
        pages_written: n(s.pages_written),
        pages_lazy: n(s.pages_lazy),
    })
}

/// Reads the statistics of a restore from its image or work directory.
///
/// # Errors
/// [`CriuError::Image`] if they are missing or malformed.
pub fn restore_stats(dir: &Path) -> Result<RestoreStats> {
    let mut file = ImageFile::open(&ImageDirectory::open(dir)?, "stats-restore")?;
    let entry = stats(&mut file)?;
    let Some(s) = entry.restore.as_ref() else { return Err(file.bad("has no statistics of a restore")) };
    Ok(RestoreStats {
        forking_time: micros(s.forking_time),
        restore_time: micros(s.restore_time),
        pages_restored: s.pages_restored,
        pages_compared: s.pages_compared.unwrap_or(0),
        pages_skipped_cow: s.pages_skipped_cow.unwrap_or(0),
    })
}

fn stats(file: &mut ImageFile) -> Result<StatsEntry> {
    file.expect_magic(SERVICE, "a CRIU service file")?;
    file.expect_magic(STATS, "CRIU statistics")?;
    file.only()
}

/// In JSON times are microseconds.
fn as_micros<S: serde::Serializer>(time: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn micros(field: Option<u32>) -> Duration {
    Duration::from_micros(u64::from(field.unwrap_or(0)))
}

/// Iterator over the entries of an image file; ends after the first error.
#[derive(Debug)]
pub struct Entries<M> {
    file: ImageFile,
    message: std::marker::PhantomData<fn() -> M>,
    failed: bool,
}

impl<M: Message> Entries<M> {
    /// An entry of another type, where a file starts with a head of its own (pagemap-N.img).
    ///
    /// # Errors
    /// [`CriuError::Image`] if there is none, or if it is truncated or malformed.
    pub fn head<H: Message>(&mut self) -> Result<H> {
        self.file.entry()?.ok_or_else(|| self.file.bad("has no entry"))
    }
}

impl<M: Message> Iterator for Entries<M> {
    type Item = Result<M>;

    fn next(&mut self) -> Option<Result<M>> {
        if self.failed {
            return None;
        }
        let next = self.file.entry().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
