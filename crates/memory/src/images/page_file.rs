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

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use blake3::Hash;
use hiber_criu::ImageDirectory;
use hiber_criu::pagemap::Run;
use rustix::fs::{FallocateFlags, fallocate, fstatfs};

use super::finisher::{Block, Blocks, Finished, Finisher, Pieces};

/// Bytes that are moved at once.
const MOVED: usize = 1 << 20;

/// So many bytes behind all others are worth threads of their own; fewer where tests run, whose programs have little memory.
const WORTH_THREADS: u64 = if cfg!(debug_assertions) { 32 << 10 } else { 1 << 20 };
/// More of them wait for each other.
const MOST_THREADS: usize = 4;

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
    main: Arc<File>,
    finished: Finished,
    late: File,
    name: String,
    slots: BTreeMap<u64, Slot>,
    /// After the last address of those in the main file, and that file's length.
    last: u64,
    main_length: u64,
    late_length: u64,
}

impl PageFile {
    /// An empty one with this name in `dir`, which `finisher` finishes.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn create(dir: &ImageDirectory, name: &str, finisher: &Finisher) -> io::Result<Self> {
        let main = Arc::new(dir.create(name)?);
        let waiting = format!("{name}.late");
        let late = dir.create(&waiting)?;
        dir.remove(&waiting)?;
        let (slots, name) = (BTreeMap::new(), name.to_owned());
        let finished = finisher.file(&main);
        Ok(Self { main, finished, late, name, slots, last: 0, main_length: 0, late_length: 0 })
    }

    /// Its name now.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is nothing yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
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

    /// Reads pages that are here, and lie together.
    ///
    /// # Errors
    /// NotFound if they are not; those of pread(2).
    pub(crate) fn read(&self, address: u64, to: &mut [u8]) -> io::Result<()> {
        match self.slot(address).map(|slot| slot.place) {
            Some(Place::Main(offset)) => self.main.read_exact_at(to, offset),
            Some(Place::Late(offset)) => self.late.read_exact_at(to, offset),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Leaves room for pages that come later, where they belong in the order of addresses.
    ///
    /// Until they have come, zeros stand in their place.
    pub(crate) fn leave_room(&mut self, range: Range<u64>) {
        if range.start >= self.last {
            let length = range.end - range.start;
            self.note(range, Place::Main(self.main_length));
            self.main_length += length;
        }
    }

    /// Keeps pages, pieces of a block with their addresses, in the place of what was there.
    ///
    /// # Errors
    /// Those of pwrite(2): ENOSPC.
    pub(crate) fn put(&mut self, block: &Block, pieces: &[(u64, Range<usize>)]) -> io::Result<()> {
        let mut written = Pieces::new();
        let done =
            pieces.iter().try_for_each(|(address, of)| self.put_piece(*address, block, of, &mut written));
        // Also those before one that could not be written.
        self.finished.written(block, written);
        done
    }

    fn put_piece(
        &mut self,
        address: u64,
        block: &Block,
        of: &Range<usize>,
        written: &mut Pieces,
    ) -> io::Result<()> {
        let (mut at, end) = (address, address + of.len() as u64);
        let in_block = |at: u64| of.start + (at - address) as usize;
        while at < end {
            let (range, place) = match self.at(&(at..end)) {
                Ok(range) => (range, self.slot(at).map(|slot| slot.place)),
                Err(range) => (range, None),
            };
            let place = place.unwrap_or_else(|| self.place(range.clone()));
            let part = in_block(range.start)..in_block(range.end);
            match place {
                Place::Main(offset) => {
                    self.main.write_all_at(&block.bytes()[part.clone()], offset)?;
                    written.push((offset, part));
                }
                Place::Late(offset) => self.late.write_all_at(&block.bytes()[part], offset)?,
            }
            at = range.end;
        }
        Ok(())
    }

    /// Whether pages are best [appended](Self::append).
    pub(crate) fn appends(&self, range: &Range<u64>) -> bool {
        let free = |here: Result<_, Range<u64>>| here.is_err_and(|free| free == *range);
        range.start >= self.last && range.end - range.start >= WORTH_THREADS && free(self.at(range))
    }

    /// Keeps the pages of a range behind all that there are. Several threads bring them: `read` reads at an address into a buffer,
    /// and says how many bytes of whole pages it has read. The ranges that it could not read, which are not kept.
    ///
    /// # Errors
    /// Those of pwrite(2): ENOSPC.
    pub(crate) fn append(
        &mut self,
        range: &Range<u64>,
        read: &(impl Fn(u64, &mut [u8]) -> usize + Sync),
    ) -> io::Result<Vec<Range<u64>>> {
        let (offset, length) = (self.main_length, range.end - range.start);
        let Place::Main(_) = self.place(range.clone()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // Blocks end where groups of the hash do.
        let (block, next, missing) = (Blocks::BYTES as u64, AtomicU64::new(0), Mutex::new(Vec::new()));
        let bring = || -> io::Result<()> {
            let mut buffer = vec![0; Blocks::BYTES];
            loop {
                let at = (offset / block + next.fetch_add(1, Ordering::Relaxed)) * block;
                let (start, end) = (at.max(offset), (at + block).min(offset + length));
                if start >= end {
                    return Ok(());
                }
                let (part, address) = (&mut buffer[..(end - start) as usize], range.start + (start - offset));
                let here = read(address, part);
                if here < part.len() {
                    let gone = address + here as u64..address + part.len() as u64;
                    missing.lock().unwrap_or_else(PoisonError::into_inner).push(gone);
                }
                self.main.write_all_at(&part[..here], start)?;
                self.finished.appended(start, &part[..here]);
            }
        };
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
            let others: Vec<_> = (1..threads)
                .filter_map(|_| {
                    let thread = std::thread::Builder::new().name("hiber-copy".into());
                    thread.spawn_scoped(scope, bring).ok()
                })
                .collect();
            let done = bring();
            let died = |_| Err(io::ErrorKind::Other.into());
            others.into_iter().map(|other| other.join().unwrap_or_else(died)).fold(done, io::Result::and)
        })?;
        let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
        missing.iter().for_each(|gone| self.forget(gone.clone()));
        Ok(missing)
    }

    /// A place for pages that have none.
    fn place(&mut self, range: Range<u64>) -> Place {
        let length = range.end - range.start;
        let place = if range.start >= self.last {
            self.main_length += length;
            Place::Main(self.main_length - length)
        } else {
            self.late_length += length;
            Place::Late(self.late_length - length)
        };
        self.note(range, place);
        place
    }

    fn note(&mut self, range: Range<u64>, place: Place) {
        if let Place::Main(_) = place {
            self.last = range.end;
        }
        if let Some((start, before)) = self.slots.range_mut(..range.start).next_back()
            && before.end == range.start
            && before.place.plus(range.start - start) == place
        {
            before.end = range.end;
        } else {
            self.slots.insert(range.start, Slot { end: range.end, place });
        }
    }

    /// Pages that were written again are read and hashed, for there is time.
    pub(crate) fn catch_up(&self) {
        self.finished.catch_up();
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

    /// Makes it the file of pages of these runs, which are in order: each page of those that are present, and nothing else. Its
    /// length, and its hash, if it is to be hashed.
    ///
    /// # Errors
    /// NotFound if a page is not here; those of pread(2) and pwrite(2).
    pub fn settle(&mut self, runs: &[Run]) -> io::Result<(u64, Option<Hash>)> {
        self.finished.wait();
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
            self.copy(&self.main, from, to, length)?;
        }
        for part in &parts {
            if let Place::Late(from) = part.from {
                self.copy(&self.late, from, part.to, part.length)?;
            }
        }
        self.main.set_len(total)?;
        Ok((total, self.finished.hash(total)?))
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
            let block = left.min(MOVED as u64);
            left -= block;
            self.copy(&self.main, from + left, to + left, block)?;
        }
        Ok(())
    }

    /// Copies bytes into the file, the first ones first; a block at a time is read before it is written.
    fn copy(&self, from: &File, mut source: u64, mut target: u64, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; MOVED.min(length as usize)];
        let end = source + length;
        while source < end {
            let block = &mut buffer[..MOVED.min((end - source) as usize)];
            from.read_exact_at(block, source)?;
            self.main.write_all_at(block, target)?;
            self.finished.moved(target, block);
            (source, target) = (source + block.len() as u64, target + block.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::finisher::Work;
    use super::*;
    use hiber_criu::pagemap::{PAGE, PRESENT};

    fn file() -> (tempfile::TempDir, PageFile) {
        let dir = tempfile::tempdir().unwrap();
        let images = ImageDirectory::open(dir.path()).unwrap();
        let finisher = Finisher::start(Work { hash: true, sync: true });
        (dir, PageFile::create(&images, "pages-1.img", &finisher).unwrap())
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
                        file.put(&pages.as_slice().into(), &[(at * PAGE, 0..pages.len())]).unwrap();
                    }
                    at += count + random.u64(..10);
                }
            }
            let settled = file.settle(&runs(&expected)).unwrap();
            let found = std::fs::read(dir.path().join("pages-1.img")).unwrap();
            assert_eq!(settled, (found.len() as u64, Some(blake3::hash(&found))), "seed {seed}");
            assert!(found == expected.values().flat_map(|v| page(*v)).collect::<Vec<u8>>(), "seed {seed}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    /// Pages that several threads bring, behind some and before others; some cannot be read.
    #[test]
    fn what_is_appended_is_in_order_and_hashed() {
        let (dir, mut file) = file();
        file.put(&page(1).as_slice().into(), &[(PAGE, 0..PAGE as usize)]).unwrap();
        let long = 2 * PAGE..2 * PAGE + 3 * WORTH_THREADS;
        assert!(file.appends(&long) && !file.appends(&(long.start..long.start + PAGE)), "it is short");
        assert!(!file.appends(&(PAGE..long.end)), "it is not behind all others");
        let gone = long.start + WORTH_THREADS + 5 * PAGE;
        let read = |address: u64, to: &mut [u8]| {
            let whole = if (address..address + to.len() as u64).contains(&gone) {
                gone - address
            } else {
                to.len() as u64
            };
            for (n, bytes) in to[..whole as usize].chunks_mut(PAGE as usize).enumerate() {
                bytes.copy_from_slice(&page((address / PAGE) as u32 + n as u32));
            }
            whole as usize
        };
        let missing = file.append(&long, &read).unwrap();
        assert!(missing.len() == 1 && missing[0].start == gone, "{missing:?}");
        file.put(&page(9).as_slice().into(), &[(long.end, 0..PAGE as usize)]).unwrap();
        let mut expected: BTreeMap<u64, u32> = (2..long.end / PAGE).map(|n| (n, n as u32)).collect();
        expected.retain(|n, _| !missing[0].contains(&(n * PAGE)));
        expected.extend([(1, 1), (long.end / PAGE, 9)]);
        let settled = file.settle(&runs(&expected)).unwrap();
        let found = std::fs::read(dir.path().join("pages-1.img")).unwrap();
        assert_eq!(settled, (found.len() as u64, Some(blake3::hash(&found))));
        assert!(found == expected.values().flat_map(|v| page(*v)).collect::<Vec<u8>>());
    }

    #[test]
    fn a_page_that_is_not_here_is_an_error() {
        let (_dir, mut file) = file();
        file.put(&page(1).as_slice().into(), &[(PAGE, 0..PAGE as usize)]).unwrap();
        let run = Run { start: 0, end: 2 * PAGE, flags: PRESENT };
        let error = file.settle(&[run]).unwrap_err().to_string();
        assert_eq!(error, "the page at 0x0 was not kept");
        assert!(file.settle(&[Run { flags: 0, ..run }]).is_ok(), "what is not present needs no page");
    }
}
