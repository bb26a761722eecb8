//! The differences between a root file system and what it was at first.
//!
//! Two files are the same that have the same kind, size, owner, permissions and time of modification, to the nanosecond. Of an overlay
//! only what is in its upper layer is looked at.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hiber_sys::mount::{MountAttributes, Reach, mount_setattr};
use rustix::fs::{AtFlags, FileType, Stat, fstat, statat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags};

use super::layers::{Layers, Upper, open_at};
use crate::error::{Error, Result};
use crate::host::paths::names;

/// The root, without what is mounted in it, and its changes.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) root: OwnedFd,
    /// Paths that are new or have changed; a directory comes before what is in it.
    pub(super) present: Vec<PathBuf>,
    /// Paths that are gone; what was below them is not named.
    pub(super) gone: Vec<PathBuf>,
}

struct Comparison<'a> {
    layers: &'a Layers,
    changes: Changes,
}

impl Changes {
    pub(super) fn find(root: &Path, layers: &Layers) -> Result<Self> {
        let fail = |e: Errno| Error::sys("open_tree", root.display().to_string(), e);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, root, flags).map_err(fail)?;
        // No device is opened by mistake.
        let quiet = MountFlags::RDONLY | MountFlags::NODEV;
        let set = hiber_sys::mount::attributes(quiet.bits().into());
        mount_setattr(tree.as_fd(), MountAttributes { set, clear: 0, propagation: 0 }, Reach::One)?;
        let changes = Self { root: tree, present: Vec::new(), gone: Vec::new() };
        let mut comparison = Comparison { layers, changes };
        let upper = layers.upper().unwrap_or(Upper::Unknown);
        comparison
            .directory(Path::new(""), &upper, true)
            .map_err(|(path, e)| Error::file(&root.join(path), &e.into()))?;
        Ok(comparison.changes)
    }
}

type Failed = (PathBuf, Errno);

impl Comparison<'_> {
    /// Compares a directory that is there, and `was` there if that is said.
    fn directory(&mut self, path: &Path, upper: &Upper, was: bool) -> Result<(), Failed> {
        let fail = |e| (path.to_owned(), e);
        let directory = open_at(&self.changes.root, path).map_err(fail)?;
        let mut now = names(&directory).map_err(fail)?;
        now.sort();
        if was {
            for name in self.layers.names(path).map_err(fail)? {
                if now.binary_search(&name).is_err() {
                    self.changes.gone.push(path.join(name));
                }
            }
        }
        for name in now.iter().filter(|name| upper.has(name)) {
            self.entry(&directory, path, name, (upper, was))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: &OwnedFd,
        parent: &Path,
        name: &OsStr,
        (upper, was): (&Upper, bool),
    ) -> Result<(), Failed> {
        let path = parent.join(name);
        let fail = |e| (path.clone(), e);
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        let before = if was { self.layers.stat(&path).map_err(fail)? } else { None };
        let is_directory = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let both = before.as_ref().is_some_and(|(_, before)| is_directory(before)) && is_directory(&stat);
        let same = match &before {
            Some((_, before)) if both => is_alike(&stat, before),
            Some((there, before)) => is_same((directory, &stat), (there, before), name),
            None => false,
        };
        if !same {
            self.changes.present.push(path.clone());
        }
        if !is_directory(&stat) {
            return Ok(());
        }
        match upper.below(name).map_err(fail)? {
            Some(upper) => self.directory(&path, &upper, both),
            None => Ok(()),
        }
    }
}

/// Whether kind, owner and permissions are the same.
fn is_alike(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
}

fn is_same((there, a): (&OwnedFd, &Stat), (here, b): (&OwnedFd, &Stat), name: &OsStr) -> bool {
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    is_alike(a, b)
        && match FileType::from_raw_mode(a.st_mode) {
            FileType::Symlink => {
                let target = |directory: &OwnedFd| rustix::fs::readlinkat(directory, name, Vec::new()).ok();
                target(there) == target(here)
            }
            FileType::CharacterDevice | FileType::BlockDevice => a.st_rdev == b.st_rdev,
            FileType::RegularFile => a.st_size == b.st_size && time(a) == time(b),
            _ => true,
        }
}

/// Looks at a path again.
pub(super) fn look(root: &OwnedFd, path: &Path) -> rustix::io::Result<(OwnedFd, Stat)> {
    let directory = open_at(root, path.parent().unwrap_or(Path::new("")))?;
    let stat = match path.file_name() {
        Some(name) => statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?,
        None => fstat(&directory)?,
    };
    Ok((directory, stat))
}
