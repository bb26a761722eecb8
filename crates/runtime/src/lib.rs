//! hiber: an OCI container runtime as a library.
//!
//! A program that creates containers must call [`run_init_if_asked`] first in its `main`.
#![forbid(unsafe_code)]

pub mod bundle;
mod checkpoint;
mod container;
pub mod docker;
mod error;
pub mod features;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod helpers;
mod host;
pub mod id;
pub mod spec;
mod state;

use std::path::Path;

pub use checkpoint::inspect::{Inspection, Verification, inspect, verify};
pub use checkpoint::lazy::{Address, Token};
pub use checkpoint::manifest::{self, Manifest};
pub use checkpoint::named::{Checkpoint, CheckpointConfig, CheckpointError, CheckpointName, Checkpoints};
pub use checkpoint::preflight;
pub use checkpoint::restore::{RESOURCES, Resources, RestoreContainerOptions};
pub use checkpoint::{CheckpointOptions, CriuOptions, PreCopy, PreCopyMode};
pub use container::create::{CreateOptions, Start};
pub use container::events::{Event, Events, EventsOptions, Exec};
pub use container::exec::ExecOptions;
pub use container::exit::{Ended, ExitStatus};
pub use container::fifos::{DirectIo, Fifos};
pub use container::glance::Glance;
pub use container::handle::Container;
pub use container::notify::Notify;
pub use container::process::Process;
pub use container::processes::{INIT_ID, ProcessId};
pub use container::stdio::Stdio;
pub use container::summary::{ProcessDetails, ProcessSummary};
pub use container::task::Task;
pub use container::wait::{Condition, Wait};
pub use error::{Cause, Error, Kind, Result};
pub use hiber_criu::inspect as contents;
pub use hiber_criu::{CgroupMode, NetworkLock};
pub use hiber_sys::signal::Signal;
pub use state::facts::{Brief, Facts, Status};
pub use state::lifecycle::Lifecycle;

use id::ContainerId;
use state::store::Store;

/// Acts as one of the runtime's helpers (a container's init, a checkpoint's guard, CRIU's tar, what
/// brings memory) if the arguments say so, and then
/// does not return. The helpers are this very program, executed again.
pub fn run_init_if_asked() {
    hiber_sandbox::init::run_if_asked();
    // Each look at the arguments copies all of them.
    let argument = std::env::args_os().nth(1);
    checkpoint::run_guard_if_asked(argument.as_deref());
    checkpoint::lazy::run_if_asked(argument.as_deref());
    #[cfg(feature = "archive")]
    checkpoint::tmpfs::run_if_asked();
    helpers::asked();
}

/// The program in docs/embedding.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/embedding.md")]
struct Embedding;

/// All containers below one root directory.
#[derive(Debug, Clone)]
pub struct Runtime {
    store: Store,
}

impl Runtime {
    /// Containers below `root`, which is made when it is needed.
    pub fn new(root: &Path) -> Self {
        Self { store: Store::new(root) }
    }

    /// Creates a container up to the point where [`Task::start`] executes its program. On failure nothing of it is
    /// left.
    pub fn create(&self, id: &ContainerId, options: &CreateOptions<'_>) -> Result<Task> {
        Ok(container::create::create(&self.store, id, options)?.finish())
    }

    /// Restores a container from a checkpoint, running; its first process is a child of the caller. On failure
    /// nothing of it is left.
    pub fn restore(&self, id: &ContainerId, options: &RestoreContainerOptions<'_>) -> Result<Task> {
        checkpoint::restore::restore(&self.store, id, options)
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
    /// Why [`restore`](Self::restore) with these options, or [`start_from`](Self::start_from) the checkpoint, would fail, or
    /// why that cannot be tried.
    pub fn try_restore(
        &self,
        id: &ContainerId,
        checkpoint: Option<&Checkpoint>,
        mut options: RestoreContainerOptions<'_>,
    ) -> Result<()> {
        if let Some(checkpoint) = checkpoint {
            checkpoint.choose(&mut options.criu);
        }
        checkpoint::trial::of_checkpoint(&self.store, id, &options)
    }

    /// Starts a container from a named checkpoint. `options` say how; where the images are, the checkpoint says, and so
    /// it does for what its dump was told and `options` leave open.
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

    /// Deletes a container whatever its state; one that does not exist is no error.
    pub fn force_delete(&self, id: &ContainerId) -> Result<()> {
        match self.open(id) {
            Err(Error::NotFound) => self.store.sweep(id),
            // What is written down of it is damaged, or not the caller's.
            Err(e @ Error::File { .. }) => Container::discard(&self.store, id, &e),
            container => container?.task()?.delete(true).map(drop),
        }
    }

    /// The ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        self.store.ids()
    }
}
