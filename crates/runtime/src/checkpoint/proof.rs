//! The proof of a checkpoint: before the container is given up, its images are restored on trial.

use std::path::Path;

use hiber_criu::CriuError;

use super::staging::{Seal, Staging};
use super::{CheckpointOptions, CriuOptions, work};
use crate::checkpoint::options::{Resources, RestoreContainerOptions};
use crate::checkpoint::trial::{self, Trial};
use crate::container::task::Task;
use crate::error::{Context, Error, Result};
use crate::state::store::Store;

/// A trial that failed, on its way through the dump that it ends.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Failed(Error);

impl Task {
    /// Refuses what cannot be tried, before anything is frozen.
    pub(super) fn foresee_trial(&self, options: &CheckpointOptions, staging: &Staging<'_>) -> Result<()> {
        let (id, restore) = (self.container().id(), self.restore_options(options, staging)?);
        trial::foresee(id, &restore, &self.pids()?)
    }

    /// Tries the images, which are all written.
    pub(super) fn prove(
        &self,
        options: &CheckpointOptions,
        staging: &Staging<'_>,
        seal: &mut Seal<'_>,
    ) -> Result<(), Failed> {
        staging.complete(seal).map_err(Failed)?;
        let tried = || {
            let restore = self.restore_options(options, staging)?;
            let images = staging.directory()?;
            let given = options.criu.work_path.as_deref().map(work::open_given).transpose()?;
            let container = self.container();
            let trial = Trial {
                store: &Store::new(container.entry().path().parent().unwrap_or(Path::new("/"))),
                id: container.id(),
                options: &restore,
                images,
                manifest: Some(&seal.manifest),
                log: given.as_ref().unwrap_or(images),
            };
            trial.run()
        };
        tried().map_err(Failed)?;
        seal.manifest.proved = true;
        Ok(())
    }

    /// The restore that would follow.
    fn restore_options(
        &self,
        options: &CheckpointOptions,
        staging: &Staging<'_>,
    ) -> Result<RestoreContainerOptions<'static>> {
        let facts = self.facts()?;
        Ok(RestoreContainerOptions {
            criu: CriuOptions { image_path: staging.path().to_owned(), ..options.criu.clone() },
            bundle: facts.bundle.clone(),
            systemd_cgroup: facts.cgroup.systemd.is_some(),
            // A trial has none; a restore can be told what is wanted.
            resources: Some(Resources::Config),
            own: true,
            ..RestoreContainerOptions::default()
        })
    }
}

impl Failed {
    /// The error of a trial that ended a dump.
    pub(super) fn in_dump(e: CriuError) -> std::result::Result<Self, CriuError> {
        match e {
            CriuError::Handler { operation, step, source, ended } => match source.downcast::<Self>() {
                Ok(failed) => Ok(*failed),
                Err(source) => Err(CriuError::Handler { operation, step, source, ended }),
            },
            e => Err(e),
        }
    }

    /// The trial's reason, with its log where a failed dump's is.
    pub(super) fn into_error(self, staging: &Staging<'_>, options: &CheckpointOptions) -> Error {
        let mut error = self.0;
        if let Some(criu) = criu_of(&mut error) {
            staging.keep_log(criu, options.criu.work_path.is_some());
        }
        let failed: Result<()> = Err(error);
        match failed.context("the checkpoint could not be restored on trial, and the container runs on") {
            Err(error) => error,
            Ok(()) => Error::NotRunning,
        }
    }
}

fn criu_of(error: &mut Error) -> Option<&mut CriuError> {
    match error {
        Error::Criu(e) => Some(e),
        Error::While { source, .. } => criu_of(source),
        _ => None,
    }
}
