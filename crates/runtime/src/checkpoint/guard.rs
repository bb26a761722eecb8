//! A process that finishes or undoes a checkpoint whose runtime is killed.
//!
//! Two things outlive a killed runtime: the cgroup that it froze, and the moment between publishing a checkpoint
//! and CRIU's hearing of it. The guard waits on a pipe whose other end the runtime and CRIU hold; when both are
//! gone without a word, it looks whether the checkpoint was published: if so it ends the container, which now is
//! the checkpoint, and if not it lets the container run on and removes what was written.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, OnDenied};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::leftovers;
use crate::error::{Context, Error, Result};
use crate::procfs;

/// argv\[1\] of the runtime's binary when it is to act as guard; argv\[2\] is the [`Watch`] in JSON.
pub(crate) const ARGUMENT: &str = "checkpoint-guard";
/// What is written before the checkpoint is published for good: the container is to end.
pub(crate) const PUBLISHING: u8 = b'p';
/// What the runtime writes before it publishes a checkpoint whose memory is still in the container.
const LENDING: u8 = b'm';
/// What the runtime writes before CRIU locks the container's network.
const LOCKING: u8 = b'l';
/// What the runtime writes when nothing is left to guard.
const DONE: u8 = b'd';

/// What is guarded.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Watch {
    pub(super) cgroup: CgroupPaths,
    /// Whether the container was running, so that it must not stay frozen.
    pub(super) thaw: bool,
    /// Where the checkpoint is written, and where it is published.
    pub(super) staging: PathBuf,
    pub(super) target: PathBuf,
    /// The first process, and when it started.
    pub(super) process: (i32, u64),
    /// CRIU's log.
    pub(super) log: PathBuf,
    /// Whether CRIU may link files that have lost their name.
    pub(super) links: bool,
    /// Whether a published checkpoint means the end of the container.
    pub(super) ends: bool,
}

/// The guard, from the runtime's side. Dropped, it is told that all is well.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
}

impl Guard {
    pub(super) fn start(watch: &Watch) -> Result<Self> {
        let watch = serde_json::to_string(watch).map_err(|e| Error::Invalid(e.to_string()))?;
        let child = Command::new("/proc/self/exe")
            .args([ARGUMENT, &watch])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::file("/proc/self/exe".as_ref(), &e))
            .context("start the checkpoint's guard")?;
        Ok(Self { child })
    }

    /// The checkpoint is about to be published: from now on a vanished staging directory means that it was.
    pub(super) fn publishing(&mut self) -> Result<()> {
        self.say(PUBLISHING).map_err(|e| Error::file("the checkpoint's guard".as_ref(), &e))
    }

    /// As [`publishing`](Self::publishing), but until someone says that, the container is to run on and the checkpoint
    /// to be withdrawn.
    pub(super) fn lending(&mut self) -> Result<()> {
        self.say(LENDING).map_err(|e| Error::file("the checkpoint's guard".as_ref(), &e))
    }

    /// CRIU is about to lock the network: from now on its rules may be left.
    pub(super) fn locking(&mut self) -> Result<()> {
        self.say(LOCKING).map_err(|e| Error::file("the checkpoint's guard".as_ref(), &e))
    }

    fn say(&mut self, word: u8) -> std::io::Result<()> {
        self.child.stdin.as_mut().map_or(Ok(()), |pipe| pipe.write_all(&[word]))
    }

    /// A copy of our end, for CRIU: the guard must not act before it, too, is gone.
    pub(super) fn share(&self) -> Result<OwnedFd> {
        let pipe =
            self.child.stdin.as_ref().ok_or_else(|| Error::Invalid("the guard's pipe is closed".into()))?;
        rustix::io::fcntl_dupfd_cloexec(pipe, 3).map_err(|e| Error::sys("fcntl", "F_DUPFD_CLOEXEC", e))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.say(DONE);
        let _ = self.child.wait();
    }
}

/// Acts as guard if the first argument says so, and then does not return.
pub(crate) fn run_if_asked(argument: Option<&OsStr>) {
    if argument != Some(ARGUMENT.as_ref()) {
        return;
    }
    let Some(Ok(watch)) = std::env::args().nth(2).map(|json| serde_json::from_str::<Watch>(&json)) else {
        return;
    };
    // What is sent to the runtime's process group is not meant for us.
    let _ = rustix::process::setsid();
    let mut said = Said::default();
    // Ends when it has heard all, or when everyone is gone.
    for word in std::io::stdin().lock().bytes().map_while(Result::ok) {
        match word {
            DONE => std::process::exit(0),
            LOCKING => said.locking = true,
            LENDING => said.lending = true,
            _ => said.publishing = true,
        }
    }
    let _ = watch.settle(said);
    std::process::exit(0);
}

/// What the guard has heard.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    publishing: bool,
    lending: bool,
    locking: bool,
}

impl Watch {
    fn settle(&self, said: Said) -> hiber_sandbox::Result<()> {
        let cgroup = Cgroup::open(self.cgroup.clone(), OnDenied::Skip)?;
        let published = (said.publishing || said.lending) && !self.staging.exists();
        if published && said.publishing && self.ends {
            return cgroup.kill(Signal::KILL);
        }
        if self.thaw {
            cgroup.thaw()?;
        }
        self.clear(&cgroup, said.locking);
        if !published {
            let _ = std::fs::remove_dir_all(&self.staging);
        } else if !said.publishing {
            let _ = std::fs::remove_dir_all(&self.target);
        }
        Ok(())
    }

    /// What CRIU had no time to undo. There is nobody to be told.
    fn clear(&self, cgroup: &Cgroup, locked: bool) {
        let (pid, since) = self.process;
        if locked && procfs::alive_since(pid) == Some(since) {
            leftovers::unlock_network(pid, &self.log);
        }
        if self.links {
            leftovers::remove_links(&cgroup.pids().unwrap_or_default());
        }
    }
}
