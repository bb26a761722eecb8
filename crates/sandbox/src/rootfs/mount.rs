//! One mount of the plan.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fs::{FileType, OFlags};

use super::copy_up::copy_up;
use super::filesystem::{self, New};
use super::lookup::MountId;
use super::resolve::{Point, Role, Root};
use super::tree::{attach, clone_path, is_procfs};
use super::{attributes, cgroup};
use crate::error::Context;
use crate::inside;
use crate::plan::{MountPlan, MountSource, NamespaceKind, RootPlan};
use crate::{Error, Result, SysError};
use hiber_sys::mount::{MountAttributes, Reach, mount_setattr};

const TRACEFS: &str = "tracefs";

/// Makes the mount `plan.mounts[index]`; `tree` is its source if the parent opened it. Returns the mount if it must become
/// read-only later.
pub(super) fn mount(
    root: &mut Root,
    plan: &RootPlan,
    index: usize,
    tree: Option<OwnedFd>,
) -> Result<Option<OwnedFd>> {
    let step = &plan.mounts[index];
    let tree = match &step.source {
        MountSource::Bind { path, recursive } => Some(open_source(step, path, *recursive, tree)?),
        _ => None,
    };
    let again = is_remount(step);
    if again {
        // Nothing is made for it.
        root.open(&step.destination, OFlags::PATH)?;
    }
    let point = root.point(&step.destination, tree.as_ref().map_or(Ok(true), is_directory)?)?;
    check(root, step, &point)?;
    let (role, later) = (role(plan, index), is_readonly_tmpfs(step));
    let top = match &step.source {
        MountSource::Bind { .. } => {
            tree.as_ref().map_or(Ok(()), |tree| attach(tree, &point.fd))?;
            tree
        }
        MountSource::Cgroup => cgroup::mount(plan, step, &point)?,
        MountSource::Filesystem { .. } => filesystem(plan, step, &point, role.is_some() || later)?,
    };
    let top = change(root, step, &point, top)?;
    let copy = |top: &OwnedFd| top.try_clone().map_err(|e| SysError::io("fcntl", "F_DUPFD_CLOEXEC", &e));
    let later = top.as_ref().filter(|_| later).map(copy).transpose()?;
    if !again {
        root.mounted(&step.destination, &point, top.zip(role));
    }
    Ok(later)
}

/// Makes the tracefs mounts of the plan in the mount namespace of process `pid`, whose root is the container's and has no tracefs
/// yet.
///
/// # Errors
/// If one cannot be mounted.
pub fn mount_tracefs(pid: i32, plan: &RootPlan) -> Result<()> {
    let of_tracefs = |step: &&MountPlan| matches!(&step.source, MountSource::Filesystem { fstype, .. } if fstype == TRACEFS);
    let steps: Vec<_> = plan.mounts.iter().filter(of_tracefs).filter(|step| !is_remount(step)).collect();
    if steps.is_empty() {
        return Ok(());
    }
    let mount = || -> Result<()> {
        let root = Root::open_path(Path::new("/"))?;
        for step in &steps {
            let point = root.point(&step.destination, true)?;
            let top = filesystem(plan, step, &point, true).and_then(|top| change(&root, step, &point, top));
            top.context(format!("mount {} ({TRACEFS})", step.destination.display()))?;
        }
        Ok(())
    };
    inside(pid, &[NamespaceKind::Mount], mount)?
}

fn is_remount(step: &MountPlan) -> bool {
    matches!(step.source, MountSource::Filesystem { .. }) && step.flags & MsFlags::MS_REMOUNT.bits() != 0
}

/// Whether the mount is a tmpfs that must be filled before it becomes read-only.
fn is_readonly_tmpfs(step: &MountPlan) -> bool {
    matches!(&step.source, MountSource::Filesystem { fstype, .. } if fstype == "tmpfs")
        && step.flags & MsFlags::MS_RDONLY.bits() != 0
}

/// Whether the filesystem shows the kernel's state: masked and read-only paths rely on its place.
pub(super) fn is_the_kernels(step: &MountPlan) -> bool {
    matches!(&step.source, MountSource::Filesystem { fstype, .. } if fstype == "proc" || fstype == "sysfs")
        || step.destination == Path::new("/proc")
        || step.destination == Path::new("/sys")
}

/// The reason to keep the mount's descriptor: it shows the kernel's state, or another mount will lie below it.
fn role(plan: &RootPlan, index: usize) -> Option<Role> {
    let step = &plan.mounts[index];
    let at = &step.destination;
    let guarded = is_the_kernels(step);
    let mut below = plan.mounts[index + 1..]
        .iter()
        .map(|step| &step.destination)
        .chain(plan.devices.iter().map(|device| &device.path))
        .chain(plan.masked_paths.iter().chain(&plan.readonly_paths));
    let needed =
        guarded || (plan.own_dev && at == Path::new("/dev")) || below.any(|path| path.starts_with(at));
    let maybe_procfs = match &step.source {
        MountSource::Filesystem { fstype, .. } => fstype == "proc",
        MountSource::Bind { .. } => true,
        MountSource::Cgroup => false,
    };
    needed.then_some(Role { maybe_procfs, guarded })
}

