//! The queue of pages to bring, and the threads that bring them.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hiber_sys::userfault::Mapped;

use super::asked::{Asked, PORTION};
use super::failure::{Failure, Touch};
use super::missing::{Missing, PAGE, Range};
use super::pages::{Found, Pages};
use super::server::{Answer, PageServer};
use super::space::Space;

/// When who has found nothing to do looks again: memory that moves can be nowhere for a moment.
const PAUSE: Duration = Duration::from_millis(2);

/// The work, in its order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Plan {
    /// Whether all processes are there.
    open: bool,
    closed: bool,
    /// Whether pages are brought that nobody touches.
    rest: bool,
    first: VecDeque<Touch>,
    /// Where in which space the rest has got to.
    at: (usize, u64),
    /// Pages that the page server was not asked for yet.
    unasked: BTreeMap<i32, Missing>,
    urgent: VecDeque<Touch>,
    asked: Asked,
    arrived: VecDeque<(Touch, Vec<u8>)>,
    /// Pages that nobody needs any more.
    unneeded: Vec<Touch>,
}

/// Whether somebody waits for pages that a page server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urgency {
    None,
    Waited,
    /// So, but they were asked for already.
    Again,
}

enum Job {
    Fill(Vec<(Arc<Space>, u64, u64)>),
    Deliver(Touch, Vec<u8>),
    Idle,
    Closed,
}

impl Queue {
    /// `prefers` says which kind of page server there is, if there is one; `rest` whether pages are brought that nobody touches.
    pub(super) fn new(
        first: Vec<Touch>,
        elsewhere: BTreeMap<i32, Missing>,
        prefers: bool,
        rest: bool,
    ) -> Self {
        let asked = Asked::of(prefers);
        let plan = Plan { first: first.into(), unasked: elsewhere, asked, rest, ..Plan::default() };
        Self { plan: plan.into(), changed: Condvar::new() }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, how: impl FnOnce(&mut Plan)) {
        how(&mut self.plan());
        self.changed.notify_all();
    }

    /// All processes are there: the rest is brought now.
    pub(super) fn open(&self) {
        self.change(|plan| plan.open = true);
    }

    /// Somebody wants all of it.
    pub(super) fn want_rest(&self) {
        self.change(|plan| plan.rest = true);
    }

    pub(super) fn close(&self) {
        self.change(|plan| plan.closed = true);
    }

    /// Somebody waits for pages that a page server has.
    pub(super) fn hurry(&self, task: i32, start: u64, end: u64) {
        self.change(|plan| plan.urgent.push_back(Touch { task, start, end }));
    }

    /// Pages on the page server that nobody has asked for.
    pub(super) fn left(&self) -> Vec<Touch> {
        let plan = self.plan();
        let unasked = plan.unasked.iter().flat_map(|(task, ranges)| {
            ranges.of_origin(0, u64::MAX).into_iter().map(|range| touch(*task, range))
        });
        unasked.chain(plan.unneeded.iter().copied()).collect()
    }
}

/// The state that its threads share.
pub(super) struct Shared {
    pub(super) pages: Pages,
    pub(super) server: Option<Box<dyn PageServer>>,
    pub(super) spaces: RwLock<Vec<Arc<Space>>>,
    pub(super) queue: Queue,
    /// Readable when `verdict` is there.
    pub(super) told: OwnedFd,
    pub(super) verdict: Mutex<Option<Result<(), Failure>>>,
}

