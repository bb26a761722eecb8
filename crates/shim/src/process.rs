//! A process as clients see it: the task's first, or one that was added by Exec.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hiber::ExitStatus;
use hiber_sys::signal::Signal;

use crate::error::{Context, Error, Result};
use crate::io::{Stdio, Streams};
use crate::waiter::Waiter;

/// How long an end is held back for a client that has not read all output yet, and how often that is looked at: some, like
/// ctr, stop reading when they hear of the end.
const READ: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(1);

type Told = Box<dyn FnOnce() + Send>;

/// How far it is with Start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    /// Under way: an exit is told only after the start.
    Starting,
    Started,
    /// Under way, of a process that was started or was not.
    Deleting(bool),
}

#[derive(Debug)]
struct Life {
    stage: Stage,
    /// The request of Exec, until the process is started.
    spec: Option<oci_spec::runtime::Process>,
    /// 0 before its beginning.
    pid: u32,
    /// None before its beginning, and after the end of one that was added by Exec.
    child: Option<hiber::Process>,
    /// An exit that came while the process was being started.
    early: Option<ExitStatus>,
    /// Whether its end is being told, or has been.
    ending: bool,
    exit: Option<ExitStatus>,
    waiters: Vec<Waiter>,
    streams: Option<Streams>,
    /// CloseIO came before the process was there.
    stdin_closed: bool,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    /// The task's id or the exec's.
    pub(crate) id: String,
    pub(crate) stdio: Stdio,
    /// Whether Exec has added it: else it is a task's first process.
    pub(crate) is_exec: bool,
    life: Mutex<Life>,
    ended: Condvar,
}

