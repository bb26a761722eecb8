//! A relay between the two ends of CRIU's page protocol, so that a broken migration loses no container.
//!
//! The source's page server takes the end of the connection for success, and the destination's daemon takes its leave
//! in the same words whether it has all pages or has failed. In both cases the source kills its tasks, and the
//! destination has none that work. So requests pass through here, and a leave is passed on only if it is meant and if no
//! page is missing: each was sent, or given up by the destination, since its tasks have let go of it. Of anything else
//! CRIU sees half a request, which it takes for the failure that it is: its tasks run on.
//!
//! CRIU's daemon without a relay does not say what it gives up, and it always does so when a task ends early. From such a
//! destination a leave is one if of each task something was asked for: then all have run there.
//!
//! The protocol (CRIU's page-xfer.c): the daemon sends requests of 32 bytes, {u32 command, u32 padding, u64 pages, u64
//! address, u64 process}; each is answered by such a header and the pages, which may be fewer. A leave is answered by 4
//! bytes. Giving up is a word of ours, between two relays.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lazy_memory::LazyMemory;
use crate::page_protocol::{ADD_F, CLOSE, FORCE_CLOSE, GET, WORD, Word};
use crate::pagemap::PAGE;

/// Bytes of a request.
pub const REQUEST: usize = WORD;
/// The answer to a leave: no error.
const DONE: [u8; 4] = [0; 4];
/// No honest answer has more pages: CRIU answers from one pipe.
const MAX_ANSWER: u64 = 16 << 10;
/// Ours, and none of CRIU's: the destination needs those pages no more.
const GIVE_UP: u16 = 0x6869;

/// A request, or the header of an answer.
pub type Request = [u8; REQUEST];

/// Whether this is a request for pages, with which CRIU's daemon begins.
pub fn asks_for_pages(request: &Request) -> bool {
    Word::of(request).command == GET
}

/// How the requests of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With a leave; the source's CRIU has heard of it only if no page was missing.
    Leave {
        /// How many pages were neither sent nor given up, as far as the destination is one that gives up.
        missing: u64,
    },
    /// Without one.
    Broken,
}

/// The pages that were not sent yet, shared by both directions of a connection.
#[derive(Debug, Clone)]
struct Missing {
    memory: Arc<Mutex<LazyMemory>>,
    /// Whether the destination is a relay, which says what it gives up.
    relay: bool,
}

impl Missing {
    fn new(memory: LazyMemory, relay: bool) -> Self {
        Self { memory: Arc::new(memory.into()), relay }
    }

    fn lock(&self) -> MutexGuard<'_, LazyMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages(&self) -> u64 {
        let memory = self.lock();
        if self.relay { memory.pages() } else { memory.pages_of_untouched() }
    }

    fn remove(&self, range: &Word) {
        self.lock().remove(range.id, range.address, range.pages);
    }
}

/// Passes requests for pages on until one is something else.
fn requests(mut from: impl Read, mut to: impl Write, missing: &Missing) -> Ended {
    let mut request = [0; REQUEST];
    while from.read_exact(&mut request).is_ok() {
        let words = Word::of(&request);
        match words.command {
            GET if to.write_all(&request).is_ok() => {}
            GIVE_UP => missing.remove(&words),
            CLOSE | FORCE_CLOSE => return Ended::Leave { missing: missing.pages() },
            _ => break,
        }
    }
    Ended::Broken
}

fn leave(mut to: impl Write) -> io::Result<()> {
    to.write_all(&Word { command: FORCE_CLOSE, ..Word::default() }.bytes())
}

/// Follows the answers of a page server.
struct Answers {
    missing: Missing,
    header: Request,
    /// How much of the header has come.
    have: usize,
    /// How much of its pages has not.
    due: u64,
}

impl Answers {
    fn new(missing: Missing) -> Self {
        Self { missing, header: [0; REQUEST], have: 0, due: 0 }
    }

    /// Takes what came next: pages that are whole with it are missing no more.
    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = if self.due > 0 { self.due } else { (REQUEST - self.have) as u64 };
            let (part, rest) = bytes.split_at(usize::try_from(wanted).unwrap_or(usize::MAX).min(bytes.len()));
            bytes = rest;
            if self.due > 0 {
                self.due -= part.len() as u64;
            } else {
                self.header[self.have..self.have + part.len()].copy_from_slice(part);
                self.have += part.len();
                if self.have < REQUEST {
                    continue;
                }
                self.due = Word::of(&self.header).pages.saturating_mul(PAGE);
            }
            if self.due == 0 {
                self.have = 0;
                let words = Word::of(&self.header);
                if words.command == ADD_F {
                    self.missing.remove(&words);
                }
            }
        }
    }
}

/// Copies to the end. Once nobody takes the bytes any more, the rest is read and thrown away, so that whoever writes it
/// is not stopped in the middle.
fn drain(mut from: impl Read, mut to: impl Write, answers: &mut Answers) {
    let mut buffer = vec![0; 64 << 10];
    let mut taken = true;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        // First, for whoever has them may take leave at once.
        answers.hear(&buffer[..count]);
        taken = taken && to.write_all(&buffer[..count]).is_ok();
    }
}

