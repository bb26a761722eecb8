//! Mounts of overlayfs (the kernel's Documentation/filesystems/overlayfs.rst), where the caller's mounts are.

use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::paths::open_dir;

/// The layers of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overlay {
    /// Those that nobody writes to, the uppermost first.
    pub(crate) lower: Vec<PathBuf>,
    /// The one that is written to, and a directory of the same file system for the kernel's work; without, nobody can write.
    pub(crate) upper: Option<(PathBuf, PathBuf)>,
}

impl Overlay {
    /// Mounts it.
    ///
    /// # Errors
    /// Those of mount(2).
    pub(crate) fn mount(&self, at: &Path) -> Result<()> {
        let mut opened = Vec::new();
        let lower = self.lower.iter().map(|path| layer(path, &mut opened)).collect::<Result<Vec<_>>>()?;
        let mut data = format!("lowerdir={}", lower.join(":"));
        if let Some((upper, work)) = &self.upper {
            let (upper, work) = (layer(upper, &mut opened)?, layer(work, &mut opened)?);
            let _ = write!(data, ",upperdir={upper},workdir={work}");
        }
        mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(data.as_str())).map_err(|e| {
            let what = format!("overlay at {}, {data}", at.display());
            Error::sys("mount", what, rustix::io::Errno::from_raw_os_error(e as i32))
        })
    }

    /// Mounts it unless something is mounted there, as after a boot.
    ///
    /// # Errors
    /// As [`mount`](Self::mount).
    pub(crate) fn mount_again(&self, at: &Path) -> Result<()> {
        match is_mount(at) {
            Ok(false) => self.mount(at),
            Ok(true) => Ok(()),
            Err(e) => Err(Error::file(at, &e)),
        }
    }
}

/// Whether something is mounted on a directory: it is of another file system than its parent.
pub(crate) fn is_mount(directory: &Path) -> std::io::Result<bool> {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|of| of.dev());
    Ok(device(directory)? != device(directory.parent().unwrap_or(directory))?)
}

/// A path as the options of a mount can have it: one with their separators goes by an open directory.
fn layer(path: &Path, opened: &mut Vec<OwnedFd>) -> Result<String> {
    match path.to_str().filter(|text| !text.contains([',', ':', '\\'])) {
        Some(text) => Ok(text.to_owned()),
        None => {
            let directory = open_dir(path)?;
            let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
            opened.push(directory);
            Ok(name)
        }
    }
}
