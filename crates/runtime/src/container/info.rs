//! A look at containers that keeps nothing open, for callers that only show them.

use std::sync::Arc;

use crate::container::handle::Container;
use crate::container::process::{self, Attributes, Process};
use crate::container::task::Task;
use crate::error::{Error, Result};
use crate::helpers::guard;
use crate::helpers::lazy::{FollowingMemory, record};
use crate::host::procfs;
use crate::id::ContainerId;
use crate::state::facts::{ConfigSummary, Facts};
use crate::state::observe::Observe;
use crate::state::store::{Listed, Listing};
use crate::status::Status;

/// A container as it was found: its facts, and its status at the moment of each question. Each question goes by the id, so this
/// is no handle: it cannot tell the container from a later one of the same id.
#[derive(Debug)]
#[non_exhaustive]
pub struct ContainerInfo {
    id: ContainerId,
    listed: Listed,
    source: Source,
}

/// The process that answers.
#[derive(Debug)]
enum Source {
    Listing(Arc<Listing>),
    /// A handle, if a look does not suffice: someone is making the container, or was interrupted.
    Task(Box<Task>),
}

impl ContainerInfo {
    pub(crate) fn new(listing: &Arc<Listing>, id: ContainerId) -> Result<Self> {
        if let Some(listed) = listing.look(&id)
            && listed.facts.pid != 0
            && listed.facts.cgroup.check().is_ok()
        {
            return Ok(Self { id, listed, source: Source::Listing(Arc::clone(listing)) });
        }
        let task = Container::open(&listing.store, &id)?.task()?;
        let facts = task.facts().map_err(|_| Error::NotFound)?.clone();
        let listed = Listed { facts, owner: task.container().owner()?, started: false };
        Ok(Self { id, listed, source: Source::Task(Box::new(task)) })
    }

    /// The facts from its creation.
    pub fn facts(&self) -> &Facts {
        &self.listed.facts
    }

    /// Its facts alone.
    pub fn into_facts(self) -> Facts {
        self.listed.facts
    }

    /// The user who made it.
    pub fn owner(&self) -> u32 {
        self.listed.owner
    }

    /// Asks the kernel for its status.
    ///
    /// # Errors
    /// Those of [`Task::status`].
    pub fn status(&self) -> Result<Status> {
        match &self.source {
            Source::Listing(_) => self.observe(),
            Source::Task(task) => task.status(),
        }
    }

    /// The part of its configuration that is needed to show it.
    ///
    /// # Errors
    /// Those of [`Container::config_summary`].
    pub fn config_summary(&self) -> Result<ConfigSummary> {
        match &self.source {
            Source::Listing(listing) => listing
                .config_summary(&self.id)
                .map_or_else(|| listing.store.open(&self.id)?.config_summary(), Ok),
            Source::Task(task) => task.container().config_summary(),
        }
    }

    /// Whether a paused container was frozen by a checkpoint that was killed, and that nobody has cleared up.
    pub fn is_left_paused(&self) -> bool {
        match &self.source {
            Source::Listing(listing) => {
                listing.store.open(&self.id).is_ok_and(|entry| guard::has_left_frozen(&entry))
            }
            Source::Task(task) => guard::has_left_frozen(task.container().entry()),
        }
    }

    /// The progress of its memory, if the memory follows the container after a restore; `None` if not, or if unknown.
    pub fn following_memory(&self) -> Option<FollowingMemory> {
        let entry = match &self.source {
            Source::Listing(listing) if !listing.has(&self.id, record::FILE) => return None,
            Source::Listing(listing) => &listing.store.open(&self.id).ok()?,
            Source::Task(task) => return task.following_memory(),
        };
        record::look(entry).ok()?
    }

    /// Whether the kernel has killed a process of it for want of memory; false if unknown.
    pub fn oom_killed(&self) -> bool {
        self.facts().cgroup.oom_kills() > 0
    }
}

impl Observe for ContainerInfo {
    fn is_abandoned(&self) -> Result<bool> {
        match &self.source {
            Source::Listing(_) if self.listed.started => Ok(false),
            Source::Listing(listing) => listing.store.open(&self.id)?.is_abandoned(self.facts().pid),
            Source::Task(task) => task.is_abandoned(),
        }
    }

    fn is_alive(&self) -> Result<bool> {
        let (pid, start_time) = (self.facts().pid, self.facts().start_time);
        if let (Some(inode), Source::Listing(listing)) = (self.facts().pidfd_inode, &self.source)
            && listing.is_of_this_boot()
        {
            return process::lives(pid, inode);
        }
        match procfs::stat(pid).filter(|stat| stat.start_time == start_time) {
            // The end of the first thread is not the end of the process; the pidfd shows the latter.
            Some(stat) if stat.dead => {
                let process = Process::open(pid, start_time, Attributes::default())?;
                Ok(process.is_some_and(|process| process.is_alive()))
            }
            same => Ok(same.is_some()),
        }
    }

    fn is_frozen(&self) -> Result<bool> {
        match &self.source {
            Source::Listing(listing) => listing.frozen(&self.facts().cgroup),
            Source::Task(task) => task.is_frozen(),
        }
    }

    fn listens(&self, socket: &str) -> Result<bool> {
        match &self.source {
            Source::Listing(_) if self.listed.started => Ok(false),
            Source::Listing(listing) => listing.listens(&self.id, socket),
            Source::Task(task) => task.listens(socket),
        }
    }
}

#[cfg(test)]
#[path = "info_tests.rs"]
mod tests;
