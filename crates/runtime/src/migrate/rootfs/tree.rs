//! A root file system here, and the steps by which the other end gets the same.
//!
//! It is looked at in passes. The first one, and others perhaps, while the container writes to it; the last one while it stands
//! still. Each makes the other end what was found, and takes note of that, so that the next one sends what has changed since.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hiber_sys::mount::{MountAttributes, Reach, mount_setattr};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, statat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags};

use super::batch::{Batch, Send};
use super::change::{Amount, Change, Content, Make, Meta, NodeKind, Raw};
use super::content::Known as KnownContent;
use super::target::open_directory;
use crate::error::{Error, Result};
use crate::host::paths::names;
use crate::host::xattrs;

/// The choices about access times, of which one is set (linux/mount.h).
const MOUNT_ATTR__ATIME: u64 = 0x70;

/// A file, whatever its names.
type Inode = (u64, u64);

/// The part of a file's state that differs if anything of it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Seen {
    fn of(stat: &Stat) -> Self {
        Self {
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

/// A path that the other end has.
#[derive(Debug)]
enum Known {
    Directory { seen: Option<Seen>, pass: u32 },
    Other { inode: Inode, pass: u32 },
}

impl Known {
    fn pass(&self) -> u32 {
        let (Self::Directory { pass, .. } | Self::Other { pass, .. }) = self;
        *pass
    }
}

/// A file that is no directory and that the other end has.
#[derive(Debug)]
struct There {
    kind: FileType,
    seen: Seen,
    /// Whether it may have been written after it was read with no later time to tell.
    uncertain: bool,
    content: KnownContent,
    paths: Vec<Arc<Path>>,
    pass: u32,
}

/// The root file system, and the other end's copy as it is known here.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    /// For messages.
    path: PathBuf,
    paths: BTreeMap<Arc<Path>, Known>,
    files: HashMap<Inode, There>,
    /// Inode numbers of files that processes have mapped to write to: their times tell nothing.
    mapped: HashSet<u64>,
    pass: u32,
}

/// One pass.
struct Pass<'a> {
    tree: &'a mut Tree,
    batch: Batch<'a>,
    /// Changes since then may have come after they were looked for, with the same time.
    since: i64,
    /// Whether all files' content is to be compared.
    compare_all: bool,
    /// Directories whose times and owner the other end has not, or not any more.
    touched: BTreeSet<Arc<Path>>,
}

/// A file system on which writes through a mapping leave no time behind.
fn forgets_times(root: &OwnedFd) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    rustix::fs::fstatfs(root).is_ok_and(|found| matches!(found.f_type, TMPFS | RAMFS))
}

