//! Paths inside a root filesystem: every one is resolved by the kernel, with the root as its "/"
//! (openat2(2), RESOLVE_IN_ROOT), so no symbolic link and no race leads out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Result, SysError};

/// An opened root directory.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Takes an opened directory as root.
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Self {
        Self { fd, path: path.into() }
    }

    /// Opens `path` as root.
    pub fn open_path(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SysError::new("open", path.display().to_string(), e.raw_os_error()))?;
        Ok(Self::from_fd(fd, path))
    }

    /// Opens `path` inside the root.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, SysError> {
        self.openat2(path, flags, Mode::empty())
            .map_err(|e| SysError::new("openat2", self.below(path), e.raw_os_error()))
    }

    /// As [`open`](Self::open) with O_PATH; `None` where the path does not exist.
    pub fn find(&self, path: &Path) -> Result<Option<OwnedFd>> {
        match self.openat2(path, OFlags::PATH, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(SysError::new("openat2", self.below(path), e.raw_os_error()).into()),
        }
    }

    /// Opens the directory `path`, making it and its parents where they are missing.
    pub fn make_dir(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        if let Some(fd) = self.find(path)? {
            return Ok(fd);
        }
        let mut reached = PathBuf::new();
        let mut current = self.open(Path::new("."), OFlags::PATH)?;
        for component in normal_components(path) {
            let next = reached.join(component);
            current = match self.find(&next)? {
                Some(fd) => fd,
                None => {
                    match rustix::fs::mkdirat(&current, component, mode) {
                        // EEXIST: another container on the same root was faster, or it is a dangling symbolic link,
                        // which the open below reports.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => {
                            return Err(SysError::new("mkdirat", self.below(&next), e.raw_os_error()).into());
                        }
                    }
                    self.open(&next, OFlags::PATH | OFlags::DIRECTORY)?
                }
            };
            reached = next;
        }
        Ok(current)
    }

    /// Opens the file `path` with O_PATH, making it (empty) and its parent directories where they are missing.
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        if let Some(fd) = self.find(path)? {
            return Ok(fd);
        }
        let (parent, name) = self.make_parent(path)?;
        let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))
            .map_err(|e| SysError::new("openat", self.below(path), e.raw_os_error()))?;
        Ok(self.open(path, OFlags::PATH)?)
    }

    /// The directory that holds `path`, made where missing, and the last name.
    pub fn make_parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a std::ffi::OsStr)> {
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

    fn openat2(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        // The kernel takes "/" and "" alike here, but an empty path needs AT_EMPTY_PATH.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // A rename somewhere raced with ".." (openat2(2)): ask again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }
}

/// The path of an open descriptor for calls that take only paths.
pub fn fd_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn normal_components(path: &Path) -> impl Iterator<Item = &std::ffi::OsStr> {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name),
        // ".." is resolved by the kernel when the prefix is opened; a missing directory has none.
        Component::ParentDir => Some(std::ffi::OsStr::new("..")),
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
    fn dangling_links_are_refused_and_made_nothing() {
        let (dir, root) = root();
        symlink("/nowhere", dir.path().join("d")).unwrap();
        let error = root.make_dir(Path::new("d"), Mode::from_raw_mode(0o755)).unwrap_err().to_string();
        assert!(error.contains("d below"), "{error}");
        assert!(root.make_file(Path::new("d")).is_err());
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn missing_is_told_from_wrong() {
        let (_dir, root) = root();
        assert!(root.find(Path::new("a/b")).unwrap().is_none());
        assert_eq!(root.open(Path::new("a"), OFlags::PATH).unwrap_err().errno, libc::ENOENT);
    }
}
