//! Changes of a root file system are made in another one. They come from elsewhere: no step reaches anything outside of it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;
use tar::{Archive, EntryType};

use super::pack::{XATTR, is_portable};
use crate::archive::layout::{DELETED, DIFF};
use crate::error::{Error, Result};
use crate::host::paths::free;
use crate::migrate::{Change, Content, Make, Meta, NodeKind, Raw, Target};
use crate::tarball::decompress;

/// Of one name in an OCI layer, and of a directory that hides all that was there.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bytes that are written at once.
const PART: u64 = 1 << 20;
const MAX_ENTRIES: u64 = 4 << 20;

/// How changes are made.
#[derive(Debug, Clone, Copy)]
pub(in crate::archive) struct Applied {
    /// Whether names that begin with `.wh.` mean that something is gone, as containerd has it.
    pub(in crate::archive) whiteouts: bool,
    /// Whether devices are made.
    pub(in crate::archive) devices: bool,
}

struct Applying<'a> {
    target: Target,
    how: Applied,
    archive: &'a str,
    /// Free on the disk.
    left: u64,
    added: BTreeSet<PathBuf>,
    directories: Vec<(PathBuf, Meta)>,
}

/// Makes the changes in the directory `root`: those of `diff`, and then those of `deleted`.
pub(in crate::archive) fn apply(
    root: OwnedFd,
    diff: Option<&File>,
    deleted: Option<&File>,
    how: Applied,
) -> Result<()> {
    let mut applying = Applying::new(root, DIFF, how);
    diff.map_or(Ok(()), |diff| applying.archive(diff))?;
    deleted.map_or(Ok(()), |deleted| applying.deleted(deleted))?;
    applying.settle()
}

/// Unpacks an archive of files into an empty directory.
pub(in crate::archive) fn apply_plain(root: OwnedFd, archive: &File, name: &str) -> Result<()> {
    let mut applying = Applying::new(root, name, Applied { whiteouts: false, devices: false });
    applying.archive(archive)?;
    applying.settle()
}

fn bad(archive: &str, e: impl std::fmt::Display) -> Error {
    Error::File { path: archive.into(), why: format!("is no readable archive: {e}") }
}

impl<'a> Applying<'a> {
    fn new(root: OwnedFd, archive: &'a str, how: Applied) -> Self {
        let left = rustix::fs::fstatvfs(&root).map_or(u64::MAX, |stat| free(&stat));
        let (added, directories) = (BTreeSet::new(), Vec::new());
        Self { target: Target::new(root), how, archive, left, added, directories }
    }

    fn refuse<T>(&self, path: &Path, why: &str) -> Result<T> {
        let name = path.to_string_lossy().escape_debug().to_string();
        Err(Error::File { path: self.archive.into(), why: format!("{name}: {why}") })
    }

