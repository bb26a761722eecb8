//! A process that finishes or undoes a checkpoint whose runtime is killed.
//!
//! A runtime may be killed while its cgroup is frozen, or between publishing a checkpoint and telling CRIU. The guard waits on a
//! pipe whose other end the runtime holds, and then for CRIU's end. If both are gone without a word, the guard looks whether the
//! checkpoint was published. If so it ends the container, whose state is now the checkpoint; if not it lets the container run on
//! and removes the unfinished checkpoint.
//!
//! The guard's task is also recorded in the container's directory. If the guard is killed with the runtime, the next command that
//! checkpoints, resumes or deletes the container does its work.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hiber_criu::ImageDirectory;
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, OnDenied};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};

use super::{leftovers, unfinished};
use crate::error::{Context, Error, Result};
use crate::host::owned;
use crate::host::procfs;
use crate::state::entry::Entry;
use crate::state::migration;

/// argv\[1\] of the runtime's binary when it is to act as guard; argv\[2\] is the [`Watch`] in JSON.
pub(crate) const ARGUMENT: &str = "checkpoint-guard";
/// As [`ARGUMENT`], of a guard of a restore; argv\[2\] is the container's [`CgroupPaths`] in JSON.
const RESTORE_ARGUMENT: &str = "restore-guard";
/// The word that precedes the publication of the checkpoint: the container is to end.
pub(crate) const PUBLISHING: u8 = b'p';
/// The word that precedes the publication of a checkpoint whose memory is still in the container.
const LENDING: u8 = b'm';
/// The word that precedes CRIU's lock of the container's network.
const LOCKING: u8 = b'l';
/// The word before the numbers of the staging directory's device and inode.
const STAGING: u8 = b's';
/// The word before CRIU's process number, in native byte order.
const CRIU: u8 = b'c';
/// The word that nothing is left to guard.
const DONE: u8 = b'd';

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
    /// The cgroup of a restore on trial, if there is to be one.
    #[serde(default)]
    pub(crate) trial: Option<CgroupPaths>,
}

/// The guard, from the runtime's side. Dropping this tells the guard that nothing is left to do.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
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
        let child = Command::new("/proc/self/exe")
            .args([ARGUMENT, &watch])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::file("/proc/self/exe".as_ref(), &e))
            .context("start the checkpoint's guard");
        if child.is_err() {
            let _ = std::fs::remove_file(&record);
        }
        Ok(Self { child: child?, record, _locked: locked })
    }

    /// The directory is made: its identity shows later whether it was published.
    pub(crate) fn staging(&mut self, directory: &ImageDirectory) -> Result<()> {
        let stat = directory.stat().map_err(|e| Error::file(directory.path(), &e))?;
        let [device, inode] = [stat.st_dev, stat.st_ino].map(u64::to_ne_bytes);
        self.say(&[&[STAGING][..], &device, &inode].concat())
    }

    /// CRIU runs: nothing is settled before its end.
    pub(crate) fn criu(&mut self, pid: u32) -> Result<()> {
        let [a, b, c, d] = pid.to_ne_bytes();
        self.say(&[CRIU, a, b, c, d])
    }

    /// The checkpoint is about to be published: from now on a vanished staging directory means that it was.
    pub(crate) fn publishing(&mut self) -> Result<()> {
        self.say(&[PUBLISHING])
    }

    /// As [`publishing`](Self::publishing), but for now the container is to run on if the runtime dies, and the checkpoint to be
    /// withdrawn.
    pub(crate) fn lending(&mut self) -> Result<()> {
        self.say(&[LENDING])
    }

    /// CRIU is about to lock the network: from now on its rules may be left.
    pub(crate) fn locking(&mut self) -> Result<()> {
        self.say(&[LOCKING])
    }

    fn say(&mut self, words: &[u8]) -> Result<()> {
        let said = self.child.stdin.as_mut().map_or(Ok(()), |pipe| pipe.write_all(words));
        said.map_err(|e| Error::host("the checkpoint's guard does not listen", e))
    }

    /// A copy of our end, for another process that sends words.
    pub(crate) fn share(&self) -> Result<OwnedFd> {
        let closed = || Error::internal("share the pipe to the checkpoint's guard", "it is closed");
        let pipe = self.child.stdin.as_ref().ok_or_else(closed)?;
        rustix::io::fcntl_dupfd_cloexec(pipe, 3).map_err(|e| Error::sys("fcntl", "F_DUPFD_CLOEXEC", e))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.say(&[DONE]);
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.record);
    }
}

