//! Post-copy, at the source: memory that goes over when it is wanted, while the container stands still here and runs there.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender as Teller, TryRecvError, channel};
use std::time::{Duration, Instant};

use hiber_criu::pagemap::PAGE;
use hiber_memory::images::Behind;

use super::connection::Connection;
use super::outgoing::Sender;
use super::word::{Bytes, Want, Word};
use crate::error::{Error, Result, chain};

/// Bytes that are sent at once: whoever begins to wait meanwhile waits for so much.
const PART: u64 = 128 << 10;
/// How long one listens for the reason when nothing can be sent any more.
const SOON: Duration = Duration::from_secs(6);
/// How many requests may wait: an honest destination has some thousands on their way.
const MOST: usize = 1 << 16;

/// How the destination's wants have ended, after the decision.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Whether the destination has said that the container runs.
    pub(super) running: bool,
    /// Whether all memory was sent.
    pub(super) sent: bool,
    /// Why not all of it has arrived, or it is not known whether it has.
    pub(super) lost: Option<Error>,
}

/// The pages that are still here, and those that are wanted.
pub(super) struct Service {
    pages: BTreeMap<u64, Behind>,
    /// By somebody who waits for them, and by nobody; each by its memory.
    waited: VecDeque<(u64, Range<u64>)>,
    others: VecDeque<(u64, Range<u64>)>,
    sender: Sender,
    /// The other end's name, in messages.
    peer: String,
    decided: bool,
    running: bool,
    /// Whether the destination has said that it cannot restore the container, and has nothing of it.
    pub(super) refused: bool,
}

impl Service {
    /// `peer` names the other end in messages.
    pub(super) fn new(behind: Vec<Behind>, sender: Sender, peer: &str) -> Self {
        Self {
            pages: behind.into_iter().map(|of| (of.memory().id(), of)).collect(),
            waited: VecDeque::new(),
            others: VecDeque::new(),
            sender,
            peer: peer.to_owned(),
            decided: false,
            running: false,
            refused: false,
        }
    }

    /// How many bytes are still here.
    pub(super) fn left(&self) -> u64 {
        self.pages.values().map(Behind::bytes).sum()
    }

