//! The checks of a dump that come before anything is made or stopped.

use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::Spec;

use crate::checkpoint::frozen::freezer;
use crate::checkpoint::named::Named;
use crate::checkpoint::network::has_fresh_network;
use crate::checkpoint::options::CheckpointOptions;
use crate::checkpoint::preflight::{
    Accepted, MountComparison, before_freezing, check_losses, check_network, check_root,
    check_user_namespace, compare_mounts,
};
use crate::container::monitor;
use crate::container::task::Task;
use crate::error::Result;
use crate::status::Status;

/// A container that may be dumped, and what has to be known of it to start CRIU.
pub(super) struct Candidate {
    status: Status,
    pub(super) spec: Arc<Spec>,
    pub(super) fresh_network: bool,
    accepted: Accepted,
}

/// A container that can be dumped, as far as that is seen while it runs.
pub(super) struct Admitted {
    pub(super) status: Status,
    pub(super) spec: Arc<Spec>,
    /// The cgroup's directory by which CRIU stops the container; none if CRIU has to stop each process.
    pub(super) freezer: Option<PathBuf>,
    /// None for a pre-dump.
    pub(super) mounts: Option<MountComparison>,
    /// Whether the network namespace need not be saved, nor CRIU be outside of it.
    pub(super) fresh_network: bool,
    pub(super) accepted: Accepted,
}

impl Candidate {
    /// The container is locked by the caller.
    pub(super) fn of(task: &Task, options: &CheckpointOptions, named: Option<&Named<'_>>) -> Result<Self> {
        let status = task.status()?;
        if !matches!(status, Status::Running | Status::Paused) {
            let what = match named {
                // Docker's words, for checkpoints with names are Docker's.
                Some(_) => format!("Container {} is not running: it is {status}", task.container().id()),
                None => format!("Container cannot be checkpointed in {status} state"),
            };
            return task.refuse(&what, status);
        }
        named.map_or(Ok(()), Named::check)?;
        let spec = task.container().spec()?;
        check_user_namespace(&spec)?;
        let accepted = Accepted::of(&options.accept, &spec)?;
        let fresh_network = has_fresh_network(task, options)?;
        Ok(Self { status, spec, fresh_network, accepted })
    }

    /// The checks that may go on while CRIU is being loaded.
    pub(super) fn admit(self, task: &Task, options: &CheckpointOptions) -> Result<Admitted> {
        let Self { status, spec, fresh_network, mut accepted } = self;
        let whole = !options.pre_dump;
        let may_freeze = before_freezing(task, status, whole)?;
        let freezer = freezer(task.cgroup()).filter(|_| may_freeze);
        let mounts = whole.then(|| compare_mounts(task)?.accept(&mut accepted)).transpose()?;
        if whole {
            if !fresh_network {
                check_network(task, options, &mut accepted)?;
            }
            check_losses(task, false, &mut accepted)?;
        }
        // At the end CRIU waits for the first process, which waits for whoever was executed in the container to be reaped.
        monitor::reap_in_time(task.facts()?.pid)?;
        if whole {
            check_root(&task.facts()?.rootfs, &spec)?;
        }
        Ok(Admitted { status, spec, freezer, mounts, fresh_network, accepted })
    }
}
