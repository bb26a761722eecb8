//! Copies the memory of running processes in rounds: all of it, then the pages that were written meanwhile, until few are left.

mod manners;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::time::{Duration, Instant};

use hiber_criu::page_protocol::Memory;

use self::manners::Manners;
use crate::error::{Error, Result};
use crate::images::{Batch, Blocks, Pages, Place, Ranges, Source};
use crate::track::{Means, Tracked, Written};

/// So few bytes are read in a moment.
const FEW: u64 = 256 << 10;
/// Bytes of memory that are copied at once.
const SLICE: u64 = 64 << 20;
/// After such a time for the disk memory is looked at again.
const WAITED: Duration = Duration::from_millis(20);

/// The limits of copying.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The remaining pages can be copied in this time.
    pub frozen: Duration,
    /// There were so many rounds.
    pub rounds: u32,
}

/// A process by its number here, and by the number that its images have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Here.
    pub pid: i32,
    /// In the images: in its pid namespace.
    pub number: u64,
}

/// The copied memory.
#[derive(Debug, Clone, Default)]
pub struct Copied {
    /// How many rounds it took.
    pub rounds: u32,
    /// Bytes that were copied, those that were copied again among them.
    pub bytes: u64,
    /// Bytes that were left when it stopped.
    pub left: u64,
    /// How many seconds each byte took.
    pub each: f64,
    /// Processes that cannot be tracked, with the reasons; their memory is copied while they are frozen.
    pub untracked: Vec<(i32, String)>,
}

/// Copies of memory, in files of pages that are not yet images.
#[derive(Debug)]
pub struct Copies {
    place: Place,
    /// By the number here.
    processes: BTreeMap<i32, Copy>,
    /// Those that cannot be.
    untracked: BTreeMap<i32, String>,
    /// Or why none can be.
    means: Result<Means, String>,
    blocks: Blocks,
}

/// Of a process.
#[derive(Debug)]
struct Copy {
    process: Process,
    tracked: Tracked,
    pages: Pages,
}

impl Copies {
    /// None yet; they will be in their `place`. Without `means`, for the reason given, no process is tracked.
    pub fn new(place: Place, means: Result<Means, String>) -> Self {
        Self {
            place,
            processes: BTreeMap::new(),
            untracked: BTreeMap::new(),
            means,
            blocks: Blocks::default(),
        }
    }

    /// Copies memory in rounds. `processes` lists the processes at the beginning of each round. If tracking
    /// [asks for that](Means::clears_dirty_bits), they do not run from a call of `stop` until what it returns is dropped.
    ///
    /// # Errors
    /// If a copy cannot be written, or `stop` fails. A process that cannot be tracked is no error.
    pub fn run<Stopped, E: From<Error>>(
        &mut self,
        limits: &Limits,
        processes: impl Fn() -> Vec<Process>,
        stop: impl Fn() -> Result<Stopped, E>,
    ) -> Result<Copied, E> {
        let (mut copied, began, mut before) = (Copied::default(), Instant::now(), u64::MAX);
        let stops = self.means.as_ref().is_ok_and(Means::clears_dirty_bits);
        let mut manners = Manners::new(&self.place);
        while copied.rounds < limits.rounds {
            copied.rounds += 1;
            let stopped = stops.then(&stop).transpose()?;
            let written = self.look(&processes())?;
            drop(stopped);
            let bytes = written.iter().map(|(_, written)| written.pages.total()).sum();
            self.place.begins(copied.rounds, bytes);
            manners.expect(bytes);
            let bytes = self.round(written, &mut manners)?;
            // Nobody who is stopped for a look is to wait for others.
            manners.end();
            copied.bytes += bytes;
            copied.left = self.processes.values().filter_map(|copy| copy.tracked.rest().ok()).sum();
            copied.each = began.elapsed().as_secs_f64() / copied.bytes.max(1) as f64;
            let fits = copied.each * copied.left as f64 <= limits.frozen.as_secs_f64();
            let worth = is_worth_another(copied.left, if fits { bytes } else { before }, fits);
            let last = !worth || copied.rounds == limits.rounds;
            if last && !(self.waits_for_disk() && fits) {
                break;
            }
            before = copied.left;
        }
        copied.untracked = self.untracked.iter().map(|(pid, why)| (*pid, why.clone())).collect();
        Ok(copied)
    }

    /// Waits until the copies are hashed and the disk has them, if it is to, for otherwise the frozen container would wait. Whether
    /// that took long: much may have been written meanwhile.
    fn waits_for_disk(&self) -> bool {
        let began = Instant::now();
        self.processes.values().for_each(|copy| copy.pages.catch_up());
        self.place.wait();
        began.elapsed() > WAITED
    }

    /// The pages that each process has written.
    fn look(&mut self, processes: &[Process]) -> Result<Vec<(i32, Written)>> {
        let gone: Vec<_> =
            self.processes.keys().filter(|pid| processes.iter().all(|p| p.pid != **pid)).copied().collect();
        gone.into_iter().for_each(|pid| self.give_up(pid));
        let mut all = Vec::new();
        for process in processes {
            let pid = process.pid;
            if self.untracked.contains_key(&pid) {
                continue;
            }
            match self.track(*process).and_then(|copy| copy.tracked.written()) {
                Ok(written) => all.push((pid, written)),
                Err(e) => self.leave(pid, e)?,
            }
        }
        Ok(all)
    }

