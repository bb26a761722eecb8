//! A state that changes, and its waiters.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{Exit, Health, Life, State};
use crate::container::exit::{Ended, ExitStatus};
use crate::container::handle::Container;
use crate::container::task::Task;
use crate::container::wait::{Condition, Teller, Wait};

/// A container's state, shared by those who change it and those who wait. `C` and `T` are the manager's references to
/// the runtime's container and task, which it hands out as long as they are valid.
#[derive(Debug)]
pub struct StateCell<C = Container, T = Task>(Mutex<Inner<C, T>>);

#[derive(Debug)]
struct Inner<C, T> {
    state: State,
    container: Option<C>,
    task: Option<T>,
    /// The result of its removal.
    removed: Option<ExitStatus>,
    /// The waiters for the next end.
    stop: Vec<Teller>,
    /// The waiters for the removal alone.
    removal: Vec<Teller>,
}

impl<C, T> Default for StateCell<C, T> {
    fn default() -> Self {
        Self::new(State::default())
    }
}

impl<C, T> StateCell<C, T> {
    /// A state, such as one that was read back; there are no references yet.
    pub fn new(state: State) -> Self {
        Self(Mutex::new(Inner {
            state,
            container: None,
            task: None,
            removed: None,
            stop: Vec::new(),
            removal: Vec::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<C, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state at this moment.
    pub fn get(&self) -> State {
        self.lock().state.clone()
    }

    /// It runs as `pid`, the first process of `task`: error, exit code and OOM flag of the last run are gone. `first`
    /// is the time of its start; none where it ran already and was only found again.
    pub fn set_running(&self, container: C, task: T, pid: NonZeroU32, first: Option<SystemTime>) {
        let mut inner = self.lock();
        (inner.container, inner.task) = (Some(container), Some(task));
        let state = &mut inner.state;
        state.life = Life::Running { pid, paused: false };
        state.error = None;
        state.started_at = first.or(state.started_at);
    }

    /// It is frozen, or not any more; false if it does not run.
    pub fn set_paused(&self, now: bool) -> bool {
        match &mut self.lock().state.life {
            Life::Running { paused, .. } => {
                *paused = now;
                true
            }
            _ => false,
        }
    }

    /// It has ended; `at` is now if it is not known.
    pub fn set_stopped(&self, exit: Exit, at: Option<SystemTime>) {
        self.end(Life::Idle(exit), at);
    }

    /// It has ended, and will be started again.
    pub fn set_restarting(&self, exit: Exit, at: Option<SystemTime>) {
        self.end(Life::Restarting(exit), at);
    }

    fn end(&self, life: Life, at: Option<SystemTime>) {
        let mut inner = self.lock();
        inner.state.life = life;
        inner.state.finished_at = at.or_else(|| Some(SystemTime::now()));
        inner.task = None;
        let status = inner.exit_status(None);
        let told = std::mem::take(&mut inner.stop);
        // A waiter may look at the state at once.
        drop(inner);
        told.iter().for_each(|teller| teller.tell(&status));
    }

    /// Records an error.
    pub fn set_error(&self, error: &str) {
        self.lock().state.error = Some(error.to_owned());
    }

    /// The result of its health check; none where it has no check any more.
    pub fn set_health(&self, health: Option<Health>) {
        self.lock().state.health = health;
    }

    /// Somebody begins to remove it; false if somebody has already.
    #[must_use]
    pub fn set_removal_in_progress(&self) -> bool {
        !std::mem::replace(&mut self.lock().state.removing, true)
    }

    /// The removal was given up.
    pub fn reset_removal_in_progress(&self) {
        self.lock().state.removing = false;
    }

    /// Its removal has failed half-way. One that runs is not dead: false.
    pub fn set_dead(&self) -> bool {
        let mut inner = self.lock();
        if inner.state.is_running() {
            return false;
        }
        inner.state.life = Life::Dead(inner.state.exit());
        true
    }

    /// It is gone, or stays for good with this error: everybody is told.
    pub fn set_removed(&self, error: Option<&str>) {
        let mut inner = self.lock();
        let status = inner.exit_status(error);
        inner.removed = Some(status.clone());
        (inner.container, inner.task) = (None, None);
        let mut told = std::mem::take(&mut inner.stop);
        told.append(&mut inner.removal);
        drop(inner);
        told.iter().for_each(|teller| teller.tell(&status));
    }

    /// Waits for `condition`. A change of the state never waits for a waiter.
    pub fn wait(&self, condition: Condition) -> Wait {
        let mut inner = self.lock();
        let already = match condition {
            Condition::NotRunning if !inner.state.is_running() => Some(inner.exit_status(None)),
            Condition::NotRunning | Condition::NextExit => None,
            Condition::Removed => inner.removed.clone(),
        };
        if let Some(status) = already {
            return Wait::ended(status);
        }
        let (wait, teller) = Wait::new();
        let waiters = match condition {
            Condition::NotRunning | Condition::NextExit => &mut inner.stop,
            Condition::Removed => &mut inner.removal,
        };
        waiters.retain(|teller| !teller.is_idle());
        waiters.push(teller);
        wait
    }
}

impl<C: Clone, T: Clone> StateCell<C, T> {
    /// The runtime's container; none before it was started the first time and after its removal.
    pub fn container(&self) -> Option<C> {
        self.lock().container.clone()
    }

    /// The runtime's task; none unless it runs.
    pub fn task(&self) -> Option<T> {
        self.lock().task.clone()
    }
}

impl<C, T> Inner<C, T> {
    fn exit_status(&self, error: Option<&str>) -> ExitStatus {
        let Exit { code, oom_killed } = self.state.exit();
        let never = self.state.started_at.is_none() && code == 0;
        ExitStatus {
            ended: if never { Ended::NotYet } else { Ended::Exited(code) },
            oom_killed,
            at: self.state.finished_at.unwrap_or_else(SystemTime::now),
            error: error.map(str::to_owned).or_else(|| self.state.error.clone()),
        }
    }
}
