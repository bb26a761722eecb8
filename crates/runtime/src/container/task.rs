//! The running part of a container: to look at, signal, pause and delete.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hiber_sandbox::Starter;
use hiber_sandbox::cgroup::{Cgroup, OnDenied, Usage};
use hiber_sandbox::{hooks, plan};
use hiber_sys::clone::Child;
use hiber_sys::signal::Signal;

use crate::container::exit::ExitStatus;
use crate::container::handle::Container;
use crate::container::monitor;
use crate::container::process::{Attributes, Process};
use crate::container::stdio::Kept;
use crate::container::wait::{Condition, Wait};
use crate::error::{Error, Result};
use crate::helpers::guard;
use crate::helpers::lazy::{FollowingMemory, on_demand, record};
use crate::host::procfs;
use crate::state::entry::Entry;
use crate::state::entry::START_SOCKET;
use crate::state::facts::{ConfigSummary, Facts};
use crate::state::lifecycle::Lifecycle;
use crate::state::migration::Incoming;
use crate::state::observe::Observe;
use crate::state::processes::ProcessId;
use crate::status::Status;

/// A container's task: its first process and all others. A task keeps the first process's pidfd and the directories of the
/// container's cgroup open, and asks the kernel through them, so it looks up no path and reads no file of the container again.
/// Clones share all of it.
#[derive(Debug, Clone)]
pub struct Task {
    container: Container,
    /// None if it was gone when the task was opened, or was never there.
    init: Option<Process>,
    cgroup: Cgroup,
    /// The only means to start it, if it was made so.
    starter: Arc<Mutex<Option<Starter>>>,
    /// Whether it is known to have executed its program, which is final.
    started: Arc<AtomicBool>,
}

impl Container {
    /// The task of the container. This call asks the kernel for the process behind the recorded number; the task then keeps the
    /// process.
    pub fn task(&self) -> Result<Task> {
        match self.facts() {
            Ok(facts) if facts.pid != 0 => Task::open(self.clone()),
            // Its creator may have come further meanwhile.
            _ => Task::open(self.reread()?),
        }
    }
}

/// The parts of a new container's task.
pub(crate) struct Built {
    pub(crate) child: Child,
    /// The only channel to start it, if it was created so.
    pub(crate) starter: Option<Starter>,
    pub(crate) kept: Kept,
}

fn cgroup_of(container: &Container) -> Result<Cgroup> {
    let paths = container.facts().map(|f| f.cgroup.clone()).unwrap_or_default();
    Ok(Cgroup::open(paths, OnDenied::ByRights)?)
}

/// The time limit for the end of a killed process: its memory and mounts are freed first.
pub(crate) const DEATH_PATIENCE: Duration = Duration::from_secs(10);

impl Task {
    pub(crate) fn open(container: Container) -> Result<Self> {
        let cgroup = cgroup_of(&container)?;
        let attributes =
            Attributes { id: Some(ProcessId::init()), cgroup: Some(cgroup.clone()), ..Attributes::default() };
        let init = match container.facts() {
            Ok(facts) => Process::open(facts.pid, facts.start_time, attributes)?,
            Err(_) => None,
        };
        let (starter, started) = Default::default();
        Ok(Self { container, init, cgroup, starter, started })
    }

    /// The task of a container that was just created, with its first process.
    pub(crate) fn of_created(container: Container, built: Built, cgroup: Option<Cgroup>) -> Result<Self> {
        let Built { child, starter, kept } = built;
        let cgroup = match cgroup {
            Some(cgroup) => cgroup.with(OnDenied::ByRights),
            None => cgroup_of(&container)?,
        };
        let attributes = Attributes {
            id: Some(ProcessId::init()),
            cgroup: Some(cgroup.clone()),
            kept,
            reaps: true,
            start_time: container.facts().ok().map(|facts| facts.start_time),
            ..Attributes::default()
        };
        let init = Process::new(child, attributes);
        monitor::adopt(init.pid(), &init);
        let starter = Arc::new(Mutex::new(starter));
        Ok(Self { container, init: Some(init), cgroup, starter, started: Arc::default() })
    }