    /// Copies what the processes have written; how many bytes.
    fn round(&mut self, written: Vec<(i32, Written)>, manners: &mut Manners) -> Result<u64> {
        let mut bytes = 0;
        for (pid, written) in written {
            let Some(copy) = self.processes.get_mut(&pid) else { continue };
            match copy.round(written, &mut self.blocks, manners) {
                Ok(copied) => bytes += copied,
                Err(e) => self.leave(pid, e)?,
            }
        }
        Ok(bytes)
    }
    fn track(&mut self, process: Process) -> Result<&mut Copy> {
        match self.processes.entry(process.pid) {
            Entry::Occupied(copy) => Ok(copy.into_mut()),
            Entry::Vacant(none) => {
                let means = self.means.as_ref().map_err(|why| Error::Untracked(process.pid, why.clone()))?;
                Ok(none.insert(Copy::start(&self.place, process, means)?))
            }
        }
    }

    /// A process is copied no more, unless nothing can be written at all.
    fn leave(&mut self, pid: i32, why: Error) -> Result<()> {
        self.give_up(pid);
        match why {
            Error::Images(..) | Error::Criu(_) => return Err(why),
            Error::Gone(_) => {}
            why => drop(self.untracked.insert(pid, why.to_string())),
        }
        Ok(())
    }

    /// The copies of a process are of no use.
    fn give_up(&mut self, pid: i32) {
        if let Some(copy) = self.processes.remove(&pid) {
            copy.pages.remove(&self.place);
        }
    }

    /// Returns the copies with the ranges where they are current. To be called when no process runs any more. Tracking goes on until
    /// the second part is dropped: it takes the kernel as long as a look at all memory to end it.
    pub fn into_sources(self) -> (Vec<(Memory, Source)>, Vec<Tracked>) {
        let source = |copy: Copy| {
            // Pages that are not known to be clean are read again.
            let clean = copy.tracked.clean().unwrap_or_default();
            ((Memory::Task(copy.process.number), Source { pages: copy.pages, clean }), copy.tracked)
        };
        self.processes.into_values().map(source).unzip()
    }
}

impl Copy {
    fn start(place: &Place, process: Process, means: &Means) -> Result<Self> {
        let tracked = Tracked::start(process.pid, means)?;
        let name = format!("copy-of-{}", process.pid);
        let pages = Pages::create(place, &name, Memory::Task(process.number))
            .map_err(Error::images(format!("write {name}")))?;
        Ok(Self { process, tracked, pages })
    }

    fn round(&mut self, written: Written, blocks: &mut Blocks, manners: &mut Manners) -> Result<u64> {
        written.unknown.into_iter().for_each(|area| self.pages.forget(area));
        // A dump sends them all, and they would be in the wrong place then.
        let of_files = if self.pages.is_empty() { self.tracked.of_files()? } else { Ranges::default() };
        let (mut bytes, mut batch) = (0, Batch::default());
        for (mut range, of_a_file) in merged(&written.pages, &of_files) {
            if of_a_file {
                bytes += self.take(&mut batch, blocks)?;
                self.pages.leave_room(range);
                continue;
            }
            while !range.is_empty() {
                let slice = range.start..range.end.min(range.start + SLICE);
                if self.pages.appends(&slice) {
                    // Behind what waits.
                    bytes += self.take(&mut batch, blocks)? + self.append(&slice)?;
                    range.start = slice.end;
                } else if batch.add(&mut range) {
                    bytes += self.take(&mut batch, blocks)?;
                }
                manners.go_on();
            }
        }
        Ok(bytes + self.take(&mut batch, blocks)?)
    }

    /// Copies much memory at once; how many bytes.
    fn append(&mut self, range: &Range<u64>) -> Result<u64> {
        let missing = self.pages.append(range, self.process.pid);
        let missing = missing.map_err(Error::images(format!("write {}", self.pages.name())))?;
        Ok(range.end - range.start - missing.iter().map(|gone| gone.end - gone.start).sum::<u64>())
    }

    /// Copies these pages, as far as they are still there; how many bytes.
    fn take(&mut self, batch: &mut Batch, blocks: &mut Blocks) -> Result<u64> {
        let mut block = blocks.take();
        let (pieces, missing) = batch.read(self.process.pid, block.bytes_mut());
        let put = self.pages.put(&block, &pieces);
        blocks.give_back(block);
        put.map_err(Error::images(format!("write {}", self.pages.name())))?;
        // It was unmapped meanwhile, or is not readable.
        missing.into_iter().for_each(|range| self.pages.forget(range));
        Ok(pieces.iter().map(|(_, part)| part.len() as u64).sum())
    }
}

/// Whether another round is worth its time, after one that has left so many bytes. One that is to make the rest fit may take long,
/// and `before` are the bytes that the last one had left; one after that must be short, and `before` are those that this one copied.
fn is_worth_another(left: u64, before: u64, fits: bool) -> bool {
    if fits { left > FEW && left <= before / 2 } else { left <= before / 10 * 9 }
}

/// Both in the order of addresses; whether they are of the second.
fn merged(one: &Ranges, other: &Ranges) -> Vec<(Range<u64>, bool)> {
    let mut all: Vec<_> = one.iter().map(|r| (r, false)).chain(other.iter().map(|r| (r, true))).collect();
    all.sort_unstable_by_key(|(range, _)| range.start);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_end_when_they_gain_nothing() {
        const MIB: u64 = 1 << 20;
        for (left, before, fits, worth) in [
            (38 * MIB, 1024 * MIB, true, true),
            (38 * MIB, 60 * MIB, true, false),
            (FEW, 38 * MIB, true, false),
            (400 * MIB, 1024 * MIB, false, true),
            (400 * MIB, 420 * MIB, false, false),
        ] {
            assert_eq!(is_worth_another(left, before, fits), worth, "{left} of {before}, {fits}");
        }
    }
}
