//! A directory with images, opened once.
//!
//! Another process that may rename the directory could replace it between two looks. Therefore all checks, all reads and CRIU use
//! one descriptor, and the path is for messages alone.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat};

use crate::error::{CriuError, Result, bad};

/// The link by which CRIU finds the checkpoint that one builds on.
pub const PARENT: &str = "parent";

/// An open directory of images. Copies share the descriptor.
#[derive(Debug, Clone)]
pub struct ImageDirectory {
    path: PathBuf,
    fd: Arc<OwnedFd>,
}

impl ImageDirectory {
    /// Opens the directory at `path`, to which links may lead.
    ///
    /// # Errors
    /// [`CriuError::Image`] if there is none, [`CriuError::Io`] if it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_from(rustix::fs::CWD, path, path)
    }

    fn open_from(from: BorrowedFd<'_>, path: &Path, shown: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(from, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { path: shown.into(), fd: Arc::new(fd) }),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Err(bad(shown, "no such directory")),
            Err(e) => Err(CriuError::io(format!("open {}", shown.display()), e)),
        }
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of its own, for CRIU.
    ///
    /// # Errors
    /// [`CriuError::Io`] if there are too many.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        self.fd.try_clone().map_err(|e| self.fail("open", e))
    }

    /// The names in it, sorted.
    ///
    /// # Errors
    /// [`CriuError::Io`] if it cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let list = || -> rustix::io::Result<Vec<String>> {
            let entries = Dir::read_from(&*self.fd)?;
            let names = entries.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()));
            names.filter(|name| !matches!(name.as_deref(), Ok("." | ".."))).collect()
        };
        let mut names = list().map_err(|e| self.fail("list", e))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Of itself.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&*self.fd)?)
    }

    /// Of what has this name in it; a link is not followed.
    ///
    /// # Errors
    /// Those of fstatat(2).
    pub fn stat_of(&self, name: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Whether there is something of that name.
    pub fn has(&self, name: &str) -> bool {
        self.stat_of(name).is_ok()
    }

    /// Opens a file in it for reading. A link is not followed, and a FIFO not waited for.
    ///
    /// # Errors
    /// Those of openat(2): ELOOP for a link.
    pub fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&*self.fd, name, flags, Mode::empty())?.into())
    }

    /// Writes a file in it, which nobody else may read: a manifest has a secret, and the directory may be open to the
    /// container's root. A link is not followed.
    ///
    /// # Errors
    /// [`CriuError::Io`].
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&*self.fd, name, flags, Mode::from_raw_mode(0o600))
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).write_all(content))
            .map_err(|e| CriuError::io(format!("write {}", self.path.join(name).display()), e))
    }

    /// Makes a file in it, to be read and written by its owner alone.
    ///
    /// # Errors
    /// Those of openat(2): EEXIST if there is something of that name.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&*self.fd, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Gives a file in it another name; what had that is replaced.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&*self.fd, from, &*self.fd, to)?)
    }

    /// Removes a file in it.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&*self.fd, name, AtFlags::empty())?)
    }

    /// The directory that the link [`PARENT`] leads to.
    ///
    /// # Errors
    /// If there is something else of that name, or the link leads to no directory.
    pub fn parent(&self) -> Result<Option<Self>> {
        let target = match rustix::fs::readlinkat(&*self.fd, PARENT, Vec::new()) {
            Ok(target) => target.to_string_lossy().into_owned(),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::INVAL) => {
                return Err(bad(&self.path.join(PARENT), "not a link to a parent checkpoint"));
            }
            Err(e) => return Err(self.fail("read the link parent of", e)),
        };
        let target = Path::new(&target);
        Self::open_from(self.as_fd(), target, &self.path.join(target)).map(Some)
    }

    fn fail(&self, what: &str, e: impl Into<io::Error>) -> CriuError {
        CriuError::io(format!("{what} {}", self.path.display()), e)
    }

    /// As [`file`](Self::file); none if there is no such file.
    pub(crate) fn file_if_any(&self, name: &str) -> Result<Option<File>> {
        match self.file(name) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(CriuError::io(format!("open {}", self.path.join(name).display()), e)),
        }
    }
}

impl AsFd for ImageDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
