//! A thread that hashes files of pages behind those who write them, and has the kernel send them to the disk.
//!
//! Pages are hashed while the processor has them in its cache, on another processor if there is one.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake3::Hash;
use hiber_sys::writeback::begin_writeback;

use super::digest::Digest;

/// Bytes of a block: few enough to stay in the processor's cache until they are written and hashed.
const BLOCK: usize = 256 << 10;
/// How many blocks may wait to be hashed.
const WAITING: usize = 4;
/// Bytes that are sent to the disk at once.
const WRITEBACK: u64 = 8 << 20;

/// Work on files of pages while they are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// They are hashed.
    pub hash: bool,
    /// They are sent to the disk.
    pub sync: bool,
}

/// The thread. Dropped with all its clones and files, it ends.
#[derive(Debug, Clone, Default)]
pub struct Finisher {
    work: Work,
    jobs: Option<SyncSender<Job>>,
}

/// Bytes that are written and hashed.
#[derive(Debug, Clone)]
pub(crate) struct Block(Arc<Vec<u8>>);

/// Pieces of a block, with the addresses to which they belong, or their offsets in a file.
pub(crate) type Pieces = Vec<(u64, Range<usize>)>;

/// Blocks that are used again when they have been hashed.
#[derive(Debug, Default)]
pub(crate) struct Blocks(VecDeque<Block>);

/// The thread's view of a file.
#[derive(Debug)]
struct State {
    digest: Digest,
    /// Bytes of the file that are there, and those that are on their way to the disk.
    there: u64,
    sent: u64,
}

/// A file that is finished.
#[derive(Debug)]
pub(super) struct Finished {
    file: Arc<File>,
    state: Arc<Mutex<State>>,
    finisher: Finisher,
}

#[derive(Debug)]
enum Job {
    Written {
        state: Arc<Mutex<State>>,
        file: Arc<File>,
        block: Block,
        pieces: Pieces,
    },
    CatchUp {
        state: Arc<Mutex<State>>,
        file: Arc<File>,
    },
    Nice(i32),
    /// Tells that all before it is done.
    Done(SyncSender<()>),
}

impl Block {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Of one that nobody else has.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        Arc::<Vec<u8>>::make_mut(&mut self.0).as_mut_slice()
    }
}

#[cfg(test)]
impl From<&[u8]> for Block {
    fn from(bytes: &[u8]) -> Self {
        Self(Arc::new(bytes.to_vec()))
    }
}

impl Blocks {
    /// How many bytes each has.
    pub(crate) const BYTES: usize = BLOCK;

    /// One that nobody else has.
    pub(crate) fn take(&mut self) -> Block {
        match self.0.front_mut().map(|block| Arc::get_mut(&mut block.0).is_some()) {
            Some(true) => self.0.pop_front(),
            _ => None,
        }
        .unwrap_or_else(|| Block(Arc::new(vec![0; BLOCK])))
    }

    pub(crate) fn give_back(&mut self, block: Block) {
        self.0.push_back(block);
    }
}

impl Finisher {
    /// Without work, and where there cannot be another thread, hashes are made in the end.
    pub fn start(work: Work) -> Self {
        if work == Work::default() {
            return Self::default();
        }
        let (jobs, todo) = mpsc::sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("hiber-hash".into());
        let thread = thread.spawn(move || todo.into_iter().for_each(|job| done(job, work)));
        Self { work, jobs: thread.ok().map(|_| jobs) }
    }

    /// Gives the thread this nice value (nice(2)), which it must be allowed to have.
    pub(super) fn be_nice(&self, value: i32) {
        self.give(Job::Nice(value));
    }

    /// Whether files are sent to the disk.
    pub(super) fn syncs(&self) -> bool {
        self.work.sync
    }

    /// Waits until all work is done that was given. Whether there is a thread that has done it.
    pub(super) fn wait(&self) -> bool {
        let (told, tells) = mpsc::sync_channel(1);
        self.give(Job::Done(told));
        tells.recv().is_ok()
    }

    fn give(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // Where the thread is gone, [`Self::wait`] finds out.
            let _ = jobs.send(job);
        }
    }

    pub(super) fn file(&self, file: &Arc<File>) -> Finished {
        let state = State { digest: Digest::default(), there: 0, sent: 0 };
        Finished { file: Arc::clone(file), state: Arc::new(state.into()), finisher: self.clone() }
    }
}

impl Finished {
    /// Pieces of `block` were written to the file, at these offsets.
    pub(super) fn written(&self, block: &Block, pieces: Pieces) {
        if !pieces.is_empty() {
            let (state, file, block) = (Arc::clone(&self.state), Arc::clone(&self.file), block.clone());
            self.finisher.give(Job::Written { state, file, block, pieces });
        }
    }

    /// Bytes were written behind all others: their writer hashes them, while his processor has them in its cache.
    pub(super) fn appended(&self, offset: u64, bytes: &[u8]) {
        let work = self.finisher.work;
        let groups = if work.hash { Digest::groups_in(offset, bytes) } else { Vec::new() };
        let mut state = lock(&self.state);
        state.digest.appended(groups);
        if work.sync {
            state.send(&self.file, offset + bytes.len() as u64);
        }
    }

    /// Pages that were written out of order are read and hashed now, as far as they are known, for there is time.
    pub(super) fn catch_up(&self) {
        self.finisher.give(Job::CatchUp { state: Arc::clone(&self.state), file: Arc::clone(&self.file) });
    }

    /// Bytes were moved within the file, which nobody writes to any more.
    pub(super) fn moved(&self, offset: u64, bytes: &[u8]) {
        if self.finisher.work.hash {
            lock(&self.state).digest.written(offset, bytes);
        }
    }

    /// Waits until all that was written is hashed.
    pub(super) fn wait(&self) {
        if !self.finisher.wait() {
            // There is no thread: all of it is read in the end.
            lock(&self.state).digest = Digest::default();
        }
    }

    /// The file's hash, which has that length, if it is to be hashed.
    pub(super) fn hash(&self, length: u64) -> io::Result<Option<Hash>> {
        self.finisher.work.hash.then(|| lock(&self.state).digest.of(&self.file, length)).transpose()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn done(job: Job, work: Work) {
    match job {
        Job::Written { state, file, block, pieces } => {
            let mut state = lock(&state);
            for (offset, part) in pieces {
                let bytes = &block.bytes()[part];
                if work.hash {
                    state.digest.written(offset, bytes);
                }
                if work.sync {
                    state.send(&file, offset + bytes.len() as u64);
                }
            }
        }
        // A failed read is repeated at the end, and its error is reported then.
        Job::CatchUp { state, file } if work.hash => {
            let mut state = lock(&state);
            let _ = file.metadata().and_then(|meta| state.digest.catch_up(&file, meta.len()));
        }
        Job::CatchUp { .. } => {}
        Job::Nice(value) => drop(rustix::process::setpriority_process(None, value)),
        Job::Done(told) => {
            // Nobody waits any more.
            let _ = told.send(());
        }
    }
}

impl State {
    /// Sends what there is to the disk, if it is much.
    fn send(&mut self, file: &File, end: u64) {
        self.there = self.there.max(end);
        let unsent = self.there - self.sent;
        if unsent >= WRITEBACK {
            // Where it cannot be begun early, it is done at the end.
            let _ = begin_writeback(file.as_fd(), self.sent, unsent);
            self.sent += unsent;
        }
    }
}
