//! /dev: nodes, links and the terminal.

use hiber_sys::mount::Reach;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::resolve::Root;
use super::tree::{Trees, attach, clone_fd, clone_path, private};
use crate::messages::FdRole;
use crate::plan::DeviceNode;
use crate::{Error, Result, SysError, ids};

/// Makes the nodes; in a user namespace, where mknod(2) is not allowed, it binds the host's.
pub(super) fn create(root: &Root, devices: &[DeviceNode], bind: bool, trees: &mut Trees<'_>) -> Result<()> {
    // mknod(2) applies the umask; later hooks get the caller's umask.
    let umask = rustix::process::umask(Mode::empty());
    let made = make_all(root, devices, bind, trees);
    rustix::process::umask(umask);
    made
}

fn make_all(root: &Root, devices: &[DeviceNode], bind: bool, trees: &mut Trees<'_>) -> Result<()> {
    let mut parent: Option<(&Path, OwnedFd)> = None;
    for (i, device) in devices.iter().enumerate() {
        if bind {
            let tree = match trees.take(&FdRole::Device(i)) {
                Some(tree) => tree,
                None => clone_path(&device.path, Reach::One)?,
            };
            attach(private(tree)?, root.make_own_file(&device.path)?)?;
        } else {
            // Almost always /dev.
            let path = device.path.parent().unwrap_or(Path::new("/"));
            let dir = match parent.take() {
                Some((last, dir)) if last == path => dir,
                _ => root.make_dir(path, Mode::from_raw_mode(0o755))?,
            };
            make_node(root, device, &dir)?;
            parent = Some((path, dir));
        }
    }
    Ok(())
}

fn make_node(root: &Root, device: &DeviceNode, parent: &OwnedFd) -> Result<()> {
    let no_name = || SysError::new("mknodat", root.below(&device.path), libc::EINVAL);
    let name = device.path.file_name().ok_or_else(no_name)?;
    let fail = |call: &str, e: Errno| {
        let args = format!("{} ({}:{})", root.below(&device.path), device.major, device.minor);
        Error::from(SysError::new(call, args, e.raw_os_error()))
    };
    let dev = rustix::fs::makedev(device.major, device.minor);
    let kind = FileType::from_raw_mode(device.kind);
    match rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(device.mode), dev) {
        Ok(()) => {}
        Err(Errno::EXIST) => return check_node(root, device, parent, name),
        Err(e) => return Err(fail("mknodat", e)),
    }
    if (device.uid, device.gid) != (0, 0) {
        let owner = |uid, gid| Ok((ids::uid(uid)?, ids::gid(gid)?));
        owner(device.uid, device.gid)
            .and_then(|(uid, gid)| {
                rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            })
            .map_err(|e| fail("fchownat", e))?;
    }
    Ok(())
}

/// Checks a node that the image brings: it must be the wanted device.
fn check_node(root: &Root, device: &DeviceNode, parent: &OwnedFd, name: &std::ffi::OsStr) -> Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| SysError::new("fstatat", root.below(&device.path), e.raw_os_error()))?;
    let same = stat.st_mode & libc::S_IFMT == device.kind
        && (device.kind == libc::S_IFIFO || stat.st_rdev == rustix::fs::makedev(device.major, device.minor));
    if same {
        return Ok(());
    }
    let problem = format!("{} exists in the root filesystem and is not that device", device.path.display());
    Err(Error::invalid("linux.devices", problem))
}

/// The links that programs expect (runtime-spec "Dev symbolic links") and /dev/ptmx.
pub(super) fn links(root: &Root) -> Result<()> {
    const LINKS: [(&str, &str); 5] = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
    ];
    let dev = root.make_dir(Path::new("/dev"), Mode::from_raw_mode(0o755))?;
    let has_kcore = Path::new("/proc/kcore").exists();
    for (to, name) in LINKS.into_iter().filter(|(to, _)| has_kcore || *to != "/proc/kcore") {
        match rustix::fs::symlinkat(to, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(SysError::new("symlinkat", format!("/dev/{name}"), e.raw_os_error()).into()),
        }
    }
    // The link leads to the container's own devpts, never to a node of the image.
    let ptmx = |e: Errno| Error::from(SysError::new("symlinkat", "/dev/ptmx", e.raw_os_error()));
    match rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => rustix::fs::symlinkat("pts/ptmx", &dev, "ptmx").map_err(ptmx),
        Err(e) => Err(ptmx(e)),
    }
}

/// Opens a new terminal of the container's devpts: the master and the slave.
pub fn open_terminal(root: &Root) -> Result<(OwnedFd, OwnedFd)> {
    let master = root.open(Path::new("/dev/ptmx"), OFlags::RDWR | OFlags::NOCTTY)?;
    check_ptmx(&master)?;
    rustix::pty::unlockpt(&master).map_err(|e| SysError::new("unlockpt", "/dev/ptmx", e.raw_os_error()))?;
    let flags =
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)
        .map_err(|e| SysError::new("ioctl", "TIOCGPTPEER /dev/ptmx", e.raw_os_error()))?;
    Ok((master, slave))
}

/// Refuses a file that a container or its image has put in the place of devpts's terminals (CVE-2025-52565).
fn check_ptmx(master: &OwnedFd) -> Result<()> {
    let fail = |call: &str, e: Errno| SysError::new(call, "/dev/ptmx", e.raw_os_error());
    let stat = rustix::fs::fstat(master).map_err(|e| fail("fstat", e))?;
    let fs = rustix::fs::fstatfs(master).map_err(|e| fail("fstatfs", e))?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(5, 2)
        && fs.f_type as u64 == libc::DEVPTS_SUPER_MAGIC as u64;
    match is_ptmx {
        true => Ok(()),
        false => {
            Err(Error::invalid("process.terminal", "/dev/ptmx of the container is not that of a devpts"))
        }
    }
}

/// Whether a file is the null device.
pub(crate) fn is_null(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3)
}

/// Shows the terminal as /dev/console.
pub fn bind_console(root: &Root, slave: &OwnedFd) -> Result<()> {
    let target = root.make_own_file(Path::new("/dev/console"))?;
    attach(clone_fd(slave.as_fd(), Reach::One)?, &target)
}
