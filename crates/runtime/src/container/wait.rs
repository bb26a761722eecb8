//! Waiting for the end of something: any number of waiters, each of which can be cancelled or limited in time.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::container::exit::ExitStatus;

/// The event to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The container does not run. This is true at once for a container that is only created, has stopped or is gone.
    NotRunning,
    /// The next end of the container, even if it does not run now. For a container that has ended the wait ends with its removal,
    /// because it does not run again.
    NextExit,
    /// The removal.
    Removed,
}

/// A wait. Its result comes once and stays. It can be asked by any thread, or awaited by any executor.
#[derive(Debug, Clone)]
pub struct Wait(Arc<Slot>);

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    result: Option<ExitStatus>,
    wakers: Vec<Waker>,
}

/// The other side of a [`Wait`], which never blocks.
#[derive(Debug)]
pub(crate) struct Teller(Weak<Slot>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the result, if there is none yet.
    fn tell(&self, result: ExitStatus) {
        let wakers = {
            let mut state = self.lock();
            state.result.get_or_insert(result);
            std::mem::take(&mut state.wakers)
        };
        self.told.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wait {
    /// A wait, and the side that ends it.
    pub(crate) fn new() -> (Self, Teller) {
        let slot = Arc::new(Slot::default());
        let teller = Teller(Arc::downgrade(&slot));
        (Self(slot), teller)
    }

    /// A wait that has ended already.
    pub(crate) fn ended(result: ExitStatus) -> Self {
        let (wait, teller) = Self::new();
        teller.tell(&result);
        wait
    }

    /// Waits as long as it takes.
    pub fn get(&self) -> ExitStatus {
        let mut state = self.0.lock();
        loop {
            match &state.result {
                Some(result) => return result.clone(),
                None => state = self.0.told.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Waits until `limit` at most; then the wait is cancelled.
    pub fn within(&self, limit: Duration) -> ExitStatus {
        // A limit beyond the clock's range is no limit.
        let Some(deadline) = Instant::now().checked_add(limit) else { return self.get() };
        let mut state = self.0.lock();
        while state.result.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                self.cancel(&format!("the time limit of {limit:?} is over"));
                return self.get();
            }
            let waited = self.0.told.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
        }
        drop(state);
        self.get()
    }

    /// The result, if it has come.
    pub fn try_get(&self) -> Option<ExitStatus> {
        self.0.lock().result.clone()
    }

    /// Stops waiting, for all clones. If there is no result yet, it becomes -1 with this reason.
    pub fn cancel(&self, why: &str) {
        self.0.tell(ExitStatus::cancelled(why));
    }
}

impl Future for Wait {
    type Output = ExitStatus;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ExitStatus> {
        let mut state = self.0.lock();
        match &state.result {
            Some(result) => Poll::Ready(result.clone()),
            None => {
                if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    state.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl Teller {
    pub(crate) fn tell(&self, result: &ExitStatus) {
        if let Some(slot) = self.0.upgrade() {
            slot.tell(result.clone());
        }
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.upgrade().is_none_or(|slot| slot.lock().result.is_some())
    }
}
