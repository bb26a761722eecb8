//! The helper programs: this program, executed again, with a word as its first argument that says which one it is to be.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use hiber_sys::channel::{Channel, Message};

use crate::error::{Context, Error, Result};

/// A helper whose standard input is one end of a channel to the process that has started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Settles a checkpoint whose runtime was killed ([`guard`](super::guard)).
    CheckpointGuard,
    /// Ends a container whose restorer was killed ([`restore_guard`](super::restore_guard)).
    RestoreGuard,
    /// Serves a dump's memory ([`departure`](super::lazy::departure)).
    MemoryDeparture,
    /// Brings a restored container's memory ([`arrival`](super::lazy::arrival)).
    MemoryArrival,
}

/// The first argument of each.
const PROGRAMS: [(Program, &str); 4] = [
    (Program::CheckpointGuard, "checkpoint-guard"),
    (Program::RestoreGuard, "restore-guard"),
    (Program::MemoryDeparture, "memory-departure"),
    (Program::MemoryArrival, "memory-arrival"),
];

impl Program {
    /// The helper that a process with this first argument is to be.
    pub(super) fn named(argument: &OsStr) -> Option<Self> {
        PROGRAMS.iter().find(|(_, name)| argument == *name).map(|(program, _)| *program)
    }

    fn name(self) -> &'static str {
        PROGRAMS.iter().find(|(program, _)| *program == self).map_or("", |(_, name)| name)
    }

    /// Starts the helper, with `task` as its second argument, and returns our end of the channel.
    pub(super) fn start<Says: Message, Hears: Message>(
        self,
        task: Option<&str>,
        output: Stdio,
    ) -> Result<(Child, Channel<Says, Hears>)> {
        let (ours, theirs) = Channel::<Says, Hears>::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(self.name())
            .args(task)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::file("/proc/self/exe".as_ref(), &e))
            .context(format!("start the process for {}", self.name()))?;
        Ok((child, ours))
    }
}

/// In the helper: the other end of [`Program::start`]'s channel. From then on signals to the process group of the process that has
/// started the helper do not reach the helper.
pub(super) fn channel() -> Option<OwnedFd> {
    let _ = rustix::process::setsid();
    rustix::stdio::stdin().try_clone_to_owned().ok()
}
