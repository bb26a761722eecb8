//! Checkpoints with names, into archives and out of them.

use std::io::Read;
use std::time::Instant;

use hiber_criu::ImageDirectory;
use oci_spec::runtime::Spec;

use super::export::{Content, Export};
use super::import::{Import, MAX_FILES};
use super::unpack::{How, Limits, unpack};
use crate::checkpoint::CheckpointOptions;
use crate::checkpoint::manifest::Options;
use crate::checkpoint::named::{CONFIG, Checkpoint, CheckpointConfig, Checkpoints};
use crate::checkpoint::reading;
use crate::checkpoint::restore_options::demands;
use crate::checkpoint::staging::{Given, Staging};
use crate::error::{Context, Error, Result};
use crate::host::paths::free;
use crate::id::CheckpointName;
use crate::signature::{self, Demand};

impl Checkpoints {
    /// Writes the checkpoint of that name into an archive. `spec` is the configuration of its container.
    ///
    /// # Errors
    /// There is none, it builds on another one, or the archive cannot be written; no file is left then.
    pub fn export(&self, name: &CheckpointName, spec: &Spec, export: &Export) -> Result<()> {
        let checkpoint = self.get(name)?;
        let images = reading::open(&checkpoint.path)?;
        if images.parent()?.is_some() {
            let why = "builds on another checkpoint, and an archive has all that it needs".into();
            return Err(Error::File { path: checkpoint.path, why });
        }
        let mut output = export.open()?;
        let content = Content { id: self.container().as_str(), spec, created: None, passes: false };
        let given = Given {
            images: &images,
            unwritten: Vec::new(),
            behind: Vec::new(),
            stopped: Instant::now(),
            let_go: None,
        };
        content.write(&given, &output, export).context("write the archive")?;
        output.publish(true).context("write the archive")
    }

    /// Keeps the checkpoint in an archive under that name.
    ///
    /// # Errors
    /// There is a checkpoint of that name; it is no archive of a checkpoint, has something that none has, does not fit on the disk, or
    /// its files are not what its manifest says. Nothing is left of it then.
    pub fn import(&self, name: &CheckpointName, import: &Import) -> Result<Checkpoint> {
        let demands = demands(&import.verify_keys)?;
        let mut reader = import.from.open().context("open the archive")?;
        let mut staging = Staging::new(&self.dir().join(name.as_str()), Some(self.free(name)?))?;
        let keep = || -> Result<Checkpoint> {
            staging.create()?;
            let images = staging.directory()?;
            let config = take(&mut reader, (import, &demands), images, name)?;
            reader.finish()?;
            if !images.has(CONFIG) || !images.has(signature::FILE_NAME) {
                config.write(images)?;
            }
            staging.publish_as_is()?;
            let config = CheckpointConfig { name: name.clone(), ..config };
            Ok(Checkpoint { path: staging.target().to_owned(), config })
        };
        keep().context("import the checkpoint")
    }
}

/// Puts the images into the directory of a checkpoint that is to have that name.
fn take(
    reader: impl Read,
    (import, demands): (&Import, &[Demand]),
    images: &ImageDirectory,
    name: &CheckpointName,
) -> Result<CheckpointConfig> {
    let bytes = rustix::fs::fstatvfs(images).map_or(u64::MAX, |stat| free(&stat));
    let limits = Limits { bytes, files: MAX_FILES, by: "as much as is free on the disk" };
    let how = How { verify: true, demands, files: false, ..import.how() };
    let Some(mut manifest) = unpack(reader, &how, images, limits)?.manifest else {
        return Ok(CheckpointConfig::new(name, &CheckpointOptions::default()));
    };
    if images.has(signature::FILE_NAME) && images.has(CONFIG) {
        // It is signed with this file.
        return CheckpointConfig::read(images);
    }
    // One that had a name had a file of it, too.
    if manifest.files.remove(CONFIG).is_some() {
        manifest.write_in(images)?;
    }
    let Options { criu, dump, .. } = &manifest.options;
    Ok(CheckpointConfig::of(name, manifest.created.clone(), criu, dump))
}
