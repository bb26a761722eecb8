//! Image files: what a checkpoint holds.
//!
//! A file starts with one or two magic numbers; entries follow, each a little-endian u32 length and a
//! protobuf message. Checkpoints come from elsewhere, so that nothing in them is trusted: an entry's
//! length is compared with what is left of its file before anything is allocated.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criu_proto::Message;
use criu_proto::images::inventory::InventoryEntry;
use criu_proto::images::pstree::PstreeEntry;
use criu_proto::images::stats::StatsEntry;
use rustix::fs::OFlags;

use crate::error::{CriuError, Result};

/// Second magic of image files proper, after [`COMMON`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magic(u32);

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
    /// fdinfo-ID.img
    pub const FDINFO: Self = Self(0x5621_3732);
    /// mountpoints-ID.img
    pub const MNTS: Self = Self(0x5556_3928);
    /// cgroup.img
    pub const CGROUP: Self = Self(0x5938_3330);
    /// tty-info.img
    pub const TTY_INFO: Self = Self(0x5945_3036);
}

/// First magic of every image but the inventory, since version 2.
const COMMON: u32 = 0x5456_4319;
/// First magic of statistics.
const SERVICE: u32 = 0x5510_5940;
const INVENTORY: u32 = 0x5831_3116;
const STATS: u32 = 0x5709_3306;

/// The inventory's versions: 1 has no common magic, 2 has.
const VERSION_1: u32 = 1;
const VERSION_2: u32 = 2;

/// A directory of images whose inventory is sound.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    inventory: InventoryEntry,
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
    /// Its threads, itself included.
    pub threads: Vec<u32>,
}

/// How long a dump took and what it wrote (stats-dump).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DumpStats {
    /// Until all tasks were frozen.
    pub freezing_time: Duration,
    /// For how long they were.
    pub frozen_time: Duration,
    /// Taking memory out of the tasks.
    pub memdump_time: Duration,
    /// Writing it to files.
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

/// How long a restore took and what it read (stats-restore).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
        if !dir.is_dir() {
            return Err(CriuError::Image { path: dir.into(), problem: "no such directory".into() });
        }
        let path = dir.join("inventory.img");
        let mut file = ImageFile::open(&path)?;
        file.expect_magic(INVENTORY, "an inventory")?;
        let inventory: InventoryEntry = file.only()?;
        match inventory.img_version {
            Some(VERSION_1 | VERSION_2) => Ok(Self { dir: dir.into(), inventory }),
            other => {
                let version = other.unwrap_or(0);
                Err(CriuError::Image {
                    path,
                    problem: format!("images of version {version}; known are 1 and 2"),
                })
            }
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What describes the whole checkpoint.
    pub fn inventory(&self) -> &InventoryEntry {
        &self.inventory
    }

    /// The process tree, first task first.
    ///
    /// # Errors
    /// [`CriuError::Image`] as [`Images::entries`], or if there is no task at all.
    pub fn tasks(&self) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
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
        }
        if tasks.is_empty() {
            let path = self.dir.join("pstree.img");
            return Err(CriuError::Image { path, problem: "has no task".into() });
        }
        Ok(tasks)
    }

    /// The entries of an image file, one at a time.
    ///
    /// # Errors
    /// [`CriuError::Image`] if the file is missing or of another kind; per entry, if it is truncated or
    /// malformed.
    pub fn entries<M: Message>(&self, name: &str, magic: Magic) -> Result<Entries<M>> {
        let mut file = ImageFile::open(&self.dir.join(name))?;
        if self.inventory.img_version == Some(VERSION_2) {
            file.expect_magic(COMMON, "a CRIU image")?;
        }
        file.expect_magic(magic.0, name)?;
        Ok(Entries { file, message: std::marker::PhantomData, failed: false })
    }
}

