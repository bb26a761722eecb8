//! One cgroup directory and the files in it, always reached through its handle.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{self, CWD, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use super::version::Version;
use crate::error::SysError;
use hiber_sys::file;

/// `statfs` types, linux/magic.h.
const CGROUP_SUPER_MAGIC: i64 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// An open cgroup directory.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    version: Version,
    /// The file that [`Self::read_again`] reads.
    kept: OnceLock<OwnedFd>,
}

type Result<T> = std::result::Result<T, SysError>;

fn error(call: &str, what: impl Display, errno: Errno) -> SysError {
    SysError::new(call, what.to_string(), errno.raw_os_error())
}

fn no_such_cgroup(errno: i32) -> bool {
    // A directory that is removed while it is open answers ENODEV.
    matches!(errno, libc::ENOENT | libc::ENODEV)
}

/// `Ok(None)` for an error that says that the cgroup (or file) is not, or no longer, there.
pub(super) fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if no_such_cgroup(e.errno) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads a whole file by its path, for files of procfs and of the cgroup root.
pub(super) fn read_file(path: &Path) -> Result<String> {
    let fd = fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| error("open", path.display(), e))?;
    file::read(&fd).map(file::text).map_err(|e| error("read", path.display(), e))
}

/// Reads a file of the cgroup at `dir` without opening the directory, for callers that need only this file. `None` if that fails;
/// [`Dir::open`] then gives the reason.
pub(super) fn read_by_path(dir: &Path, version: Version, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = fs::open(dir.join(name), flags, Mode::empty()).ok()?;
    let here = version_of(&fd).ok()? == Some(version);
    let text = file::read_record(&fd).ok().filter(|_| here)?;
    Some(trimmed(file::text(text)))
}

fn trimmed(mut text: String) -> String {
    text.truncate(text.trim_end().len());
    text
}

/// The hierarchy of a file or directory; `None` on another filesystem.
fn version_of(fd: &OwnedFd) -> rustix::io::Result<Option<Version>> {
    #[allow(clippy::useless_conversion)] // narrower on some architectures
    Ok(match i64::from(fs::fstatfs(fd)?.f_type) {
        CGROUP_SUPER_MAGIC => Some(Version::V1),
        CGROUP2_SUPER_MAGIC => Some(Version::V2),
        _ => None,
    })
}

