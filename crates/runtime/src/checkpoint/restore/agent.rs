//! The agent that answers for system calls of a restored container: it gets the listeners of its processes, as at `create`.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use hiber_criu::images::ChangedFiles;
use hiber_criu::{ImageDirectory, Images};
use hiber_sandbox::plan::InitPlan;
use hiber_sandbox::seccomp_agent as agent;
use hiber_sys::channel::send_packet;
use hiber_sys::pidfd::DescriptorOwner;

use crate::checkpoint::kept::switches::ToClose;
use crate::container::prepared::Prepared;
use crate::error::{Context, Error, Result};

/// The name of a listener in /proc.
const LISTENER: &str = "anon_inode:seccomp notify";

/// An agent that is there.
pub(super) struct Agent<'a> {
    plan: &'a InitPlan,
    path: &'a Path,
    /// The images that CRIU reads, so that there are listeners.
    pub(super) changed: ChangedFiles,
    connection: Cell<Option<UnixStream>>,
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
        let changed = Images::in_directory(images)?.with_seccomp_listeners()?;
        if changed.is_empty() {
            return Ok(None);
        }
        let connection = Cell::new(Some(agent::connect(path)?));
        Ok(Some(Self { plan, path, changed, connection }))
    }

    /// Gives the agent the listeners of the processes `pids`, which CRIU still holds, one over each connection, and gives the
    /// descriptors: whoever has one can answer in the agent's place, so each process is to close its own before it runs.
    pub(super) fn hand_over(&self, pids: &[i32]) -> Result<ToClose> {
        let mut all = ToClose::new();
        for pid in pids.iter().copied() {
            let descriptors = listeners(pid).context("find the listener for the seccomp agent")?;
            for descriptor in &descriptors {
                self.send(pid, *descriptor)?;
            }
            if !descriptors.is_empty() {
                all.insert(pid, descriptors);
            }
        }
        Ok(all)
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
        send_packet(&connection, &message, &[copy.as_fd()], "the seccomp agent's socket")
            .context("send the seccomp listener to its agent")
    }
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
