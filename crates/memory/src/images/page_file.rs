//! A file of pages while it is written. Pages arrive in any order, and some arrive again; in the end they are in the order of
//! their addresses.
//!
//! Pages that arrive in order are written to their place at once. A page that arrives again overwrites the old one. A page
//! between others waits in a second file. In the end, pages that are gone are removed from the file and waiting pages are
//! inserted; this costs nothing if there are none of either.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use hiber_criu::ImageDirectory;
use hiber_criu::pagemap::Run;
use rustix::fs::{FallocateFlags, fallocate, fstatfs};

/// Bytes that are moved at once.
const BLOCK: usize = 1 << 20;

/// linux/magic.h
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At this offset of the file itself.
    Main(u64),
    /// At this offset of the file of those that wait.
    Late(u64),
}

impl Place {
    fn plus(self, bytes: u64) -> Self {
        match self {
            Self::Main(offset) => Self::Main(offset + bytes),
            Self::Late(offset) => Self::Late(offset + bytes),
        }
    }
}

/// Where a range of addresses is.
#[derive(Debug, Clone, Copy)]
struct Slot {
    end: u64,
    place: Place,
}

/// A part of the finished file.
struct Part {
    to: u64,
    from: Place,
    length: u64,
}

/// A file of pages of one memory.
#[derive(Debug)]
pub struct PageFile {
    main: File,
    late: File,
    name: String,
    slots: BTreeMap<u64, Slot>,
    /// After the last address of those in the main file, and that file's length.
    last: u64,
    main_length: u64,
    late_length: u64,
}

impl PageFile {
    /// An empty one with this name in `dir`.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn create(dir: &ImageDirectory, name: &str) -> io::Result<Self> {
        let main = dir.create(name)?;
        let waiting = format!("{name}.late");
        let late = dir.create(&waiting)?;
        dir.remove(&waiting)?;
        let (slots, name) = (BTreeMap::new(), name.to_owned());
        Ok(Self { main, late, name, slots, last: 0, main_length: 0, late_length: 0 })
    }

    /// Its name now.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn rename(&mut self, dir: &ImageDirectory, name: &str) -> io::Result<()> {
        dir.rename(&self.name, name)?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// Makes the file system of a memory (tmpfs) allocate so many bytes beforehand: allocating takes three times as long as
    /// filling. Space that is not needed in the end is given back.
    pub fn reserve(&self, bytes: u64) {
        let in_memory = fstatfs(&self.main).is_ok_and(|of| of.f_type == TMPFS_MAGIC);
        if in_memory && fallocate(&self.main, FallocateFlags::KEEP_SIZE, 0, bytes).is_err() {
            // There is less room: what is really needed may fit.
            let _ = self.main.set_len(0);
        }
    }

    /// The pages at `range` that are here, from its start on: those that are, or how far it is to the next.
    pub fn at(&self, range: &Range<u64>) -> Result<Range<u64>, Range<u64>> {
        match self.slot(range.start) {
            Some(slot) => Ok(range.start..slot.end.min(range.end)),
            None => {
                let next = self.slots.range(range.start..range.end).next().map(|(start, _)| *start);
                Err(range.start..next.unwrap_or(range.end))
            }
        }
    }

    /// The slot at an address, from there on.
    fn slot(&self, address: u64) -> Option<Slot> {
        let (start, slot) =
            self.slots.range(..=address).next_back().filter(|(_, slot)| slot.end > address)?;
        Some(Slot { end: slot.end, place: slot.place.plus(address - start) })
    }

    /// Keeps these pages, in the place of what was there.
    ///
    /// # Errors
    /// Those of pwrite(2): ENOSPC.
    pub fn put(&mut self, address: u64, pages: &[u8]) -> io::Result<()> {
        let (mut at, mut pages, end) = (address, pages, address + pages.len() as u64);
        while at < end {
            let (range, place) = match self.at(&(at..end)) {
                Ok(range) => (range, self.slot(at).map(|slot| slot.place)),
                Err(range) => (range, None),
            };
            let length = (range.end - range.start) as usize;
            let (part, rest) = pages.split_at(length);
            match place {
                Some(Place::Main(offset)) => self.main.write_all_at(part, offset)?,
                Some(Place::Late(offset)) => self.late.write_all_at(part, offset)?,
                None => self.append(at, part)?,
            }
            (at, pages) = (range.end, rest);
        }
        Ok(())
    }

    fn append(&mut self, address: u64, pages: &[u8]) -> io::Result<()> {
        let (length, end) = (pages.len() as u64, address + pages.len() as u64);
        let place = if address >= self.last {
            self.main.write_all_at(pages, self.main_length)?;
            let place = Place::Main(self.main_length);
            self.last = end;
            self.main_length += length;
            place
        } else {
            self.late.write_all_at(pages, self.late_length)?;
            let place = Place::Late(self.late_length);
            self.late_length += length;
            place
        };
        if let Some((start, before)) = self.slots.range_mut(..address).next_back()
            && before.end == address
            && before.place.plus(address - start) == place
        {
            before.end = end;
        } else {
            self.slots.insert(address, Slot { end, place });
        }
        Ok(())
    }

    /// Forgets the pages at these addresses.
    pub fn forget(&mut self, range: Range<u64>) {
        while let Some((start, slot)) = self.slots.range(..range.end).next_back().map(|(a, s)| (*a, *s))
            && slot.end > range.start
        {
            self.slots.remove(&start);
            if start < range.start {
                self.slots.insert(start, Slot { end: range.start, ..slot });
            }
            if slot.end > range.end {
                let place = slot.place.plus(range.end - start);
                self.slots.insert(range.end, Slot { place, ..slot });
            }
        }
    }

    /// The addresses of all that is kept.
    pub fn kept(&self) -> impl Iterator<Item = Range<u64>> {
        self.slots.iter().map(|(start, slot)| *start..slot.end)
    }

    /// Makes it the file of pages of these runs, which are in order: each page of those that are present, and nothing else.
    ///
    /// # Errors
    /// NotFound if a page is not here; those of pread(2) and pwrite(2).
    pub fn settle(&mut self, runs: &[Run]) -> io::Result<()> {
        let parts = self.parts(runs)?;
        let total = parts.last().map_or(0, |part| part.to + part.length);
        let moved = |part: &Part| match part.from {
            Place::Main(from) => (from != part.to).then_some((from, part.to, part.length)),
            Place::Late(_) => None,
        };
        // Both orders are those of the addresses: nothing is written over that is yet to be moved.
        for (from, to, length) in parts.iter().rev().filter_map(moved).filter(|(from, to, _)| from < to) {
            self.move_up(from, to, length)?;
        }
        for (from, to, length) in parts.iter().filter_map(moved).filter(|(from, to, _)| from > to) {
            copy(&self.main, from, &self.main, to, length)?;
        }
        for part in &parts {
            if let Place::Late(from) = part.from {
                copy(&self.late, from, &self.main, part.to, part.length)?;
            }
        }
        self.main.set_len(total)
    }

    /// The parts of the finished file.
    fn parts(&self, runs: &[Run]) -> io::Result<Vec<Part>> {
        let (mut parts, mut to) = (Vec::<Part>::new(), 0);
        for run in runs.iter().filter(|run| run.is_present()) {
            let mut at = run.start;
            while at < run.end {
                let missing = || {
                    let what = format!("the page at {at:#x} was not kept");
                    io::Error::new(io::ErrorKind::NotFound, what)
                };
                let slot = self.slot(at).ok_or_else(missing)?;
                let length = slot.end.min(run.end) - at;
                match parts.last_mut() {
                    Some(last) if last.from.plus(last.length) == slot.place => last.length += length,
                    _ => parts.push(Part { to, from: slot.place, length }),
                }
                (at, to) = (at + length, to + length);
            }
        }
        Ok(parts)
    }

    /// Moves bytes towards the end of the file, the last ones first.
    fn move_up(&self, from: u64, to: u64, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let block = left.min(BLOCK as u64);
            left -= block;
            copy(&self.main, from + left, &self.main, to + left, block)?;
        }
        Ok(())
    }
}

