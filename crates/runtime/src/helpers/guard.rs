//! A process that finishes or undoes a checkpoint whose runtime is killed.
//!
//! A runtime may be killed while its cgroup is frozen, or between publishing a checkpoint and telling CRIU. The guard waits on a
//! socket whose other end the runtime holds, and then for CRIU's end. If both are gone without a message, the guard looks whether the
//! checkpoint was published. If so it ends the container, whose state is now the checkpoint; if not it lets the container run on
//! and removes the unfinished checkpoint.
//!
//! The guard's task is also recorded in the container's directory. If the guard is killed with the runtime, the next command that
//! checkpoints, resumes or deletes the container does its work.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use hiber_criu::Session;
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, OnDenied};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};

use super::program::Program;
use super::to_guard::{GuardChannel, Listener, Next, ToGuard};
use super::{leftovers, unfinished};
use crate::error::{Context, Error, Result};
use crate::host::owned;
use crate::host::procfs;
use crate::state::entry::Entry;
use crate::state::{migration, scratch};

/// The file in the container's directory with the [`Watch`] of a running checkpoint.
const RECORD: &str = "checkpoint.json";
/// The time limit of a command that does a dead guard's work, if the guard still lives.
const PATIENCE: Duration = Duration::from_secs(10);

/// The container and checkpoint that are guarded.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Watch {
    pub(crate) cgroup: CgroupPaths,
    /// Whether the container was running, so that it must not stay frozen.
    pub(crate) thaw: bool,
    /// The staging directory of the checkpoint, and its final path.
    pub(crate) staging: PathBuf,
    pub(crate) target: PathBuf,
    /// The first process, and when it started.
    pub(crate) process: (i32, u64),
    /// CRIU's log.
    pub(crate) log: PathBuf,
    /// Whether CRIU may link files that have lost their name.
    pub(crate) links: bool,
    /// Whether a published checkpoint means the end of the container.
    pub(crate) ends: bool,
    /// The container's directory.
    pub(crate) entry: PathBuf,
    /// The file that says whose the container is, where it is to go elsewhere (`state/migration.rs`).
    #[serde(default)]
    pub(crate) record: Option<PathBuf>,
    /// Whether the staging directory is in memory (`state/scratch.rs`).
    #[serde(default)]
    pub(crate) scratch: bool,
    /// The files of an archive as long as it is none. The first is renamed to the final path.
    #[serde(default)]
    pub(crate) archive: Vec<PathBuf>,
    /// The cgroup of a restore on trial, if there is to be one.
    #[serde(default)]
    pub(crate) trial: Option<CgroupPaths>,
}

/// The guard, from the runtime's side. Dropping this tells the guard that nothing is left to do.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    channel: GuardChannel,
    record: PathBuf,
    _locked: File,
}

impl Guard {
    /// The guard's standard output is the record. The record stays locked as long as the runtime or the guard lives.
    pub(crate) fn start(watch: &Watch) -> Result<Self> {
        let record = watch.entry.join(RECORD);
        let watch =
            serde_json::to_string(watch).map_err(|e| Error::internal("encode the guard's task", e))?;
        let write = || {
            let mut file = owned::create(&record)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            file.write_all(watch.as_bytes())?;
            Ok((file.try_clone()?, file))
        };
        let (output, locked) = write().map_err(|e: std::io::Error| Error::file(&record, &e))?;
        let started = Program::CheckpointGuard.start(Some(&watch), output.into());
        if started.is_err() {
            let _ = std::fs::remove_file(&record);
        }
        let (child, channel) = started?;
        Ok(Self { child, channel, record, _locked: locked })
    }

    /// Sends one message.
    pub(crate) fn tell(&self, message: ToGuard) -> Result<()> {
        let sent = self.channel.send(&message, &[]);
        sent.map_err(|e| Error::host("the checkpoint's guard does not listen", e))
    }

    /// Has CRIU wait for the guard if this program is killed while CRIU expects an answer, instead of letting the container go.
    pub(crate) fn hold(&self, session: &Session) -> Result<()> {
        let Some(socket) = session.socket() else { return Ok(()) };
        let sent = self.channel.send(&ToGuard::Conversation, &[socket]);
        sent.map_err(|e| Error::host("the checkpoint's guard does not listen", e))
    }

