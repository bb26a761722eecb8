//! Where the pages of tasks are: in files of images, or with a page server.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;

use hiber_sys::userfault::{Mapped, Source};

use super::failure::Failure;
use super::missing::{Missing, Range};

/// Pages of a task in a row, by their addresses at the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first.
    pub start: u64,
    /// Where they end.
    pub end: u64,
    /// Number of the file and offset of the first page in it; none where a page server has them.
    pub file: Option<(usize, u64)>,
}

/// Writes a file of pages while it is read.
pub trait Filler: Debug + Send + Sync {
    /// Writes a part of the file, by its offset and length in bytes, unless that is done.
    ///
    /// # Errors
    /// The part cannot be had.
    fn fill(&self, offset: u64, length: u64) -> io::Result<()>;
}

/// A file of pages.
#[derive(Debug)]
pub struct PageImage {
    /// Its content.
    pub mapped: Mapped,
    /// The writer of it; none if all is there.
    pub filler: Option<Box<dyn Filler>>,
}

/// All pages that a daemon is to bring.
#[derive(Debug, Default)]
pub struct Pages {
    files: Vec<PageImage>,
    tasks: BTreeMap<i32, Vec<Place>>,
}

/// Where pages are.
pub(super) enum Found<'a> {
    Here(Source<'a>),
    /// So many bytes are with the page server.
    Server(u64),
}

impl Pages {
    /// `tasks` are by their numbers at the dump, their places sorted and without overlap.
    pub fn new(files: Vec<PageImage>, tasks: BTreeMap<i32, Vec<Place>>) -> Self {
        Self { files, tasks }
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> u64 {
        self.tasks.values().flatten().map(|place| place.end - place.start).sum()
    }

    /// The missing pages of a task that was just restored.
    pub(super) fn of(&self, task: i32) -> Missing {
        Self::ranges(self.tasks.get(&task).into_iter().flatten())
    }

    /// The pages on the page server, by task.
    pub(super) fn elsewhere(&self) -> BTreeMap<i32, Missing> {
        let there = |places: &Vec<Place>| Self::ranges(places.iter().filter(|place| place.file.is_none()));
        self.tasks.iter().map(|(task, places)| (*task, there(places))).collect()
    }

    fn ranges<'a>(places: impl Iterator<Item = &'a Place>) -> Missing {
        let mut ranges = Missing::default();
        places.for_each(|place| {
            ranges.insert(Range { start: place.start, end: place.end, origin: place.start });
        });
        ranges
    }

    /// Where pages are that were at `origin` at the dump: of no more than `length` bytes, as far as they are in a row. None if
    /// they are not there. Their file may not be written yet.
    pub(super) fn find(&self, task: i32, origin: u64, length: u64) -> Option<Found<'_>> {
        let place = self.place(task, origin)?;
        let (within, length) = (origin - place.start, length.min(place.end - origin));
        Some(match place.file {
            None => Found::Server(length),
            Some((file, offset)) => Found::Here(self.files.get(file)?.mapped.part(offset + within, length)?),
        })
    }

    /// As [`find`](Self::find), of pages that are to be read now: their file is written there.
    pub(super) fn take(&self, task: i32, origin: u64, length: u64) -> Result<Option<Found<'_>>, Failure> {
        let found = self.find(task, origin, length);
        if let Some(Found::Here(source)) = &found {
            let place = self.place(task, origin).and_then(|place| Some((place.file?, origin - place.start)));
            let filler = place.and_then(|((file, offset), within)| {
                Some((self.files.get(file)?.filler.as_ref()?, offset + within))
            });
            let filled = filler.map_or(Ok(()), |(filler, offset)| filler.fill(offset, source.length()));
            filled.map_err(|why| Failure::Unfilled { task, address: origin, why })?;
        }
        Ok(found)
    }

    fn place(&self, task: i32, origin: u64) -> Option<&Place> {
        let places = self.tasks.get(&task)?;
        let next = places.partition_point(|place| place.start <= origin);
        places[..next].last().filter(|place| origin < place.end)
    }
}

impl PageImage {
    /// A file that is all there.
    pub fn whole(mapped: Mapped) -> Self {
        Self { mapped, filler: None }
    }
}
