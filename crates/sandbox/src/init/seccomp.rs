//! Loading the system call filter, and handing its listener to the agent that answers for it.

use std::os::fd::{AsFd, OwnedFd};

use super::host_proc::HostProc;
use crate::error::Context;
use crate::plan::InitPlan;
use crate::seccomp::Program;
use crate::seccomp_agent as agent;
use crate::{Result, SysError};
use hiber_sys as sys;
use hiber_sys::channel::send_packet;

/// The filter, until it is loaded.
pub(super) struct Filter<'a> {
    program: Option<&'a Program>,
    /// The agent, and what it is told with the listener.
    agent: Option<(OwnedFd, Vec<u8>)>,
}

impl<'a> Filter<'a> {
    pub(super) fn new(plan: &'a InitPlan, host_proc: &HostProc, agent: Option<OwnedFd>) -> Result<Self> {
        let program = plan.seccomp.as_ref();
        let agent = agent.map(|socket| -> Result<_> { Ok((socket, agent_message(plan, host_proc)?)) });
        Ok(Self { program, agent: agent.transpose()? })
    }

    /// Whether an agent is to get the listener: it has it when the container is created, as with runc.
    pub(super) fn agent_waits(&self) -> bool {
        self.agent.is_some()
    }

    /// Loads the filter, if it is not loaded yet. A profile need allow nothing for the runtime's sake but execve(2), unless
    /// there are hooks or an agent. For the agent only sendmsg(2) and close(2) follow: it has the listener before any other
    /// call could wait for an answer.
    pub(super) fn install(&mut self) -> Result<()> {
        let Some(program) = self.program.take() else { return Ok(()) };
        let listener =
            sys::seccomp::install(&program.filter, program.flags).context("install the seccomp filter")?;
        if let (Some(listener), Some((agent, state))) = (listener, &self.agent) {
            send_packet(agent, state, &[listener.as_fd()], "its socket")
                .context("send the seccomp listener to its agent")?;
        }
        self.agent = None;
        Ok(())
    }
}

/// The state that goes with the listener; pids are the runtime's.
fn agent_message(plan: &InitPlan, host_proc: &HostProc) -> Result<Vec<u8>> {
    let own = rustix::fs::readlinkat(host_proc.fd()?, "self", Vec::new())
        .map_err(|e| SysError::new("readlinkat", "/proc/self", e.raw_os_error()))?;
    let pid = own.to_str().ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut state = plan.hook_state.clone();
    if plan.root.is_some() {
        state.status = "creating".into();
        state.pid = pid;
    } else {
        state.status = "running".into();
    }
    let metadata = plan.seccomp.as_ref().and_then(|p| p.listener_metadata.as_deref());
    agent::message(pid, metadata, state)
}