/// The source's side: serves the pages of CRIU's page server at `criu` to the destination at `peer`. The other end is a relay, or
/// a daemon of CRIU's of which `first` was read already. `memory` is what the dump left behind. Before a leave is passed on
/// `done` is called, and CRIU then ends its tasks; on any other end, and on a leave with pages missing, it lets them run on.
///
/// # Errors
/// If `done` fails: CRIU is told of a failure.
pub fn serve(
    criu: &UnixStream,
    peer: &TcpStream,
    first: Option<Request>,
    memory: LazyMemory,
    done: impl FnOnce() -> io::Result<()>,
) -> io::Result<Ended> {
    let missing = Missing::new(memory, first.is_none());
    let mut answers = Answers::new(missing.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drain(criu, peer, &mut answers);
            let _ = peer.shutdown(Shutdown::Both);
        });
        let ended = requests(first.as_ref().map_or(&[][..], |first| first).chain(peer), criu, &missing);
        let result = match ended {
            Ended::Leave { missing: 0 } => done().and_then(|()| leave(criu)),
            _ => fail(criu),
        };
        if result.is_err() {
            let _ = fail(criu);
        }
        result.map(|()| ended)
    })
}

/// Has a page server fail, so that its tasks run on.
pub fn fail(mut criu: &UnixStream) -> io::Result<()> {
    // Half a request; the whole of one cannot begin with zeros.
    criu.write_all(&[0; REQUEST / 2])?;
    criu.shutdown(Shutdown::Write)
}

/// A destination of the page server at the other end of a connection, or of the relay that stands there.
#[derive(Debug)]
pub struct Fetcher {
    peer: TcpStream,
    /// Whether a relay is there, which hears what is given up.
    relay: bool,
}

/// Pages of a task.
#[derive(Debug)]
pub struct Fetched {
    /// The task's number at the dump.
    pub task: u64,
    /// The address of the first.
    pub address: u64,
    /// Their content.
    pub bytes: Vec<u8>,
}

impl Fetcher {
    /// At a connection that CRIU's page server has let in.
    pub fn of_page_server(peer: TcpStream) -> Self {
        Self { peer, relay: false }
    }

    /// At a connection that the relay of a runtime like this one has let in.
    pub fn of_relay(peer: TcpStream) -> Self {
        Self { peer, relay: true }
    }

    /// Asks for pages. Requests are answered in their order; several may be on their way.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn ask(&self, task: u64, address: u64, pages: u64) -> io::Result<()> {
        (&self.peer).write_all(&Word { command: GET, pages, address, id: task, ..Word::default() }.bytes())
    }

    /// Waits for the next answer, which may have fewer pages than were asked for.
    ///
    /// # Errors
    /// The connection is broken, or what comes is no answer, or one with more pages than fit a pipe.
    pub fn answer(&self) -> io::Result<Fetched> {
        let mut header = [0; REQUEST];
        (&self.peer).read_exact(&mut header)?;
        let Word { command, pages, address, id: task, .. } = Word::of(&header);
        if command != ADD_F || pages > MAX_ANSWER {
            let what = format!("its answer has command {command} and {pages} pages");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mut bytes = vec![0; usize::try_from(pages * PAGE).unwrap_or_default()];
        (&self.peer).read_exact(&mut bytes)?;
        Ok(Fetched { task, address, bytes })
    }

    /// Ends who waits for an answer.
    pub fn close(&self) {
        let _ = self.peer.shutdown(Shutdown::Both);
    }

    /// Tells the source that it may end its tasks, after it has heard of the pages that were not asked for (task, address, number),
    /// since the restored tasks have unmapped them or ended. All requests must have been answered. Whether it has confirmed that.
    pub fn confirm(&self, given_up: impl IntoIterator<Item = (u64, u64, u64)>) -> bool {
        let give_up = |(task, address, pages)| {
            (&self.peer)
                .write_all(&Word { command: GIVE_UP, pages, address, id: task, ..Word::default() }.bytes())
        };
        let mut given_up = given_up.into_iter().take_while(|_| self.relay);
        let mut done = [1; DONE.len()];
        given_up.try_for_each(give_up).is_ok()
            && leave(&self.peer).is_ok()
            && self.peer.shutdown(Shutdown::Write).is_ok()
            && (&self.peer).read_exact(&mut done).is_ok()
            && done == DONE
    }
}

/// Tells the source that its container is still needed.
pub fn decline(mut peer: &TcpStream) {
    let _ = peer.write_all(&[0; REQUEST]);
    let _ = peer.shutdown(Shutdown::Both);
}

/// For `fuzz/`: what one end asks for, and what the other answers, however much of that comes at once.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz(asked: &[u8], answered: &[u8]) {
    for relay in [false, true] {
        let missing = || Missing::new(LazyMemory::with(1, 10), relay);
        let (at_once, in_parts) = (missing(), missing());
        let ended = requests(asked, io::sink(), &at_once);
        assert_eq!(requests(asked, io::sink(), &in_parts), ended);
        let (mut one, mut other) = (Answers::new(at_once.clone()), Answers::new(in_parts.clone()));
        one.hear(answered);
        answered.chunks(7).for_each(|part| other.hear(part));
        assert_eq!(at_once.pages(), in_parts.pages());
        assert!(at_once.pages() <= 10);
    }
}

#[cfg(test)]
#[path = "page_relay_tests.rs"]
mod tests;