/// Reads the statistics of a dump from its image or work directory.
///
/// # Errors
/// [`CriuError::Image`] if they are missing or malformed.
pub fn dump_stats(dir: &Path) -> Result<DumpStats> {
    let path = dir.join("stats-dump");
    let entry = stats(&path)?;
    let Some(s) = entry.dump.as_ref() else {
        return Err(CriuError::Image { path, problem: "has no statistics of a dump".into() });
    };
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
    let path = dir.join("stats-restore");
    let entry = stats(&path)?;
    let Some(s) = entry.restore.as_ref() else {
        return Err(CriuError::Image { path, problem: "has no statistics of a restore".into() });
    };
    Ok(RestoreStats {
        forking_time: micros(s.forking_time),
        restore_time: micros(s.restore_time),
        pages_restored: s.pages_restored,
        pages_compared: s.pages_compared.unwrap_or(0),
        pages_skipped_cow: s.pages_skipped_cow.unwrap_or(0),
    })
}

fn stats(path: &Path) -> Result<StatsEntry> {
    let mut file = ImageFile::open(path)?;
    file.expect_magic(SERVICE, "a CRIU service file")?;
    file.expect_magic(STATS, "CRIU statistics")?;
    file.only()
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

/// An open image file, and how much of it has not been read.
#[derive(Debug)]
struct ImageFile {
    path: PathBuf,
    reader: BufReader<File>,
    left: u64,
}

impl ImageFile {
    fn open(path: &Path) -> Result<Self> {
        // Not to hang on a fifo in a hostile directory.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path);
        let opened = file.and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = opened.map_err(|e| {
            if e.kind() == ErrorKind::NotFound {
                return CriuError::Image { path: path.into(), problem: "missing".into() };
            }
            CriuError::io(format!("open {}", path.display()), e)
        })?;
        if !meta.is_file() {
            return Err(CriuError::Image { path: path.into(), problem: "not a regular file".into() });
        }
        if meta.len() == 0 {
            return Err(CriuError::Image { path: path.into(), problem: "empty".into() });
        }
        Ok(Self { path: path.into(), reader: BufReader::new(file), left: meta.len() })
    }

    fn bad(&self, problem: impl Into<String>) -> CriuError {
        CriuError::Image { path: self.path.clone(), problem: problem.into() }
    }

    /// Reads `bytes.len()` bytes, which must be no more than are left.
    fn fill(&mut self, bytes: &mut [u8], of: &str) -> Result<()> {
        let len = bytes.len() as u64;
        if self.left < len {
            return Err(self.bad(format!("truncated: {of} takes {len} bytes, {} are left", self.left)));
        }
        // A file that shrinks while it is read ends early, too.
        self.reader.read_exact(bytes).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => self.bad(format!("truncated in {of}")),
            _ => CriuError::io(format!("read {}", self.path.display()), e),
        })?;
        self.left -= len;
        Ok(())
    }

    fn u32(&mut self, of: &str) -> Result<u32> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes, of)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn expect_magic(&mut self, magic: u32, kind: &str) -> Result<()> {
        let found = self.u32("its magic number")?;
        if found == magic {
            return Ok(());
        }
        Err(self.bad(format!("is not {kind}: it starts with {found:#010x} instead of {magic:#010x}")))
    }

    /// The next entry, or `None` at the end of the file.
    fn entry<M: Message>(&mut self) -> Result<Option<M>> {
        if self.left == 0 {
            return Ok(None);
        }
        let len = u64::from(self.u32("an entry's length")?);
        if self.left < len {
            return Err(self.bad(format!("truncated: an entry takes {len} bytes, {} are left", self.left)));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes, "an entry")?;
        M::parse_from_bytes(&bytes).map(Some).map_err(|e| self.bad(format!("has a malformed entry: {e}")))
    }

    /// The one entry of a file that has a single one.
    fn only<M: Message>(&mut self) -> Result<M> {
        self.entry()?.ok_or_else(|| self.bad("truncated: has no entry"))
    }
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
