//! Private views of the host's files. All changes in a view stay in memory, and vanish with the mount namespace.

use hiber_sys::mount::Reach;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, StatVfsMountFlags};
use rustix::mount::MountFlags;

use super::tree::{attach_at_path, change_propagation, clone_fd, clone_path};
use crate::error::Context;
use crate::{Error, Result, SysError, mountinfo};

/// The length of the part of a file that its view contains; the rest is a hole. Programs that look into a file to recognise it
/// read its beginning.
const HEAD: u64 = 1 << 20;

/// File systems that show the kernel's state. They keep no files, and get no view.
const OF_THE_KERNEL: [u64; 13] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x0187,      // autofs
    0x6e73_6673, // nsfs
    0x6265_6570, // configfs
];

/// The views of one mount namespace.
#[derive(Debug)]
pub struct PrivateViews {
    /// The directory for changes. It stays open, because a view may cover its path.
    store: OwnedFd,
    views: usize,
    covered: Vec<PathBuf>,
}

impl PrivateViews {
    /// Mounts a tmpfs for the changes at the directory `scratch`, and makes the calling thread's mounts private to the host. To
    /// be called in a mount namespace that nobody else uses.
    pub fn new(scratch: &Path) -> Result<Self> {
        change_propagation(Path::new("/"), (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits())?;
        rustix::mount::mount("hiber", scratch, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
            .map_err(|e| {
                SysError::new("mount", format!("tmpfs at {}", scratch.display()), e.raw_os_error())
            })?;
        let store = open(scratch)?;
        Ok(Self { store, views: 0, covered: Vec::new() })
    }

    /// Puts views over `path` and all mounts below it. Devices, sockets and file systems of the kernel get no view.
    ///
    /// # Errors
    /// If there can be no view of `path`: of the host's root, or of a file system that cannot be below an overlay.
    pub fn cover(&mut self, path: &Path) -> Result<()> {
        let file = open(path)?;
        let real = std::fs::read_link(proc_path(&file))
            .map_err(|e| SysError::io("readlink", path.display().to_string(), &e))?;
        if real == Path::new("/") {
            let what = "a view of the host's root directory, as long as the host runs in it";
            return Err(Error::unsupported("private view", what));
        }
        if self.covered.iter().any(|covered| real.starts_with(covered)) {
            return Ok(());
        }
        let below = mounts_below(&real)?;
        if self.put(&file, &real)? {
            for (point, file) in below {
                if !self.put(&file, &point)? {
                    attach_at_path(clone_fd(&file, Reach::One)?, &point)?;
                }
            }
            self.covered.push(real);
        }
        Ok(())
    }

    /// Puts a view of `file` at `place`; false if the file gets none.
    fn put(&mut self, file: &OwnedFd, place: &Path) -> Result<bool> {
        let failed = |call: &str, e: rustix::io::Errno| {
            SysError::new(call, place.display().to_string(), e.raw_os_error())
        };
        let stat = rustix::fs::fstat(file).map_err(|e| failed("fstat", e))?;
        let kind = rustix::fs::fstatfs(file).map_err(|e| failed("fstatfs", e))?.f_type as u64;
        let own = rustix::fs::fstat(&self.store).map_err(|e| failed("fstat", e))?.st_dev == stat.st_dev;
        if own || OF_THE_KERNEL.contains(&kind) {
            return Ok(false);
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = rustix::fs::fstatvfs(file).map_err(|e| failed("fstatvfs", e))?.f_flag;
                self.overlay(file, &stat, flags, place)
                    .context(format!("make a private view of {}", place.display()))?;
            }
            FileType::RegularFile => {
                let copy = self.head(&stat, place)?;
                attach_at_path(clone_path(&copy, Reach::One)?, place)?;
            }
            // A new pipe: bytes that are written to it must not reach readers of the host's.
            FileType::Fifo => {
                let pipe = proc_path(&self.store).join(format!("file-{}", self.next()));
                rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .map_err(|e| failed("mknod", e))?;
                like(&pipe, &stat)?;
                attach_at_path(clone_path(&pipe, Reach::One)?, place)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn overlay(
        &mut self,
        lower: &OwnedFd,
        stat: &Stat,
        flags: StatVfsMountFlags,
        place: &Path,
    ) -> Result<()> {
        let number = self.next();
        let store = proc_path(&self.store);
        let [upper, work] = ["upper", "work"].map(|name| store.join(format!("{name}-{number}")));
        for dir in [&upper, &work] {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(dir)
                .map_err(|e| SysError::io("mkdir", dir.display().to_string(), &e))?;
        }
        // The merged directory has the attributes of the upper one.
        like(&upper, stat)?;
        let data = format!(
            "lowerdir={},upperdir={},workdir={},index=off,metacopy=off",
            proc_path(lower).display(),
            upper.display(),
            work.display()
        );
        let data = CString::new(data).map_err(|e| Error::invalid("overlay", e.to_string()))?;
        let flags = MountFlags::from_bits_truncate(flags.bits() as _)
            & (MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC);
        rustix::mount::mount("hiber", place, "overlay", flags, Some(data.as_c_str())).map_err(|e| {
            SysError::new("mount", format!("overlay at {}", place.display()), e.raw_os_error())
        })?;
        Ok(())
    }

    /// A copy of a file's beginning, with the size of the whole.
    fn head(&mut self, stat: &Stat, place: &Path) -> Result<PathBuf> {
        let copy = proc_path(&self.store).join(format!("file-{}", self.next()));
        let failed = |e: std::io::Error| SysError::io("copy", place.display().to_string(), &e);
        let mut to = File::create(&copy).map_err(failed)?;
        let mut from = File::open(place).map_err(failed)?.take(HEAD);
        std::io::copy(&mut from, &mut to).map_err(failed)?;
        to.set_len(stat.st_size.cast_unsigned()).map_err(failed)?;
        like(&copy, stat)?;
        Ok(copy)
    }

    fn next(&mut self) -> usize {
        self.views += 1;
        self.views
    }
}

/// Gives a file the owner and mode of another.
fn like(path: &Path, stat: &Stat) -> Result<()> {
    std::os::unix::fs::chown(path, Some(stat.st_uid), Some(stat.st_gid))
        .map_err(|e| SysError::io("chown", path.display().to_string(), &e))?;
    let mode = std::fs::Permissions::from_mode(stat.st_mode & 0o7777);
    std::fs::set_permissions(path, mode)
        .map_err(|e| SysError::io("chmod", path.display().to_string(), &e))?;
    Ok(())
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("open", path.display().to_string(), e.raw_os_error()).into())
}

fn proc_path(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd()))
}

/// The mounts strictly below a directory, without mounts that are covered, parents first.
fn mounts_below(dir: &Path) -> Result<Vec<(PathBuf, OwnedFd)>> {
    let mut points: Vec<PathBuf> =
        mountinfo::of("thread-self")?.into_iter().map(|mount| mount.point).collect();
    points.retain(|point| point != dir && point.starts_with(dir));
    points.sort_unstable();
    points.dedup();
    // A mount that another one covers cannot be opened, and nobody sees it.
    Ok(points.into_iter().filter_map(|point| open(&point).ok().map(|file| (point, file))).collect())
}
