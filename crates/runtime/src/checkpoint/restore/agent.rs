//! The agent that answers for system calls of a restored container: it gets the listeners of its processes, as at `create`.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use hiber_criu::images::ChangedFiles;
use hiber_criu::inspect::State;
use hiber_criu::{ImageDirectory, Images};
use hiber_memory::Seized;
use hiber_sandbox::plan::InitPlan;
use hiber_sandbox::seccomp::agent;
use hiber_sandbox::wire::send_bytes;
use hiber_sys::pidfd::DescriptorOwner;
use rustix::process::{Pid, Signal};
use syscalls::Sysno;

use crate::container::create::Prepared;
use crate::error::{Context, Error, Result};
use crate::host::procfs;

/// What a listener is called in /proc.
const LISTENER: &str = "anon_inode:seccomp notify";

/// An agent that is there.
pub(super) struct Agent<'a> {
    plan: &'a InitPlan,
    path: &'a Path,
    /// What CRIU is to read, so that there are listeners.
    pub(super) changed: ChangedFiles,
    images: Images,
    connection: Cell<Option<UnixStream>>,
}

/// Listeners in a process, which is not to have them.
#[derive(Debug)]
pub(super) struct Listeners {
    pid: i32,
    descriptors: Vec<i32>,
    /// Whether it is stopped for that alone.
    stops: bool,
}

impl<'a> Agent<'a> {
    /// Of the images' container, if its filters have config.json's agent answer for calls.
    ///
    /// # Errors
    /// Nobody listens at `linux.seccomp.listenerPath`; an image is malformed.
    pub(super) fn of(prepared: &'a Prepared, chain: &[ImageDirectory]) -> Result<Option<Self>> {
        let plan = &prepared.plan.init;
        let path = plan.seccomp.as_ref().filter(|program| program.notify);
        let Some(path) = path.and_then(|program| program.listener_path.as_deref()) else { return Ok(None) };
        let Some(images) = chain.first() else { return Ok(None) };
        let images = Images::in_directory(images)?;
        let changed = images.with_seccomp_listeners()?;
        if changed.is_empty() {
            return Ok(None);
        }
        let connection = Cell::new(Some(agent::connect(path)?));
        Ok(Some(Self { plan, path, changed, images, connection }))
    }

    /// Gives the agent the listeners of the processes `pids`, which CRIU still holds, one over each connection, and has these
    /// processes stop where CRIU lets them go: see [`Listeners::take_away`].
    pub(super) fn hand_over(&self, pids: &[i32]) -> Result<Vec<Listeners>> {
        let mut all = Vec::new();
        for pid in pids.iter().copied() {
            let descriptors = listeners(pid).context("find the listener for the seccomp agent")?;
            if descriptors.is_empty() {
                continue;
            }
            for descriptor in &descriptors {
                self.send(pid, *descriptor)?;
            }
            let stops = !self.is_stopped(pid)?;
            if stops {
                signal(pid, Signal::STOP)?;
            }
            all.push(Listeners { pid, descriptors, stops });
        }
        Ok(all)
    }

    /// Whether the process was stopped at the dump, and so will be.
    fn is_stopped(&self, pid: i32) -> Result<bool> {
        let inner = procfs::numbers(&pid.to_string()).and_then(|all| all.last().copied());
        let thread = self.images.thread(inner.and_then(|inner| u32::try_from(inner).ok()).unwrap_or(0))?;
        Ok(thread.state == Some(State::Stopped))
    }

    fn send(&self, pid: i32, descriptor: i32) -> Result<()> {
        let mut state = self.plan.hook_state.clone();
        (state.status, state.pid) = ("creating".into(), pid);
        let metadata = self.plan.seccomp.as_ref().and_then(|program| program.listener_metadata.as_deref());
        let message = agent::message(pid, metadata, state)?;
        let connection = match self.connection.take() {
            Some(first) => first,
            None => agent::connect(self.path)?,
        };
        let copy = DescriptorOwner::new(pid).copy(descriptor)?;
        send_bytes(&connection, &message, &[copy.as_fd()], "the seccomp agent's socket")
            .context("send the seccomp listener to its agent")
    }
}

impl Listeners {
    /// Closes the descriptors in the process, before it runs: who has a listener can answer in the agent's place. CRIU has let
    /// go of the process, which is stopped, or is about to be.
    pub(super) fn take_away(self) -> Result<()> {
        let taken = self.close().context("take its listener for the seccomp agent from a restored process");
        if taken.is_ok() && self.stops {
            signal(self.pid, Signal::CONT)?;
        }
        taken
    }

    fn close(&self) -> Result<()> {
        let failed = |e: hiber_memory::Error| Error::host("stop a restored process", e);
        let mut thread = Seized::new(self.pid).and_then(Seized::wait).map_err(failed)?;
        for descriptor in &self.descriptors {
            let number = u64::try_from(*descriptor).unwrap_or(u64::MAX);
            let closed = thread.call(Sysno::close, [number, 0, 0, 0, 0, 0]).map_err(failed)?;
            closed.map_err(|e| Error::sys("close", format!("descriptor {descriptor}"), from_nix(e)))?;
        }
        Ok(())
    }
}

fn from_nix(e: nix::errno::Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(e as i32)
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    let process = Pid::from_raw(pid).ok_or(Error::NotRunning)?;
    rustix::process::kill_process(process, signal).map_err(|e| Error::sys("kill", pid.to_string(), e))
}

/// The descriptors of a process that are listeners.
fn listeners(pid: i32) -> Result<Vec<i32>> {
    let dir = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&dir).map_err(|e| Error::file(dir.as_ref(), &e))?;
    let is_listener = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(LISTENER))
    };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    Ok(entries.flatten().filter(is_listener).filter_map(number).collect())
}
