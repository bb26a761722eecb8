//! The start of CRIU for a dump.

use hiber_criu::{Launch, Loading};
use oci_spec::runtime::Spec;

use crate::checkpoint::kernel_notes;
use crate::checkpoint::memory::Memory;
use crate::checkpoint::network::keep_libnftables_plain;
use crate::checkpoint::options::CheckpointOptions;
use crate::checkpoint::shared;
use crate::container::task::Task;
use crate::error::Result;
#[cfg(feature = "archive")]
use crate::helpers::{stand_in, tar};
#[cfg(feature = "archive")]
use crate::host::links::Links;

/// CRIU, which takes some milliseconds to load, with all that it has to be given at its start.
pub(super) struct Started {
    pub(super) loading: Loading,
    pub(super) memory: Memory,
    /// Whether CRIU was told that memory can be tracked.
    pub(super) tracked: bool,
    #[cfg(feature = "archive")]
    pub(super) tar: Links,
}

impl Started {
    /// `connect` gives CRIU the connection that the memory takes, if it takes one. The container will stand `still`, or is
    /// stopped by CRIU.
    pub(super) fn of(
        task: &Task,
        options: &CheckpointOptions,
        (spec, fresh_network): (&Spec, bool),
        still: bool,
        connect: impl FnOnce(&mut Launch<'_>) -> Result<Memory>,
    ) -> Result<Self> {
        let criu = options.criu.find_criu()?;
        let mut launch = criu.launch();
        if options.criu.lazy_pages {
            // It waits for the destination, however long that takes.
            launch.patience(None);
        }
        let memory = connect(&mut launch)?;
        #[cfg(feature = "archive")]
        let tar = stand_in::be(&mut launch, task.container().entry().path(), &[tar::NAME])?;
        if !fresh_network {
            keep_libnftables_plain(task, &mut launch)?;
        }
        let kinds = shared::launched_in(spec, fresh_network);
        let tracked = still && memory.may_be_tracked(task);
        let loading = kernel_notes::launched(task, &kinds, tracked, || launch.begin())??;
        Ok(Self {
            loading,
            memory,
            tracked,
            #[cfg(feature = "archive")]
            tar,
        })
    }
}