    /// A copy of our end, for another process that sends messages.
    pub(crate) fn share(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.channel, 3)
            .map_err(|e| Error::sys("fcntl", "F_DUPFD_CLOEXEC", e))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.tell(ToGuard::Done);
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.record);
    }
}

/// The guard.
pub(super) fn run(socket: OwnedFd, watch: &Watch) {
    let mut listener = Listener::new(socket);
    let Some(heard) = Heard::listen(&mut listener) else { return };
    // A container that is another machine's by now must not run again, and CRIU is about to let it.
    if watch.record.as_deref().is_some_and(migration::is_committed) {
        let _ =
            Cgroup::open(watch.cgroup.clone(), OnDenied::Skip).and_then(|cgroup| cgroup.kill(Signal::KILL));
    }
    // Only now CRIU can notice that it has lost its client, and lets the container go on.
    drop(listener);
    heard.criu.into_iter().for_each(RunningCriu::end);
    let published = match &watch.record {
        Some(record) => migration::is_committed(record),
        None => heard.staging.is_some() && heard.staging == unfinished::identity(&watch.target),
    };
    let _ = watch.settle(heard.said, published);
    let _ = std::fs::remove_file(watch.entry.join(RECORD));
}

/// The CRIU of a runtime that is gone.
struct RunningCriu {
    pid: Pid,
    pidfd: OwnedFd,
}

impl RunningCriu {
    /// By the number that the runtime sends while CRIU runs.
    fn open(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(pid.cast_signed())?;
        Some(Self { pid, pidfd: pidfd_open(pid, PidfdFlags::empty()).ok()? })
    }

    /// Waits for its end, which its children may survive if it was killed.
    fn end(self) {
        let _ = retry_on_intr(|| poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None));
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

/// The steps that the runtime has announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Said {
    publishing: bool,
    lending: bool,
    locking: bool,
}

/// The messages of a runtime that is gone without [`ToGuard::Done`].
#[derive(Default)]
struct Heard {
    said: Said,
    criu: Option<RunningCriu>,
    staging: Option<unfinished::Identity>,
}

impl Heard {
    /// Ends when the runtime is gone, or with none when the runtime has said that all is done.
    ///
    /// After an unknown message the rest may mean anything. Then the container is to run on, whatever becomes of the checkpoint.
    fn listen(listener: &mut Listener) -> Option<Self> {
        let mut heard = Self::default();
        loop {
            match listener.next() {
                Next::End => return Some(heard),
                Next::Message(ToGuard::Done) => return None,
                // The listener keeps it.
                Next::Message(ToGuard::Conversation) => {}
                Next::Message(ToGuard::Criu(pid)) => heard.criu = RunningCriu::open(pid),
                Next::Message(ToGuard::Staging(identity)) => heard.staging = Some(identity),
                Next::Message(ToGuard::Locking) => heard.said.locking = true,
                Next::Message(ToGuard::Lending) => heard.said.lending = true,
                Next::Message(ToGuard::Publishing) => heard.said.publishing = true,
                Next::Unknown => {
                    while listener.next() != Next::End {}
                    heard.said = Said { publishing: false, locking: true, ..heard.said };
                }
            }
        }
    }
}

impl Watch {
    /// `published`: whether the checkpoint is at its final path.
    fn settle(&self, said: Said, published: bool) -> hiber_sandbox::Result<()> {
        if let Some(trial) = &self.trial {
            let _ = clear_trial(trial.clone());
        }
        let cgroup = Cgroup::open(self.cgroup.clone(), OnDenied::Skip)?;
        if published && said.publishing && self.ends {
            self.clear_scratch();
            return cgroup.kill(Signal::KILL);
        }
        if self.thaw {
            cgroup.thaw()?;
        }
        self.clear(&cgroup, said.locking);
        // After publication, the checkpoint that was there before.
        let _ = std::fs::remove_dir_all(&self.staging);
        self.archive.iter().for_each(|archive| unfinished::remove(archive));
        self.clear_scratch();
        if published && said.lending && !said.publishing {
            let _ = std::fs::remove_dir_all(&self.target);
        }
        Ok(())
    }

