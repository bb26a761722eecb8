//! A directory of symbolic links, for CRIU to find things by name.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Links(PathBuf);

impl Links {
    /// Makes the directory `at` with links of these names to these targets.
    pub(crate) fn make(at: PathBuf, links: impl IntoIterator<Item = (String, PathBuf)>) -> Result<Self> {
        // Left by a process that was killed.
        let _ = std::fs::remove_dir_all(&at);
        let failed = |e: std::io::Error| Error::file(&at, &e);
        std::fs::create_dir(&at).map_err(failed)?;
        let made = Self(at.clone());
        for (name, target) in links {
            std::os::unix::fs::symlink(target, at.join(name)).map_err(failed)?;
        }
        Ok(made)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("remove {}: {e}", self.0.display());
        }
    }
}