    /// Waits until all memory of a restored container is there, if its memory follows it, and asks for memory that comes only when
    /// it is touched; returns at once otherwise. The container runs meanwhile.
    ///
    /// # Errors
    /// If memory does not arrive any more, with the reason. The container has been killed then, because missing memory would read
    /// as zeros. [`Error::Lost`] if memory came from another machine, where the container does not run any more.
    pub fn wait_for_memory(&self) -> Result<()> {
        on_demand::ask(self.entry())?;
        let error = match record::await_end(self.entry())? {
            Some(FollowingMemory::Failed { reason }) => record::not_arrived(reason),
            Some(FollowingMemory::Lost { reason }) => record::lost(reason),
            _ => return Ok(()),
        };
        self.cgroup.kill(Signal::KILL)?;
        Err(error)
    }

    /// The progress of its memory, if the memory follows the container after a restore; `None` if not, or if unknown.
    pub fn following_memory(&self) -> Option<FollowingMemory> {
        record::look(self.entry()).ok()?
    }

    /// The container.
    pub fn container(&self) -> &Container {
        &self.container
    }

    fn entry(&self) -> &Entry {
        self.container.entry()
    }

    pub(crate) fn facts(&self) -> Result<&Facts> {
        self.container.facts()
    }

    /// The first process, which may have ended; none if it was gone when the task was opened.
    pub fn init(&self) -> Option<&Process> {
        self.init.as_ref()
    }

    fn living(&self) -> Result<&Process> {
        self.init.as_ref().filter(|init| init.is_alive()).ok_or(Error::NotRunning)
    }

    /// The first process's number in the runtime's pid namespace; `None` if it is not alive.
    pub fn pid(&self) -> Option<i32> {
        self.living().ok().map(Process::pid)
    }

    /// A pidfd of the first process, which may have ended.
    pub fn pidfd(&self) -> Result<BorrowedFd<'_>> {
        self.init.as_ref().map(Process::pidfd).ok_or(Error::NotRunning)
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Asks the kernel for the container's status.
    pub fn status(&self) -> Result<Status> {
        if self.init.is_none() {
            return if self.facts().is_ok_and(|f| f.pid != 0) { Ok(Status::Stopped) } else { self.unborn() };
        }
        let status = self.observe()?;
        if status == Status::Running {
            self.started.store(true, Ordering::Relaxed);
        }
        Ok(status)
    }

    /// There is no process yet: a creation is under way, or was interrupted.
    fn unborn(&self) -> Result<Status> {
        Ok(if self.entry().is_locked()? { Status::Creating } else { Status::Stopped })
    }

    /// Whether the kernel has killed a process of the container for want of memory. Known as long as its cgroup is
    /// there: systemd removes a scope when the last process is gone.
    pub fn oom_killed(&self) -> Result<bool> {
        Ok(self.cgroup.oom_kills()? > 0)
    }

    /// The number in the container's pid namespace of the process that has `pid` in the runtime's; `None` if the process is gone.
    pub fn pid_inside(&self, pid: i32) -> Option<i32> {
        let depth = procfs::numbers(&self.pid()?.to_string())?.len().checked_sub(1)?;
        procfs::numbers(&pid.to_string())?.get(depth).copied()
    }

