//! A process that ends a container which is being restored if its restorer is killed before it is decided that the container runs:
//! CRIU, left alone, would let it run.

use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use hiber_criu::Session;
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, OnDenied};
use hiber_sandbox::network;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::program::Program;
use super::to_guard::{GuardChannel, Listener, Next, ToGuard};
use crate::error::{Error, Result};

/// The guard, from the restorer's side. Dropped when the container's fate is decided, or when the restorer undoes the container.
#[derive(Debug)]
pub(crate) struct RestoreGuard {
    child: Child,
    channel: GuardChannel,
}

impl RestoreGuard {
    /// Guards the container in these cgroups.
    pub(crate) fn start(cgroup: &CgroupPaths) -> Result<Self> {
        let cgroup = serde_json::to_string(cgroup)
            .map_err(|e| Error::internal("encode the restore guard's task", e))?;
        let (child, channel) = Program::RestoreGuard.start(Some(&cgroup), Stdio::null())?;
        Ok(Self { child, channel })
    }

    /// Has CRIU wait for the guard if this program is killed while CRIU expects an answer.
    pub(crate) fn watch(&self, session: &Session) -> Result<()> {
        let telling = |e| Error::host("tell the guard of a restore", e);
        if let Some(pid) = session.pid() {
            self.channel.send(&ToGuard::Criu(pid), &[]).map_err(telling)?;
        }
        let Some(socket) = session.socket() else { return Ok(()) };
        self.channel.send(&ToGuard::Conversation, &[socket]).map_err(telling)
    }
}

impl Drop for RestoreGuard {
    fn drop(&mut self) {
        let _ = self.channel.send(&ToGuard::Done, &[]);
        let _ = self.child.wait();
    }
}

/// The guard.
pub(super) fn run(socket: OwnedFd, cgroup: CgroupPaths) {
    if cgroup.check().is_err() {
        return;
    }
    let (mut listener, mut criu) = (Listener::new(socket), None);
    let end = loop {
        match listener.next() {
            Next::Message(ToGuard::Conversation) => {}
            Next::Message(ToGuard::Criu(pid)) => {
                let opened = |pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?));
                criu = Pid::from_raw(pid.cast_signed()).and_then(opened);
            }
            other => break other,
        }
    };
    if end != Next::Message(ToGuard::Done) {
        let _ = Cgroup::open(cgroup, OnDenied::Skip).and_then(|cgroup| end_all(&cgroup, criu));
    }
    // Only now CRIU can notice that its caller is gone.
    drop(listener);
}

/// Ends the tasks, and CRIU after them: they would run as soon as their tracer was gone, and it keeps the dead from being buried.
fn end_all(cgroup: &Cgroup, criu: Option<(Pid, OwnedFd)>) -> hiber_sandbox::Result<()> {
    let is_criu = |pid: &Pid| criu.as_ref().is_some_and(|(criu, _)| criu == pid);
    let pids = cgroup.pids()?.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed()));
    let tasks: Vec<_> = pids.filter(|pid| !is_criu(pid)).collect();
    if let [first, ..] = *tasks {
        let _ = network::abandon(first.as_raw_nonzero().get());
    }
    network::hush(tasks.iter().map(|pid| pid.as_raw_nonzero().get()));
    for pid in tasks {
        let _ = kill_process(pid, Signal::KILL);
    }
    if let Some((_, criu)) = &criu {
        let _ = pidfd_send_signal(criu, Signal::KILL);
    }
    // A process that was born meanwhile; and the kernel lets none die that is frozen.
    cgroup.kill(Signal::KILL)
}