impl Tree {
    /// The root file system at `path`, without what is mounted below it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fail = |call: &str, e| Error::sys(call, path.display().to_string(), e);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let root =
            rustix::mount::open_tree(rustix::fs::CWD, path, flags).map_err(|e| fail("open_tree", e))?;
        // It is not read in a way that anybody notices, and no device is opened by mistake.
        let quiet = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME;
        let set = hiber_sys::mount::attributes(quiet.bits().into());
        mount_setattr(
            root.as_fd(),
            MountAttributes { set, clear: MOUNT_ATTR__ATIME, propagation: 0 },
            Reach::One,
        )?;
        let mut paths = BTreeMap::new();
        paths.insert(Arc::from(Path::new("")), Known::Directory { seen: None, pass: 0 });
        Ok(Self { root, path: path.into(), paths, files: HashMap::new(), mapped: HashSet::new(), pass: 0 })
    }

    /// How much there is now.
    pub(crate) fn measure(&self) -> Result<Amount> {
        let (mut amount, mut counted) = (Amount::default(), HashSet::new());
        let mut left = vec![PathBuf::new()];
        while let Some(path) = left.pop() {
            let Some((directory, names)) = self.list(&path)? else { continue };
            for name in names {
                let Ok(stat) = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                amount.files += 1;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    left.push(path.join(name));
                }
                if stat.st_nlink < 2 || counted.insert((stat.st_dev, stat.st_ino)) {
                    amount.bytes += stat.st_blocks.unsigned_abs() * 512;
                }
            }
        }
        Ok(amount)
    }

    /// Sends what the other end has not. `mapped` are the inode numbers of files that are mapped to be written to.
    ///
    /// # Errors
    /// Those of `send`, and if something cannot be read.
    pub(crate) fn pass(&mut self, mapped: impl IntoIterator<Item = u64>, send: Send<'_>) -> Result<()> {
        self.pass += 1;
        self.mapped.extend(mapped);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let compare_all = forgets_times(&self.root);
        let batch = Batch::new(send);
        // Its clock may be a little late, as another machine's of a network file system.
        let since = now.tv_sec - 1;
        let mut pass = Pass { tree: self, batch, since, compare_all, touched: BTreeSet::new() };
        pass.walk()?;
        pass.remove_the_gone()?;
        pass.settle_directories()?;
        pass.batch.flush()
    }

    /// The directory at `path`, open, and the names in it; none if it has gone.
    fn list(&self, path: &Path) -> Result<Option<(OwnedFd, Vec<OsString>)>> {
        let list = || -> rustix::io::Result<(OwnedFd, Vec<OsString>)> {
            let directory = open_directory(&self.root, path, OFlags::RDONLY)?;
            let names = names(&directory)?;
            Ok((directory, names))
        };
        if_there(list()).map_err(|e| self.failed(path, e))
    }

    fn failed(&self, path: &Path, e: impl Into<std::io::Error>) -> Error {
        Error::file(&self.path.join(path), &e.into())
    }

    /// The other end does not have it any more, nor anything below it.
    fn forget(&mut self, path: &Path) {
        let below =
            self.paths.range::<Path, _>((std::ops::Bound::Included(path), std::ops::Bound::Unbounded));
        let below: Vec<_> =
            below.map(|(path, _)| Arc::clone(path)).take_while(|p| p.starts_with(path)).collect();
        for path in below {
            if let Some(Known::Other { inode, .. }) = self.paths.remove(&path)
                && let Some(there) = self.files.get_mut(&inode)
            {
                there.paths.retain(|other| *other != path);
                if there.paths.is_empty() {
                    self.files.remove(&inode);
                }
            }
        }
    }
}

/// None of what has gone since somebody saw it.
fn if_there<T>(found: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match found {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => Ok(None),
        other => other.map(Some),
    }
}

/// A file in an open directory.
struct Entry<'a> {
    directory: &'a OwnedFd,
    name: &'a OsStr,
    path: Arc<Path>,
    stat: Stat,
}

impl Entry<'_> {
    fn inode(&self) -> Inode {
        (self.stat.st_dev, self.stat.st_ino)
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// The part that is neither content nor names; of a regular file as it was before its content was read.
    fn meta(&self, stat: &Stat) -> std::io::Result<Meta> {
        let named = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd())).join(self.name);
        let xattrs = xattrs::of(&named)?.into_iter();
        Ok(Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            atime: (stat.st_atime, stat.st_atime_nsec as u32),
            xattrs: xattrs.map(|(name, value)| (Raw(name.into_vec()), Raw(value))).collect(),
        })
    }

    /// How a file of this kind is made that has no content.
    fn make(&self) -> rustix::io::Result<Make> {
        let kind = match self.kind() {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(self.directory, self.name, Vec::new())?;
                return Ok(Make::Symlink(Raw(target.into_bytes())));
            }
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharacterDevice => NodeKind::Character,
            FileType::BlockDevice => NodeKind::Block,
            _ => return Err(Errno::INVAL),
        };
        let device = self.stat.st_rdev;
        Ok(Make::Node { kind, major: rustix::fs::major(device), minor: rustix::fs::minor(device) })
    }
}

