//! The root filesystem of a container, as init sets it up: bind, mounts, devices, restrictions, pivot.
//!
//! All happens on descriptors below the new root while the host's /proc is still there; pivot_root comes last.

pub mod devices;
mod mount;
mod pivot;
mod put_root;
pub mod resolve;
mod restorable;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fs::FileType;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

pub use pivot::enter;
pub use put_root::cannot_be_entered;
use resolve::{Root, fd_path};
pub use restorable::Restorable;

use crate::error::Context;
use crate::plan::{InitPlan, MountSource, RootPlan};
use crate::sys::mount::{MountAttributes, mount_setattr};
use crate::wire::FdRole;
use crate::{Error, Result, SysError};

/// Detached trees that the parent opens, for sources that init itself may not reach.
pub struct Trees<'a> {
    /// Those that it has opened beforehand.
    pub opened: Vec<(FdRole, OwnedFd)>,
    /// Asks it for the source of the mount of that number, which has just come to be.
    pub ask: &'a dyn Fn(usize) -> Result<OwnedFd>,
}

impl Trees<'_> {
    fn take(&mut self, role: &FdRole) -> Option<OwnedFd> {
        let at = self.opened.iter().position(|(r, _)| r == role)?;
        Some(self.opened.swap_remove(at).1)
    }

    fn source(&mut self, index: usize) -> Result<OwnedFd> {
        self.take(&FdRole::MountSource(index)).map_or_else(|| (self.ask)(index), Ok)
    }
}

/// Mounts the root and everything in it; returns the root, not yet entered.
pub fn build(init: &InitPlan, plan: &RootPlan, mut trees: Trees<'_>) -> Result<Root> {
    if !plan.own_mount_namespace {
        return Root::open_path(&plan.path);
    }
    let root = bind_root(plan).context(format!("bind the root filesystem {}", plan.path.display()))?;
    for (i, step) in plan.mounts.iter().enumerate() {
        let tree = init.needs_parent_for(step).then(|| trees.source(i)).transpose();
        tree.and_then(|tree| mount::mount(&root, plan, step, tree)).context(format!(
            "mount {} ({})",
            step.destination.display(),
            source_name(&step.source)
        ))?;
    }
    if plan.own_dev {
        devices::create(&root, &plan.devices, init.bind_devices, &mut trees).context("make device nodes")?;
        devices::links(&root).context("make links in /dev")?;
    }
    Ok(root)
}

fn source_name(source: &MountSource) -> String {
    match source {
        MountSource::Bind { path, .. } => format!("bind of {}", path.display()),
        MountSource::Filesystem { fstype, .. } => fstype.clone(),
        MountSource::Cgroup => "cgroup".into(),
    }
}

/// Refuses what is no procfs, and a part of one.
pub(crate) fn check_whole_procfs(dir: &OwnedFd) -> Result<()> {
    /// The inode of every procfs's root (PROC_ROOT_INO in the kernel).
    const ROOT: u64 = 1;
    let inode = rustix::fs::fstat(dir).map_err(|e| SysError::new("fstat", "/proc", e.raw_os_error()))?.st_ino;
    if is_procfs(dir)? && inode == ROOT {
        return Ok(());
    }
    Err(Error::unsupported("/proc", "something else than a procfs is mounted there"))
}

/// Whether a file is one of a procfs.
fn is_procfs(file: &OwnedFd) -> Result<bool> {
    let stat =
        rustix::fs::fstatfs(file).map_err(|e| SysError::new("fstatfs", "a mount", e.raw_os_error()))?;
    Ok(stat.f_type as u64 == libc::PROC_SUPER_MAGIC as u64)
}

/// Makes what is read-only read-only and masks what is masked. The last change before the root is entered.
pub fn restrict(root: &Root, plan: &RootPlan) -> Result<()> {
    if !plan.own_mount_namespace {
        return Ok(());
    }
    mount::finish_readonly(root, plan)?;
    for path in &plan.readonly_paths {
        readonly(root, path).context(format!("make {} read-only", path.display()))?;
    }
    let mut covers = Covers::default();
    for (i, path) in plan.masked_paths.iter().enumerate() {
        if !plan.masked_paths[..i].contains(path) {
            mask(root, path, plan.mount_label.as_deref(), &mut covers)
                .context(format!("mask {}", path.display()))?;
        }
    }
    if plan.readonly {
        let attributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
        mount_setattr(root.as_fd(), attributes, false).context("make the root filesystem read-only")?;
    }
    Ok(())
}

