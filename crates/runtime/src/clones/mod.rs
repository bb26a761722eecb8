//! Clones: containers that are made from one checkpoint, each with a bundle, a root filesystem and a name of its own.
//!
//! A clone is a restore of a bundle that is made for it: a directory with the configuration of the checkpoint's bundle, in which
//! everything that two containers cannot have is replaced ([`config`]), and a root filesystem over that bundle's ([`root`]).

mod common;
mod config;
mod options;
mod root;

pub use options::{CloneMemory, CloneOptions, CloneRootfs};

use std::sync::Arc;

use hiber_criu::ImageDirectory;

use crate::checkpoint::RestoreContainerOptions;
use crate::checkpoint::named::Checkpoint;
use crate::checkpoint::restore::is_large;
use crate::checkpoint::unique::{AsClone, Generation, Given};
use crate::container::task::Task;
use crate::error::{Context, Error, Result};
use crate::id::ContainerId;
use crate::runtime::Runtime;
use crate::state::clones::NewClone;

impl Runtime {
    /// Makes a clone, running, from `checkpoint` or that of `restore`, and with the bundle of `restore`. Its first process is a child of the caller.
    /// Its directory goes when the container is deleted. Several may be made at the same time.
    ///
    /// # Errors
    /// As [`restore`](Self::restore); the configuration cannot be that of a clone; the checkpoint has something that two
    /// containers cannot share ([`CloneOptions::share`]); or the root filesystem cannot be made. Nothing is left then.
    pub fn make_clone(
        &self,
        id: &ContainerId,
        how: &CloneOptions,
        checkpoint: Option<&Checkpoint>,
        mut restore: RestoreContainerOptions<'_>,
    ) -> Result<Task> {
        if let Some(checkpoint) = checkpoint {
            checkpoint.choose(&mut restore.criu);
        }
        let images = ImageDirectory::open(&restore.criu.image_path)?;
        common::check(&images, &mut restore, how.share)?;
        #[expect(clippy::disallowed_methods, reason = "a bundle is a directory of the host")]
        let bundle = std::fs::canonicalize(&restore.bundle).map_err(|e| Error::file(&restore.bundle, &e))?;
        let config = config::of_clone(&bundle, id, how, restore.systemd_cgroup)?;
        let mut new = NewClone::make(how.place(&bundle)?.join(id), &self.store, id)?;
        let place = new.record.directory.clone();
        config.write(&place)?;
        let given = Given { annotations: how.annotations.clone(), environment: how.environment.clone() };
        let generation = Generation::next(&self.store, id)?;
        let layer = root::Layer { generation: &generation, given: &given };
        root::make(&mut new, &config.root, how.rootfs, &layer)
            .context("make the root filesystem of a clone")?;
        restore.bundle = place;
        restore.unique = true;
        let lazy = match how.memory {
            CloneMemory::Auto => config.may_follow() && is_large(&[images]),
            memory => memory == CloneMemory::Lazy,
        };
        restore.on_demand = lazy;
        restore.background |= lazy || how.memory == CloneMemory::Background;
        restore.clone = Some(Arc::new(AsClone { record: new.record.clone(), given, generation }));
        let task = self.restore(id, &restore)?;
        new.keep();
        Ok(task)
    }
}
