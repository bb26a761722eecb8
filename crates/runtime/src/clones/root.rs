//! The root filesystem of a clone.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, chmod, chown, stat};
use rustix::process::{Gid, Uid};

use super::options::CloneRootfs;
use crate::checkpoint::unique::{Generation, Given};
use crate::error::{Error, Result};
use crate::host::paths::open_dir;
use crate::migrate::copy_root;
use crate::state::clones::ROOTFS;

/// The files that a clone is to find, where it cannot write.
pub(super) struct Layer<'a> {
    pub(super) generation: &'a Generation,
    pub(super) given: &'a Given,
}

/// Makes it in the clone's directory, over the root filesystem `lower` or as a copy of it.
pub(super) fn make(directory: &Path, lower: &Path, kind: CloneRootfs, layer: &Layer<'_>) -> Result<()> {
    let rootfs = make_like(directory, ROOTFS, lower)?;
    if kind == CloneRootfs::Copy {
        return copy_root(lower, open_dir(&rootfs)?);
    }
    let upper = make_like(directory, "upper", lower)?;
    if kind == CloneRootfs::SharedReadonly {
        if lower.join("run").is_symlink() {
            let why = "/run is a link there, so that a clone which cannot write would not find its files; expected --rootfs overlay or copy";
            return Err(Error::File { path: lower.into(), why: why.into() });
        }
        let owner = stat(lower).map_err(|e| Error::file(lower, &e.into()))?;
        layer.generation.write_below(&upper, layer.given, (owner.st_uid, owner.st_gid))?;
        return overlay(&rootfs, &[&upper, lower], None);
    }
    let work = directory.join("work");
    std::fs::create_dir(&work).map_err(|e| Error::file(&work, &e))?;
    overlay(&rootfs, &[lower], Some((&upper, &work)))
}

/// A directory with the owner and mode of another: the root of an overlay has those of its upper layer.
fn make_like(directory: &Path, name: &str, like: &Path) -> Result<PathBuf> {
    let path = directory.join(name);
    let of = stat(like).map_err(|e| Error::file(like, &e.into()))?;
    std::fs::create_dir(&path).map_err(|e| Error::file(&path, &e))?;
    let (user, group) = (Uid::from_raw(of.st_uid), Gid::from_raw(of.st_gid));
    chown(&path, Some(user), Some(group))
        .and_then(|()| chmod(&path, Mode::from_raw_mode(of.st_mode)))
        .map_err(|e| Error::file(&path, &e.into()))?;
    Ok(path)
}

/// Mounts an overlay (the kernel's Documentation/filesystems/overlayfs.rst) where the caller's mounts are; without an upper layer
/// nobody can write there.
fn overlay(at: &Path, lower: &[&Path], upper: Option<(&Path, &Path)>) -> Result<()> {
    let mut opened = Vec::new();
    let names = lower.iter().map(|path| layer(path, &mut opened)).collect::<Result<Vec<_>>>()?;
    let mut data = format!("lowerdir={}", names.join(":"));
    if let Some((upper, work)) = upper {
        let (upper, work) = (layer(upper, &mut opened)?, layer(work, &mut opened)?);
        data.push_str(&format!(",upperdir={upper},workdir={work}"));
    }
    mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(data.as_str())).map_err(|e| {
        let what = format!("overlay at {}, {data}", at.display());
        Error::sys("mount", what, rustix::io::Errno::from_raw_os_error(e as i32))
    })
}

/// A path as mount(8)'s options can have it: one with their separators goes by an open directory.
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