impl Pass<'_> {
    fn walk(&mut self) -> Result<()> {
        let mut left: Vec<Arc<Path>> = vec![Arc::from(Path::new(""))];
        while let Some(path) = left.pop() {
            let Some((directory, names)) = self.tree.list(&path)? else { continue };
            let stat = fstat(&directory).map_err(|e| self.tree.failed(&path, e))?;
            self.directory(&path, &stat)?;
            for name in &names {
                let below: Arc<Path> = Arc::from(path.join(name));
                let fail = |e| self.tree.failed(&below, e);
                let stat = if_there(statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)).map_err(fail)?;
                let Some(stat) = stat else { continue };
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    left.push(below);
                } else {
                    let entry = Entry { directory: &directory, name, path: below, stat };
                    self.file(&entry)?;
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &Arc<Path>, stat: &Stat) -> Result<()> {
        let (now, number) = (Seen::of(stat), self.tree.pass);
        match self.tree.paths.get_mut(path) {
            Some(Known::Directory { seen, pass }) => {
                if *seen != Some(now) {
                    self.touched.insert(Arc::clone(path));
                }
                (*seen, *pass) = (Some(now), number);
                return Ok(());
            }
            Some(_) => self.remove(path)?,
            None => {}
        }
        self.step(path, Make::Directory)?;
        self.touched.insert(Arc::clone(path));
        let known = Known::Directory { seen: Some(now), pass: number };
        self.tree.paths.insert(Arc::clone(path), known);
        Ok(())
    }

    /// Looks at a file that is no directory.
    fn file(&mut self, entry: &Entry<'_>) -> Result<()> {
        let (inode, pass) = (entry.inode(), self.tree.pass);
        let there = self.tree.files.get(&inode).filter(|there| there.kind == entry.kind());
        let in_place = there.is_some_and(|there| there.paths.contains(&entry.path));
        if in_place && let Some(there) = self.tree.files.get_mut(&inode) {
            self.tree.paths.insert(Arc::clone(&entry.path), Known::Other { inode, pass });
            if std::mem::replace(&mut there.pass, pass) == pass {
                return Ok(());
            }
            let changed = there.seen != Seen::of(&entry.stat);
            let unsure = there.uncertain || self.compare_all || self.tree.mapped.contains(&inode.1);
            return match entry.kind() {
                FileType::RegularFile if changed || unsure => self.content(entry, false),
                // Such a file does not change: it is another one with that number.
                _ if changed && entry.kind() != FileType::RegularFile => self.anew(entry),
                _ => Ok(()),
            };
        }
        if self.tree.paths.contains_key(&entry.path) {
            self.remove(&entry.path)?;
        }
        // The removal may have been that of its last name.
        let there = self.tree.files.get_mut(&inode).filter(|there| there.kind == entry.kind());
        let Some(there) = there else { return self.anew(entry) };
        let to = there.paths.first().map(|path| Raw::from(&**path)).unwrap_or_default();
        there.paths.push(Arc::clone(&entry.path));
        self.tree.paths.insert(Arc::clone(&entry.path), Known::Other { inode, pass });
        self.step(&entry.path, Make::Link(to))?;
        self.file(entry)
    }

    /// Has a file made that the other end does not have.
    fn anew(&mut self, entry: &Entry<'_>) -> Result<()> {
        if self.tree.paths.contains_key(&entry.path) {
            self.remove(&entry.path)?;
        }
        if entry.kind() == FileType::RegularFile {
            return self.content(entry, true);
        }
        let fail = |e: std::io::Error| self.tree.failed(&entry.path, e);
        let Some(make) = if_there(entry.make()).map_err(|e| fail(e.into()))? else { return Ok(()) };
        let meta = match entry.meta(&entry.stat) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(fail(e)),
        };
        let change = Change { path: Raw::from(&*entry.path), make, meta: Some(meta) };
        self.add(&entry.path, change, &[])?;
        self.keep(entry, Seen::of(&entry.stat), KnownContent::default());
        Ok(())
    }

    /// The other end has it, by this name.
    fn keep(&mut self, entry: &Entry<'_>, seen: Seen, content: KnownContent) {
        let (inode, pass) = (entry.inode(), self.tree.pass);
        let there = There {
            kind: entry.kind(),
            seen,
            uncertain: seen.ctime.0 >= self.since,
            content,
            paths: vec![Arc::clone(&entry.path)],
            pass,
        };
        self.tree.files.insert(inode, there);
        self.tree.paths.insert(Arc::clone(&entry.path), Known::Other { inode, pass });
    }

    /// Sends what differs of a regular file.
    fn content(&mut self, entry: &Entry<'_>, new: bool) -> Result<()> {
        let fail = |tree: &Tree, e: std::io::Error| tree.failed(&entry.path, e);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = if_there(rustix::fs::openat(entry.directory, entry.name, flags, Mode::empty()));
        let Some(file) = opened.map_err(|e| fail(self.tree, e.into()))? else { return Ok(()) };
        let stat = fstat(&file).map_err(|e| fail(self.tree, e.into()))?;
        if (stat.st_dev, stat.st_ino) != entry.inode()
            || FileType::from_raw_mode(stat.st_mode) != entry.kind()
        {
            // Another one has taken its name just now.
            return Ok(());
        }
        let file = File::from(file);
        let meta = match entry.meta(&stat) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(fail(self.tree, e)),
        };
        let (inode, seen, size) = (entry.inode(), Seen::of(&stat), stat.st_size.unsigned_abs());
        let mut known = match self.tree.files.get_mut(&inode) {
            Some(there) if !new => std::mem::take(&mut there.content),
            _ => KnownContent::default(),
        };
        let changed = new || self.tree.files.get(&inode).is_none_or(|there| there.seen != seen);
        let resized = new || known.size() != size;
        let step = |new, data, holes| Change::of(&entry.path, Make::File(Content { new, size, data, holes }));
        // The first step makes it, and the last one brings all that is not content.
        let (mut make, mut last) = (new, None);
        let batch = &mut self.batch;
        let read = known.update(&file, size, |part| {
            let holes = if new { Vec::new() } else { part.holes };
            let change = step(std::mem::take(&mut make), part.data, holes);
            match last.replace((change, part.bytes)) {
                Some((change, bytes)) => batch.add(change, &bytes).map_err(Failed::Sent),
                None => Ok(()),
            }
        });
        match read {
            Ok(()) => {}
            Err(Failed::Read(e)) => return Err(fail(self.tree, e)),
            Err(Failed::Sent(e)) => return Err(e),
        }
        let rest = || match (resized, changed) {
            (true, _) => Some((step(make, Vec::new(), Vec::new()), Vec::new())),
            (false, true) => Some((Change::of(&entry.path, Make::Nothing), Vec::new())),
            (false, false) => None,
        };
        if let Some((mut change, bytes)) = last.or_else(rest) {
            change.meta = Some(meta);
            self.batch.add(change, &bytes)?;
        }
        if new {
            self.touch(&entry.path);
            self.keep(entry, seen, known);
        } else if let Some(there) = self.tree.files.get_mut(&inode) {
            (there.seen, there.content) = (seen, known);
            there.uncertain = seen.ctime.0 >= self.since;
        }
        Ok(())
    }

    /// Has a path removed.
    fn remove(&mut self, path: &Arc<Path>) -> Result<()> {
        self.step(path, Make::Removal)?;
        self.tree.forget(path);
        Ok(())
    }

    fn remove_the_gone(&mut self) -> Result<()> {
        let pass = self.tree.pass;
        let gone = self.tree.paths.iter().filter(|(_, known)| known.pass() != pass);
        let gone: Vec<_> = gone.map(|(path, _)| Arc::clone(path)).collect();
        for path in gone {
            // It may have gone with its directory.
            if self.tree.paths.contains_key(&path) {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Last of all, as each step in a directory changes its times.
    fn settle_directories(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.touched) {
            if !matches!(self.tree.paths.get(&path), Some(Known::Directory { .. })) {
                continue;
            }
            let fail = |e: std::io::Error| self.tree.failed(&path, e);
            let opened = if_there(open_directory(&self.tree.root, &path, OFlags::RDONLY));
            let Some(directory) = opened.map_err(|e| fail(e.into()))? else { continue };
            let stat = fstat(&directory).map_err(|e| fail(e.into()))?;
            let entry = Entry { directory: &directory, name: OsStr::new("."), path: Arc::clone(&path), stat };
            let meta = entry.meta(&stat).map_err(fail)?;
            let change = Change { path: Raw::from(&*path), make: Make::Nothing, meta: Some(meta) };
            self.batch.add(change, &[])?;
        }
        Ok(())
    }

    fn step(&mut self, path: &Arc<Path>, make: Make) -> Result<()> {
        self.add(path, Change::of(path, make), &[])
    }

    fn add(&mut self, path: &Path, change: Change, bytes: &[u8]) -> Result<()> {
        self.touch(path);
        self.batch.add(change, bytes)
    }

    /// The step changes the times of the directory.
    fn touch(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.touched.insert(Arc::from(parent));
        }
    }
}

/// Reading here, or sending.
enum Failed {
    Read(std::io::Error),
    Sent(Error),
}

impl From<std::io::Error> for Failed {
    fn from(e: std::io::Error) -> Self {
        Self::Read(e)
    }
}