impl Shared {
    pub(super) fn spaces(&self) -> Vec<Arc<Space>> {
        self.spaces.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn add(&self, space: Space) {
        self.spaces.write().unwrap_or_else(PoisonError::into_inner).push(space.into());
    }

    /// Closes the descriptors of processes that have ended: a shell makes many.
    pub(super) fn forget_ended(&self, unreadable: &Mapped) {
        let unreadable = unreadable.part(0, PAGE);
        let lives = |space: &Arc<Space>| unreadable.is_none_or(|page| space.lives(page));
        self.spaces.write().unwrap_or_else(PoisonError::into_inner).retain(lives);
    }

    /// Nobody is added meanwhile: what is missing of a forked process counts until it is among the others.
    pub(super) fn is_all_there(&self) -> bool {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        spaces.iter().all(|space| space.missing().is_empty())
    }

    /// The first word counts.
    pub(super) fn tell(&self, verdict: Result<(), Failure>) {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(verdict);
        let _ = rustix::io::write(&self.told, &1u64.to_ne_bytes());
    }
}

fn touch(task: i32, range: Range) -> Touch {
    Touch { task, start: range.origin, end: range.origin + range.length() }
}

impl Shared {
    /// A thread that puts pages in place.
    pub(super) fn work(&self) {
        loop {
            let done = match self.next_job() {
                Job::Closed => return,
                Job::Idle if self.is_all_there() => return self.tell(Ok(())),
                Job::Idle => {
                    let plan = self.queue.plan();
                    drop(self.queue.changed.wait_timeout(plan, PAUSE));
                    Ok(())
                }
                Job::Fill(parts) => {
                    parts.iter().try_for_each(|(space, start, end)| space.fill(*start, *end, &self.pages))
                }
                Job::Deliver(what, bytes) => self.deliver(what, &bytes),
            };
            if let Err(failure) = done {
                return self.tell(Err(failure));
            }
        }
    }

    /// To all that miss it: the process, and those that it has forked.
    fn deliver(&self, what: Touch, bytes: &[u8]) -> Result<(), Failure> {
        self.misses(what).iter().try_for_each(|(space, ..)| space.deliver(what.start, bytes))?;
        // One that was forked meanwhile misses what its parent has got.
        let again = self.misses(what);
        if again.is_empty() { Ok(()) } else { self.deliver(what, bytes) }
    }

    /// The process that misses some of a range of the dump, and the address there.
    fn misses(&self, what: Touch) -> Vec<(Arc<Space>, u64, u64)> {
        let mut all = Vec::new();
        for space in self.spaces().into_iter().filter(|space| space.task == what.task) {
            let missing = space.missing().of_origin(what.start, what.end);
            all.extend(missing.into_iter().map(|range| (Arc::clone(&space), range.start, range.end)));
        }
        all
    }