/// The source of a bind mount, with its final attributes. The process that opens a source sets them.
fn open_source(step: &MountPlan, source: &Path, recursive: bool, tree: Option<OwnedFd>) -> Result<OwnedFd> {
    let tree = match tree {
        Some(tree) => {
            // The source was cloned in the host's mount namespace, and would otherwise stay a peer of the host's mounts.
            let slave = MountAttributes { propagation: MsFlags::MS_SLAVE.bits(), ..Default::default() };
            mount_setattr(tree.as_fd(), slave, Reach::Tree)?;
            tree
        }
        None => {
            let tree = clone_path(source, Reach::if_recursive(recursive))?;
            attributes::set(&tree, step, source, false)?;
            tree
        }
    };
    if step.destination == Path::new("/proc") && !is_procfs(&tree)? {
        return Err(Error::invalid("mounts", "/proc cannot be mounted because it is not of type proc"));
    }
    Ok(tree)
}

pub(super) fn is_directory(file: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(file).map_err(|e| SysError::new("fstat", "a mount", e.raw_os_error()))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Checks the real destination. The plan checked the destination as written, but a symbolic link in the image may lead into /proc
/// (CVE-2019-16884), or put /proc or /sys elsewhere (CVE-2019-19921).
pub(super) fn check(root: &Root, step: &MountPlan, point: &Point) -> Result<()> {
    let at = step.destination.display();
    let invalid = |problem: String| Err(Error::invalid("mounts", problem));
    if is_the_kernels(step) && !point.plain {
        return invalid(format!("{at} must be mounted on ordinary directory"));
    }
    if !point.plain && root.is(&point.fd)? {
        return invalid(format!("{at} cannot be mounted because it leads to the root filesystem itself"));
    }
    if point.maybe_procfs && !step.destination.starts_with("/proc") && is_procfs(&point.fd)? {
        return invalid(format!("{at} cannot be mounted because it leads into /proc"));
    }
    Ok(())
}

/// Mounts a new filesystem, or remounts an old one. Returns its descriptor if the mount must be held or existed before.
fn filesystem(plan: &RootPlan, step: &MountPlan, point: &Point, held: bool) -> Result<Option<OwnedFd>> {
    let MountSource::Filesystem { fstype, source, data } = &step.source else { return Ok(None) };
    let label = plan.mount_label.as_deref().filter(|_| filesystem::takes_label(fstype));
    let mut data = filesystem::with_label(data, label);
    // A tmpfs with no mode of its own takes the one of the directory that it covers, as runc does; over a
    // directory that the image lacks it has the kernel's, 1777, so that the container's user may write.
    if fstype == "tmpfs" && point.existed && !data.split(',').any(|o| o.starts_with("mode=")) {
        let separator = if data.is_empty() { "" } else { "," };
        data = format!("{data}{separator}{}", filesystem::mode_of(&point.fd)?);
    }
    let writable = if is_readonly_tmpfs(step) { MsFlags::MS_RDONLY.bits() } else { 0 };
    let new = New { fstype, source, flags: step.flags & !writable, data: &data };
    if is_remount(step) {
        new.on(&point.fd)?;
        let top = point.fd.try_clone().map_err(|e| SysError::io("fcntl", "F_DUPFD_CLOEXEC", &e))?;
        return Ok(Some(top));
    }
    let changed = step.copy_up || !step.recursive.is_empty() || !step.propagation.is_empty();
    if !(held || changed) || !New::can_be_detached(fstype) {
        new.on(&point.fd)?;
        return Ok(None);
    }
    let top = new.detached()?;
    if step.copy_up {
        copy_up(&point.fd, &top)?;
    }
    attach(&top, &point.fd)?;
    Ok(Some(top))
}

/// Changes the mount's propagation, and the attributes of all mounts below a new filesystem. Returns the mount's descriptor, if
/// there is one.
fn change(root: &Root, step: &MountPlan, point: &Point, top: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    let is_bind = matches!(step.source, MountSource::Bind { .. });
    if step.propagation.is_empty() && (is_bind || step.recursive.is_empty()) {
        return Ok(top);
    }
    let top = top.map_or_else(|| just_mounted(root, step, point), Ok)?;
    if !is_bind && !step.recursive.is_empty() {
        mount_setattr(top.as_fd(), step.recursive, Reach::Tree)?;
    }
    for (propagation, recursive) in &step.propagation {
        let propagation = MountAttributes { propagation: *propagation, ..Default::default() };
        mount_setattr(top.as_fd(), propagation, Reach::if_recursive(*recursive))?;
    }
    Ok(Some(top))
}

/// Opens the mount that mount(2) has made on `point` by its path, and checks that nobody else has mounted something there.
fn just_mounted(root: &Root, step: &MountPlan, point: &Point) -> Result<OwnedFd> {
    let top = root.open(&step.destination, OFlags::PATH)?;
    let (found, under) = (MountId::of(&top)?, MountId::of(&point.fd)?);
    if found.is_root && found != under {
        return Ok(top);
    }
    let problem = format!("{} was exchanged while it was mounted on", step.destination.display());
    Err(Error::invalid("mounts", problem))
}

/// Makes a tmpfs read-only that had to be writable until now.
pub(super) fn finish_readonly(tmpfs: &OwnedFd) -> Result<()> {
    let readonly = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
    Ok(mount_setattr(tmpfs.as_fd(), readonly, Reach::One)?)
}
