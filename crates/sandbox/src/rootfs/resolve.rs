//! Paths inside a root filesystem: every one is resolved by the kernel, with the root as its "/"
//! (openat2(2), RESOLVE_IN_ROOT), so no symbolic link and no race leads out.
//!
//! A container that shares the root filesystem with another one can rename the other's mount points, and the mounts move along.
//! Therefore a path below a mount of the container is resolved from the descriptor of that mount, if there is one: see
//! [`Root::hold`].

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::lookup::{Base, MountId, create_file, openat2};
use super::tree::DIR_MODE;
use crate::{Error, Result, SysError};

/// The most links on one path that we follow ourselves; the kernel has the same limit (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// An opened root directory.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
    /// In the order in which they were mounted.
    held: Vec<Held>,
}

/// A mount in the root whose descriptor is kept.
#[derive(Debug)]
struct Held {
    /// Where it was mounted: below the root, by a path without symbolic links.
    at: PathBuf,
    top: OwnedFd,
    role: Role,
}

/// The reasons for which a mount is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Role {
    /// Whether it may be a procfs.
    pub(super) maybe_procfs: bool,
    /// Whether its path must lead to it when the root is entered.
    pub(super) guarded: bool,
}

/// A place for a mount.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) fd: OwnedFd,
    /// Whether the place was there before.
    pub(super) existed: bool,
    /// Whether its path led there without a symbolic link or "..".
    pub(super) plain: bool,
    /// Whether it may lie in a procfs.
    pub(super) maybe_procfs: bool,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Takes an opened directory as root.
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Self {
        Self { fd, path: path.into(), held: Vec::new() }
    }

    /// Opens `path` as root.
    pub fn open_path(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SysError::new("open", path.display().to_string(), e.raw_os_error()))?;
        Ok(Self::from_fd(fd, path))
    }

    /// Opens `path` inside the root.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, SysError> {
        self.openat2(path, flags).map_err(|e| SysError::new("openat2", self.below(path), e.raw_os_error()))
    }

    /// As [`open`](Self::open) with O_PATH; `None` where the path does not exist.
    pub fn find(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.openat2(path, OFlags::PATH) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(SysError::new("openat2", self.below(path), e.raw_os_error()).into()),
        }
    }

    /// Opens a mount point, and makes it if it is missing: a directory or an empty file.
    pub(super) fn point(&self, path: &Path, directory: bool) -> Result<Point> {
        let plain = !path.components().any(|c| c == Component::ParentDir);
        let base = self.base(path);
        let found = if plain { base.open_plainly() } else { Err(Errno::LOOP) };
        match found {
            Ok((fd, within)) => {
                let maybe_procfs = base.maybe_procfs || !within;
                return Ok(Point { fd, existed: true, plain, maybe_procfs });
            }
            Err(Errno::NOENT | Errno::NOTDIR) => match base.make_plainly(directory) {
                Ok(fd) => return Ok(Point { fd, existed: false, plain, maybe_procfs: base.maybe_procfs }),
                // Somebody has put a link there meanwhile.
                Err((_, Errno::LOOP)) => {}
                Err((call, e)) => return Err(SysError::new(call, self.below(path), e.raw_os_error()).into()),
            },
            Err(Errno::LOOP | Errno::XDEV) => {}
            Err(e) => return Err(SysError::new("openat2", self.below(path), e.raw_os_error()).into()),
        }
        let found = self.find(path)?;
        let existed = found.is_some();
        let fd = match found {
            Some(fd) => fd,
            None if directory => self.make_dir(path, DIR_MODE)?,
            None => self.make_file(path)?,
        };
        Ok(Point { fd, existed, plain: false, maybe_procfs: true })
    }

    /// Whether `fd` is the root itself.
    pub(super) fn is(&self, fd: &OwnedFd) -> Result<bool> {
        let inode = |fd: BorrowedFd<'_>| {
            let stat =
                rustix::fs::fstat(fd).map_err(|e| SysError::new("fstat", "a mount", e.raw_os_error()))?;
            Ok::<_, Error>((stat.st_dev, stat.st_ino))
        };
        Ok(inode(self.as_fd())? == inode(fd.as_fd())? && MountId::of(self)? == MountId::of(fd)?)
    }

    /// Records that `top` was mounted on `point`, which is at `path`. The mount is held if it has a `role`: then each path below
    /// `path` is resolved below `top` itself.
    pub(super) fn mounted(&mut self, path: &Path, point: &Point, top: Option<(OwnedFd, Role)>) {
        if !point.plain {
            // Nobody knows which of the others it has covered. A procfs that it covers is missed in the end.
            self.held.retain(|held| held.role.guarded);
            return;
        }
        self.cover(path);
        self.held.extend(top.map(|(top, role)| Held { at: relative(path).into(), top, role }));
    }

    /// Records that a mount covers `path`. Returns the held mount there, which is now out of reach.
    pub(super) fn cover(&mut self, path: &Path) -> Option<Role> {
        let path = relative(path);
        let role = self.held.iter().find(|held| held.at == path).map(|held| held.role);
        self.held.retain(|held| !held.at.starts_with(path));
        role
    }

    /// Holds a copy of the mount that was held at `path`, and that now covers it.
    pub(super) fn replace(&mut self, path: &Path, top: OwnedFd) {
        if let Some(role) = self.cover(path) {
            self.held.push(Held { at: relative(path).into(), top, role });
        }
    }

    /// Checks, after the root was entered, that the paths of this process lead to the mounts that must be there.
    pub(super) fn check_guarded(&self) -> Result<()> {
        for held in self.held.iter().filter(|held| held.role.guarded) {
            let path = Path::new("/").join(&held.at);
            if MountId::at(rustix::fs::CWD, &path)? != MountId::of(&held.top)? {
                let problem = format!(
                    "{} is not what was mounted there: somebody changes the root filesystem meanwhile",
                    path.display()
                );
                return Err(Error::invalid("mounts", problem));
            }
        }
        Ok(())
    }

    /// The directory from which `path` is resolved: the mount that the path lies in, or the root itself.
    fn base<'a>(&'a self, path: &'a Path) -> Base<'a> {
        let path = relative(path);
        // A later mount hides what it covers, so the last one is the innermost.
        let of_mount = |held: &'a Held| {
            Some((held.top.as_fd(), path.strip_prefix(&held.at).ok()?, held.role.maybe_procfs))
        };
        let (dir, rest, maybe_procfs) =
            self.held.iter().rev().find_map(of_mount).unwrap_or((self.fd.as_fd(), path, false));
        Base { dir, rest, maybe_procfs }
    }

    /// Opens the directory `path`, and makes it and its parents where they are missing. A dangling symbolic link is followed
    /// inside the root, and its target made: images have such links, and runc does the same.
    pub fn make_dir(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        if let Some(fd) = self.find(path)? {
            return Ok(fd);
        }
        let mut links = 0;
        let mut ahead: VecDeque<OsString> = components(path).collect();
        // Most often the last name alone is missing.
        let parent: PathBuf = ahead.iter().take(ahead.len().saturating_sub(1)).collect();
        let (mut current, mut reached) = match self.find(&parent)? {
            Some(fd) => {
                ahead.drain(..ahead.len().saturating_sub(1));
                (fd, parent)
            }
            None => (self.open(Path::new("."), OFlags::PATH)?, PathBuf::new()),
        };
        while let Some(component) = ahead.pop_front() {
            let next = reached.join(&component);
            if let Some(fd) = self.find(&next)? {
                (current, reached) = (fd, next);
                continue;
            }
            match rustix::fs::mkdirat(&current, &component, mode) {
                Ok(()) => {}
                // A dangling link, or another container on the same root was faster.
                Err(Errno::EXIST) => {
                    if let Some(target) = self.link(&current, &component, &next, &mut links)? {
                        if target.is_absolute() {
                            current = self.open(Path::new("."), OFlags::PATH)?;
                            reached.clear();
                        }
                        ahead = components(&target).chain(ahead).collect();
                        continue;
                    }
                }
                Err(e) => return Err(SysError::new("mkdirat", self.below(&next), e.raw_os_error()).into()),
            }
            current = self.open(&next, OFlags::PATH | OFlags::DIRECTORY)?;
            reached = next;
        }
        Ok(current)
    }

    /// The target of the link `name` in `dir`; `None` if it is no link. `path` is for messages.
    fn link(&self, dir: &OwnedFd, name: &OsStr, path: &Path, links: &mut u32) -> Result<Option<PathBuf>> {
        let fail = |errno: Errno| SysError::new("readlinkat", self.below(path), errno.raw_os_error());
        if *links == MAX_LINKS {
            return Err(fail(Errno::LOOP).into());
        }
        *links += 1;
        match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
            Err(Errno::INVAL) => Ok(None),
            Err(e) => Err(fail(e).into()),
        }
    }

    /// Opens the file `path` with O_PATH, making it (empty) and its parent directories where they are missing; links
    /// are followed as in [`make_dir`](Self::make_dir).
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        let mut links = 0;
        let mut path = path.to_owned();
        loop {
            if let Some(fd) = self.find(&path)? {
                return Ok(fd);
            }
            let (parent, name) = self.make_parent(&path)?;
            match create_file(&parent, name) {
                Ok(()) => {}
                // A dangling link, or another container on the same root was faster.
                Err(Errno::EXIST) => {
                    if let Some(target) = self.link(&parent, name, &path, &mut links)? {
                        path = path.parent().unwrap_or(Path::new("/")).join(target);
                    }
                }
                Err(e) => return Err(SysError::new("openat", self.below(&path), e.raw_os_error()).into()),
            }
        }
    }

    /// As [`make_file`](Self::make_file), for a file of the runtime's own. A symbolic link in its place is refused, because it
    /// would lead elsewhere.
    pub fn make_own_file(&self, path: &Path) -> Result<OwnedFd> {
        let fail =
            |call: &str, e: Errno| Error::from(SysError::new(call, self.below(path), e.raw_os_error()));
        let (parent, name) = self.make_parent(path)?;
        match create_file(&parent, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(fail("openat", e)),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::empty()).map_err(|e| fail("openat", e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| fail("fstat", e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink | FileType::Directory => Err(fail("openat", Errno::LOOP)),
            _ => Ok(file),
        }
    }

    /// The directory that holds `path`, made where missing, and the last name.
    pub fn make_parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| {
            SysError::new("openat2", format!("{}: has no file name", self.below(path)), libc::EINVAL)
        })?;
        let parent = self.make_dir(path.parent().unwrap_or(Path::new("/")), Mode::from_raw_mode(0o755))?;
        Ok((parent, name))
    }

    /// `path` as a message shows it.
    pub fn below(&self, path: &Path) -> String {
        format!("{} below {}", path.display(), self.path.display())
    }

    fn openat2(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let base = self.base(path);
        // A ".." may lead to a directory that a mount covers.
        if base.rest != relative(path) && !path.components().any(|c| c == Component::ParentDir) {
            match openat2(base.dir, base.rest, flags, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
                // A link leads out of the mount: somewhere in the root.
                Err(Errno::XDEV) => {}
                other => return other,
            }
        }
        openat2(&self.fd, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// The path of an open descriptor for calls that take only paths.
pub fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        // ".." is resolved by the kernel when the prefix is opened; a missing directory has none.
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open_path(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn links_stay_inside() {
        let (dir, root) = root();
        symlink("/etc", dir.path().join("abs")).unwrap();
        symlink("../../../../etc", dir.path().join("rel")).unwrap();
        root.make_dir(Path::new("/etc"), Mode::from_raw_mode(0o755)).unwrap();
        root.make_file(Path::new("abs/inside")).unwrap();
        root.make_dir(Path::new("rel/deep/er"), Mode::from_raw_mode(0o755)).unwrap();
        assert!(dir.path().join("etc/inside").is_file());
        assert!(dir.path().join("etc/deep/er").is_dir());
        assert!(!Path::new("/etc/inside").exists());
    }

    #[test]
    fn dots_cannot_climb() {
        let (dir, root) = root();
        root.make_dir(Path::new("/../../a/../b"), Mode::from_raw_mode(0o755)).unwrap();
        assert!(dir.path().join("b").is_dir());
    }

    #[test]
    fn what_dangling_links_name_is_made_inside() {
        let (dir, root) = root();
        let outside = tempfile::tempdir().unwrap();
        let mode = Mode::from_raw_mode(0o755);
        let link = |target: &Path, name: &str| symlink(target, dir.path().join(name)).unwrap();
        link(&outside.path().join("made"), "absolute");
        link(Path::new("../../../../../../climbed/x"), "relative");
        link(Path::new("climbed/../y"), "second");
        root.make_dir(Path::new("absolute/deep"), mode).unwrap();
        root.make_file(Path::new("relative")).unwrap();
        root.make_file(Path::new("/second")).unwrap();
        let inside = |path: &Path| dir.path().join(path.strip_prefix("/").unwrap());
        assert!(inside(&outside.path().join("made/deep")).is_dir());
        assert!(inside(Path::new("/climbed/x")).is_file());
        assert!(inside(Path::new("/y")).is_file());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(!Path::new("/climbed").exists());
    }

    #[test]
    fn links_in_a_circle_are_refused_and_make_nothing() {
        let (dir, root) = root();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        // Each is missing when it is looked for, and names one that is missing.
        for i in 0..=MAX_LINKS {
            symlink(format!("l{}", i + 1), dir.path().join(format!("l{i}"))).unwrap();
        }
        for name in ["a", "a/c", "l0"] {
            let error = root.make_dir(Path::new(name), Mode::from_raw_mode(0o755)).unwrap_err().to_string();
            assert!(error.contains("too many") && error.contains("below"), "{error}");
            assert!(root.make_file(Path::new(name)).is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2 + MAX_LINKS as usize + 1);
    }

    #[test]
    fn missing_is_told_from_wrong() {
        let (_dir, root) = root();
        assert!(root.find(Path::new("a/b")).unwrap().is_none());
        assert_eq!(root.open(Path::new("a"), OFlags::PATH).unwrap_err().errno, libc::ENOENT);
    }
}