/// A process that ends a container which is being restored if its restorer is killed before it is decided that the container runs:
/// CRIU, left alone, would let it run.
#[derive(Debug)]
pub(crate) struct RestoreGuard {
    child: Child,
}

impl RestoreGuard {
    /// Guards the container in these cgroups.
    pub(crate) fn start(cgroup: &CgroupPaths) -> Result<Self> {
        let cgroup = serde_json::to_string(cgroup)
            .map_err(|e| Error::internal("encode the restore guard's task", e))?;
        let child = Command::new("/proc/self/exe")
            .args([RESTORE_ARGUMENT, &cgroup])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::file("/proc/self/exe".as_ref(), &e))
            .context("start the restore's guard")?;
        Ok(Self { child })
    }
}

/// The container's fate is decided, or the restorer undoes the container.
impl Drop for RestoreGuard {
    fn drop(&mut self) {
        let _ = self.child.stdin.take().map(|mut pipe| pipe.write_all(&[DONE]));
        let _ = self.child.wait();
    }
}

/// Acts as a restore's guard if the first argument says so, and then does not return.
fn run_restore_guard_if_asked(argument: Option<&OsStr>) {
    if argument != Some(RESTORE_ARGUMENT.as_ref()) {
        return;
    }
    let cgroup = std::env::args().nth(2).and_then(|json| serde_json::from_str::<CgroupPaths>(&json).ok());
    let Some(cgroup) = cgroup.filter(|cgroup| cgroup.check().is_ok()) else { return };
    let _ = rustix::process::setsid();
    let mut word = [0];
    if std::io::stdin().lock().read_exact(&mut word).is_err() || word != [DONE] {
        let _ = Cgroup::open(cgroup, OnDenied::Skip).and_then(|cgroup| cgroup.kill(Signal::KILL));
    }
    std::process::exit(0);
}

/// Acts as guard if the first argument says so, and then does not return.
pub(crate) fn run_if_asked(argument: Option<&OsStr>) {
    run_restore_guard_if_asked(argument);
    if argument != Some(ARGUMENT.as_ref()) {
        return;
    }
    let Some(Ok(watch)) = std::env::args().nth(2).map(|json| serde_json::from_str::<Watch>(&json)) else {
        return;
    };
    // Signals to the runtime's process group are not meant for this process.
    let _ = rustix::process::setsid();
    let Some(heard) = Heard::listen(&mut std::io::stdin().lock()) else { std::process::exit(0) };
    // CRIU has lost its client, and lets the container go on.
    // A container that is another machine's by now must not run again, and CRIU is about to let it.
    if watch.record.as_deref().is_some_and(migration::is_committed) {
        let _ =
            Cgroup::open(watch.cgroup.clone(), OnDenied::Skip).and_then(|cgroup| cgroup.kill(Signal::KILL));
    }
    heard.criu.into_iter().for_each(Running::end);
    let published = match &watch.record {
        Some(record) => migration::is_committed(record),
        None => heard.staging.is_some() && heard.staging == unfinished::identity(&watch.target),
    };
    let _ = watch.settle(heard.said, published);
    let _ = std::fs::remove_file(watch.entry.join(RECORD));
    std::process::exit(0);
}

fn read_identity(from: &mut impl Read) -> Option<unfinished::Identity> {
    let mut numbers = [[0; 8]; 2];
    numbers.iter_mut().try_for_each(|number| from.read_exact(number)).ok()?;
    Some(numbers.map(u64::from_ne_bytes).into())
}

