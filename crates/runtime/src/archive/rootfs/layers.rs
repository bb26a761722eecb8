//! The root file system as it was at first: a directory, or the lower layers of an overlay.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hiber_sandbox::mountinfo;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, statat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::host::paths::{names, open_dir};

const WAY: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
/// Extended attributes of overlays, of root's and of other users'.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
const REDIRECT: [&str; 2] = ["trusted.overlay.redirect", "user.overlay.redirect"];

/// The layers, the topmost first.
#[derive(Debug)]
pub(super) struct Layers {
    lower: Vec<OwnedFd>,
    /// The layer that was written since, if there is one.
    upper: Option<OwnedFd>,
}

/// The directory at a path of an overlay's upper layer.
pub(super) enum Upper {
    /// Everything that is not in it is as it was.
    Above(OwnedFd),
    /// Nothing can be told from it.
    Unknown,
}

impl Layers {
    /// One directory.
    pub(super) fn plain(base: OwnedFd) -> Self {
        Self { lower: vec![base], upper: None }
    }

    /// Nothing was there.
    pub(super) fn none() -> Self {
        Self { lower: Vec::new(), upper: None }
    }

    /// Those of the overlay that is mounted at `root`.
    pub(super) fn of_overlay(root: &Path) -> Result<Self> {
        let none = |why: String| Error::Invalid(format!("--with-rootfs: {} {why}", root.display()));
        let hint = "give --base DIR, the root filesystem as it was at first";
        let (below, options) =
            overlay_at(root)?.ok_or_else(|| none(format!("is no overlay's mount point; {hint}")))?;
        if below != Path::new("/") {
            return Err(none(format!("is the directory {} of an overlay; {hint}", below.display())));
        }
        let value = |key: &str| options.iter().find_map(|option| option.strip_prefix(key));
        let plus = options.iter().filter_map(|option| option.strip_prefix("lowerdir+="));
        let mut lower: Vec<PathBuf> = plus.map(PathBuf::from).collect();
        lower.extend(value("lowerdir=").into_iter().flat_map(split_layers));
        let upper = value("upperdir=").ok_or_else(|| none("is an overlay that cannot be written".into()))?;
        let upper = PathBuf::from(unescape(upper));
        if let Some(path) = lower.iter().chain([&upper]).find(|path| !path.is_absolute()) {
            return Err(none(format!("has the layer {}, whose place is unknown; {hint}", path.display())));
        }
        let lower = lower.iter().map(|path| open_dir(path)).collect::<Result<_>>()?;
        Ok(Self { lower, upper: Some(open_dir(&upper)?) })
    }

    /// The upper layer's root.
    pub(super) fn upper(&self) -> Option<Upper> {
        let upper = self.upper.as_ref()?;
        Some(open_at(upper, Path::new("")).map_or(Upper::Unknown, Upper::Above))
    }

    /// The names in a directory as it was; none where there was no such directory.
    pub(super) fn names(&self, path: &Path) -> rustix::io::Result<BTreeSet<OsString>> {
        let (mut found, mut hidden) = (BTreeSet::new(), BTreeSet::new());
        for layer in &self.lower {
            let directory = match open_at(layer, path) {
                Ok(directory) => directory,
                // A file or a whiteout hides what is below.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(Errno::NOENT) if hides(layer, path)? => break,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            };
            for name in names(&directory)? {
                if self.lower.len() > 1 && is_whiteout(&statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?)
                {
                    hidden.insert(name);
                } else if !hidden.contains(&name) {
                    found.insert(name);
                }
            }
            if has_xattr(&directory, &OPAQUE) {
                break;
            }
        }
        Ok(found)
    }

    /// A file as it was, and the directory it was in.
    pub(super) fn stat(&self, path: &Path) -> rustix::io::Result<Option<(OwnedFd, Stat)>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        for layer in &self.lower {
            let directory = match open_at(layer, parent) {
                Ok(directory) => directory,
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(Errno::NOENT) if hides(layer, parent)? => return Ok(None),
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            };
            match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if self.lower.len() > 1 && is_whiteout(&stat) => return Ok(None),
                Ok(stat) => return Ok(Some((directory, stat))),
                Err(Errno::NOENT) if has_xattr(&directory, &OPAQUE) => return Ok(None),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}

impl Upper {
    /// The same of a directory in it. None if nothing there has changed.
    pub(super) fn below(&self, name: &OsStr) -> rustix::io::Result<Option<Self>> {
        let Self::Above(directory) = self else { return Ok(Some(Self::Unknown)) };
        match open_at(directory, Path::new(name)) {
            // All of it may be other than it was.
            Ok(below) if has_xattr(&below, &REDIRECT) || has_xattr(&below, &OPAQUE) => {
                Ok(Some(Self::Unknown))
            }
            Ok(below) => Ok(Some(Self::Above(below))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether something of that name was written.
    pub(super) fn has(&self, name: &OsStr) -> bool {
        match self {
            Self::Above(directory) => statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok(),
            Self::Unknown => true,
        }
    }
}

pub(super) fn open_at(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, how, Mode::empty(), WAY)
}

/// Whether a layer has a whiteout in the place of one of a path's directories.
fn hides(layer: &OwnedFd, path: &Path) -> rustix::io::Result<bool> {
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        match statat(layer, ancestor, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => return Ok(FileType::from_raw_mode(stat.st_mode) != FileType::Directory),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn has_xattr(directory: &OwnedFd, names: &[&str]) -> bool {
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    names.iter().any(|name| rustix::fs::getxattr(&*path, *name, &mut [0_u8; 256][..]).is_ok())
}

/// The directory that is mounted there, and the options, if it is an overlay.
fn overlay_at(path: &Path) -> Result<Option<(PathBuf, Vec<String>)>> {
    let stat = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|e| Error::file(path, &e.into()))?;
    let mut mounts = mountinfo::of("thread-self")?.into_iter();
    let mount = mounts.find(|mount| u64::from(mount.id) == stat.stx_mnt_id && mount.fstype == "overlay");
    let text = |option: &str| mountinfo::unescape(option).to_string_lossy().into_owned();
    Ok(mount.map(|mount| (mount.root, mount.options.split(',').map(text).collect())))
}

/// The layers of `lowerdir`, each of which may have a colon after a backslash.
fn split_layers(text: &str) -> Vec<PathBuf> {
    let (mut layers, mut layer, mut escaped) = (Vec::new(), String::new(), false);
    for char in text.chars() {
        match char {
            _ if std::mem::take(&mut escaped) => layer.push(char),
            '\\' => escaped = true,
            ':' => layers.push(std::mem::take(&mut layer)),
            _ => layer.push(char),
        }
    }
    layers.push(layer);
    // Two colons are before layers with data alone.
    layers.into_iter().filter(|layer| !layer.is_empty()).map(PathBuf::from).collect()
}

fn unescape(text: &str) -> String {
    split_layers(text).first().map_or_else(String::new, |path| path.to_string_lossy().into_owned())
}

/// Opens a file to read its content.
pub(super) fn open_file(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).map(File::from)
}
