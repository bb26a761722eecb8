//! A program that logs for a container (containerd's `binary://`): it reads standard output from descriptor 3 and
//! standard error from 4, and closes 5 when it is ready.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use hiber_sys::poll::readable_within;
use hiber_sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use super::owner::Owner;
use crate::error::{Context, Error, Result};

/// How long it may take to get ready.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to end by itself when its input has ended.
const END: Duration = Duration::from_secs(2);
/// How long after SIGTERM.
const FLUSH: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Logger {
    pidfd: OwnedFd,
}

impl Logger {
    /// Starts it, and waits until it is ready.
    pub(super) fn start(
        path: &Path,
        args: &[String],
        owner: Owner<'_>,
        [out, err]: [OwnedFd; 2],
    ) -> Result<Self> {
        let (ready, their_ready) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("pipe2")?;
        let mut command = Command::new(path);
        command
            .args(args)
            .env_clear()
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mappings = [(out, 3), (err, 4), (their_ready, 5)];
        command
            .fd_mappings(mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).into())
            .map_err(|e| Error::invalid("stdout", e.to_string()))?;
        let child =
            command.spawn().map_err(|e| Error::invalid("stdout", format!("{}: {e}", path.display())))?;
        // Its ends of the pipes are in there.
        drop(command);
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let logger = Self { pidfd: pidfd.context("pidfd_open")? };
        if readable_within(&ready, READY) != Ok(true) {
            let what =
                format!("the logging program {} is not ready after {} s", path.display(), READY.as_secs());
            return Err(Error::State(what));
        }
        Ok(logger)
    }

    /// Waits for its end; it is asked to if it does not end with its input.
    pub(super) fn finish(self) {
        if readable_within(&self.pidfd, END) != Ok(true) {
            // It may be gone by now.
            let _ = Signal::from(rustix::process::Signal::TERM).send(self.pidfd.as_fd());
            if readable_within(&self.pidfd, FLUSH) != Ok(true) {
                tracing::warn!("a logging program does not end after SIGTERM and is killed");
            }
        }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let _ = Signal::KILL.send(self.pidfd.as_fd());
        // Reaped by the shim's orphanage at the latest.
        let _ = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}
