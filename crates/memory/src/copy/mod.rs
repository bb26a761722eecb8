//! Copies the memory of running processes in rounds: all of it, then the pages that were written meanwhile, until few are left.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::ops::Range;
use std::time::{Duration, Instant};

use hiber_criu::ImageDirectory;
use hiber_criu::page_protocol::Memory;
use hiber_criu::pagemap::PAGE;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::images::{PageFile, Ranges, Source};
use crate::track::Tracked;

/// Bytes that are copied at once: few enough to stay in the processor's cache until they are written.
const BLOCK: usize = 256 << 10;

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
    /// Processes that cannot be tracked, with the reasons; their memory is copied while they are frozen.
    pub untracked: Vec<(i32, String)>,
}

/// Copies of memory, in files of pages that are not yet images.
#[derive(Debug)]
pub struct Copies {
    dir: ImageDirectory,
    /// By the number here.
    processes: BTreeMap<i32, Copy>,
    /// Those that cannot be.
    untracked: BTreeMap<i32, String>,
    buffer: Vec<u8>,
}

/// Of a process.
#[derive(Debug)]
struct Copy {
    process: Process,
    tracked: Tracked,
    file: PageFile,
}

impl Copies {
    /// None yet; they will be in `dir`.
    pub fn new(dir: ImageDirectory) -> Self {
        Self { dir, processes: BTreeMap::new(), untracked: BTreeMap::new(), buffer: vec![0; BLOCK] }
    }

    /// Copies memory in rounds. `processes` lists the processes at the beginning of each round.
    ///
    /// # Errors
    /// If a copy cannot be written. A process that cannot be tracked is no error.
    pub fn run(&mut self, limits: &Limits, processes: impl Fn() -> Vec<Process>) -> Result<Copied> {
        let (mut copied, began, mut before) = (Copied::default(), Instant::now(), u64::MAX);
        while copied.rounds < limits.rounds {
            copied.rounds += 1;
            copied.bytes += self.round(&processes())?;
            copied.left = self.processes.values().filter_map(|copy| copy.tracked.rest().ok()).sum();
            let each = began.elapsed().as_secs_f64() / copied.bytes.max(1) as f64;
            let fits = each * copied.left as f64 <= limits.frozen.as_secs_f64();
            // If a round has shrunk the rest by less than a tenth, another one is not worth its time.
            if fits || copied.left > before / 10 * 9 {
                break;
            }
            before = copied.left;
        }
        copied.untracked = self.untracked.iter().map(|(pid, why)| (*pid, why.clone())).collect();
        Ok(copied)
    }

    fn round(&mut self, processes: &[Process]) -> Result<u64> {
        let gone: Vec<_> =
            self.processes.keys().filter(|pid| processes.iter().all(|p| p.pid != **pid)).copied().collect();
        gone.into_iter().for_each(|pid| self.give_up(pid));
        let mut bytes = 0;
        for process in processes {
            if self.untracked.contains_key(&process.pid) {
                continue;
            }
            match self.copy(*process) {
                Ok(copied) => bytes += copied,
                Err(e @ (Error::Images(..) | Error::Criu(_))) => return Err(e),
                Err(e) => {
                    self.give_up(process.pid);
                    if !matches!(e, Error::Gone(_)) {
                        self.untracked.insert(process.pid, e.to_string());
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Copies what a process has written; how many bytes.
    fn copy(&mut self, process: Process) -> Result<u64> {
        let mut copy = match self.processes.remove(&process.pid) {
            Some(copy) => copy,
            None => Copy::start(&self.dir, process)?,
        };
        let copied = copy.round(&mut self.buffer);
        // Also of one that fails: its file is removed by whoever gives up.
        self.processes.insert(process.pid, copy);
        copied
    }

    /// The copies of a process are of no use.
    fn give_up(&mut self, pid: i32) {
        if let Some(copy) = self.processes.remove(&pid) {
            let _ = self.dir.remove(copy.file.name());
        }
    }

    /// Ends the tracking, and returns the copies with the ranges where they are current. To be called when no process runs any
    /// more.
    pub fn into_sources(self) -> Vec<(Memory, Source)> {
        let source = |copy: Copy| {
            // Pages that are not known to be clean are read again.
            let clean = copy.tracked.clean().unwrap_or_default();
            (Memory::Task(copy.process.number), Source { file: copy.file, clean })
        };
        self.processes.into_values().map(source).collect()
    }
}

impl Copy {
    fn start(dir: &ImageDirectory, process: Process) -> Result<Self> {
        let tracked = Tracked::start(process.pid)?;
        let name = format!("copy-of-{}", process.pid);
        let file = PageFile::create(dir, &name).map_err(Error::images(format!("write {name}")))?;
        Ok(Self { process, tracked, file })
    }

    fn round(&mut self, buffer: &mut [u8]) -> Result<u64> {
        let written = self.tracked.written()?;
        written.unknown.into_iter().for_each(|area| self.file.forget(area));
        self.take(&written.pages, buffer)
    }

    /// Copies these pages, as far as they are still there; how many bytes.
    fn take(&mut self, pages: &Ranges, buffer: &mut [u8]) -> Result<u64> {
        let mut bytes = 0;
        for range in pages.iter() {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min(at + buffer.len() as u64);
                bytes += self.take_block(at..end, buffer)?;
                at = end;
            }
        }
        Ok(bytes)
    }

    fn take_block(&mut self, block: Range<u64>, buffer: &mut [u8]) -> Result<u64> {
        let length = (block.end - block.start) as usize;
        let mut to = [IoSliceMut::new(&mut buffer[..length])];
        let from = [RemoteIoVec { base: block.start as usize, len: length }];
        let read = process_vm_readv(Pid::from_raw(self.process.pid), &mut to, &from).unwrap_or(0);
        let read = read as u64 / PAGE * PAGE;
        let writing = format!("write {}", self.file.name());
        self.file.put(block.start, &buffer[..read as usize]).map_err(Error::images(writing))?;
        // It was unmapped meanwhile, or is not readable.
        self.file.forget(block.start + read..block.end);
        Ok(read)
    }
}
