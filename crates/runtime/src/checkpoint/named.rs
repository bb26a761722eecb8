//! Checkpoints by name: a directory of checkpoints, as Docker and containerd keep them.
//!
//! `DIR/NAME` is a checkpoint like any other, with a `config.json` of containerd's first runtime beside the images: when
//! and with which options it was made. It is published with the rest, in one step.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hiber_criu::ImageDirectory;
use serde::{Deserialize, Serialize};

use super::{CheckpointOptions, CriuOptions, DumpChoices};
use crate::container::handle::Container;
use crate::container::task::Task;
use crate::error::{Context, Error, Result};
use crate::helpers::unfinished;
use crate::id::{CheckpointError, CheckpointName, ContainerId};

/// The file beside the images.
pub(crate) const CONFIG: &str = "config.json";
/// Its largest size in bytes.
const MAX_CONFIG: u64 = 64 << 10;
/// Where a container's own checkpoints are, below its bundle.
const OWN: &str = "checkpoints";

/// The content of `config.json`; the names are those of containerd's first runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CheckpointConfig {
    /// The checkpoint's name.
    pub name: CheckpointName,
    /// When it was created, in RFC 3339.
    pub created: String,
    /// Whether the container ended with it.
    pub exit: bool,
    /// Whether established TCP connections were kept.
    pub tcp: bool,
    /// Whether unix sockets could lead out of the container.
    pub unix_sockets: bool,
    /// Whether its session or terminal could come from outside.
    pub shell: bool,
    /// Namespaces whose contents were left out: `network` at most.
    #[serde(rename = "emptyNS", default, skip_serializing_if = "Vec::is_empty")]
    pub empty_ns: Vec<String>,
}

impl CheckpointConfig {
    /// Of one that is made now.
    pub(crate) fn new(name: &CheckpointName, options: &CheckpointOptions) -> Self {
        let now = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        Self::of(name, now, &options.criu, &options.dump)
    }

    /// Of a checkpoint that was made then, with these choices.
    pub(crate) fn of(name: &CheckpointName, created: String, criu: &CriuOptions, dump: &DumpChoices) -> Self {
        let on = |switch: Option<bool>| switch.unwrap_or(false);
        Self {
            name: name.clone(),
            created,
            exit: !dump.leave_running,
            tcp: on(criu.tcp_established),
            unix_sockets: on(criu.ext_unix_sk),
            shell: on(criu.shell_job),
            empty_ns: on(criu.empty_network).then(|| "network".to_owned()).into_iter().collect(),
        }
    }

    /// Writes it into a checkpoint's directory.
    pub(crate) fn write(&self, dir: &ImageDirectory) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| Error::internal("encode config.json", e))?;
        Ok(dir.write(CONFIG, &json)?)
    }

    pub(crate) fn read(dir: &ImageDirectory) -> Result<Self> {
        let path = dir.path().join(CONFIG);
        let mut json = Vec::new();
        dir.file(CONFIG)
            .and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut json))
            .map_err(|e| Error::file(&path, &e))?;
        let bad =
            |e: serde_json::Error| Error::File { path: path.clone(), why: format!("is malformed: {e}") };
        let config: Self = serde_json::from_slice(&json).map_err(bad)?;
        match config.empty_ns.iter().find(|ns| *ns != "network") {
            Some(other) => Err(CheckpointError::EmptyNamespace(other.clone()).into()),
            None => Ok(config),
        }
    }
}

/// A checkpoint that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The directory with the images.
    pub path: PathBuf,
    /// When and how it was made.
    pub config: CheckpointConfig,
}

impl Checkpoint {
    /// Completes the options of a restore: another runtime's checkpoint has no manifest that would.
    pub(crate) fn choose(&self, criu: &mut CriuOptions) {
        criu.image_path.clone_from(&self.path);
        let config = &self.config;
        if criu.tcp_close.is_none() {
            criu.tcp_established = criu.tcp_established.or(config.tcp.then_some(true));
        }
        criu.ext_unix_sk = criu.ext_unix_sk.or(config.unix_sockets.then_some(true));
        criu.empty_network = criu.empty_network.or((!config.empty_ns.is_empty()).then_some(true));
    }
}

/// A directory of checkpoints of one container, which need not exist any more.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checkpoints {
    container: ContainerId,
    dir: PathBuf,
}

impl Container {
    /// Its own checkpoints: in the directory `checkpoints` of its bundle, where they outlive it.
    pub fn checkpoints(&self) -> Result<Checkpoints> {
        Ok(Checkpoints::of_bundle(self.id(), self.bundle()?))
    }
}

impl Checkpoints {
    /// Those of the container in a directory of the caller's.
    pub fn new(container: &ContainerId, dir: impl Into<PathBuf>) -> Self {
        Self { container: container.clone(), dir: dir.into() }
    }