    fn archive(&mut self, file: &File) -> Result<()> {
        let name = self.archive;
        let mut file = file;
        file.rewind().map_err(|e| bad(name, e))?;
        let mut archive = Archive::new(decompress(file).map_err(|e| bad(name, e))?);
        for (count, entry) in (0_u64..).zip(archive.entries().map_err(|e| bad(name, e))?) {
            let mut entry = entry.map_err(|e| bad(name, e))?;
            if count == MAX_ENTRIES {
                return Err(bad(name, format!("it has more than {MAX_ENTRIES} entries")));
            }
            self.entry(&mut entry)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<()> {
        let path = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        let path = match below(&path) {
            Some(path) => path,
            None => return self.refuse(&path, "leads out of the root filesystem"),
        };
        let kind = entry.header().entry_type();
        if path.as_os_str().is_empty() {
            return match kind {
                EntryType::Directory => {
                    let meta = meta_of(entry).map_err(|e| bad(self.archive, e))?;
                    self.directories.push((path, meta));
                    Ok(())
                }
                _ => self.refuse(&path, "is the root itself"),
            };
        }
        if self.how.whiteouts && self.whiteout(&path)? {
            return Ok(());
        }
        let meta = meta_of(entry).map_err(|e| bad(self.archive, e))?;
        self.parents(&path)?;
        let there = self.target.kind(&path)?;
        if kind == EntryType::Directory {
            return self.directory(path, meta, there);
        }
        if there.is_some() {
            self.remove(&path)?;
        }
        let link = || entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        match kind {
            EntryType::GNUSparse => return self.refuse(&path, "is a sparse file; expected a plain one"),
            EntryType::Regular | EntryType::Continuous => self.content(&path, entry, meta)?,
            EntryType::Symlink => self.step(&path, Make::Symlink(Raw(link())), Some(meta), &[])?,
            EntryType::Link => {
                let to = PathBuf::from(OsString::from_vec(link()));
                let Some(to) = below(&to) else {
                    return self.refuse(&path, "is a link to what is outside of the root filesystem");
                };
                self.step(&path, Make::Link(Raw::from(&*to)), None, &[])?;
            }
            EntryType::Fifo => self.step(&path, node(NodeKind::Fifo, 0, 0), Some(meta), &[])?,
            EntryType::Char | EntryType::Block if self.how.devices => {
                let of = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or_default();
                let header = entry.header();
                let (major, minor) = (of(header.device_major()), of(header.device_minor()));
                let kind = if kind == EntryType::Block { NodeKind::Block } else { NodeKind::Character };
                self.step(&path, node(kind, major, minor), Some(meta), &[])?;
            }
            EntryType::Char | EntryType::Block => {
                return self.refuse(&path, "is a device; --trust-spec makes it nevertheless");
            }
            _ => return self.refuse(&path, "is of no known kind; expected a file, directory, link or FIFO"),
        }
        self.added.insert(path);
        Ok(())
    }

    fn directory(&mut self, path: PathBuf, meta: Meta, there: Option<FileType>) -> Result<()> {
        let make = if there == Some(FileType::Directory) { Make::Nothing } else { Make::Directory };
        if there.is_some() && make == Make::Directory {
            self.remove(&path)?;
        }
        self.step(&path, make, Some(meta.clone()), &[])?;
        self.directories.push((path.clone(), meta));
        self.added.insert(path);
        Ok(())
    }

    fn content(&mut self, path: &Path, entry: &mut tar::Entry<'_, impl Read>, meta: Meta) -> Result<()> {
        let size = entry.size();
        if size > self.left {
            return self.refuse(path, &format!("has {size} bytes, and {} are free on the disk", self.left));
        }
        self.left -= size;
        let (mut buffer, mut at) = (Vec::new(), 0);
        loop {
            buffer.clear();
            let part = PART.min(size - at);
            let read =
                entry.by_ref().take(part).read_to_end(&mut buffer).map_err(|e| bad(self.archive, e))?;
            if (read as u64) < part {
                return Err(bad(self.archive, format!("truncated in {}", path.display())));
            }
            let data = if part > 0 { vec![(at, part)] } else { Vec::new() };
            let make = Make::File(Content { new: at == 0, size, data, holes: Vec::new() });
            at += part;
            let last = at == size;
            self.step(path, make, last.then(|| meta.clone()), &buffer)?;
            if last {
                return Ok(());
            }
        }
    }

    /// Whether it means that something is gone.
    fn whiteout(&mut self, path: &Path) -> Result<bool> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        if name == OPAQUE {
            for name in self.target.names(&parent)? {
                let below = parent.join(name);
                if !self.added.contains(&below) {
                    self.remove(&below)?;
                }
            }
            return Ok(true);
        }
        let Some(gone) = name.strip_prefix(WHITEOUT) else { return Ok(false) };
        let gone = parent.join(std::ffi::OsStr::from_bytes(gone));
        let Some(gone) = below(&gone).filter(|gone| gone.parent() == Some(&*parent)) else {
            return self.refuse(path, "is no whiteout");
        };
        if !self.added.contains(&gone) && self.target.kind(&gone)?.is_some() {
            self.remove(&gone)?;
        }
        Ok(true)
    }

    fn deleted(&mut self, file: &File) -> Result<()> {
        let fail = |why: String| Error::File { path: DELETED.into(), why };
        let mut file = file;
        file.rewind().map_err(|e| fail(e.to_string()))?;
        let names: Vec<String> = serde_json::from_reader(io::BufReader::new(file))
            .map_err(|e| fail(format!("is no list of paths: {e}")))?;
        for name in names {
            let path = Path::new(&name);
            let Some(path) =
                below(path.strip_prefix("/").unwrap_or(path)).filter(|path| !path.as_os_str().is_empty())
            else {
                return Err(fail(format!("{}: leads out of the root filesystem", name.escape_debug())));
            };
            if self.target.kind(&path)?.is_some() {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Makes the directories that a path is in.
    fn parents(&mut self, path: &Path) -> Result<()> {
        let mut missing = Vec::new();
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            match self.target.kind(parent)? {
                Some(FileType::Directory) => break,
                Some(_) => return self.refuse(path, "is below what is no directory here"),
                None => missing.push(parent.to_owned()),
            }
        }
        for parent in missing.into_iter().rev() {
            self.step(&parent, Make::Directory, Some(plain(0o755)), &[])?;
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.step(path, Make::Removal, None, &[])
    }

    fn step(&mut self, path: &Path, make: Make, meta: Option<Meta>, mut bytes: &[u8]) -> Result<()> {
        self.target.apply(&Change { path: path.into(), make, meta }, &mut bytes)
    }

    /// Last of all, as each step in a directory changes its times.
    fn settle(mut self) -> Result<()> {
        for (path, meta) in std::mem::take(&mut self.directories) {
            if path.as_os_str().is_empty() || self.target.kind(&path)? == Some(FileType::Directory) {
                self.step(&path, Make::Nothing, Some(meta), &[])?;
            }
        }
        Ok(())
    }
}

fn node(kind: NodeKind, major: u32, minor: u32) -> Make {
    Make::Node { kind, major, minor }
}

fn plain(mode: u32) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: (0, 0), atime: (0, 0), xattrs: Vec::new() }
}

/// A path below the root, without dots in excess; none that leads elsewhere.
fn below(path: &Path) -> Option<PathBuf> {
    let mut below = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => below.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(below)
}

fn meta_of(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Meta> {
    let header = entry.header();
    let small = |n: u64| u32::try_from(n).map_err(io::Error::other);
    let mode = header.mode()? & 0o7777;
    let (mut uid, mut gid) = (small(header.uid()?)?, small(header.gid()?)?);
    let mut mtime = (header.mtime()?.try_into().unwrap_or(0), 0);
    let mut xattrs = Vec::new();
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        let (Ok(key), value) = (record.key(), record.value_bytes()) else { continue };
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        match key {
            "uid" => uid = number().unwrap_or(uid),
            "gid" => gid = number().unwrap_or(gid),
            "mtime" => mtime = std::str::from_utf8(value).ok().and_then(time).unwrap_or(mtime),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR).filter(|name| is_portable(name)) {
                    xattrs.push((Raw(name.as_bytes().to_vec()), Raw(value.to_vec())));
                }
            }
        }
    }
    Ok(Meta { mode, uid, gid, mtime, atime: mtime, xattrs })
}

/// Seconds, with a fraction perhaps.
fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds.parse().ok()?, digits.parse().ok()?))
}