    /// Sends what is wanted until the destination has all, or something fails. When it has restored the container, `decide` is asked to
    /// give it up.
    ///
    /// # Errors
    /// Whatever fails before the decision.
    pub(super) fn run(
        &mut self,
        connection: &mut Connection,
        decide: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Followed> {
        let (tell, told) = channel();
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| listen(connection, &tell, &enough));
            let ended = self.serve(&told, decide);
            enough.store(true, Ordering::Relaxed);
            ended
        })
    }

    fn serve(
        &mut self,
        told: &Receiver<Result<Word>>,
        decide: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Followed> {
        loop {
            let idle = self.waited.is_empty() && self.others.is_empty();
            let next = if idle { told.recv().map_err(TryRecvError::from) } else { told.try_recv() };
            let done = match next {
                Ok(Ok(Word::Arrived)) if self.decided => return Ok(self.ended(None)),
                Ok(said) => said.and_then(|word| self.hear(word, decide)),
                Err(TryRecvError::Empty) => self.send_next().map_err(|e| reason(told).unwrap_or(e)),
                Err(TryRecvError::Disconnected) => {
                    Err(Error::internal("hear the destination", "nobody listens to it"))
                }
            };
            match done {
                Ok(()) => {}
                Err(e) if self.decided => return Ok(self.ended(Some(e))),
                Err(e) => return Err(e),
            }
        }
    }

    fn ended(&self, lost: Option<Error>) -> Followed {
        Followed { running: self.running, sent: self.left() == 0, lost }
    }

    fn hear(&mut self, word: Word, decide: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        match word {
            Word::Want(want) => self.want(want),
            Word::Restored if !self.decided => {
                decide()?;
                self.decided = true;
                Ok(())
            }
            Word::Running if self.decided => {
                self.running = true;
                Ok(())
            }
            Word::Lost(why) if self.decided => Err(Error::host(self.peer.clone(), why)),
            Word::Refuse(why) if !self.decided => {
                self.refused = true;
                Err(Error::host(format!("{} refuses", self.peer), why))
            }
            other => Err(self.failed(format!("it said {other:?} out of turn"))),
        }
    }

    fn failed(&self, why: String) -> Error {
        Error::host(format!("migrate with {}", self.peer), why)
    }

    fn want(&mut self, want: Want) -> Result<()> {
        let Want { memory, address, pages, waited } = want;
        let end = pages.checked_mul(PAGE).and_then(|bytes| address.checked_add(bytes));
        let whole = pages > 0 && address.is_multiple_of(PAGE) && self.pages.contains_key(&memory);
        let Some(end) = end.filter(|_| whole) else {
            return Err(self.failed(format!("it wants {pages} pages at {address:#x} that were not left")));
        };
        let queue = if waited { &mut self.waited } else { &mut self.others };
        queue.push_back((memory, address..end));
        let most = self.waited.len().max(self.others.len());
        if most > MOST {
            return Err(self.failed(format!("it wants memory {most} times before it takes any")));
        }
        Ok(())
    }

    /// Sends the next part of what is wanted, if that was not sent before.
    fn send_next(&mut self) -> Result<()> {
        let queue = if self.waited.is_empty() { &mut self.others } else { &mut self.waited };
        let Some((memory, wanted)) = queue.pop_front() else { return Ok(()) };
        let Some(pages) = self.pages.get_mut(&memory) else { return Ok(()) };
        let Some(found) = pages.next(&wanted) else { return Ok(()) };
        let part = found.start..found.end.min(found.start + PART);
        if part.end < wanted.end {
            queue.push_front((memory, part.end..wanted.end));
        }
        let taken = pages.take(&part);
        let bytes = taken.inspect_err(|e: &io::Error| {
            self.sender.say(&Word::Lost(e.to_string()));
        });
        let bytes = bytes.map_err(|e| Error::host("read the container's memory", e))?;
        let sent = self.sender.send(Bytes::Pages { memory, address: part.start, bytes: &bytes });
        sent.map_err(|e| self.failed(e.to_string()))
    }
}

/// Why nothing can be sent any more, if the destination says so, or whoever listens to it knows.
fn reason(told: &Receiver<Result<Word>>) -> Option<Error> {
    let until = Instant::now() + SOON;
    loop {
        match told.recv_timeout(until.saturating_duration_since(Instant::now())).ok()? {
            Ok(Word::Lost(why) | Word::Refuse(why)) => return Some(Error::host("the destination", why)),
            Ok(_) => {}
            Err(e) => return Some(e),
        }
    }
}

