//! All containers of one directory: where a program begins.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::RestoreContainerOptions;
use crate::checkpoint::named::Checkpoint;
use crate::checkpoint::preflight;
use crate::checkpoint::restore::restore;
use crate::checkpoint::trial;
use crate::container::create::create;
use crate::container::handle::Container;
use crate::container::info::ContainerInfo;
use crate::container::prepared::CreateOptions;
use crate::container::task::Task;
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::state::migration;
use crate::state::store::Store;

/// All containers below one root directory.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(crate) store: Store,
}

impl Runtime {
    /// The containers below `root`, a directory that is made when it is needed.
    pub fn new(root: &Path) -> Self {
        Self { store: Store::new(root) }
    }

    /// Creates a container up to the point where [`Task::start`] executes its program. On failure nothing of it is
    /// left.
    pub fn create(&self, id: &ContainerId, options: &CreateOptions<'_>) -> Result<Task> {
        Ok(create(&self.store, id, options)?.finish())
    }

    /// Restores a container from a checkpoint, running; its first process is a child of the caller. On failure
    /// nothing of it is left.
    pub fn restore(&self, id: &ContainerId, options: &RestoreContainerOptions<'_>) -> Result<Task> {
        restore(&self.store, id, options)
    }

    /// Lists what would make [`restore`](Self::restore) with these options, or [`start_from`](Self::start_from) a
    /// checkpoint, fail, or cost much. Nothing is made or started.
    pub fn check_restore(
        &self,
        id: &ContainerId,
        checkpoint: Option<&Checkpoint>,
        mut options: RestoreContainerOptions<'_>,
    ) -> preflight::Report {
        if let Some(checkpoint) = checkpoint {
            checkpoint.choose(&mut options.criu);
        }
        preflight::check_restore(&self.store, id, &options)
    }

    /// Restores on trial: up to the moment before the first instruction, without effect on anything, and then thrown away.
    /// The container of that id may run meanwhile.
    ///
    /// # Errors
    /// The reason why [`restore`](Self::restore) with these options, or [`start_from`](Self::start_from) the checkpoint, would
    /// fail, or why a trial is impossible.
    pub fn try_restore(
        &self,
        id: &ContainerId,
        checkpoint: Option<&Checkpoint>,
        mut options: RestoreContainerOptions<'_>,
    ) -> Result<()> {
        if let Some(checkpoint) = checkpoint {
            checkpoint.choose(&mut options.criu);
        }
        trial::of_checkpoint(&self.store, id, &options)
    }

    /// Starts a container from a named checkpoint. The checkpoint gives the place of the images, and the options of the dump that
    /// `options` leaves open.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn start_from(
        &self,
        id: &ContainerId,
        checkpoint: &Checkpoint,
        mut options: RestoreContainerOptions<'_>,
    ) -> Result<Task> {
        checkpoint.choose(&mut options.criu);
        self.restore(id, &options)
    }

    /// A container that exists.
    pub fn open(&self, id: &ContainerId) -> Result<Container> {
        Container::open(&self.store, id)
    }

    /// Deletes a container whatever its state; one that does not exist is no error. Memory that killed receivers of migrations have
    /// left is freed, too.
    pub fn force_delete(&self, id: &ContainerId) -> Result<()> {
        migration::sweep(&self.store);
        match self.open(id) {
            Err(Error::NotFound) => self.store.sweep(id),
            // Its facts are damaged, or do not belong to the caller.
            Err(e @ Error::File { .. }) => Container::discard(&self.store, id, &e),
            container => match container?.task().and_then(Task::force_delete) {
                // It was removed by another, who had its lock.
                Err(Error::NotFound) => self.store.sweep(id),
                deleted => deleted.map(drop),
            },
        }
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        self.store.ids()
    }

    /// Looks at a container.
    ///
    /// # Errors
    /// Those of [`Runtime::open`] and [`Container::task`]; [`Error::NotFound`] also if nothing is written down of it yet.
    pub fn info(&self, id: &ContainerId) -> Result<ContainerInfo> {
        ContainerInfo::new(&Arc::new(self.store.listing(false)), id.clone())
    }

    /// Looks at these containers one after the other, for less than [`info`](Self::info) takes for each. One that was
    /// deleted meanwhile, or of which nothing is written down yet, is [`Error::NotFound`].
    pub fn infos<'a>(
        &self,
        ids: &'a [ContainerId],
    ) -> impl Iterator<Item = (&'a ContainerId, Result<ContainerInfo>)> + use<'a> {
        let listing = Arc::new(self.store.listing(ids.len() > 1));
        ids.iter().map(move |id| (id, ContainerInfo::new(&listing, id.clone())))
    }
}
