//! Takes memory from a dump of CRIU's, over a socket, in the place of a page server (`criu_proto`'s `ps.fd`).
//!
//! CRIU splices pages into a unix socket without copying them, so tasks are frozen for less long than if CRIU wrote files. Pages
//! that are here already and have not changed are not read at all. Of tasks that stand still CRIU may leave the pages to us
//! altogether ([`own_tracking`]): then those that are not here are read from the tasks. Errors are reported at the end: a dump that
//! loses its page server in the middle would end badly.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use blake3::Hash;
#[cfg(doc)]
use hiber_criu::own_tracking;
use hiber_criu::own_tracking::{forget_parent, mark_lazy};
use hiber_criu::page_protocol::{ADD_F, CLOSE, FORCE_CLOSE, Memory, OPEN2, WORD, Word};
use hiber_criu::pagemap::{self, IN_PARENT, LAZY, PAGE, PRESENT, Run};
use hiber_criu::{ImageDirectory, Images};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::batch::Batch;
use super::behind::{Behind, divided};
use super::finisher::Blocks;
use super::unwritten::here;
use super::{Pages, Place, Ranges, Unwritten};
use crate::error::{Error, Result};

/// Bytes that may be on their way in the socket, so that CRIU goes on meanwhile. The kernel may grant less.
const ON_THE_WAY: usize = 8 << 20;
/// Bytes that a pipe holds.
const PIPE: usize = 1 << 20;

/// The pages of a memory that were copied beforehand.
#[derive(Debug)]
pub struct Source {
    /// Where the copies are.
    pub pages: Pages,
    /// The addresses at which they are what the memory is, where there is a copy.
    pub clean: Ranges,
}

/// A thread that takes the memory of a dump. Dropped, it ends when CRIU has.
#[derive(Debug)]
pub struct Receiver {
    dir: ImageDirectory,
    place: Place,
    known: Arc<Mutex<Known>>,
    thread: Option<JoinHandle<Result<Vec<Received>>>>,
    unwritten: Vec<Unwritten>,
    behind: Vec<Behind>,
}

/// The knowledge that there is before CRIU begins to send.
#[derive(Debug, Default)]
struct Known {
    sources: BTreeMap<Memory, Source>,
    /// The tasks whose pages we read, by their number here.
    read: BTreeMap<Memory, i32>,
    /// Whether they are read later.
    leave: bool,
    /// The tasks whose lazy pages stay where they are and follow, by their number here.
    behind: BTreeMap<Memory, i32>,
}

/// A file of pages that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// If it was to be hashed.
    pub hash: Option<Hash>,
}

/// A memory that has been received.
#[derive(Debug)]
struct Received {
    memory: Memory,
    number: u32,
    pages: Pages,
    runs: Vec<Run>,
    /// The task to which it belongs, if its pages are read by us.
    pid: Option<i32>,
    /// Whether they are read later.
    left: bool,
    /// The task, if its lazy pages stay where they are.
    behind: Option<i32>,
    /// The addresses at which the pages that are here are what the memory is.
    clean: Ranges,
}

