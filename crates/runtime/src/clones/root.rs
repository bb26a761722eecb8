//! The root filesystem of a clone.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, chmod, chown, stat};
use rustix::process::{Gid, Uid};

use super::options::CloneRootfs;
use crate::checkpoint::unique::{Generation, Given};
use crate::error::{Error, Result};
use crate::host::overlay::Overlay;
use crate::host::paths::open_dir;
use crate::migrate::copy_root;
use crate::state::clones::{NewClone, ROOTFS};

/// The files that a clone is to find, where it cannot write.
pub(super) struct Layer<'a> {
    pub(super) generation: &'a Generation,
    pub(super) given: &'a Given,
}

/// Makes it in the clone's directory, over the root filesystem `lower` or as a copy of it.
pub(super) fn make(new: &mut NewClone, lower: &Path, kind: CloneRootfs, layer: &Layer<'_>) -> Result<()> {
    let directory = new.record.directory.clone();
    let rootfs = make_like(&directory, ROOTFS, lower)?;
    if kind == CloneRootfs::Copy {
        return copy_root(lower, open_dir(&rootfs)?);
    }
    let upper = make_like(&directory, "upper", lower)?;
    let overlay = if kind == CloneRootfs::SharedReadonly {
        if lower.join("run").is_symlink() {
            let why = "/run is a link there, so that a clone which cannot write would not find its files; \
                       expected --rootfs overlay or copy";
            return Err(Error::File { path: lower.into(), why: why.into() });
        }
        let owner = stat(lower).map_err(|e| Error::file(lower, &e.into()))?;
        layer.generation.write_below(&upper, layer.given, (owner.st_uid, owner.st_gid))?;
        Overlay { lower: vec![upper, lower.to_owned()], upper: None }
    } else {
        let work = directory.join("work");
        std::fs::create_dir(&work).map_err(|e| Error::file(&work, &e))?;
        Overlay { lower: vec![lower.to_owned()], upper: Some((upper, work)) }
    };
    new.set_overlay(overlay.clone())?;
    overlay.mount(&rootfs)
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
