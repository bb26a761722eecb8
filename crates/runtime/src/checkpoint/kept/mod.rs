//! Properties of processes that CRIU forgets. A checkpoint reads them while the tasks are frozen and writes them beside
//! the images; a restore puts them back before the first instruction.
//!
//! Each group of properties has a file here: a part of [`Kept`], `of` that reads it, and `put_back`. A part that has
//! nothing to say is left out of the file, and a container without any such property has no file.

mod areas;
mod cgroups;
mod descriptors;
mod eventfds;
mod failures;
mod groups;
pub(crate) mod ipc;
mod networks;
pub(crate) mod options;
mod policy;
mod processor;
pub(crate) mod signatures;
pub(crate) mod sockets;
pub(crate) mod spaces;
mod speculation;
pub(crate) mod switches;
pub(crate) mod tasks;
mod timers;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub(crate) use areas::Reading;
pub(crate) use cgroups::Cgroups;
use hiber_criu::amend::forget_peers;
use hiber_criu::images::ChangedFiles;
use hiber_criu::{CgroupMode, ImageDirectory, Images};
use hiber_sandbox::cgroup::{Cgroup, Names};
use hiber_sandbox::rootfs::set_nosymfollow;
pub(crate) use networks::Networks;
pub(crate) use policy::MAX_NODES;
use serde::{Deserialize, Serialize};

use descriptors::Owner;

use crate::error::{Error, Result};
use crate::host::procfs::Numbered;
use crate::state::resources::ChangedResources;

/// The file in the directory of the images.
pub(crate) const FILE_NAME: &str = "kept.json";
/// No file of ours is longer, in bytes.
const MAX_SIZE: u64 = 64 << 20;