impl Receiver {
    /// Has maps of pages written into `dir`, and pages put into their `place`; CRIU gets the socket.
    ///
    /// # Errors
    /// Those of socketpair(2), or of a thread that cannot be started.
    pub fn start(dir: ImageDirectory, place: Place) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        // More than the limit is given only to who may; less is slower.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&theirs, ON_THE_WAY)
            .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(&theirs, ON_THE_WAY));
        let known = Arc::default();
        let taker = Taker {
            place: place.clone(),
            known: Arc::clone(&known),
            received: Vec::new(),
            failed: None,
            blocks: Blocks::default(),
            nowhere: Nowhere::new()?,
        };
        let thread = std::thread::Builder::new().name("hiber-pages".into()).spawn(move || taker.run(ours))?;
        Ok((
            Self { dir, place, known, thread: Some(thread), unwritten: Vec::new(), behind: Vec::new() },
            theirs.into(),
        ))
    }

    /// Tells what was copied beforehand; before CRIU begins to send.
    pub fn know(&self, memory: Memory, source: Source) {
        lock(&self.known).sources.insert(memory, source);
    }

    /// CRIU may leave pages of the task with this number here to us; before it begins to send. The task must stand still until all
    /// pages are received.
    pub fn read(&self, memory: Memory, pid: i32) {
        lock(&self.known).read.insert(memory, pid);
    }

    /// The pages that CRIU leaves to us stay where they are: [`unwritten`](Self::unwritten) gives them.
    pub fn leave(&self) {
        lock(&self.known).leave = true;
    }

    /// Pages of the task with this number here that may follow stay in it, unless they are here already: [`behind`](Self::behind) gives
    /// them. Before CRIU begins to send; the task must stand still until they were taken.
    pub fn leave_behind(&self, memory: Memory, pid: i32) {
        lock(&self.known).behind.insert(memory, pid);
    }

    /// The pages that follow, after all else is finished.
    pub fn behind(&mut self) -> Vec<Behind> {
        std::mem::take(&mut self.behind)
    }

    /// The files of pages that were not written, after all else is finished.
    pub fn unwritten(&mut self) -> Vec<Unwritten> {
        std::mem::take(&mut self.unwritten)
    }

    /// Writes the maps of pages, when CRIU has sent all, and brings the files of pages in order. Copies of memory that was not
    /// sent are removed. Tells of the files of pages.
    ///
    /// # Errors
    /// Those of receiving pages, too.
    pub fn finish(&mut self) -> Result<Vec<Image>> {
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        let mut images = Vec::new();
        let received =
            thread.join().map_err(|_| Error::Images("receive pages".into(), io::ErrorKind::Other.into()))?;
        let unsent = std::mem::take(&mut lock(&self.known).sources);
        unsent.into_values().for_each(|source| source.pages.remove(&self.place));
        forget_parent(&self.dir).map_err(Error::Criu)?;
        for mut received in received? {
            received.mark_lazy(&self.dir)?;
            received.part().map(|behind| self.behind.extend(behind))?;
            let name = received.pages.name().to_owned();
            pagemap::write(&self.dir, &received.memory.pagemap(), received.number, &received.runs)
                .map_err(Error::Criu)?;
            let (size, hash) = match received.pid.filter(|_| received.left && received.behind.is_none()) {
                Some(pid) => {
                    let unwritten = received.leave(pid, &name);
                    let size = unwritten.size;
                    self.unwritten.push(unwritten);
                    (size, None)
                }
                None => {
                    let settled = received.pages.settle(&received.runs);
                    settled.map_err(Error::images(format!("write {name}")))?
                }
            };
            images.push(Image { name, size, hash });
        }
        Ok(images)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Received {
    /// CRIU says of pages that it leaves to us only that there are such.
    fn mark_lazy(&mut self, dir: &ImageDirectory) -> Result<()> {
        let (Memory::Task(number), Some(_)) = (self.memory, self.pid) else { return Ok(()) };
        let images = Images::in_directory(dir).map_err(Error::Criu)?;
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.runs = mark_lazy(&images, number, &self.runs).map_err(Error::Criu)?;
        Ok(())
    }

    /// Parts with the pages that stay in the task, and reads those that must not.
    fn part(&mut self) -> Result<Option<Behind>> {
        let Some(pid) = self.behind else { return Ok(None) };
        let (runs, behind, unread) = divided(&self.runs, &self.pages, &self.clean);
        self.runs = runs;
        let (mut batch, mut blocks) = (Batch::default(), Blocks::default());
        for mut range in unread {
            while !range.is_empty() {
                if batch.add(&mut range) {
                    self.take(&mut batch, &mut blocks, pid)?;
                }
            }
        }
        self.take(&mut batch, &mut blocks, pid)?;
        Ok((!behind.is_empty()).then(|| Behind::new(self.memory, pid, behind)))
    }

    /// Reads pages from the task.
    fn take(&mut self, batch: &mut Batch, blocks: &mut Blocks, pid: i32) -> Result<()> {
        let mut block = blocks.take();
        let (pieces, missing) = batch.read(pid, block.bytes_mut());
        let put = self.pages.put(&block, &pieces);
        blocks.give_back(block);
        put.map_err(Error::images(format!("write {}", self.pages.name())))?;
        all_read(pid, &missing)
    }

    /// Nothing is written.
    fn leave(self, pid: i32, name: &str) -> Unwritten {
        let Self { pages, clean, mut runs, .. } = self;
        runs.retain(Run::is_present);
        let size = runs.iter().map(|run| run.end - run.start).sum();
        Unwritten { name: name.to_owned(), size, pid, runs, pages, clean }
    }
}

/// The thread's.
struct Taker {
    place: Place,
    known: Arc<Mutex<Known>>,
    received: Vec<Received>,
    failed: Option<Error>,
    blocks: Blocks,
    nowhere: Nowhere,
}

impl Taker {
    fn run(mut self, mut socket: UnixStream) -> Result<Vec<Received>> {
        let mut word = [0; WORD];
        loop {
            socket.read_exact(&mut word).map_err(Error::images("receive pages from criu"))?;
            let word = Word::of(&word);
            match word.command {
                OPEN2 => {
                    let opened = self.open(word.id);
                    self.note(opened);
                    // To CRIU we are the parent.
                    let parent = self.received.last().is_some_and(|received| received.pid.is_some());
                    let parent = u8::from(parent && self.failed.is_none());
                    socket.write_all(&[parent]).map_err(Error::images("answer criu"))?;
                }
                ADD_F => self.add(&mut socket, &word)?,
                CLOSE | FORCE_CLOSE => {
                    let status = if self.failed.is_none() { 0_i32 } else { -1 };
                    socket.write_all(&status.to_ne_bytes()).map_err(Error::images("answer criu"))?;
                    return self.failed.map_or(Ok(self.received), Err);
                }
                other => {
                    let problem =
                        io::Error::new(io::ErrorKind::InvalidData, format!("unknown command {other:#x}"));
                    return Err(Error::Images("receive pages from criu".into(), problem));
                }
            }
        }
    }

    fn note(&mut self, done: Result<()>) {
        if let Err(e) = done {
            self.failed.get_or_insert(e);
        }
    }

    fn open(&mut self, id: u64) -> Result<()> {
        let unknown =
            || io::Error::new(io::ErrorKind::InvalidData, format!("unknown kind of memory {id:#x}"));
        let opening = Error::images("open the file of pages");
        let memory = Memory::of(id).ok_or_else(unknown).map_err(Error::images("receive pages from criu"))?;
        let number = u32::try_from(self.received.len() + 1).unwrap_or(u32::MAX);
        let name = format!("pages-{number}.img");
        let (source, pid, behind, left) = {
            let mut known = lock(&self.known);
            let (read, behind) = (known.read.get(&memory).copied(), known.behind.get(&memory).copied());
            (known.sources.remove(&memory), read, behind, known.leave || behind.is_some())
        };
        let (pages, clean) = match source {
            Some(Source { mut pages, clean }) => (pages.rename(&self.place, &name).map(|()| pages), clean),
            None => (Pages::create(&self.place, &name, memory), Ranges::default()),
        };
        let pages = pages.map_err(opening)?;
        self.received.push(Received { memory, number, pages, runs: Vec::new(), pid, left, behind, clean });
        Ok(())
    }

    /// Takes the pages of one run.
    fn add(&mut self, socket: &mut UnixStream, word: &Word) -> Result<()> {
        let bytes = word.pages.checked_mul(PAGE).and_then(|bytes| word.address.checked_add(bytes));
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a run of pages that ends nowhere");
        let end = bytes.ok_or_else(wrong).map_err(Error::images("receive pages from criu"))?;
        let flags = u32::from(word.flags);
        let mut at = word.address;
        if let (None, Some(received)) = (&self.failed, self.received.last_mut()) {
            let left = flags & IN_PARENT != 0;
            received.runs.push(Run { start: at, end, flags: if left { PRESENT } else { flags } });
            if left && !received.left {
                let read = self.read(at, end);
                self.note(read);
            }
        }
        while flags & PRESENT != 0 && at < end {
            at += self.part(socket, flags, at, end)?;
        }
        Ok(())
    }

    /// Reads the pages of a run that CRIU has left to us, as far as they are not here.
    fn read(&mut self, mut at: u64, end: u64) -> Result<()> {
        let mut batch = Batch::default();
        while at < end {
            at = match self.here(at, end) {
                Ok(here) => here,
                Err(until) => {
                    let mut range = at..until;
                    if self.received.last().is_some_and(|received| received.pages.appends(&range)) {
                        // Behind what waits.
                        self.take(&mut batch)?;
                        self.append(&range)?;
                        range.start = range.end;
                    }
                    while !range.is_empty() {
                        if batch.add(&mut range) {
                            self.take(&mut batch)?;
                        }
                    }
                    until
                }
            };
        }
        self.take(&mut batch)
    }

    fn take(&mut self, batch: &mut Batch) -> Result<()> {
        let (received, pid) = reading(&mut self.received)?;
        received.take(batch, &mut self.blocks, pid)
    }

    fn append(&mut self, range: &Range<u64>) -> Result<()> {
        let (received, pid) = reading(&mut self.received)?;
        let missing = received.pages.append(range, pid);
        all_read(pid, &missing.map_err(Error::images(format!("write {}", received.pages.name())))?)
    }

    /// Up to where pages from an address on are here and current; else up to where they are not.
    fn here(&self, at: u64, end: u64) -> Result<u64, u64> {
        self.received.last().map_or(Err(end), |received| here(&received.pages, &received.clean, at, end))
    }

    /// Takes some of the pages that are coming; how many bytes.
    fn part(&mut self, socket: &mut UnixStream, flags: u32, at: u64, end: u64) -> Result<u64> {
        let receiving = Error::images("receive pages from criu");
        let until = match self.here(at, end) {
            Ok(here) => return self.nowhere.drop_from(socket, here - at).map_err(receiving),
            Err(until) => until,
        };
        let (None, Some(received)) = (&self.failed, self.received.last_mut()) else {
            return self.nowhere.drop_from(socket, end - at).map_err(receiving);
        };
        if flags & LAZY != 0 && received.behind.is_some() {
            return self.nowhere.drop_from(socket, until - at).map_err(receiving);
        }
        let length = Blocks::BYTES.min(usize::try_from(until - at).unwrap_or(Blocks::BYTES));
        let mut block = self.blocks.take();
        socket.read_exact(&mut block.bytes_mut()[..length]).map_err(receiving)?;
        let put = received.pages.put(&block, &[(at, 0..length)]);
        if received.left {
            received.clean.add(at..at + length as u64);
        }
        self.blocks.give_back(block);
        let writing = format!("write {}", received.pages.name());
        self.note(put.map_err(Error::images(writing)));
        Ok(length as u64)
    }
}

/// The memory that is received now, if its pages are read by us, and the task to which it belongs.
fn reading(received: &mut [Received]) -> Result<(&mut Received, i32)> {
    let last = received.last_mut().and_then(|received| received.pid.map(|pid| (received, pid)));
    let problem =
        || io::Error::new(io::ErrorKind::InvalidData, "pages are left to a parent, and there is none");
    last.ok_or_else(problem).map_err(Error::images("receive pages from criu"))
}

fn all_read(pid: i32, missing: &[Range<u64>]) -> Result<()> {
    let Some(range) = missing.first() else { return Ok(()) };
    Err(Error::Memory { tid: pid, address: range.start, why: rustix::io::Errno::FAULT.into() })
}

/// Where pages go that nobody needs, without being copied.
struct Nowhere {
    from: OwnedFd,
    to: OwnedFd,
    null: File,
}

impl Nowhere {
    fn new() -> io::Result<Self> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
        // A smaller one is slower.
        let _ = fcntl_setpipe_size(&to, PIPE);
        Ok(Self { from, to, null: File::options().write(true).open("/dev/null")? })
    }

    fn drop_from(&self, socket: &UnixStream, bytes: u64) -> io::Result<u64> {
        let mut left = bytes as usize;
        while left > 0 {
            let mut moved = splice(socket, None, &self.to, None, left.min(PIPE), SpliceFlags::MOVE)?;
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= moved;
            while moved > 0 {
                moved -= splice(&self.from, None, &self.null, None, moved, SpliceFlags::MOVE)?;
            }
        }
        Ok(bytes)
    }
}
