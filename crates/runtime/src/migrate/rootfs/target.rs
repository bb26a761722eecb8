//! A root file system that is made by somebody else's steps. No step reaches anything outside of it: paths are looked up without
//! following symbolic links (openat2(2), RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use hiber_sandbox::ids;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fstat,
};
use rustix::io::Errno;

use super::change::{Change, Content, Make, Meta, NodeKind, Range, Time};
use crate::error::{Error, Result};
use crate::host::paths::names;
use crate::host::xattrs;

/// Of a path and of a name in it (limits.h).
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;
const WAY: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// The directory that becomes the root.
#[derive(Debug)]
pub(crate) struct Target {
    root: OwnedFd,
    /// The directory of the last step: most follow others in the same one.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Target {
    /// In an empty directory.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, last: None }
    }

    /// Takes a step. `bytes` are those of its ranges and of later steps', and are shortened.
    ///
    /// # Errors
    /// With the path: if it is none below the root, the kernel refuses, or `bytes` are too few.
    pub(crate) fn apply(&mut self, change: &Change, bytes: &mut &[u8]) -> Result<()> {
        let path = change.path.to_path();
        self.try_apply(change, &path, bytes)
            .map_err(|e| Error::host(format!("the root file system's {:?}", Path::new("/").join(&path)), e))
    }

    /// The kind of file at a path, if there is one.
    pub(crate) fn kind(&self, path: &Path) -> Result<Option<FileType>> {
        let find = || -> io::Result<Option<FileType>> {
            let found = self.look_up(path).map(|(directory, name)| {
                rustix::fs::statat(directory, &*name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
            });
            match found.and_then(|found| found) {
                Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        };
        find().map_err(|e| Error::host(format!("the root file system's {:?}", Path::new("/").join(path)), e))
    }

    /// The names in a directory.
    pub(crate) fn names(&self, path: &Path) -> Result<Vec<std::ffi::OsString>> {
        let list = || names(open_directory(&self.root, path, OFlags::RDONLY)?);
        list().map_err(|e| Error::host(format!("the root file system's {:?}", Path::new("/").join(path)), e))
    }

    fn try_apply(&mut self, change: &Change, path: &Path, bytes: &mut &[u8]) -> io::Result<()> {
        if path.as_os_str().is_empty() {
            return match (&change.make, &change.meta) {
                (Make::Nothing, Some(meta)) => set_meta(&self.root, OsStr::new("."), meta),
                _ => Err(invalid("the root itself cannot be made or removed")),
            };
        }
        let (directory, name) = self.place(path)?;
        let directory = directory.as_fd();
        match &change.make {
            Make::Nothing => {}
            Make::Directory => rustix::fs::mkdirat(directory, &*name, Mode::RWXU)?,
            Make::File(content) => return self.file(path, content, change.meta.as_ref(), bytes),
            Make::Link(to) => {
                let to = to.to_path();
                let (from, old) = self.look_up(&to)?;
                let (directory, name) = self.place(path)?;
                rustix::fs::linkat(from, &*old, directory, &*name, AtFlags::empty())?;
            }
            Make::Symlink(target) => rustix::fs::symlinkat(target.0.as_slice(), directory, &*name)?,
            Make::Node { kind, major, minor } => {
                let kind = match kind {
                    NodeKind::Fifo => FileType::Fifo,
                    NodeKind::Socket => FileType::Socket,
                    NodeKind::Character => FileType::CharacterDevice,
                    NodeKind::Block => FileType::BlockDevice,
                };
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(directory, &*name, kind, Mode::RUSR | Mode::WUSR, device)?;
            }
            Make::Removal => {
                remove(directory, &name)?;
                self.last = None;
            }
        }
        match &change.meta {
            Some(meta) => {
                let (directory, name) = self.place(path)?;
                set_meta(directory, &name, meta)
            }
            None => Ok(()),
        }
    }

    /// The directory in which a path is, and the path's last name.
    fn place(&mut self, path: &Path) -> io::Result<(&OwnedFd, Box<OsStr>)> {
        let (parent, name) = check(path)?;
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            self.last = Some((parent.to_owned(), open_directory(&self.root, parent, OFlags::PATH)?));
        }
        match &self.last {
            Some((_, directory)) => Ok((directory, name.into())),
            None => Err(Errno::NOENT.into()),
        }
    }

    /// As [`place`](Self::place), of a path that no next step is about.
    fn look_up(&self, path: &Path) -> io::Result<(OwnedFd, Box<OsStr>)> {
        let (parent, name) = check(path)?;
        Ok((open_directory(&self.root, parent, OFlags::PATH)?, name.into()))
    }

    fn file(
        &mut self,
        path: &Path,
        content: &Content,
        meta: Option<&Meta>,
        bytes: &mut &[u8],
    ) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        let made = if content.new { OFlags::CREATE | OFlags::EXCL } else { OFlags::NONBLOCK };
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | made;
        let file = rustix::fs::openat(directory, &*name, flags, Mode::RUSR | Mode::WUSR)?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(invalid("it is no regular file here"));
        }
        let file = File::from(file);
        if stat.st_size.cast_unsigned() != content.size {
            file.set_len(content.size)?;
        }
        for range in &content.data {
            let (at, length) = check_range(*range, content.size)?;
            let (part, rest) = bytes
                .split_at_checked(usize::try_from(length).unwrap_or(usize::MAX))
                .ok_or_else(|| invalid("fewer bytes came than were announced"))?;
            file.write_all_at(part, at)?;
            *bytes = rest;
        }
        for range in &content.holes {
            punch(&file, check_range(*range, content.size)?)?;
        }
        match meta {
            Some(meta) => set_meta(directory, &name, meta),
            None => Ok(()),
        }
    }
}