    /// All processes of the container, ascending, in the runtime's pid namespace.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids: Vec<i32> =
            self.cgroup.pids()?.into_iter().filter_map(|p| i32::try_from(p).ok()).collect();
        if pids.is_empty()
            && let Some(pid) = self.pid()
        {
            // Without a cgroup the pid namespace tells who belongs to the container.
            let own = self.facts()?.own_pid_namespace();
            pids = if own { procfs::in_pid_namespace_of(pid) } else { vec![pid] };
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// The present resource use of the container.
    pub fn stats(&self) -> Result<Usage> {
        self.check_alive()?;
        Ok(self.cgroup.usage()?)
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        match self.status()? {
            Status::Stopped => {
                let what = format!("container with id {} is not running", self.container.id());
                self.refuse(&what, Status::Stopped)
            }
            _ => Ok(()),
        }
    }

    /// Executes the program of a created container.
    pub fn start(&self) -> Result<()> {
        let lock = self.entry().lock()?;
        // A process that starts at once may have ended by now.
        let told = self.starter().take_if(|starter| starter.start_sent());
        let started = match told {
            Some(starter) => starter.start(),
            None => self.startable()?.start(),
        };
        if let (Err(hiber_sandbox::Error::Init(_)), Some(init)) = (&started, &self.init) {
            // The process has reported the reason, and ends. The next caller finds the container stopped.
            init.wait_for_death(DEATH_PATIENCE)?;
        }
        started?;
        self.entry().started();
        self.entry().note(Lifecycle::Start);
        // Hooks may use the runtime on their container.
        drop(lock);
        self.run_poststart()
    }

    /// The means to start a container that waits for its start.
    fn startable(&self) -> Result<Starter> {
        let starter = match self.status()? {
            Status::Created => match self.starter().take() {
                Some(starter) => Some(starter),
                None => self.entry().connect(START_SOCKET)?.map(Into::into),
            },
            Status::Stopped => {
                return self.refuse("cannot start a container that has stopped", Status::Stopped);
            }
            Status::Running => {
                return self.refuse("cannot start an already running container", Status::Running);
            }
            status => return self.refuse(&format!("cannot start a container in the {status} state"), status),
        };
        starter.ok_or(Error::NotRunning)
    }

    fn starter(&self) -> MutexGuard<'_, Option<Starter>> {
        self.starter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A poststart hook that fails ends the container (runtime-spec "Lifecycle", step 9, as runc reads it).
    pub(crate) fn run_poststart(&self) -> Result<()> {
        let summary = self.container.config_summary()?;
        let Some(all) = &summary.hooks else { return Ok(()) };
        let result =
            hooks::run("poststart", plan::hook_list(all.poststart()), &self.hook_state(&summary, "running")?);
        if result.is_err() {
            let _ = self.kill(Signal::KILL);
        }
        Ok(result?)
    }

    pub(crate) fn hook_state(&self, summary: &ConfigSummary, status: &str) -> Result<plan::HookState> {
        let facts = self.facts()?;
        Ok(plan::HookState {
            oci_version: summary.oci_version.clone(),
            id: self.container.id().as_str().into(),
            status: status.into(),
            pid: if status == "stopped" { 0 } else { facts.pid },
            bundle: facts.bundle.clone(),
            annotations: summary.annotations.clone(),
        })
    }

    pub(crate) fn refuse<T>(&self, what: &str, status: Status) -> Result<T> {
        let mut what = what.to_owned();
        if status == Status::Paused && guard::has_left_frozen(self.entry()) {
            what.push_str("; a checkpoint that was killed has left it frozen: `resume` lets it go on");
        }
        Err(Error::State { what, status })
    }

    /// Sends a signal to the first process; SIGKILL reaches all where no pid namespace takes the others along,
    /// and thaws the container, whose frozen processes could not die.
    pub fn kill(&self, signal: impl Into<Signal>) -> Result<()> {
        let signal = signal.into();
        let facts = self.facts()?;
        if signal == Signal::KILL && !facts.own_pid_namespace() && self.cgroup.exists() {
            return self.kill_all(signal);
        }
        self.note_signal(signal);
        self.init.as_ref().ok_or(Error::NotRunning)?.kill(signal)?;
        if signal == Signal::KILL {
            self.cgroup.thaw()?;
        }
        Ok(())
    }

    /// Sends a signal to every process of the container.
    pub fn kill_all(&self, signal: impl Into<Signal>) -> Result<()> {
        let signal = signal.into();
        if self.cgroup.paths().directories().is_empty() {
            tracing::warn!("no cgroup names all processes of the container: only its first one is signalled");
            return self.kill(signal);
        }
        self.note_signal(signal);
        Ok(self.cgroup.kill(signal)?)
    }

    /// Beforehand, so that nobody takes the end that follows for a crash.
    fn note_signal(&self, signal: Signal) {
        if self.living().is_ok() {
            self.entry().note(Lifecycle::Signalled { signal: signal.number() });
        }
    }

    /// Freezes all processes.
    pub fn pause(&self) -> Result<()> {
        let _lock = self.entry().lock()?;
        match self.status()? {
            Status::Running | Status::Created => {
                guard::forget(self.entry());
                self.cgroup.freeze()?;
            }
            status => {
                let what = format!("container not running: cannot pause in the {status} state");
                return self.refuse(&what, status);
            }
        }
        self.entry().note(Lifecycle::Paused);
        Ok(())
    }

    /// Lets frozen processes go on.
    pub fn resume(&self) -> Result<()> {
        let _lock = self.entry().lock()?;
        match self.status()? {
            Status::Paused => {
                if Incoming::of(self.entry())?.is_some() {
                    let what = "it came from another machine, and only that knows whether it may run here: hiber migrate --resolve";
                    return self.refuse(what, Status::Paused);
                }
                guard::settle(self.entry())?;
                if let Some(destination) = self.migrated_to() {
                    return self.refuse(&format!("it has gone to {destination}"), Status::Stopped);
                }
                self.cgroup.thaw()?;
            }
            status => return self.refuse("container not paused", status),
        }
        self.entry().note(Lifecycle::Resumed);
        Ok(())
    }

    /// Waits for `condition`; the result is that of the first process.
    pub fn wait(&self, condition: Condition) -> Result<Wait> {
        let ended = match condition {
            Condition::Removed => true,
            Condition::NextExit => self.living().is_err(),
            Condition::NotRunning => match self.status()? {
                Status::Running | Status::Paused => false,
                // The process starts as soon as it is ready.
                Status::Creating if self.starter().as_ref().is_some_and(Starter::start_sent) => false,
                _ => return Ok(Wait::ended(self.exit_status())),
            },
        };
        match &self.init {
            Some(init) if !ended => monitor::shared()?.on_exit(init),
            // There will be no other exit: the next event is the container's removal.
            _ => {
                let task = self.clone();
                monitor::shared()?.on_removal(&self.container, move || task.exit_status())
            }
        }
    }

    /// How the first process ended, as far as that is known.
    pub(crate) fn exit_status(&self) -> ExitStatus {
        match &self.init {
            Some(init) => init.exit_status().unwrap_or_else(ExitStatus::not_yet),
            None => match self.facts() {
                Ok(f) if f.pid != 0 => {
                    monitor::how_it_ended(f.pid, f.start_time).unwrap_or_else(ExitStatus::unknown)
                }
                _ => ExitStatus::not_yet(),
            },
        }
    }
}

impl Observe for Task {
    fn is_abandoned(&self) -> Result<bool> {
        if self.started.load(Ordering::Relaxed) || self.starter().is_some() {
            return Ok(false);
        }
        self.entry().is_abandoned(self.facts()?.pid)
    }

    fn is_alive(&self) -> Result<bool> {
        Ok(self.living().is_ok())
    }

    fn is_frozen(&self) -> Result<bool> {
        Ok(self.cgroup.frozen()?)
    }

    fn listens(&self, socket: &str) -> Result<bool> {
        if self.started.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match &*self.starter() {
            // A container that can be started is not in the making any more.
            Some(starter) if !starter.start_sent() => Ok(socket == START_SOCKET),
            _ => self.entry().listens(socket),
        }
    }
}
