//! A container that exists: look at it, signal it, stop it for a while, delete it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use hiber_sandbox::cgroup::Cgroup;
use hiber_sandbox::sys::signal::Signal;
use hiber_sandbox::{hooks, parent, plan};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::create::on_denied;
use crate::error::{Context, Error, Result};
use crate::id::ContainerId;
use crate::procfs;
use crate::state::{Brief, Facts, Status};
use crate::store::{Entry, INIT_SOCKET, START_SOCKET, Store};

/// A handle on an existing container.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    entry: Entry,
    facts: Option<Facts>,
    spec: OnceLock<Spec>,
}

/// How long a killed process may take to be gone: what it held (memory, mounts) is freed first.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);

impl Container {
    pub(crate) fn open(store: &Store, id: &ContainerId) -> Result<Self> {
        let entry = store.open(id)?;
        let facts = entry.facts()?;
        Ok(Self { id: id.clone(), entry, facts, spec: OnceLock::new() })
    }

    pub(crate) fn from_parts(id: ContainerId, entry: Entry, facts: Facts) -> Self {
        Self { id, entry, facts: Some(facts), spec: OnceLock::new() }
    }

    /// The container's id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// What was written down when it was created; fails for a creation that was interrupted before that.
    pub fn facts(&self) -> Result<&Facts> {
        self.facts.as_ref().ok_or(Error::NotRunning)
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The configuration that it was created from.
    pub fn spec(&self) -> Result<&Spec> {
        match self.spec.get() {
            Some(spec) => Ok(spec),
            None => {
                let spec = self.entry.config()?;
                Ok(self.spec.get_or_init(|| spec))
            }
        }
    }

    /// What of that configuration is needed to show the container and to run its hooks.
    pub fn brief(&self) -> Result<Brief> {
        self.entry.brief()
    }

    /// The user who made it.
    pub fn owner(&self) -> Result<u32> {
        self.entry.owner()
    }

    /// When it was created.
    pub fn created(&self) -> SystemTime {
        self.facts.as_ref().map_or(SystemTime::UNIX_EPOCH, |f| f.created)
    }

    /// Asks the kernel how the container is.
    pub fn status(&self) -> Result<Status> {
        let Some(facts) = &self.facts else { return self.unborn() };
        if facts.pid == 0 {
            return self.unborn();
        }
        if !procfs::is_alive(facts.pid, facts.start_time) {
            return Ok(Status::Stopped);
        }
        if self.cgroup()?.frozen()? {
            return Ok(Status::Paused);
        }
        if self.entry.connect(START_SOCKET)?.is_some() {
            return Ok(Status::Created);
        }
        if self.entry.connect(INIT_SOCKET)?.is_some() {
            return Ok(Status::Creating);
        }
        Ok(Status::Running)
    }

    /// No process yet: either somebody is at it, or was interrupted.
    fn unborn(&self) -> Result<Status> {
        Ok(if self.entry.is_locked()? { Status::Creating } else { Status::Stopped })
    }

    /// The first process; `None` if it is not alive.
    pub fn pid(&self) -> Option<i32> {
        self.facts.as_ref().filter(|f| procfs::is_alive(f.pid, f.start_time)).map(|f| f.pid)
    }

    /// A pidfd of the first process.
    pub(crate) fn pidfd(&self) -> Result<OwnedFd> {
        let facts = self.facts()?;
        let pid = Pid::from_raw(facts.pid).ok_or(Error::NotRunning)?;
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Err(Error::NotRunning),
            Err(e) => return Err(Error::sys("pidfd_open", facts.pid.to_string(), e)),
        };
        // The number may have been given to another process before we had it open.
        if procfs::is_alive(facts.pid, facts.start_time) { Ok(fd) } else { Err(Error::NotRunning) }
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> Result<Cgroup> {
        let paths = self.facts.as_ref().map(|f| f.cgroup.clone()).unwrap_or_default();
        Ok(Cgroup::open(paths, on_denied(None))?)
    }

    /// Whether the kernel has killed a process of the container for want of memory. Known as long as its cgroup is
    /// there: systemd removes a scope when the last process is gone.
    pub fn oom_killed(&self) -> Result<bool> {
        Ok(self.cgroup()?.oom_kills()? > 0)
    }

    /// All processes of the container, ascending, in the runtime's pid namespace.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut pids: Vec<i32> =
            self.cgroup()?.pids()?.into_iter().filter_map(|p| i32::try_from(p).ok()).collect();
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

    /// Executes the program of a created container.
    pub fn start(&self) -> Result<()> {
        let _lock = self.entry.lock()?;
        let socket = match self.status()? {
            Status::Created => self.entry.connect(START_SOCKET)?,
            Status::Stopped => {
                return self.refuse("cannot start a container that has stopped", Status::Stopped);
            }
            Status::Running => {
                return self.refuse("cannot start an already running container", Status::Running);
            }
            status => return self.refuse(&format!("cannot start a container in the {status} state"), status),
        };
        let Some(socket) = socket else { return Err(Error::NotRunning) };
        parent::start_over(socket)?;
        self.entry.remove_start_socket();
        self.run_poststart()
    }

    /// A poststart hook that fails ends the container (runtime-spec "Lifecycle", step 9, as runc reads it).
    pub(crate) fn run_poststart(&self) -> Result<()> {
        let brief = self.brief()?;
        let Some(all) = &brief.hooks else { return Ok(()) };
        let result =
            hooks::run("poststart", plan::hook_list(all.poststart()), &self.hook_state(&brief, "running")?);
        if result.is_err() {
            let _ = self.kill(Signal::KILL);
        }
        Ok(result?)
    }

    fn hook_state(&self, brief: &Brief, status: &str) -> Result<plan::HookState> {
        let facts = self.facts()?;
        Ok(plan::HookState {
            oci_version: brief.oci_version.clone(),
            id: self.id.as_str().into(),
            status: status.into(),
            pid: if status == "stopped" { 0 } else { facts.pid },
            bundle: facts.bundle.clone(),
            annotations: brief.annotations.clone(),
        })
    }

    pub(crate) fn refuse<T>(&self, what: &str, status: Status) -> Result<T> {
        Err(Error::State { what: what.into(), status })
    }

    /// Sends a signal to the first process; SIGKILL reaches all where no pid namespace takes the others along,
    /// and thaws the container, whose frozen processes could not die.
    pub fn kill(&self, signal: impl Into<Signal>) -> Result<()> {
        let signal = signal.into();
        let facts = self.facts()?;
        if signal == Signal::KILL && !facts.own_pid_namespace() && self.cgroup()?.exists() {
            return self.kill_all(signal);
        }
        let pidfd = self.pidfd()?;
        match signal.send(pidfd.as_fd()) {
            Ok(()) => {}
            Err(e) if e.errno == Errno::SRCH.raw_os_error() => return Err(Error::NotRunning),
            Err(e) => return Err(hiber_sandbox::Error::from(e).into()),
        }
        if signal == Signal::KILL {
            self.cgroup()?.thaw()?;
        }
        Ok(())
    }

    /// Sends a signal to every process of the container.
    pub fn kill_all(&self, signal: impl Into<Signal>) -> Result<()> {
        let cgroup = self.cgroup()?;
        if cgroup.paths().directories().is_empty() {
            tracing::warn!("no cgroup names all processes of the container: only its first one is signalled");
            return self.kill(signal);
        }
        Ok(cgroup.kill(signal)?)
    }

    /// Freezes all processes.
    pub fn pause(&self) -> Result<()> {
        let _lock = self.entry.lock()?;
        match self.status()? {
            Status::Running | Status::Created => Ok(self.cgroup()?.freeze()?),
            status => {
                self.refuse(&format!("container not running: cannot pause in the {status} state"), status)
            }
        }
    }

    /// Lets frozen processes go on.
    pub fn resume(&self) -> Result<()> {
        let _lock = self.entry.lock()?;
        match self.status()? {
            Status::Paused => Ok(self.cgroup()?.thaw()?),
            status => self.refuse("container not paused", status),
        }
    }

    /// Removes a container that has stopped or was never started; with `force` kills it first.
    pub fn delete(mut self, force: bool) -> Result<()> {
        if force {
            // Before the lock: whoever creates or restores it holds that, perhaps in a hook that hangs.
            self.kill_everything()?;
        }
        let _lock = self.entry.lock()?;
        self.facts = self.entry.facts()?;
        match self.status()? {
            Status::Stopped => {}
            Status::Created => self.kill_everything()?,
            _ if force => self.kill_everything()?,
            status => {
                let what = format!("cannot delete container {} that is not stopped: {status}", self.id);
                return self.refuse(&what, status);
            }
        }
        self.destroy()
    }

    /// Kills all processes and waits until they are gone.
    fn kill_everything(&self) -> Result<()> {
        match self.kill(Signal::KILL) {
            Ok(()) | Err(Error::NotRunning) => {}
            Err(e) => return Err(e),
        }
        if let Ok(pidfd) = self.pidfd() {
            wait_for_death(&pidfd)?;
        }
        Ok(())
    }

    /// Removes what a dead container has left. Everything is tried; the first failure is reported.
    pub(crate) fn destroy(&self) -> Result<()> {
        let cgroup = self.cgroup()?;
        // Processes that outlived the first one: exec'd into a shared pid namespace, or its children.
        let killed = if cgroup.exists() { cgroup.kill(Signal::KILL) } else { Ok(()) };
        let removed = killed.and_then(|()| cgroup.remove()).context("remove the container's cgroup");
        let hooks = self.run_poststop();
        removed?;
        self.entry.remove()?;
        if let Err(e) = hooks {
            // The container is gone whatever they say (runtime-spec "Lifecycle", step 13).
            tracing::warn!("{}", chain(&e));
        }
        Ok(())
    }

    fn run_poststop(&self) -> Result<()> {
        // An interrupted creation has no configuration yet, and ran no hook that poststop would answer to.
        let (Ok(brief), Ok(_)) = (self.brief(), self.facts()) else { return Ok(()) };
        let Some(all) = &brief.hooks else { return Ok(()) };
        Ok(hooks::run("poststop", plan::hook_list(all.poststop()), &self.hook_state(&brief, "stopped")?)?)
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text = format!("{text}: {e}");
        source = e.source();
    }
    text
}

/// Waits until a killed process is gone; a zombie is, for a pidfd.
fn wait_for_death(pidfd: &OwnedFd) -> Result<()> {
    let deadline = std::time::Instant::now() + DEATH_PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(
            &mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(0) => {
                let what = "container init still running 10 s after SIGKILL".to_owned();
                return Err(Error::State { what, status: Status::Running });
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::sys("poll", "a pidfd", e)),
        }
    }
}