    fn next_job(&self) -> Job {
        let mut plan = self.queue.plan();
        loop {
            if plan.closed {
                return Job::Closed;
            }
            if let Some((what, bytes)) = plan.arrived.pop_front() {
                self.queue.changed.notify_all();
                return Job::Deliver(what, bytes);
            }
            if plan.open
                && let Some(job) = self.next_first(&mut plan)
            {
                return job;
            }
            if plan.open && plan.rest {
                return self.next_rest(&mut plan);
            }
            plan = self.queue.changed.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Pages that were touched first after an earlier restore.
    fn next_first(&self, plan: &mut Plan) -> Option<Job> {
        while let Some(what) = plan.first.pop_front() {
            let misses = self.misses(what);
            let here = |(space, start, _): &(Arc<Space>, u64, u64)| {
                let range = space.missing().at(*start);
                range.is_some_and(|range| {
                    matches!(self.pages.find(space.task, range.origin, PAGE), Some(Found::Here(_)))
                })
            };
            if misses.iter().any(here) {
                return Some(Job::Fill(misses));
            }
            if !misses.is_empty() && self.server.is_some() {
                plan.urgent.push_back(what);
                self.queue.changed.notify_all();
            }
        }
        None
    }

    /// All others, in their order.
    fn next_rest(&self, plan: &mut Plan) -> Job {
        let spaces = self.spaces();
        let (mut number, mut at) = plan.at;
        while let Some(space) = spaces.get(number) {
            let Some(range) = space.missing().from(at).map(|range| range.first(PORTION)) else {
                (number, at) = (number + 1, 0);
                continue;
            };
            at = match self.pages.find(space.task, range.origin, range.length()) {
                Some(Found::Server(length)) => {
                    at = range.start + length;
                    continue;
                }
                Some(Found::Here(_)) => range.end,
                // There is no such page, which is told when it is filled.
                None => range.start + PAGE,
            };
            plan.at = (number, at);
            return Job::Fill(vec![(Arc::clone(space), range.start, at)]);
        }
        plan.at = (0, 0);
        Job::Idle
    }

    /// A thread that asks the page server.
    pub(super) fn ask(&self, server: &dyn PageServer) {
        while let Some((what, waited)) = self.next_request() {
            if let Err(e) = server.ask(what.task, what.start, (what.end - what.start) / PAGE, waited) {
                return self.tell(Err(Failure::Server(format!("takes no request: {e}"))));
            }
        }
    }

    /// The next pages to ask the page server for, which then count as asked, and whether somebody waits for them; `None` at the end.
    fn next_request(&self) -> Option<(Touch, bool)> {
        let mut plan = self.queue.plan();
        loop {
            if plan.closed {
                return None;
            }
            let Some((what, urgency)) = plan.next_request() else {
                plan = self.queue.changed.wait(plan).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if urgency == Urgency::Again {
                return Some((what, true));
            }
            // The process may have unmapped the pages, or ended.
            if plan.open && self.misses(what).is_empty() {
                plan.unneeded.push(what);
                continue;
            }
            plan.asked.add(what);
            self.queue.changed.notify_all();
            return Some((what, urgency == Urgency::Waited));
        }
    }

    /// A thread that hears the page server's answers.
    pub(super) fn receive(&self, server: &dyn PageServer) {
        loop {
            let mut plan = self.queue.plan();
            while plan.asked.is_empty() {
                if plan.closed {
                    return;
                }
                plan = self.queue.changed.wait(plan).unwrap_or_else(PoisonError::into_inner);
            }
            drop(plan);
            let answer = server.answer();
            let heard = answer.map_err(|e| format!("does not answer: {e}")).and_then(|a| self.take_in(a));
            if let Err(why) = heard {
                return self.tell(Err(Failure::Server(why)));
            }
        }
    }

    fn take_in(&self, answer: Answer) -> Result<(), String> {
        let mut plan = self.queue.plan();
        let (got, rest) = plan.asked.take(&answer)?;
        if let Some(rest) = rest {
            let range = Range { start: rest.start, end: rest.end, origin: rest.start };
            plan.unasked.entry(rest.task).or_default().insert(range);
            plan.urgent.push_back(rest);
        }
        plan.arrived.push_back((got, answer.bytes));
        self.queue.changed.notify_all();
        Ok(())
    }
}

impl Plan {
    /// The next pages to ask for, if there is room for them.
    fn next_request(&mut self) -> Option<(Touch, Urgency)> {
        if self.asked.has_room(&self.arrived, true)
            && let Some(urgent) = self.take_urgent()
        {
            return Some(urgent);
        }
        let more = self.open && self.asked.has_room(&self.arrived, false);
        if more { Some((self.take_next()?, Urgency::None)) } else { None }
    }

    fn take_urgent(&mut self) -> Option<(Touch, Urgency)> {
        while let Some(what) = self.urgent.pop_front() {
            let wanted = |ranges: &Missing| {
                let range = ranges.from(what.start).filter(|range| range.start < what.end)?;
                Some(touch(what.task, range.first((what.end - range.start).min(PORTION))))
            };
            let unasked = self.unasked.get(&what.task).and_then(wanted);
            let next = unasked.map_or(what.end, |range| range.start);
            let again = self.asked.again(&Touch { end: next, ..what });
            // Pages that are in neither have come.
            let found = again.map(|range| (range, Urgency::Again));
            let found = found.or_else(|| unasked.map(|range| (range, Urgency::Waited)));
            let Some((range, urgency)) = found else { continue };
            if let (Urgency::Waited, Some(unasked)) = (urgency, self.unasked.get_mut(&what.task)) {
                unasked.remove(range.start, range.end);
            }
            if range.end < what.end {
                self.urgent.push_front(Touch { start: range.end, ..what });
            }
            return Some((range, urgency));
        }
        None
    }

    fn take_next(&mut self) -> Option<Touch> {
        let (task, ranges) = self.unasked.iter_mut().find(|(_, ranges)| !ranges.is_empty())?;
        let range = ranges.from(0)?.first(PORTION);
        ranges.remove(range.start, range.end);
        Some(touch(*task, range))
    }
}