fn bind_root(plan: &RootPlan) -> Result<Root> {
    change_propagation("/".as_ref(), plan.propagation)?;
    // only a recursive change that is not to "shared" has reached the mount that the root lies on
    if plan.propagation & (MsFlags::MS_SHARED | MsFlags::MS_REC).bits() != MsFlags::MS_REC.bits() {
        privatise_parent(&plan.path)?;
    }
    let tree = clone_path(&plan.path, true)?;
    attach_at_path(&tree, &plan.path)?;
    Ok(Root::from_fd(tree, &plan.path))
}

/// pivot_root(2) refuses a shared parent, and what is mounted under one would show on the host.
fn privatise_parent(path: &Path) -> Result<()> {
    for parent in path.ancestors() {
        match nix::mount::mount(None::<&str>, parent, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>) {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EINVAL) => {} // not a mount point: its parent may be
            Err(e) => {
                return Err(SysError::new("mount", format!("private {}", parent.display()), e as i32).into());
            }
        }
    }
    Ok(())
}

fn change_propagation(path: &Path, flags: u64) -> Result<()> {
    nix::mount::mount(None::<&str>, path, None::<&str>, MsFlags::from_bits_retain(flags), None::<&str>)
        .map_err(|e| {
            SysError::new("mount", format!("{} with propagation {flags:#x}", path.display()), e as i32).into()
        })
}

/// A detached copy of the mount at `path` (open_tree(2)).
pub fn clone_path(path: &Path, recursive: bool) -> Result<OwnedFd> {
    rustix::mount::open_tree(rustix::fs::CWD, path, tree_flags(recursive))
        .map_err(|e| SysError::new("open_tree", path.display().to_string(), e.raw_os_error()).into())
}

/// A detached copy of the mount at an open file, which must be one of the caller's mount namespace.
pub fn clone_fd(fd: impl AsFd, recursive: bool) -> Result<OwnedFd> {
    rustix::mount::open_tree(fd.as_fd(), "", tree_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(|e| SysError::new("open_tree", "a descriptor", e.raw_os_error()).into())
}

/// Takes a detached mount out of its peer group: what the runtime itself puts in place gets no mounts of the host's,
/// and CRIU cannot rebuild a group that spans devices and masks.
fn private(tree: OwnedFd) -> Result<OwnedFd> {
    let attributes = MountAttributes { propagation: MsFlags::MS_PRIVATE.bits(), ..Default::default() };
    mount_setattr(tree.as_fd(), attributes, false)?;
    Ok(tree)
}

fn tree_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

fn attach(tree: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", target.as_fd(), "", flags)
        .map_err(|e| SysError::new("move_mount", "onto its target", e.raw_os_error()).into())
}

/// Mounts a detached tree at a path.
pub fn attach_at_path(tree: impl AsFd, target: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", rustix::fs::CWD, target, flags).map_err(|e| {
        SysError::new("move_mount", format!("onto {}", target.display()), e.raw_os_error()).into()
    })
}

fn readonly(root: &Root, path: &Path) -> Result<()> {
    let Some(target) = root.find(path)? else { return Ok(()) };
    let tree = clone_fd(&target, true)?;
    mount_setattr(
        tree.as_fd(),
        MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() },
        false,
    )?;
    attach(&tree, &target)
}

/// What masked directories are covered with: one empty tmpfs for all, since each takes memory of the kernel's.
#[derive(Default)]
struct Covers(Option<OwnedFd>);

/// Hides a file behind the host's /dev/null and a directory behind an empty read-only tmpfs.
///
/// The host's own node is used, never the one in the container's /dev, which the image may have replaced
/// (CVE-2025-31133).
fn mask(root: &Root, path: &Path, label: Option<&str>, covers: &mut Covers) -> Result<()> {
    let Some(target) = root.find(path)? else { return Ok(()) };
    let stat =
        rustix::fs::fstat(&target).map_err(|e| SysError::new("fstat", root.below(path), e.raw_os_error()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let null = clone_path("/dev/null".as_ref(), false)?;
        let stat =
            rustix::fs::fstat(&null).map_err(|e| SysError::new("fstat", "/dev/null", e.raw_os_error()))?;
        if !devices::is_null(&stat) {
            return Err(Error::unsupported("/dev/null", "something else than the device is there"));
        }
        return attach(private(null)?, &target);
    }
    if let Some(tmpfs) = &covers.0 {
        return attach(private(clone_path(&fd_path(tmpfs.as_fd()), false)?)?, &target);
    }
    let data = mount::with_label("", label);
    nix::mount::mount(
        Some("tmpfs"),
        &fd_path(target.as_fd()),
        Some("tmpfs"),
        MsFlags::MS_RDONLY,
        Some(data.as_str()),
    )
    .map_err(|e| SysError::new("mount", format!("tmpfs on {}", root.below(path)), e as i32))?;
    covers.0 = root.find(path)?;
    Ok(())
}