    fn clear_scratch(&self) {
        if self.scratch {
            scratch::remove_of(&self.staging);
        }
    }

    /// Does the work of a guard that was killed.
    fn settle_late(&self) -> Result<()> {
        // Where it was published matters for a container alone that is another's now.
        let given = self.record.as_deref().is_some_and(migration::is_committed);
        Ok(self.settle(Said { locking: true, publishing: given, ..Said::default() }, given)?)
    }

    /// Undoes changes that CRIU had no time to undo. There is nobody to be told.
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

/// The checkpoint that was at work when its runtime was killed; none otherwise, or if its guard has settled that.
fn interrupted(entry: &Entry) -> Option<Watch> {
    serde_json::from_slice(&entry.read(RECORD).ok()??).ok()
}

/// Whether a container that is frozen was left so by a checkpoint that was killed, and not by one that is at work.
pub(crate) fn has_left_frozen(entry: &Entry) -> bool {
    interrupted(entry).is_some_and(|watch| watch.thaw) && !unfinished::is_held(&entry.path().join(RECORD))
}

/// Does what a killed checkpoint's guard, killed as well, has left undone: the container goes on. It is locked by the caller.
pub(crate) fn settle(entry: &Entry) -> Result<()> {
    let Some(watch) = interrupted(entry) else { return Ok(()) };
    let since = Instant::now();
    while unfinished::is_held(&entry.path().join(RECORD)) && since.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    if interrupted(entry).is_none() {
        return Ok(());
    }
    watch.settle_late().context("clear up after a checkpoint that was killed")?;
    tracing::warn!("a checkpoint of {entry} was killed: what it has left was cleared up");
    forget(entry);
    Ok(())
}

/// Removes the record: the remains of the killed checkpoint are settled.
pub(crate) fn forget(entry: &Entry) {
    let _ = rustix::fs::unlinkat(entry.dir(), RECORD, rustix::fs::AtFlags::empty());
}

/// Removes the files of a killed checkpoint, whose container is being removed.
pub(crate) fn sweep_after(entry: &Entry) {
    if let Some(watch) = interrupted(entry) {
        unfinished::sweep_one(&watch.staging);
        watch.archive.iter().for_each(|archive| unfinished::sweep_one(archive));
    }
}

/// Kills the processes that a restore on trial has left, and removes its cgroup.
pub(crate) fn clear_trial(paths: CgroupPaths) -> hiber_sandbox::Result<()> {
    Cgroup::open(paths, OnDenied::Skip)?.destroy()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use hiber_sys::channel::send_packet;

    use super::*;

    /// The steps that a guard knows of after these messages, or packets where one is `Err`.
    fn said(packets: &[Result<ToGuard, &[u8]>]) -> Option<Said> {
        let (ours, theirs) = GuardChannel::pair().unwrap();
        for packet in packets {
            match packet {
                Ok(message) => ours.send(message, &[]).unwrap(),
                Err(bytes) => send_packet(ours.as_fd(), bytes, &[], "a test").unwrap(),
            }
        }
        drop(ours);
        Heard::listen(&mut Listener::new(theirs.into())).map(|heard| heard.said)
    }

    #[test]
    fn only_the_message_of_publishing_ends_a_container() {
        let publishing = Said { publishing: true, ..Said::default() };
        assert_eq!(said(&[Ok(ToGuard::Publishing)]), Some(publishing));
        assert_eq!(said(&[Ok(ToGuard::Publishing), Ok(ToGuard::Done)]), None);
        assert_eq!(said(&[]), Some(Said::default()));
        for unknown in [&b"p"[..], br#""Publishing "#, br#"{"Staging":[7]}"#, br#""Ended""#] {
            let confused = Said { locking: true, ..Said::default() };
            let (publishing, done) = (Ok(ToGuard::Publishing), Ok(ToGuard::Done));
            assert_eq!(said(&[Err(unknown)]), Some(confused), "{unknown:?}");
            assert_eq!(said(&[publishing, Err(unknown), publishing, done]), Some(confused), "{unknown:?}");
        }
    }
}