impl Dir {
    /// Opens a cgroup directory by its absolute path; anything that is not on cgroupfs is refused,
    /// with ENOTDIR or EXDEV.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::open_at(CWD, path.as_os_str(), path.to_owned())
    }

    /// Reads a file at a relative path; `None` if there is no such file in the same hierarchy.
    pub(super) fn with_record_below<T>(&self, path: &Path, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let way = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let fd = fs::openat2(&self.fd, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), way).ok()?;
        file::with_record(&fd, take).ok()
    }

    fn open_at(at: BorrowedFd<'_>, name: &OsStr, path: PathBuf) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(at, name, flags, Mode::empty()).map_err(|e| error("open", path.display(), e))?;
        match version_of(&fd).map_err(|e| error("fstatfs", path.display(), e))? {
            Some(version) => Ok(Self { fd, path, version, kept: OnceLock::new() }),
            None => Err(error("open", format!("{} as a cgroup", path.display()), Errno::XDEV)),
        }
    }

    /// Opens the child cgroup `name`.
    pub(super) fn child(&self, name: &OsStr) -> Result<Self> {
        Self::open_at(self.fd.as_fd(), name, self.path.join(name))
    }

    /// Opens the child cgroup `name`, which messages call `shown`; None if something is mounted there.
    pub(super) fn child_within(&self, name: &OsStr, shown: PathBuf) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat2(&self.fd, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
            Ok(fd) => Ok(Some(Self { fd, path: shown, version: self.version, kept: OnceLock::new() })),
            Err(Errno::XDEV) => Ok(None),
            Err(e) => Err(error("open", shown.display(), e)),
        }
    }

    /// Opens the cgroup above this one, which messages call `shown`.
    pub(super) fn parent(&self, shown: PathBuf) -> Result<Self> {
        Self::open_at(self.fd.as_fd(), OsStr::new(".."), shown)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Makes the child cgroup `name`; false if there is one already.
    pub(super) fn make_child(&self, name: &OsStr) -> Result<bool> {
        match fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(error("mkdir", self.path.join(name).display(), e)),
        }
    }

    /// Opens a file of this cgroup.
    pub(super) fn file(&self, name: &str, flags: OFlags) -> Result<OwnedFd> {
        fs::openat(&self.fd, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|e| error("open", self.path.join(name).display(), e))
    }

    /// Reads a file of this cgroup, without the newline at its end.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        self.read_by(name, |fd| file::read_record(fd))
    }

    /// Reads `cgroup.procs` or `cgroup.threads`, which the kernel gives page by page.
    pub(super) fn read_list(&self, name: &str) -> Result<String> {
        self.read_by(name, |fd| file::read(fd))
    }

    fn read_by(&self, name: &str, read: impl Fn(&OwnedFd) -> rustix::io::Result<Vec<u8>>) -> Result<String> {
        let fd = self.file(name, OFlags::RDONLY)?;
        let bytes = read(&fd).map_err(|e| error("read", self.path.join(name).display(), e))?;
        Ok(trimmed(file::text(bytes)))
    }

    /// Reads a short file that callers read again and again, always the same one of a directory. The file stays open.
    pub(super) fn read_again(&self, name: &str) -> Result<String> {
        let file = match self.kept.get() {
            Some(file) => file,
            None => {
                let file = self.file(name, OFlags::RDONLY)?;
                self.kept.get_or_init(|| file)
            }
        };
        let mut text = [0u8; 64];
        let length = rustix::io::pread(file, &mut text, 0)
            .map_err(|e| error("read", self.path.join(name).display(), e))?;
        Ok(String::from_utf8_lossy(&text[..length]).trim_end().to_owned())
    }

    /// Reads a file that holds one number; `max` is `u64::MAX`.
    pub(super) fn read_number(&self, name: &str) -> Result<u64> {
        let text = self.read(name)?;
        number(&text).ok_or_else(|| self.malformed(name))
    }

    /// Reads the value of `key` in a file of `KEY VALUE` lines.
    pub(super) fn read_key(&self, name: &str, key: &str) -> Result<u64> {
        let text = self.read(name)?;
        value_of(&text, key).ok_or_else(|| self.malformed(&format!("{name} ({key})")))
    }

    fn malformed(&self, name: &str) -> SysError {
        error("read", format!("a number from {}", self.path.join(name).display()), Errno::INVAL)
    }

    /// Writes `value` in one write(2), as every cgroup file wants it.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<()> {
        let mut file = File::from(self.writable(name)?);
        file.write_all(value.as_bytes())
            .map_err(|e| SysError::io("write", format!("{value} to {}", self.path.join(name).display()), &e))
    }

    /// Opens a file for writing.
    pub(super) fn writable(&self, name: &str) -> Result<OwnedFd> {
        self.file(name, OFlags::WRONLY)
    }

    /// The names of the child cgroups.
    pub(super) fn children(&self) -> Result<Vec<std::ffi::OsString>> {
        let failed = |e| error("read directory", self.path.display(), e);
        // Two links are its own (kernfs); each child adds one.
        if fs::fstat(&self.fd).map_err(failed)?.st_nlink == 2 {
            return Ok(Vec::new());
        }
        // A fresh open file: the handle's own offset would stay at the end.
        let fd =
            fs::openat(&self.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed)?;
        let mut buffer = Vec::with_capacity(8192);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == fs::FileType::Directory && name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The value of `key` in `KEY VALUE` lines.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).and_then(number)
}

fn number(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}