    /// Those in the container's own directory, below its bundle.
    pub fn of_bundle(container: &ContainerId, bundle: &Path) -> Self {
        Self::new(container, bundle.join(OWN))
    }

    /// The container that they are of.
    pub fn container(&self) -> &ContainerId {
        &self.container
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of the checkpoints, sorted. The directory is made (0755) if it is not there.
    pub fn names(&self) -> Result<Vec<CheckpointName>> {
        use std::os::unix::fs::DirBuilderExt;
        let fail = |e: std::io::Error| Error::file(&self.dir, &e);
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir).map_err(fail)?;
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // Names that begin with a dot are of checkpoints that are being written.
            if entry.file_type().is_ok_and(|t| t.is_dir())
                && let Some(Ok(name)) = entry.file_name().to_str().map(str::parse)
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The checkpoint of that name.
    ///
    /// # Errors
    /// There is none, or something else; its config.json cannot be read.
    pub fn get(&self, name: &CheckpointName) -> Result<Checkpoint> {
        let path = self.existing(name)?;
        let config = CheckpointConfig::read(&ImageDirectory::open(&path)?)?;
        // A signed one that came from elsewhere had another name there.
        Ok(Checkpoint { path, config: CheckpointConfig { name: name.clone(), ..config } })
    }

    /// Removes the checkpoint of that name, with all that is in its directory.
    ///
    /// # Errors
    /// There is none, or something else.
    pub fn delete(&self, name: &CheckpointName) -> Result<()> {
        let path = self.existing(name)?;
        // Half a checkpoint must not look like one if this is interrupted.
        let doomed = unfinished::hidden(&path);
        std::fs::rename(&path, &doomed)
            .and_then(|()| std::fs::remove_dir_all(&doomed))
            .map_err(|e| Error::file(&path, &e))
            .context("remove the checkpoint")
    }

    /// Checkpoints a running or paused container under a new name. The images go into this directory, whatever
    /// `options` say; without `leave_running` the container is then stopped and removed. A failure leaves nothing.
    ///
    /// # Errors
    /// The container does not run; there is a checkpoint of that name, or something else; CRIU fails.
    pub fn create(
        &self,
        task: &Task,
        name: &CheckpointName,
        mut options: CheckpointOptions,
    ) -> Result<Checkpoint> {
        let path = self.dir.join(name.as_str());
        options.criu.image_path.clone_from(&path);
        if options.pre_dump {
            let why = format!("checkpoint {name}: a pre-dump cannot be restored, and so gets no name");
            return Err(Error::Invalid(why));
        }
        let config = CheckpointConfig::new(name, &options);
        let named = Named { config: &config, checkpoints: self };
        match task.checkpoint_as(&options, Some(&named), None) {
            Ok(()) => Ok(Checkpoint { path, config }),
            Err(e @ (Error::Checkpoint(_) | Error::State { .. } | Error::NotRunning | Error::NotFound)) => {
                Err(e)
            }
            failed => failed
                .context(format!("Cannot checkpoint container {}", self.container))
                .map(|()| Checkpoint { path, config }),
        }
    }

    /// The error if somebody else takes a name that is free.
    ///
    /// # Errors
    /// It is taken.
    pub(crate) fn free(&self, name: &CheckpointName) -> Result<CheckpointError> {
        match self.existing(name) {
            Ok(_) => Err(self.taken(name).into()),
            Err(Error::Checkpoint(CheckpointError::Missing { .. })) => Ok(self.taken(name)),
            Err(e) => Err(e),
        }
    }

    fn taken(&self, name: &CheckpointName) -> CheckpointError {
        CheckpointError::Exists { name: name.clone(), container: self.container.to_string() }
    }

    fn existing(&self, name: &CheckpointName) -> Result<PathBuf> {
        let path = self.dir.join(name.as_str());
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => Ok(path),
            Ok(_) => Err(CheckpointError::NotADirectory(path).into()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let container = self.container.to_string();
                Err(CheckpointError::Missing { name: name.clone(), container }.into())
            }
            Err(e) => Err(Error::file(&path, &e)),
        }
    }
}

/// A checkpoint that is to get a name.
pub(crate) struct Named<'a> {
    pub(super) config: &'a CheckpointConfig,
    checkpoints: &'a Checkpoints,
}

impl Named<'_> {
    /// Refuses a name that is taken. Called under the container's lock, before anything is made.
    pub(super) fn check(&self) -> Result<()> {
        self.checkpoints.free(&self.config.name).map(drop)
    }

    /// The error if somebody else has the name.
    pub(super) fn taken(&self) -> CheckpointError {
        self.checkpoints.taken(&self.config.name)
    }
}

#[cfg(test)]
#[path = "named_tests.rs"]
mod tests;