/// The CRIU of a runtime that is gone.
struct Running {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Running {
    /// By the number that the runtime sends while CRIU runs.
    fn read(from: &mut impl Read) -> Option<Self> {
        let mut bytes = [0; 4];
        from.read_exact(&mut bytes).ok()?;
        let pid = Pid::from_raw(i32::from_ne_bytes(bytes))?;
        Some(Self { pid, pidfd: pidfd_open(pid, PidfdFlags::empty()).ok()? })
    }

    /// Waits for its end, which its children may survive if it was killed.
    fn end(self) {
        let _ = retry_on_intr(|| poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None));
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

/// The words that the guard has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Said {
    publishing: bool,
    lending: bool,
    locking: bool,
}

/// The words of a runtime that is gone without [`DONE`].
#[derive(Default)]
struct Heard {
    said: Said,
    criu: Option<Running>,
    staging: Option<unfinished::Identity>,
}

impl Heard {
    /// Ends when the runtime is gone, or with none when that has said that all is done.
    ///
    /// After an unknown word the rest may mean anything. Then the container is to run on, whatever becomes of the checkpoint.
    fn listen(words: &mut impl Read) -> Option<Self> {
        let mut heard = Self::default();
        let mut word = [0];
        while words.read_exact(&mut word).is_ok() {
            match word[0] {
                DONE => return None,
                CRIU => heard.criu = Running::read(words),
                STAGING => heard.staging = read_identity(words),
                LOCKING => heard.said.locking = true,
                LENDING => heard.said.lending = true,
                PUBLISHING => heard.said.publishing = true,
                _ => {
                    let _ = std::io::copy(words, &mut std::io::sink());
                    heard.said = Said { publishing: false, locking: true, ..heard.said };
                }
            }
        }
        Some(heard)
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
            return cgroup.kill(Signal::KILL);
        }
        if self.thaw {
            cgroup.thaw()?;
        }
        self.clear(&cgroup, said.locking);
        // After publication, the checkpoint that was there before.
        let _ = std::fs::remove_dir_all(&self.staging);
        if published && said.lending && !said.publishing {
            let _ = std::fs::remove_dir_all(&self.target);
        }
        Ok(())
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
    interrupted(entry).into_iter().for_each(|watch| unfinished::sweep_one(&watch.staging));
}

/// Kills the processes that a restore on trial has left, and removes its cgroup.
pub(crate) fn clear_trial(paths: CgroupPaths) -> hiber_sandbox::Result<()> {
    Cgroup::open(paths, OnDenied::Skip)?.destroy()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(mut words: &[u8]) -> Option<Said> {
        Heard::listen(&mut words).map(|heard| heard.said)
    }

    #[test]
    fn only_the_word_for_publishing_ends_a_container() {
        let publishing = Said { publishing: true, ..Said::default() };
        assert_eq!(said(&[PUBLISHING]), Some(publishing));
        assert_eq!(said(&[PUBLISHING, DONE]), None);
        assert_eq!(said(&[]), Some(Said::default()));
        for unknown in
            (0..=u8::MAX).filter(|b| ![PUBLISHING, LENDING, LOCKING, STAGING, CRIU, DONE].contains(b))
        {
            let confused = Said { locking: true, ..Said::default() };
            assert_eq!(said(&[unknown]), Some(confused), "{unknown}");
            assert_eq!(said(&[PUBLISHING, unknown, PUBLISHING, DONE]), Some(confused), "{unknown}");
        }
    }

    #[test]
    fn an_identity_that_is_cut_off_is_none() {
        let cut = [&[STAGING][..], &[7; 15]].concat();
        assert!(Heard::listen(&mut &cut[..]).unwrap().staging.is_none());
        let whole = [&[STAGING][..], &[7; 16]].concat();
        assert!(Heard::listen(&mut &whole[..]).unwrap().staging.is_some());
    }
}