/// Copies bytes, the first ones first; a block at a time is read before it is written.
fn copy(from: &File, mut source: u64, to: &File, mut target: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK.min(length as usize)];
    let end = source + length;
    while source < end {
        let block = &mut buffer[..BLOCK.min((end - source) as usize)];
        from.read_exact_at(block, source)?;
        to.write_all_at(block, target)?;
        (source, target) = (source + block.len() as u64, target + block.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hiber_criu::pagemap::{PAGE, PRESENT};

    fn file() -> (tempfile::TempDir, PageFile) {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDirectory::open(dir.path()).unwrap();
        (dir, PageFile::create(&images, "pages-1.img").unwrap())
    }

    fn page(value: u32) -> Vec<u8> {
        value.to_le_bytes().repeat(PAGE as usize / 4)
    }

    fn runs(of: &BTreeMap<u64, u32>) -> Vec<Run> {
        let ranges: super::super::Ranges = of.keys().map(|n| n * PAGE..(n + 1) * PAGE).collect();
        ranges.iter().map(|r| Run { start: r.start, end: r.end, flags: PRESENT }).collect()
    }

    /// Pages that come, come again, go, and come back, at random.
    #[test]
    fn it_has_the_last_of_each_page_in_order() {
        for seed in 0..10 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (dir, mut file) = file();
            let mut expected = BTreeMap::new();
            for round in 0..4_u64 {
                let mut at = 0;
                while at < 700 {
                    let count = random.u64(1..40);
                    if round > 0 && random.u8(..4) == 0 {
                        file.forget(at * PAGE..(at + count) * PAGE);
                        expected.retain(|n, _| !(at..at + count).contains(n));
                    } else if random.u8(..3) > 0 {
                        let pages: Vec<u8> = (at..at + count)
                            .flat_map(|n| {
                                let value = random.u32(..);
                                expected.insert(n, value);
                                page(value)
                            })
                            .collect();
                        file.put(at * PAGE, &pages).unwrap();
                    }
                    at += count + random.u64(..10);
                }
            }
            file.settle(&runs(&expected)).unwrap();
            let found = std::fs::read(dir.path().join("pages-1.img")).unwrap();
            assert!(found == expected.values().flat_map(|v| page(*v)).collect::<Vec<u8>>(), "seed {seed}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_page_that_is_not_here_is_an_error() {
        let (_dir, mut file) = file();
        file.put(PAGE, &page(1)).unwrap();
        let run = Run { start: 0, end: 2 * PAGE, flags: PRESENT };
        let error = file.settle(&[run]).unwrap_err().to_string();
        assert_eq!(error, "the page at 0x0 was not kept");
        assert!(file.settle(&[Run { flags: 0, ..run }]).is_ok(), "what is not present needs no page");
    }
}
