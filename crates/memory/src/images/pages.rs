//! Where pages of a memory go while they are collected: into a file here, or away to somebody else.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use blake3::Hash;
use hiber_criu::ImageDirectory;
use hiber_criu::page_protocol::Memory;
use hiber_criu::pagemap::Run;

use super::batch::read_at;
use super::finisher::Block;
use super::{Finisher, PageFile, Ranges};

/// Somebody else who collects pages, as a [`Collector`](super::Collector) does.
pub trait Away: Send + Debug {
    /// Takes these pages, in the place of those that were there. Without any, such a memory is to be expected.
    ///
    /// # Errors
    /// Why they cannot be taken.
    fn put(&mut self, memory: Memory, address: u64, pages: &[u8]) -> io::Result<()>;

    /// Hears which round over memory begins, from 1 on, and about how many bytes it has. After the last one, [`REST`] is what is left
    /// for the time in which nothing runs.
    fn begins(&mut self, round: u32, bytes: u64) {
        let _ = (round, bytes);
    }
}

/// The round that is none: the processes stand still.
pub const REST: u32 = 0;

/// The place of all pages.
#[derive(Debug, Clone)]
pub enum Place {
    /// Files in a directory, which somebody finishes.
    Here(ImageDirectory, Finisher),
    /// Nothing is kept here.
    Away(Arc<Mutex<dyn Away>>),
}

impl Place {
    /// Tells who takes pages away what comes next.
    pub fn begins(&self, round: u32, bytes: u64) {
        if let Self::Away(away) = self {
            away.lock().unwrap_or_else(PoisonError::into_inner).begins(round, bytes);
        }
    }

    /// Waits until all pages that were put are hashed, and the disk has them, as far as that is wanted.
    pub(crate) fn wait(&self) {
        if let Self::Here(dir, finisher) = self {
            finisher.wait();
            if finisher.syncs() {
                // A failure is met again at the end.
                let _ = rustix::fs::syncfs(dir);
            }
        }
    }

    /// Gives the thread that finishes the pages this nice value (nice(2)).
    pub(crate) fn be_nice(&self, value: i32) {
        if let Self::Here(_, finisher) = self {
            finisher.be_nice(value);
        }
    }
}

/// The pages of one memory.
#[derive(Debug)]
pub enum Pages {
    /// In a file.
    Here(PageFile),
    /// With somebody else.
    Away(PagesAway),
}

/// The pages that somebody else has.
#[derive(Debug)]
pub struct PagesAway {
    memory: Memory,
    to: Arc<Mutex<dyn Away>>,
    name: String,
    kept: Ranges,
}

impl Pages {
    /// None yet, in a file with this name.
    ///
    /// # Errors
    /// Those of openat(2) and of [`Away`].
    pub fn create(place: &Place, name: &str, memory: Memory) -> io::Result<Self> {
        match place {
            Place::Here(dir, finisher) => PageFile::create(dir, name, finisher).map(Self::Here),
            Place::Away(to) => {
                let (to, name) = (Arc::clone(to), name.to_owned());
                let pages = PagesAway { memory, to, name, kept: Ranges::default() };
                pages.put(0, &[])?;
                Ok(Self::Away(pages))
            }
        }
    }

    /// The name of their file.
    pub fn name(&self) -> &str {
        match self {
            Self::Here(file) => file.name(),
            Self::Away(pages) => &pages.name,
        }
    }

    /// Room for so many bytes is made, where that saves time.
    pub fn reserve(&self, bytes: u64) {
        if let Self::Here(file) = self {
            file.reserve(bytes);
        }
    }

    /// Gives their file another name.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub(super) fn rename(&mut self, place: &Place, name: &str) -> io::Result<()> {
        match (self, place) {
            (Self::Here(file), Place::Here(dir, _)) => file.rename(dir, name),
            (Self::Here(_), Place::Away(_)) => Err(io::ErrorKind::Unsupported.into()),
            (Self::Away(pages), _) => {
                name.clone_into(&mut pages.name);
                Ok(())
            }
        }
    }

    /// They are of no use.
    pub(crate) fn remove(&self, place: &Place) {
        if let (Self::Here(file), Place::Here(dir, _)) = (self, place) {
            let _ = dir.remove(file.name());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Here(file) => file.is_empty(),
            Self::Away(pages) => pages.kept.is_empty(),
        }
    }

    /// As [`PageFile::at`].
    pub(super) fn at(&self, range: &Range<u64>) -> Result<Range<u64>, Range<u64>> {
        match self {
            Self::Here(file) => file.at(range),
            Self::Away(pages) => match pages.kept.at(range.start) {
                Ok(kept) => Ok(range.start..kept.end.min(range.end)),
                Err(next) => Err(range.start..next.unwrap_or(range.end).min(range.end)),
            },
        }
    }

    /// As [`PageFile::read`].
    pub(super) fn read(&self, address: u64, to: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Here(file) => file.read(address, to),
            Self::Away(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// As [`PageFile::leave_room`]: somebody else puts pages in order by himself.
    pub(crate) fn leave_room(&mut self, range: Range<u64>) {
        if let Self::Here(file) = self {
            file.leave_room(range);
        }
    }

    /// As [`PageFile::put`].
    pub(crate) fn put(&mut self, block: &Block, pieces: &[(u64, Range<usize>)]) -> io::Result<()> {
        match self {
            Self::Here(file) => file.put(block, pieces),
            Self::Away(pages) => pieces.iter().try_for_each(|(address, part)| {
                pages.put(*address, &block.bytes()[part.clone()])?;
                pages.kept.add(*address..*address + part.len() as u64);
                Ok(())
            }),
        }
    }

    /// As [`PageFile::appends`].
    pub(crate) fn appends(&self, range: &Range<u64>) -> bool {
        matches!(self, Self::Here(file) if file.appends(range))
    }

    /// Appends pages of a process; the ranges that could not be read.
    pub(crate) fn append(&mut self, range: &Range<u64>, pid: i32) -> io::Result<Vec<Range<u64>>> {
        match self {
            Self::Here(file) => file.append(range, &|address, to| read_at(pid, address, to)),
            Self::Away(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(crate) fn catch_up(&self) {
        if let Self::Here(file) = self {
            file.catch_up();
        }
    }

    /// As [`PageFile::forget`].
    pub(crate) fn forget(&mut self, range: Range<u64>) {
        match self {
            Self::Here(file) => file.forget(range),
            Self::Away(pages) => pages.kept.remove(range),
        }
    }

    /// As [`PageFile::settle`]; nobody hashes what is not here.
    pub(super) fn settle(&mut self, runs: &[Run]) -> io::Result<(u64, Option<Hash>)> {
        match self {
            Self::Here(file) => file.settle(runs),
            Self::Away(_) => {
                let present = runs.iter().filter(|run| run.is_present());
                Ok((present.map(|run| run.end - run.start).sum(), None))
            }
        }
    }
}

impl PagesAway {
    fn put(&self, address: u64, pages: &[u8]) -> io::Result<()> {
        self.to.lock().unwrap_or_else(PoisonError::into_inner).put(self.memory, address, pages)
    }
}
