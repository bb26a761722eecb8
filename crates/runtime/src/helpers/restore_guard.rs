//! A process that ends a container which is being restored if its restorer is killed before it is decided that the container runs:
//! CRIU, left alone, would let it run.

use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, OnDenied};
use rustix::process::Signal;

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
}

impl Drop for RestoreGuard {
    fn drop(&mut self) {
        let _ = self.channel.send(&ToGuard::Done, &[]);
        let _ = self.child.wait();
    }
}

/// The guard.
pub(super) fn run(socket: OwnedFd, cgroup: CgroupPaths) {
    if cgroup.check().is_ok() && Listener::new(socket).next() != Next::Message(ToGuard::Done) {
        let _ = Cgroup::open(cgroup, OnDenied::Skip).and_then(|cgroup| cgroup.kill(Signal::KILL));
    }
}
