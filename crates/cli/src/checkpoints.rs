//! `checkpoints`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use hiber::id::ContainerId;
use hiber::{CheckpointConfig, CheckpointOptions, Checkpoints, RestoreContainerOptions};

use super::args::{CheckpointsAction, CheckpointsArgs, InspectArgs};
use super::commands::Session;
use super::{inspect, out, output};

/// Checkpoints in a given directory, or in the container's own below its bundle.
pub(super) fn checkpoints_of(id: &ContainerId, dir: Option<&Path>, bundle: &Path) -> Checkpoints {
    dir.map_or_else(|| Checkpoints::of_bundle(id, bundle), |dir| Checkpoints::new(id, dir))
}

impl Session {
    /// `checkpoints`
    pub(crate) fn checkpoints(&self, args: &CheckpointsArgs) -> anyhow::Result<ExitCode> {
        let all = self.checkpoints_named(args)?;
        match &args.action {
            CheckpointsAction::Create { name, leave_running, pre_copy, prove, accept, criu } => {
                let options = CheckpointOptions {
                    criu: self.criu_options(criu),
                    leave_running: *leave_running,
                    pre_copy: *pre_copy,
                    prove: *prove,
                    accept: accept.clone(),
                    ..CheckpointOptions::default()
                };
                let made = all.create(&self.task(&args.id)?, name, options)?;
                inspect::tell_written(&made.path)?;
            }
            CheckpointsAction::List { format } => {
                let configs: Vec<_> = all.names()?.iter().filter_map(|name| described(&all, name)).collect();
                out::write(&output::checkpoints(&configs, *format)?)?;
            }
            CheckpointsAction::Inspect(name) => {
                let checkpoint = all.get(name)?;
                let mut json = serde_json::to_value(&checkpoint.config)?;
                let path = std::path::absolute(&checkpoint.path).context("the checkpoint's path")?;
                json["path"] = path.to_string_lossy().into();
                out::write(&format!("{json:#}\n"))?;
            }
            CheckpointsAction::Verify { name, format, prove } => {
                let checkpoint = all.get(name)?;
                let path = checkpoint.path.clone();
                let verified = inspect::run(&InspectArgs { path, format: *format, verify: true })?;
                let Some(criu) = prove.as_ref().filter(|_| verified == ExitCode::SUCCESS) else {
                    return Ok(verified);
                };
                let options = RestoreContainerOptions {
                    criu: self.criu_options(criu),
                    bundle: self.bundle_of(args)?,
                    systemd_cgroup: self.systemd_cgroup,
                    rootless: self.rootless,
                    ..RestoreContainerOptions::default()
                };
                self.runtime.try_restore(&args.id, Some(&checkpoint), options)?;
            }
            CheckpointsAction::Remove(name) => all.delete(name)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Where a container's config.json is.
    fn bundle_of(&self, args: &CheckpointsArgs) -> anyhow::Result<PathBuf> {
        if let Some(bundle) = &args.bundle {
            return Ok(bundle.clone());
        }
        match self.runtime.open(&args.id) {
            Ok(container) => Ok(container.bundle()?.to_owned()),
            Err(hiber::Error::NotFound) => Ok(PathBuf::from(".")),
            Err(e) => Err(e.into()),
        }
    }

    /// Those of a container that exists are below its bundle; those of one that is gone, below the given one.
    fn checkpoints_named(&self, args: &CheckpointsArgs) -> anyhow::Result<Checkpoints> {
        if args.dir.is_none() && args.bundle.is_none() {
            match self.runtime.open(&args.id) {
                Ok(container) => return Ok(container.checkpoints()?),
                Err(hiber::Error::NotFound) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
        // Or a list would make a directory in a place that has nothing to do with the container.
        if args.dir.is_none() && !bundle.join("config.json").exists() {
            match &args.bundle {
                Some(bundle) => bail!("--bundle {}: has no config.json", bundle.display()),
                None => bail!(hiber::Error::NotFound),
            }
        }
        Ok(checkpoints_of(&args.id, args.dir.as_deref(), bundle))
    }
}

/// One that has no readable config.json is logged and left out.
fn described(all: &Checkpoints, name: &hiber::CheckpointName) -> Option<CheckpointConfig> {
    all.get(name).map(|checkpoint| checkpoint.config).inspect_err(|e| tracing::warn!("{e}")).ok()
}
