//! The changes of a container in its root file system: `rootfs-diff.tar` and `deleted.files` of an archive.

mod apply;
mod compare;
mod layers;
mod pack;

use std::path::{Path, PathBuf};

use derive_setters::Setters;
use hiber_criu::ImageDirectory;

pub(super) use apply::{Applied, apply, apply_plain};
use compare::Changes;
use layers::Layers;

use super::layout::SHM;
use crate::error::{Context, Error, Result};
use crate::helpers::unfinished;
use crate::host::paths::open_dir;

/// How the changes of a root file system are found.
#[derive(Debug, Clone, Default, Setters)]
#[setters(into, strip_option)]
#[non_exhaustive]
pub struct RootChanges {
    /// The root file system as it was at first. Without it the lower layers of an overlay are that.
    pub base: Option<PathBuf>,
}

/// A root file system whose changes are to be found.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    layers: Layers,
    /// The directory that the container has at /dev/shm, where it is outside of the container.
    shm: Option<PathBuf>,
}

impl Root {
    /// Looks at the root at `path`.
    ///
    /// # Errors
    /// It is no overlay, or of a kind whose lower layers cannot be found, and there is nothing to compare with.
    pub(super) fn find(path: &Path, shm: Option<PathBuf>, how: &RootChanges) -> Result<Self> {
        let layers = match &how.base {
            Some(base) => {
                if unfinished::identity(&base.join(".")) == unfinished::identity(&path.join(".")) {
                    let why = "is the container's own root; expected what the root was made from".into();
                    return Err(Error::File { path: base.clone(), why });
                }
                Layers::plain(open_dir(base).context("open --base")?)
            }
            None => Layers::of_overlay(path)?,
        };
        Ok(Self { path: path.into(), layers, shm })
    }

    /// Writes what has changed into a directory. The root is to stand still meanwhile.
    pub(super) fn write(&self, to: &ImageDirectory) -> Result<()> {
        let write = || {
            let changes = Changes::find(&self.path, &self.layers)?;
            pack::write(&changes, to)
        };
        write().context("find out what the container has changed in its root filesystem")?;
        let all = |shm: &PathBuf| {
            pack::write_present(&Changes::find(shm, &Layers::none())?, to, SHM)
                .context("read what it has in /dev/shm")
        };
        self.shm.as_ref().map_or(Ok(()), all)
    }
}

#[cfg(test)]
mod tests;