impl Process {
    pub(crate) fn new(id: String, stdio: Stdio, spec: Option<oci_spec::runtime::Process>) -> Self {
        let is_exec = spec.is_some();
        let life = Life {
            stage: Stage::New,
            spec,
            pid: 0,
            child: None,
            early: None,
            ending: false,
            exit: None,
            waiters: Vec::new(),
            streams: None,
            stdin_closed: false,
        };
        Self { id, stdio, is_exec, life: Mutex::new(life), ended: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its pid, also after its end; 0 before its beginning.
    pub(crate) fn pid(&self) -> u32 {
        self.lock().pid
    }

    pub(crate) fn exit(&self) -> Option<ExitStatus> {
        self.lock().exit.clone()
    }

    /// Whether it has begun and not ended.
    pub(crate) fn is_alive(&self) -> bool {
        let life = self.lock();
        life.pid != 0 && life.exit.is_none()
    }

    /// It exists from now on.
    pub(crate) fn born(&self, child: hiber::Process) {
        let mut life = self.lock();
        life.pid = child.pid().unsigned_abs();
        life.child = Some(child);
    }

    /// The process itself, while it is known here.
    pub(crate) fn child(&self) -> Option<hiber::Process> {
        self.lock().child.clone()
    }

    /// Whether it has ended, though that may not have been told yet.
    pub(crate) fn has_ended(&self) -> bool {
        let (exit, child) = (self.exit(), self.child());
        exit.is_some() || child.is_some_and(|child| !child.is_alive())
    }

    /// Its streams are joined to the client's.
    pub(crate) fn attach(&self, mut streams: Streams) {
        let mut life = self.lock();
        if life.stdin_closed {
            streams.close_stdin();
        }
        life.streams = Some(streams);
    }

    /// Claims its one start; returns what Exec asked for.
    pub(crate) fn begin_start(&self) -> Result<Option<oci_spec::runtime::Process>> {
        let mut life = self.lock();
        let refuse = |what: &str| Err(Error::State(format!("cannot start a {what} process")));
        match life.stage {
            _ if life.exit.is_some() => refuse("stopped"),
            Stage::New => {
                life.stage = Stage::Starting;
                Ok(life.spec.take())
            }
            Stage::Starting | Stage::Started => refuse("running"),
            Stage::Deleting(_) => refuse("deleted"),
        }
    }

    /// Claims its deletion, which excludes a start and other deletions until it is given up.
    pub(crate) fn begin_delete(&self) -> Result<()> {
        let mut life = self.lock();
        let busy = |what: &str| Err(Error::State(format!("process {} is being {what}", self.id)));
        life.stage = match life.stage {
            Stage::New => Stage::Deleting(false),
            Stage::Started => Stage::Deleting(true),
            Stage::Starting => return busy("started"),
            Stage::Deleting(_) => return busy("deleted"),
        };
        Ok(())
    }

    /// It is not deleted after all.
    pub(crate) fn give_up_delete(&self) {
        let mut life = self.lock();
        if let Stage::Deleting(started) = life.stage {
            life.stage = if started { Stage::Started } else { Stage::New };
        }
    }

    pub(crate) fn is_starting(&self) -> bool {
        self.lock().stage == Stage::Starting
    }

    /// The start has succeeded and is told, or it has failed for good. Returns the exit that came meanwhile.
    pub(crate) fn end_start(&self) -> Option<ExitStatus> {
        let mut life = self.lock();
        life.stage = Stage::Started;
        life.early.take()
    }

    /// It has ended: the exit is returned if it may be told now, and kept during a start.
    pub(crate) fn ended(&self, exit: ExitStatus) -> Option<ExitStatus> {
        let mut life = self.lock();
        if life.stage == Stage::Starting {
            life.early = Some(exit);
            return None;
        }
        Some(exit)
    }

    /// Calls `told` when its client has all that it has written, or has had time for that. Does not wait itself.
    pub(crate) fn when_read(self: Arc<Self>, told: impl FnOnce() + Send + 'static) {
        if self.is_read() {
            return told();
        }
        let told: Arc<Mutex<Option<Told>>> = Arc::new(Mutex::new(Some(Box::new(told))));
        let tell = |told: &Mutex<Option<Told>>| {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(told) = told {
                told();
            }
        };
        let own = Arc::clone(&told);
        let wait = move || {
            let began = Instant::now();
            while !self.is_read() && began.elapsed() < READ {
                std::thread::sleep(LOOK);
            }
            tell(&own);
        };
        if std::thread::Builder::new().name("drain".into()).spawn(wait).is_err() {
            tell(&told);
        }
    }

    fn is_read(&self) -> bool {
        self.lock().streams.as_ref().is_none_or(Streams::is_read)
    }

    /// Claims the telling of its end; false if somebody has.
    pub(crate) fn claim_end(&self) -> bool {
        !std::mem::replace(&mut self.lock().ending, true)
    }

    /// Tells all who wait. Of one that was added by Exec nothing is kept open for a deletion that may never come: its
    /// client may have been killed. The first process's output waits for a client until then.
    pub(crate) fn tell(&self, exit: ExitStatus) {
        let mut life = self.lock();
        life.exit = Some(exit.clone());
        let waiters = std::mem::take(&mut life.waiters);
        if let Some(streams) = &mut life.streams {
            streams.close_stdin();
            if self.is_exec {
                streams.let_go();
            }
        }
        let exec = life.child.take_if(|_| self.is_exec);
        drop(life);
        // The runtime forgets a further process; the first one goes with its container.
        if let Some(Err(e)) = exec.map(|exec| exec.delete()) {
            tracing::debug!("forget process {}: {}", self.id, crate::error::chain(&e));
        }
        self.ended.notify_all();
        for waiter in waiters {
            waiter.tell(&exit);
        }
    }

    /// Answers when it has ended.
    pub(crate) fn wait(&self, waiter: Waiter) {
        let mut life = self.lock();
        match life.exit.clone() {
            Some(exit) => {
                drop(life);
                waiter.tell(&exit);
            }
            None => life.waiters.push(waiter),
        }
    }

    pub(crate) fn forget_waiters_that_left(&self) {
        self.lock().waiters.retain(|waiter| !waiter.is_gone());
    }

    /// Waits for its end, here and now.
    pub(crate) fn wait_here(&self, patience: Duration) -> Option<ExitStatus> {
        let (life, _) = self
            .ended
            .wait_timeout_while(self.lock(), patience, |life| life.exit.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        life.exit.clone()
    }

    pub(crate) fn close_stdin(&self) {
        let mut life = self.lock();
        life.stdin_closed = true;
        if let Some(streams) = &mut life.streams {
            streams.close_stdin();
        }
    }

    /// Tells its terminal the size. Without one nothing is done: clients need not know.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match self.lock().child.as_ref().filter(|child| child.terminal().is_some()) {
            Some(child) => child.resize(columns, rows).context(format!("resize the terminal of {}", self.id)),
            None => Ok(()),
        }
    }

    /// Sends a signal to this process alone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let (exit, child) = (self.exit(), self.child());
        let Some(child) = child else {
            let unborn = || Error::State(format!("process {} is not started", self.id));
            return Err(exit.map_or_else(unborn, |_| finished()));
        };
        match child.kill(signal) {
            Err(hiber::Error::NotRunning) => Err(finished()),
            sent => sent.context(format!("signal process {}", self.id)),
        }
    }

    /// After its end: lets what it has written be read, and ends its streams. Those who still wait, because it never
    /// began, are told.
    pub(crate) fn finish(&self) {
        let mut life = self.lock();
        let (streams, waiters) = (life.streams.take(), std::mem::take(&mut life.waiters));
        drop(life);
        for waiter in waiters {
            waiter.refuse(Error::NotFound(format!("process {} was deleted", self.id)));
        }
        if let Some(streams) = streams {
            streams.finish();
        }
    }
}

/// The words that clients look for when they signal a dead process.
pub(crate) fn finished() -> Error {
    Error::NotFound("process already finished".into())
}