/// The directory and the name of a path that is as it should be.
fn check(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let bytes = path.as_os_str().as_bytes();
    let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if name.len() <= MAX_NAME);
    // An iterator over components overlooks dots and slashes in excess.
    let as_it_reads = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
    if bytes.len() > MAX_PATH || bytes.contains(&0) || !as_it_reads || !path.components().all(plain) {
        return Err(invalid(
            "it is no path below a root, or longer than 4095 bytes, or has a name of more than 255",
        ));
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(invalid("it has no name")),
    }
}

fn check_range((at, length): Range, size: u64) -> io::Result<Range> {
    match at.checked_add(length) {
        Some(end) if end <= size && length > 0 => Ok((at, length)),
        _ => Err(invalid(format!("{length} bytes from {at} on are not in a file of {size}"))),
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

pub(super) fn open_directory(root: &OwnedFd, path: &Path, how: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(root, path, how | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), WAY)
}

/// Makes a hole; where the file system has none, zeros.
fn punch(file: &File, (at, length): Range) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length) {
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0; 128 << 10];
            let mut left = length;
            while left > 0 {
                let part = left.min(zeros.len() as u64);
                file.write_all_at(&zeros[..part as usize], at + length - left)?;
                left -= part;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Removes a file, or a directory with all below it; no symbolic link is followed.
fn remove(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => std::fs::remove_dir_all(in_directory(directory.as_fd(), name)),
        other => Ok(other?),
    }
}

fn in_directory(directory: impl AsFd, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd())).join(name)
}

fn set_meta(directory: impl AsFd, name: &OsStr, meta: &Meta) -> io::Result<()> {
    let directory = directory.as_fd();
    if meta.uid.max(meta.gid) > ids::MAX {
        return Err(invalid(format!("{}:{} is no owner", meta.uid, meta.gid)));
    }
    let (uid, gid) = (ids::uid(meta.uid)?, ids::gid(meta.gid)?);
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), nofollow)?;
    let kind = FileType::from_raw_mode(rustix::fs::statat(directory, name, nofollow)?.st_mode);
    if kind != FileType::Symlink {
        // After chown, which takes the set-user-id bits away.
        let mode = Mode::from_raw_mode(meta.mode & 0o7777);
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    }
    // After chown, which takes the capabilities away, and chmod, which changes access control lists.
    xattrs::replace(&in_directory(directory, name), &meta.own_xattrs())?;
    let times = Timestamps { last_access: time(meta.atime)?, last_modification: time(meta.mtime)? };
    Ok(rustix::fs::utimensat(directory, name, &times, nofollow)?)
}

fn time((seconds, nanoseconds): Time) -> io::Result<Timespec> {
    // Beyond are UTIME_NOW and UTIME_OMIT (utimensat(2)).
    if nanoseconds >= 1_000_000_000 {
        return Err(invalid(format!("{nanoseconds} ns are no part of a second")));
    }
    Ok(Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() })
}
