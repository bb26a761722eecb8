//! The memory of one process: what of it is missing, and how that gets there.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use hiber_sys::userfault::{self, Copied, Event, Source};
use rustix::io::Errno;

use super::failure::{Failure, Touch};
use super::missing::{Missing, PAGE, Range};
use super::pages::{Found, Pages};

/// How much is brought of what is around a page that somebody waits for, in bytes.
const AROUND: u64 = 64 << 10;
/// How much is copied at once, in bytes: for so long nobody else is served.
const AT_ONCE: u64 = 256 << 10;

/// An address space, by its userfaultfd.
#[derive(Debug)]
pub(super) struct Space {
    /// Its number at the dump; that of the task of which it was forked.
    pub(super) task: i32,
    fd: OwnedFd,
    /// Held for reading while something is copied, and for writing from when events are read until what they say is true of
    /// `missing`: else a page could be put where another is by now.
    gate: RwLock<()>,
    missing: Mutex<Missing>,
    gone: AtomicBool,
}

/// How putting pages somewhere ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Put {
    /// Some are missing no more.
    Some,
    /// There are events to be read first.
    Later,
    /// The first page of them can be nowhere, or they are in more than one area.
    Nowhere,
    /// The process is no more.
    Gone,
}

/// The result of serving a process.
#[derive(Debug, Default)]
pub(super) struct Attended {
    /// Whether it has forked.
    pub(super) forked: bool,
    /// Pages that were brought because somebody waited for them.
    pub(super) touched: Vec<Touch>,
    /// Pages that somebody waits for and that a page server has, by their addresses at the dump.
    pub(super) wanted: Vec<(u64, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Space {
    pub(super) fn new(task: i32, fd: OwnedFd, missing: Missing) -> Self {
        Self { task, fd, gate: RwLock::default(), missing: missing.into(), gone: AtomicBool::new(false) }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the process is no more, or has another memory by now.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Whether it is there still. `unreadable` is a page that cannot be copied, wherever to.
    pub(super) fn lives(&self, unreadable: Source<'_>) -> bool {
        const ANYWHERE: u64 = 1 << 30;
        if let Some(Errno::SRCH | Errno::NOSPC) = userfault::copy(self.fd(), ANYWHERE, unreadable).stopped {
            self.ended();
        }
        !self.is_gone()
    }

    pub(super) fn missing(&self) -> MutexGuard<'_, Missing> {
        lock(&self.missing)
    }

    /// Puts pages in place that nobody waits for: what is missing of `start..end`, and here.
    pub(super) fn fill(&self, start: u64, end: u64, pages: &Pages) -> Result<(), Failure> {
        let here = |is: Range| {
            Ok(match pages.take(self.task, is.origin, is.length().min(AT_ONCE))? {
                Some(Found::Here(source)) => Some((is.first(source.length()), source)),
                _ => None,
            })
        };
        loop {
            let missing = self.missing().from(start).filter(|range| range.start < end);
            let Some(missing) = missing.map(|range| range.first(end - range.start)) else { return Ok(()) };
            let Some((range, source)) = here(missing)? else { return Ok(()) };
            // Pages on a disk are read before anybody has to wait for them.
            if source.populate() == Err(Errno::FAULT) {
                return Err(Failure::Image { task: self.task, address: range.origin });
            }
            if !self.put_read(range.start, |is| here(is.first(end.saturating_sub(is.start).max(PAGE))))? {
                return Ok(());
            }
        }
    }

    /// Puts the pages in place that were at `origin` at the dump.
    pub(super) fn deliver(&self, origin: u64, bytes: &[u8]) -> Result<(), Failure> {
        let end = origin + bytes.len() as u64;
        loop {
            let Some(wanted) = self.missing().of_origin(origin, end).first().copied() else { return Ok(()) };
            let source = |is: Range| {
                let from = is.origin.checked_sub(origin).filter(|from| *from < bytes.len() as u64);
                Ok(from.map(|from| {
                    let to = (from + is.length()).min(from + AT_ONCE).min(bytes.len() as u64);
                    (is.first(to - from), Source::from(&bytes[from as usize..to as usize]))
                }))
            };
            self.put_read(wanted.start, source)?;
            if self.is_gone() {
                return Ok(());
            }
        }
    }

    /// Puts something of what is missing at `at`, which `source` has. False if that has to wait until events are read.
    fn put_read<'a>(
        &self,
        at: u64,
        source: impl Fn(Range) -> Result<Option<(Range, Source<'a>)>, Failure>,
    ) -> Result<bool, Failure> {
        let put = {
            let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let Some(is) = self.missing().at(at) else { return Ok(true) };
            let Some((is, source)) = source(is)? else { return Ok(true) };
            match self.put(is, source)? {
                Put::Nowhere if is.length() > PAGE => self.put(is.first(PAGE), source)?,
                put => put,
            }
        };
        Ok(match put {
            Put::Some | Put::Gone => true,
            Put::Later => {
                std::thread::yield_now();
                false
            }
            Put::Nowhere => {
                let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
                let is = self.missing().at(at);
                match is.map_or(Ok(None), source)? {
                    Some((is, source)) => self.put_or_drop(is.first(PAGE), source)? != Put::Later,
                    None => true,
                }
            }
        })
    }

    /// Copies, and takes note of it. The gate is held.
    fn put(&self, range: Range, source: Source<'_>) -> Result<Put, Failure> {
        let Copied { bytes, stopped } = userfault::copy(self.fd(), range.start, source.first(range.length()));
        let done = |bytes| {
            self.missing().remove(range.start, range.start + bytes);
            Ok(Put::Some)
        };
        match stopped {
            None => done(bytes),
            // It has come with its neighbours.
            Some(Errno::EXIST) => done(PAGE),
            Some(Errno::NOENT) => Ok(Put::Nowhere),
            Some(Errno::AGAIN) => Ok(Put::Later),
            Some(Errno::SRCH | Errno::NOSPC) => {
                self.ended();
                Ok(Put::Gone)
            }
            Some(Errno::FAULT) => Err(Failure::Image { task: self.task, address: range.origin }),
            Some(errno) => Err(Failure::Copy { task: self.task, address: range.start, errno }),
        }
    }

    /// As [`put`](Self::put) of one page, which is dropped if it can be nowhere. The gate is held for writing.
    ///
    /// The kernel says so, too, while mremap(2) has moved the page and nobody has read of that; but from before the move until
    /// it is read of, the next call is refused with EAGAIN. So who hears it twice in a row knows.
    fn put_or_drop(&self, page: Range, source: Source<'_>) -> Result<Put, Failure> {
        for _ in 0..2 {
            match self.put(page, source)? {
                Put::Nowhere => {}
                put => return Ok(put),
            }
        }
        self.missing().remove(page.start, page.end);
        Ok(Put::Nowhere)
    }

    fn ended(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.missing().clear();
    }

    /// Reads what the kernel tells of the process, and brings what its threads wait for. Forked processes are `add`ed before
    /// anything else of this one is brought: who finds nothing missing here must find what is missing there.
    pub(super) fn attend(&self, pages: &Pages, add: impl Fn(Self)) -> Result<Attended, Failure> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut attended = Attended::default();
        let mut waiting = VecDeque::from(self.hear(&add, &mut attended)?);
        while let Some(page) = waiting.pop_front() {
            if !self.serve(page, pages, &mut attended)? && !self.is_gone() {
                // Changes of the memory are reported after this; a thread that waits keeps waiting.
                waiting.extend(self.hear(&add, &mut attended)?);
                waiting.push_back(page);
                std::thread::yield_now();
            }
        }
        Ok(attended)
    }

    /// Reads what has happened to the memory, and takes note of it; the result is the pages that somebody waits for.
    ///
    /// The kernel tells of those first, also if a fork or a move was before them. Brought first, they would be missing in the
    /// forked process for ever.
    fn hear(&self, add: impl Fn(Self), attended: &mut Attended) -> Result<Vec<u64>, Failure> {
        let events = userfault::events(self.fd()).map_err(|why| Failure::Events { task: self.task, why })?;
        let mut waiting = Vec::new();
        for event in events {
            match event {
                Event::Fault(address) => waiting.push(address - address % PAGE),
                Event::Fork(fd) => {
                    let missing = self.missing().clone();
                    add(Self::new(self.task, fd, missing));
                    attended.forked = true;
                }
                Event::Remap { from, to, length } => self.missing().remap(from, to, length),
                Event::Remove { start, end } | Event::Unmap { start, end } => {
                    self.missing().remove(start, end);
                }
            }
        }
        Ok(waiting)
    }

    /// Brings a page that somebody waits for; false if there are events to be read first.
    fn serve(&self, page: u64, pages: &Pages, attended: &mut Attended) -> Result<bool, Failure> {
        loop {
            let Some(range) = self.missing().around(page, AROUND) else { return self.serve_zeros(page) };
            let source = match pages.take(self.task, range.origin, range.length())? {
                Some(Found::Here(source)) => source,
                Some(Found::Server(length)) => {
                    // There, too, only what is in a row; the page itself in any case.
                    let range =
                        if range.start + length > page { range.first(length) } else { self.row(page) };
                    attended.wanted.push((range.origin, range.origin + range.length()));
                    return Ok(true);
                }
                None => return Err(Failure::Image { task: self.task, address: range.origin }),
            };
            let range = range.first(source.length());
            let put = match self.put(range, source)? {
                Put::Nowhere => {
                    let Some(range) = self.missing().at(page) else { continue };
                    match pages.take(self.task, range.origin, PAGE)? {
                        Some(Found::Here(source)) => self.put_or_drop(range.first(PAGE), source)?,
                        _ => return Err(Failure::Image { task: self.task, address: range.origin }),
                    }
                }
                put => put,
            };
            match put {
                Put::Later => return Ok(false),
                Put::Gone => return Ok(true),
                Put::Nowhere => {
                    let _ = userfault::wake(self.fd(), page, PAGE);
                    return Ok(true);
                }
                Put::Some => attended.touched.push(Touch {
                    task: self.task,
                    start: range.origin,
                    end: range.origin + range.length(),
                }),
            }
            if self.missing().at(page).is_none() {
                // Nobody is left waiting, whoever has brought it.
                let _ = userfault::wake(self.fd(), page, PAGE);
                return Ok(true);
            }
        }
    }

    fn row(&self, page: u64) -> Range {
        let found = self.missing().at(page);
        found.map_or(Range { start: page, end: page, origin: page }, |range| range.first(AROUND))
    }

    /// A page that was nowhere at the dump has no content.
    fn serve_zeros(&self, page: u64) -> Result<bool, Failure> {
        match userfault::zero(self.fd(), page, PAGE).stopped {
            None => {}
            Some(Errno::AGAIN) => return Ok(false),
            Some(Errno::EXIST | Errno::NOENT) => {
                let _ = userfault::wake(self.fd(), page, PAGE);
            }
            Some(Errno::SRCH | Errno::NOSPC) => self.ended(),
            Some(errno) => return Err(Failure::Copy { task: self.task, address: page, errno }),
        }
        Ok(true)
    }
}
