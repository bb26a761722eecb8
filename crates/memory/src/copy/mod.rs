//! Copies the memory of running processes in rounds: all of it, then the pages that were written meanwhile, until few are left.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::time::{Duration, Instant};

use hiber_criu::page_protocol::Memory;

use crate::error::{Error, Result};
use crate::images::{Batch, Blocks, Pages, Place, Ranges, Source};
use crate::track::{Means, Tracked, Written};

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
        while copied.rounds < limits.rounds {
            copied.rounds += 1;
            let stops = self.means.as_ref().is_ok_and(Means::clears_dirty_bits);
            let stopped = stops.then(&stop).transpose()?;
            let written = self.look(&processes())?;
            drop(stopped);
            copied.bytes += self.round(written)?;
            copied.left = self.processes.values().filter_map(|copy| copy.tracked.rest().ok()).sum();
            copied.each = began.elapsed().as_secs_f64() / copied.bytes.max(1) as f64;
            let fits = copied.each * copied.left as f64 <= limits.frozen.as_secs_f64();
            // If a round has shrunk the rest by less than a tenth, another one is not worth its time.
            if fits || copied.left > before / 10 * 9 {
                break;
            }
            before = copied.left;
        }
        self.processes.values().for_each(|copy| copy.pages.catch_up());
        copied.untracked = self.untracked.iter().map(|(pid, why)| (*pid, why.clone())).collect();
        Ok(copied)
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
    fn round(&mut self, written: Vec<(i32, Written)>) -> Result<u64> {
        let mut bytes = 0;
        for (pid, written) in written {
            let Some(copy) = self.processes.get_mut(&pid) else { continue };
            match copy.round(written, &mut self.blocks) {
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

    /// Ends the tracking, and returns the copies with the ranges where they are current. To be called when no process runs any
    /// more.
    pub fn into_sources(self) -> Vec<(Memory, Source)> {
        let source = |copy: Copy| {
            // Pages that are not known to be clean are read again.
            let clean = copy.tracked.clean().unwrap_or_default();
            (Memory::Task(copy.process.number), Source { pages: copy.pages, clean })
        };
        self.processes.into_values().map(source).collect()
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

    fn round(&mut self, written: Written, blocks: &mut Blocks) -> Result<u64> {
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
                if batch.add(&mut range) {
                    bytes += self.take(&mut batch, blocks)?;
                }
            }
        }
        Ok(bytes + self.take(&mut batch, blocks)?)
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

/// Both in the order of addresses; whether they are of the second.
fn merged(one: &Ranges, other: &Ranges) -> Vec<(Range<u64>, bool)> {
    let mut all: Vec<_> = one.iter().map(|r| (r, false)).chain(other.iter().map(|r| (r, true))).collect();
    all.sort_unstable_by_key(|(range, _)| range.start);
    all
}