/// Passes on what the destination says, until it has no more to say or nobody wants to hear it.
fn listen(connection: &mut Connection, tell: &Teller<Result<Word>>, enough: &AtomicBool) {
    loop {
        let heard = connection.hear();
        if let Err(e) = &heard {
            tracing::debug!("{}", chain(e));
        }
        let last = matches!(heard, Err(_) | Ok(Word::Arrived | Word::Lost(_) | Word::Refuse(_)));
        let passed = matches!(heard, Ok(Word::Working)) || tell.send(heard).is_ok();
        if last || !passed || enough.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use hiber_criu::page_protocol::Memory;
    use hiber_memory::images::Ranges;

    use super::super::outgoing::Outgoing;
    use super::super::word::{Frame, read_frame};
    use super::*;

    /// A service of so many pages of this process from an address on, and the other end.
    fn service(memory: &[u8], pages: u64) -> (Service, UnixStream, u64) {
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let ranges: Ranges = std::iter::once(first..first + pages * PAGE).collect();
        let behind = Behind::new(Memory::Task(7), std::process::id().cast_signed(), ranges);
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Service::new(vec![behind], Sender(Outgoing::new(ours)), "there"), theirs, first)
    }

    fn want(address: u64, pages: u64, waited: bool) -> Result<Word> {
        Ok(Word::Want(Want { memory: Memory::Task(7).id(), address, pages, waited }))
    }

    #[test]
    fn pages_that_somebody_waits_for_come_first_and_each_once() {
        let memory = vec![7; 200 * PAGE as usize];
        let (mut service, theirs, first) = service(&memory, 100);
        let page = |n: u64| first + n * PAGE;
        let (tell, told) = channel();
        for word in [want(page(0), 100, false), want(page(80), 2, true), want(page(81), 1, true)] {
            tell.send(word).unwrap();
        }
        tell.send(Ok(Word::Restored)).unwrap();
        let decided = AtomicBool::new(false);
        let decide = &decided;
        let serving = std::thread::scope(|scope| {
            let serving = scope.spawn(move || {
                service.serve(&told, &mut || {
                    assert!(!decide.swap(true, Ordering::Relaxed), "once");
                    Ok(())
                })
            });
            let mut from = &theirs;
            let mut came = Vec::new();
            while came.iter().map(|(_, pages)| pages).sum::<u64>() < 100 {
                let Some(Frame::Pages { address, bytes, .. }) = read_frame(&mut from).unwrap() else {
                    panic!("no pages")
                };
                assert!(bytes.iter().all(|byte| *byte == 7));
                came.push(((address - first) / PAGE, bytes.len() as u64 / PAGE));
            }
            assert_eq!(came, [(80, 2), (0, 32), (32, 32), (64, 16), (82, 18)]);
            tell.send(Ok(Word::Running)).unwrap();
            tell.send(Ok(Word::Arrived)).unwrap();
            serving.join().unwrap().unwrap()
        });
        assert!(serving.running && serving.sent && serving.lost.is_none());
        assert!(decided.into_inner());
    }

    #[test]
    fn memory_that_did_not_stay_is_not_given() {
        let memory = vec![7; 20 * PAGE as usize];
        let wants = |memory: u64, offset: u64, pages: u64| {
            move |first: u64| {
                Ok(Word::Want(Want { memory, address: first.wrapping_add(offset), pages, waited: true }))
            }
        };
        let of = Memory::Task(7).id();
        for wrong in [
            wants(Memory::Task(8).id(), 0, 1),
            wants(of, 1, 1),
            wants(of, 0, 0),
            wants(of, 0, u64::MAX),
            wants(of, 0, u64::MAX / PAGE),
        ] {
            let (mut service, _theirs, first) = service(&memory, 10);
            let (tell, told) = channel();
            tell.send(wrong(first)).unwrap();
            let error = chain(&service.serve(&told, &mut || Ok(())).unwrap_err());
            assert!(error.starts_with("migrate with there: it wants "), "{error}");
        }
        // No page beyond those that stayed, whatever is wanted.
        let (mut service, theirs, first) = service(&memory, 10);
        let (tell, told) = channel();
        tell.send(want(first + 9 * PAGE, 5, true)).unwrap();
        tell.send(want(first + 12 * PAGE, 5, true)).unwrap();
        tell.send(Ok(Word::Arrived)).unwrap();
        let error = service.serve(&told, &mut || Ok(())).unwrap_err();
        assert!(chain(&error).contains("Arrived out of turn"), "before the decision");
        assert_eq!(service.left(), 10 * PAGE, "words come first");
        while !service.waited.is_empty() {
            service.send_next().unwrap();
        }
        assert_eq!(service.left(), 9 * PAGE);
        drop(service);
        let mut from = &theirs;
        assert!(matches!(read_frame(&mut from), Ok(Some(Frame::Pages { .. }))));
        assert!(matches!(read_frame(&mut from), Ok(None)));
    }

    #[test]
    fn after_the_decision_a_failure_is_told_and_nothing_fails() {
        let memory = vec![7; 20 * PAGE as usize];
        let (mut service, theirs, first) = service(&memory, 10);
        let (tell, told) = channel();
        tell.send(Ok(Word::Restored)).unwrap();
        tell.send(Ok(Word::Lost("the cellar is flooded".into()))).unwrap();
        let followed = service.serve(&told, &mut || Ok(())).unwrap();
        assert!(!followed.running && !followed.sent);
        assert_eq!(chain(&followed.lost.unwrap()), "there: the cellar is flooded");
        // Nobody takes what was wanted.
        drop(theirs);
        tell.send(want(first, 1, true)).unwrap();
        drop(tell);
        assert!(service.serve(&told, &mut || Ok(())).unwrap().lost.is_some());
    }
}
