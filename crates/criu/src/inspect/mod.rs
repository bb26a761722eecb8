//! The contents of a checkpoint, for people and programs, read from its images alone.
//!
//! Images come from elsewhere: whatever is in them gives an error or a description, in time and memory that grow with
//! their size alone.

mod common;
mod files;
mod memory;
mod places;
mod seccomp;
mod threads;

use std::collections::HashMap;

use criu_proto::images::core::TaskKobjIdsEntry;
use criu_proto::images::fs::FsEntry;
use criu_proto::images::inventory::inventory_entry::LsmType;
use serde::Serialize;

pub use common::Common;
pub use files::{Descriptor, Holder, RegularFile, Socket};
pub use memory::{Memory, Segment};
pub(crate) use memory::{address_space, lazy_pages};
pub use places::{CgroupSet, Mount};
pub use seccomp::{SeccompFilter, SeccompFilters};
pub use threads::{CapabilitySet, Credentials, Seccomp, State, Thread};

use crate::error::Result;
use crate::images::{DumpStats, Images, Magic, Task};
use files::Files;

/// The contents of a checkpoint. The JSON has these names in camelCase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Contents {
    /// CRIU's version of the image format: 1 or 2.
    pub image_version: u32,
    /// The security module whose profiles are in the images.
    pub lsm: &'static str,
    /// The first one first; none in a pre-dump.
    pub processes: Vec<Process>,
    /// The memory of processes in a pre-dump, which knows no more of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pre_dumped: Vec<Segment>,
    /// Memory that processes share (shm_overview(7), shared anonymous mappings).
    pub shared_memory: Vec<Segment>,
    /// Each socket once.
    pub sockets: Vec<Socket>,
    /// Files that a restore opens by name.
    #[serde(skip)]
    pub files: Vec<RegularFile>,
    /// Of all mount namespaces.
    pub mounts: Vec<Mount>,
    /// The cgroups that the processes were in.
    pub cgroups: Vec<CgroupSet>,
    /// Absent where CRIU wrote them elsewhere.
    pub statistics: Option<DumpStats>,
}

/// A process; numbers are those in its pid namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// 0 for the first one.
    pub ppid: u32,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// Its threads, itself included.
    pub threads: Vec<u32>,
    /// How it was.
    pub state: State,
    /// Its name (proc_pid_comm(5)).
    pub name: String,
    /// The program's path.
    pub executable: Option<String>,
    /// Absent where its memory is not at hand: in archives, lazy or incremental checkpoints.
    pub arguments: Option<Vec<String>>,
    /// In the container, absolute.
    pub working_directory: Option<String>,
    /// The rights of its first thread; absent for a zombie.
    pub credentials: Option<Credentials>,
    /// Its mappings.
    pub memory: Vec<Memory>,
    /// Its open files.
    pub files: Vec<Descriptor>,
    /// The process that it shares all its descriptors with, where they are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_of: Option<u32>,
}

impl Contents {
    /// Reads all of it.
    ///
    /// # Errors
    /// [`CriuError::Image`](crate::CriuError::Image) naming the file that is missing, truncated or malformed.
    pub fn read(images: &Images) -> Result<Self> {
        let inventory = images.inventory();
        let names = images.names()?;
        let mut reader =
            Reader { images, files: Files::read(images)?, described: HashMap::new(), cgroups: Vec::new() };
        // A pre-dump has pagemaps and pages alone.
        let is_pre_dump = !names.iter().any(|name| name == "pstree.img" || name.starts_with("core-"));
        let pre_dumped = match is_pre_dump {
            true => memory::segments(images, &names, "pagemap-")?,
            false => Vec::new(),
        };
        let tasks = if pre_dumped.is_empty() { images.tasks()? } else { Vec::new() };
        let processes = tasks.into_iter().map(|task| reader.process(task)).collect::<Result<_>>()?;
        Ok(Self {
            image_version: inventory.img_version.unwrap_or_default(),
            lsm: match inventory.lsmtype.map(|t| t.enum_value_or_default()) {
                Some(LsmType::SELINUX) => "selinux",
                Some(LsmType::APPARMOR) => "apparmor",
                Some(LsmType::NO_LSM) | None => "none",
            },
            processes,
            pre_dumped,
            shared_memory: memory::segments(images, &names, "pagemap-shmem-")?,
            sockets: reader.files.sockets(),
            files: reader.files.regular(),
            mounts: places::mounts(images, &names)?,
            cgroups: places::cgroups(images, &reader.cgroups)?,
            statistics: images.dump_stats()?,
        })
    }
}

/// Reads processes one after the other.
struct Reader<'a> {
    images: &'a Images,
    files: Files,
    /// Groups of descriptors by number, and whose they are.
    described: HashMap<u32, u32>,
    /// Sets of cgroups and who is in them.
    cgroups: Vec<(u32, u32)>,
}

impl Reader<'_> {
    fn process(&mut self, task: Task) -> Result<Process> {
        let (images, pid) = (self.images, task.pid);
        let thread = images.thread(pid)?;
        let state = thread.state.unwrap_or(State::Unknown);
        if let Some(set) = thread.cgroup_set {
            self.cgroups.push((set, pid));
        }
        let number = match thread.files {
            Some(number) => Some(number),
            None => self
                .only::<TaskKobjIdsEntry>(&format!("ids-{pid}.img"), Magic::IDS)?
                .and_then(|ids| ids.files_id),
        };
        let files_of = number.and_then(|n| self.described.get(&n)).copied();
        let files = match number.filter(|_| files_of.is_none()) {
            Some(number) => {
                self.described.insert(number, pid);
                self.files.descriptors(images, number, pid)?
            }
            None => Vec::new(),
        };
        let mm = memory::address_space(images, pid)?;
        let fs = self.only::<FsEntry>(&format!("fs-{pid}.img"), Magic::FS)?;
        Ok(Process {
            pid,
            ppid: task.ppid,
            pgid: task.pgid,
            sid: task.sid,
            // CRIU lists one thread of a zombie and never sets its number.
            threads: if state == State::Dead { vec![pid] } else { task.threads },
            state,
            name: thread.name.unwrap_or_default(),
            executable: mm.as_ref().and_then(|mm| self.files.path(mm.exe_file_id?)),
            arguments: mm.as_ref().map_or(Ok(None), |mm| memory::arguments(images, pid, mm))?,
            working_directory: fs.and_then(|fs| self.files.path(fs.cwd_id?)),
            credentials: thread.credentials,
            memory: mm.as_ref().map_or(Ok(Vec::new()), |mm| memory::by_kind(images, pid, mm))?,
            files,
            files_of,
        })
    }

    /// The first entry of a file that may be missing.
    fn only<M: criu_proto::Message>(&self, name: &str, magic: Magic) -> Result<Option<M>> {
        let entries = self.images.entries_if_any::<M>(name, magic)?;
        entries.and_then(|mut entries| entries.next()).transpose()
    }
}

#[cfg(test)]
mod tests;