/// The content of `kept.json`. Processes and threads go by their numbers in the container's pid namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Kept {
    /// Scheduling, and what else each thread has for itself.
    #[serde(skip_serializing_if = "tasks::Threads::is_empty")]
    pub(crate) threads: tasks::Threads,
    /// The properties that the threads of a process share.
    #[serde(skip_serializing_if = "tasks::Processes::is_empty")]
    pub(crate) processes: tasks::Processes,
    /// The properties that only the threads themselves can set.
    #[serde(skip_serializing_if = "switches::Switches::is_empty")]
    pub(crate) switches: switches::Switches,
    /// Locks, policies, keys and seals of memory, and descriptors of segments.
    #[serde(skip_serializing_if = "spaces::AddressSpaces::is_empty")]
    pub(crate) memory: spaces::AddressSpaces,
    /// Where the first process has mounts in which symbolic links are not followed (`nosymfollow`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) nosymfollow: Vec<PathBuf>,
    /// Limits that `update` has changed. A restore has them before it has processes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) resources: ChangedResources,
    /// Options of sockets, and the multicast groups that they are in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sockets: Vec<sockets::Socket>,
    /// Eventfds that CRIU does not make as they are. A restore makes them before it has processes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) eventfds: Vec<eventfds::Eventfd>,
    /// Timers that are descriptors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) timers: Vec<timers::Timer>,
    /// System V objects.
    #[serde(skip_serializing_if = "ipc::Ipc::is_empty")]
    pub(crate) ipc: ipc::Ipc,
    /// Routes, sysctls and more of network namespaces that the container has made.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) networks: Networks,
    /// Cgroups that the container has made.
    #[serde(skip_serializing_if = "Cgroups::is_empty")]
    pub(crate) cgroups: Cgroups,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Kept {
    /// Reads what the frozen processes `pids` have, of which `first` is the container's first one. `answers` are what they have said
    /// of themselves before, and `reading` what was read of their memory since; `dir` has their images.
    pub(crate) fn of(
        first: i32,
        pids: &[i32],
        answers: &switches::Answers,
        reading: Reading,
        dir: &ImageDirectory,
    ) -> Result<Self> {
        let processes = Numbered::all(first, pids);
        let owners = Owner::all(&processes);
        let mut descriptors = Vec::new();
        for owner in &owners {
            descriptors.extend(owner.descriptors()?);
        }
        let switches = switches::of(&processes, answers);
        let memory =
            spaces::of(&processes, |pid| answers.get(&pid).map(|answer| &answer.space), reading.finish()?);
        let (threads, processes) = tasks::of(&processes)?;
        let (sockets, has_closed) = sockets::of(&descriptors)?;
        if has_closed {
            forget_peers(dir)?;
        }
        let timers = timers::of(&descriptors)?;
        let eventfds = eventfds::of(&descriptors)?;
        let ipc = ipc::Ipc::of(first, &dir.names()?)?;
        Ok(Self { threads, processes, switches, memory, sockets, eventfds, timers, ipc, ..Self::default() })
    }

    /// Gives the new network namespace of process `first` what it had, before anybody has a socket there.
    pub(crate) fn put_back_network(&self, first: i32) -> Result<()> {
        self.networks.put_back_own(first)
    }

    /// Gives the restored, stopped processes `pids` what they had.
    pub(crate) fn put_back(&self, first: i32, pids: &[i32]) -> Result<()> {
        if *self == Self::default() {
            return Ok(());
        }
        let processes = Numbered::all(first, pids);
        tasks::put_back(&self.threads, &self.processes, &processes)?;
        self.networks.put_back_others(first, &processes)?;
        let owners = Owner::all(&processes);
        sockets::put_back(&self.sockets, &owners)?;
        timers::put_back(&self.timers, &owners)?;
        self.ipc.put_back(first)
    }

    /// Whether [`Kept::turn_switches`] has something to do: then the processes must not run before.
    pub(crate) fn has_switches(&self) -> bool {
        !self.switches.is_empty() || !self.memory.is_empty()
    }

    /// The container's own cgroups whose limits stay as they are, to be asked before CRIU makes any.
    pub(crate) fn left_cgroups(&self, mode: Option<CgroupMode>, cgroup: &Cgroup) -> Result<Names> {
        self.cgroups.left(mode, cgroup)
    }

    /// Makes the container's own cgroups again, for the restored processes `pids`. They are frozen, and CRIU is gone.
    pub(crate) fn put_back_cgroups(
        &self,
        first: i32,
        pids: &[i32],
        cgroup: &Cgroup,
        left: &Names,
    ) -> Result<()> {
        self.cgroups.put_back(first, pids, cgroup, left)
    }

    /// Has the restored processes `pids` set what only they can, and close what they are to `close`, before they run. They are
    /// frozen, and nobody traces them; `thaw` ends that. On `trial` none of them runs afterwards.
    pub(crate) fn turn_switches(
        &self,
        first: i32,
        pids: &[i32],
        then: switches::Then<'_>,
        close: &switches::ToClose,
        thaw: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        switches::put_back(&self.switches, &self.memory, &Numbered::all(first, pids), then, close, thaw)
    }

    /// The images that CRIU reads instead of `images`, so that it does not populate memory that is locked only on its first use.
    pub(crate) fn without_locks(&self, images: &Images) -> Result<ChangedFiles> {
        let pids = self.memory.keys().filter_map(|pid| u32::try_from(*pid).ok());
        let space = |pid: u32| self.memory.get(&i32::try_from(pid).ok()?);
        let is_wanted = |pid, address| space(pid).is_none_or(|space| space.is_locked_now(address));
        Ok(images.without_locks(pids, is_wanted)?)
    }

    /// The images in which CRIU inherits what it could not make, and these eventfds, each under its key.
    pub(crate) fn eventfds(&self, images: &Images) -> Result<(ChangedFiles, Vec<(String, OwnedFd)>)> {
        eventfds::make(&self.eventfds, images)
    }

    /// Gives the mounts of the restored first process, whose mount namespace is new, what they had.
    pub(crate) fn put_back_mounts(&self, first: i32) -> Result<()> {
        match self.nosymfollow.is_empty() {
            true => Ok(()),
            false => Ok(set_nosymfollow(first, &self.nosymfollow)?),
        }
    }

    /// Whether threads have scheduling policies that CRIU refuses at a restore.
    pub(crate) fn schedules_beyond_criu(&self) -> bool {
        self.threads
            .values()
            .filter_map(|thread| thread.scheduling.as_ref())
            .any(tasks::Scheduling::is_beyond_criu)
    }

    /// Frees the calling thread, which is to start CRIU, of what restored processes would inherit and CRIU does not set: then
    /// they have what the kernel starts with until they are given back what they had.
    pub(crate) fn shed() -> Result<()> {
        tasks::shed()
    }

    /// As [`Kept::shed`], of what process `criu` does not have from a thread.
    pub(crate) fn shed_by(criu: u32) {
        tasks::shed_by(criu);
    }

    /// Writes the file, if there is anything to be kept.
    pub(crate) fn write(&self, dir: &ImageDirectory) -> Result<()> {
        if *self == Self::default() {
            return Ok(());
        }
        let json = serde_json::to_vec_pretty(self).map_err(|e| Error::internal("encode kept.json", e))?;
        Ok(dir.write(FILE_NAME, &json)?)
    }

    /// The content of the file in `dir`; nothing if there is none, as in other runtimes' checkpoints.
    ///
    /// # Errors
    /// If it cannot be read, is malformed, or has a field that this program does not know.
    pub(crate) fn read_in(dir: &ImageDirectory) -> Result<Self> {
        let path = dir.path().join(FILE_NAME);
        let mut json = Vec::new();
        match dir.file(FILE_NAME).and_then(|file| file.take(MAX_SIZE).read_to_end(&mut json)) {
            Ok(_) => serde_json::from_slice(&json)
                .map_err(|e| Error::File { path: path.clone(), why: format!("is malformed: {e}") }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::file(&path, &e)),
        }
    }
}
