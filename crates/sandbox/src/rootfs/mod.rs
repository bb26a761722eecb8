//! The root filesystem of a container, as init sets it up: bind, mounts, devices, restrictions, pivot.
//!
//! All happens on descriptors below the new root while the host's /proc is still there; pivot_root comes last.

pub(crate) mod attributes;
mod cgroup;
mod copy_up;
mod detached;
pub mod devices;
mod filesystem;
mod host_root;
mod lookup;
mod mount;
mod pivot;
mod private;
mod put_root;
pub mod resolve;
mod tree;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use filesystem::New;
use nix::mount::MsFlags;

pub use attributes::set_nosymfollow;
pub use detached::DetachedRoot;
pub use host_root::{HostRoot, unmount_host_root};
pub use mount::mount_tracefs;
pub use pivot::{change_root, enter};
pub use private::PrivateViews;
pub use put_root::{cannot_be_entered, remove_put_root};
use resolve::Root;
pub use tree::{Trees, attach_at_path, clone_fd, clone_path};
use tree::{attach, change_propagation, is_procfs, private};

use crate::error::Context;
use crate::plan::{InitPlan, MountSource, RootPlan};
use crate::{Error, Result, SysError};
use hiber_sys::mount::{MountAttributes, Reach, mount_setattr};

/// A root filesystem with its mounts, and the remaining work.
pub struct Built {
    /// The new root, not yet entered.
    pub root: Root,
    /// Mounts that must be writable until [`restrict`].
    read_only_later: Vec<OwnedFd>,
}

/// Mounts the root and everything in it; returns the root, not yet entered.
pub fn build(init: &InitPlan, plan: &RootPlan, mut trees: Trees<'_>) -> Result<Built> {
    let mut read_only_later = Vec::new();
    let mut root = match plan.own_mount_namespace {
        true => bind_root(plan).context(format!("bind the root filesystem {}", plan.path.display()))?,
        // Where there is something to be mounted, this is the parent's HostRoot.
        false => Root::open_path(&plan.path)?,
    };
    for (i, step) in plan.mounts.iter().enumerate() {
        let tree = init.needs_parent_for(step).then(|| trees.source(i)).transpose();
        let mounted = tree.and_then(|tree| mount::mount(&mut root, plan, i, tree));
        read_only_later.extend(mounted.context(format!(
            "mount {} ({})",
            step.destination.display(),
            source_name(&step.source)
        ))?);
    }
    if plan.own_dev {
        devices::create(&root, &plan.devices, init.bind_devices, &mut trees).context("make device nodes")?;
        devices::links(&root).context("make links in /dev")?;
    }
    Ok(Built { root, read_only_later })
}

fn source_name(source: &MountSource) -> String {
    match source {
        MountSource::Bind { path, .. } => format!("bind of {}", path.display()),
        MountSource::Filesystem { fstype, .. } => fstype.clone(),
        MountSource::Cgroup => "cgroup".into(),
    }
}

/// Refuses any file system but procfs, and a mount of a part of procfs.
pub(crate) fn check_whole_procfs(dir: &OwnedFd) -> Result<()> {
    /// The inode of every procfs's root (PROC_ROOT_INO in the kernel).
    const ROOT: u64 = 1;
    let inode = rustix::fs::fstat(dir).map_err(|e| SysError::new("fstat", "/proc", e.raw_os_error()))?.st_ino;
    if is_procfs(dir)? && inode == ROOT {
        return Ok(());
    }
    Err(Error::unsupported("/proc", "something else than a procfs is mounted there"))
}

/// Makes read-only mounts and paths read-only, and masks the masked paths. This is the last change before the root is entered.
pub fn restrict(built: &mut Built, plan: &RootPlan) -> Result<()> {
    built.read_only_later.iter().try_for_each(mount::finish_readonly)?;
    let root = &mut built.root;
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
        mount_setattr(root.as_fd(), attributes, Reach::One).context("make the root filesystem read-only")?;
    }
    Ok(())
}

fn bind_root(plan: &RootPlan) -> Result<Root> {
    change_propagation("/".as_ref(), plan.propagation)?;
    // Only a recursive change to something else than "shared" has reached the mount that the root lies on.
    if plan.propagation & (MsFlags::MS_SHARED | MsFlags::MS_REC).bits() != MsFlags::MS_REC.bits() {
        let slave = plan.propagation & MsFlags::MS_SLAVE.bits() != 0;
        unshare_parent(&plan.path, if slave { MsFlags::MS_SLAVE } else { MsFlags::MS_PRIVATE })?;
    }
    let tree = clone_path(&plan.path, Reach::Tree)?;
    attach_at_path(&tree, &plan.path)?;
    Ok(Root::from_fd(tree, &plan.path))
}

/// Makes the root's parent mount private or a slave: pivot_root(2) refuses a shared parent, and mounts below one would appear on
/// the host. A root that is copied from a slave still gets the host's mount events.
fn unshare_parent(path: &Path, kind: MsFlags) -> Result<()> {
    for parent in path.ancestors() {
        match nix::mount::mount(None::<&str>, parent, None::<&str>, kind, None::<&str>) {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EINVAL) => {} // not a mount point: its parent may be
            Err(e) => {
                return Err(SysError::new("mount", format!("{kind:?} {}", parent.display()), e as i32).into());
            }
        }
    }
    Ok(())
}

fn readonly(root: &mut Root, path: &Path) -> Result<()> {
    let Some(target) = root.find(path)? else { return Ok(()) };
    let tree = clone_fd(&target, Reach::Tree)?;
    mount_setattr(
        tree.as_fd(),
        MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() },
        Reach::One,
    )?;
    attach(&tree, &target)?;
    root.replace(path, tree);
    Ok(())
}

/// The mounts that hide files and directories: the first of each kind; the others are copies of these. One empty tmpfs serves for
/// all directories, because each tmpfs takes kernel memory.
#[derive(Default)]
struct Covers {
    null: Option<OwnedFd>,
    tmpfs: Option<OwnedFd>,
}

/// Hides a file behind the host's /dev/null and a directory behind an empty read-only tmpfs.
///
/// The host's own node is used, never the one in the container's /dev, which the image may have replaced
/// (CVE-2025-31133).
fn mask(root: &mut Root, path: &Path, label: Option<&str>, covers: &mut Covers) -> Result<()> {
    let Some(target) = root.find(path)? else { return Ok(()) };
    let is_dir = mount::is_directory(&target)?;
    let first = if is_dir { &mut covers.tmpfs } else { &mut covers.null };
    let cover = match first {
        // A copy of a private mount is private.
        Some(first) => clone_fd(first, Reach::One)?,
        None if is_dir => empty_tmpfs(label)?,
        None => private(host_null()?)?,
    };
    attach(&cover, &target)?;
    first.get_or_insert(cover);
    root.cover(path);
    Ok(())
}

fn empty_tmpfs(label: Option<&str>) -> Result<OwnedFd> {
    let data = filesystem::with_label("", label);
    New { fstype: "tmpfs", source: "tmpfs", flags: MsFlags::MS_RDONLY.bits(), data: &data }.detached()
}

fn host_null() -> Result<OwnedFd> {
    let null = clone_path("/dev/null".as_ref(), Reach::One)?;
    let stat = rustix::fs::fstat(&null).map_err(|e| SysError::new("fstat", "/dev/null", e.raw_os_error()))?;
    if !devices::is_null(&stat) {
        return Err(Error::unsupported("/dev/null", "something else than the device is there"));
    }
    Ok(null)
}
