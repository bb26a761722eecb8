//! The mount of the container's cgroups.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;

use super::filesystem::{self, New};
use super::resolve::Point;
use super::tree::{attach, attach_below, clone_path};
use crate::plan::{CgroupMount, MountPlan, RootPlan};
use crate::{Error, Result, SysError};
use hiber_sys::mount::{MountAttributes, Reach, attributes, mount_setattr};

/// Mounts the container's cgroups: one cgroup2, or a tmpfs with a directory per v1 hierarchy, as on the host. Returns the mount,
/// if its descriptor is known.
pub(super) fn mount(plan: &RootPlan, step: &MountPlan, point: &Point) -> Result<Option<OwnedFd>> {
    let flags = step.flags;
    if let [CgroupMount { name, host_path, whole, .. }] = plan.cgroups.as_slice()
        && name.is_empty()
    {
        return unified(host_path, whole.as_deref(), flags, point);
    }
    let data = filesystem::with_label("mode=755", plan.mount_label.as_deref());
    let tmpfs =
        New { fstype: "tmpfs", source: "tmpfs", flags: flags & !MsFlags::MS_RDONLY.bits(), data: &data };
    let top = tmpfs.detached()?;
    attach(&top, &point.fd)?;
    for hierarchy in &plan.cgroups {
        add_hierarchy(&top, hierarchy, plan.own_cgroup_namespace, flags)?;
    }
    if flags & MsFlags::MS_RDONLY.bits() != 0 {
        set_mount_flags(&top, flags)?;
    }
    Ok(Some(top))
}

fn unified(host_path: &Path, whole: Option<&Path>, flags: u64, point: &Point) -> Result<Option<OwnedFd>> {
    let bind = |path: &Path| -> Result<Option<OwnedFd>> {
        let tree = bound(path, flags)?;
        attach(&tree, &point.fd)?;
        Ok(Some(tree))
    };
    if let Some(whole) = whole {
        return bind(whole);
    }
    match (New { fstype: "cgroup2", source: "cgroup", flags, data: "" }).on(&point.fd) {
        // The caller does not own the cgroup namespace, or /sys is bound from the host and has a cgroup mount already. Show the
        // host's hierarchy from the container's cgroup down; show nothing if the container has no cgroup there, because the
        // process is in one of the host's then.
        Err(Error::Sys(e)) if matches!(e.errno, libc::EPERM | libc::EBUSY) => {
            if host_path.as_os_str().is_empty() {
                let flags = flags | MsFlags::MS_RDONLY.bits();
                New { fstype: "tmpfs", source: "tmpfs", flags, data: "mode=755" }.on(&point.fd)?;
                return Ok(None);
            }
            bind(host_path)
        }
        other => other.map(|()| None),
    }
}

/// Mounts a v1 hierarchy in the tmpfs `top`. Nobody else sees the tmpfs, so its names cannot change.
fn add_hierarchy(top: &OwnedFd, hierarchy: &CgroupMount, own_namespace: bool, flags: u64) -> Result<()> {
    let name = hierarchy.name.as_str();
    rustix::fs::mkdirat(top, name, super::tree::DIR_MODE)
        .map_err(|e| SysError::new("mkdirat", name, e.raw_os_error()))?;
    if own_namespace {
        let target = super::tree::open_below(top, name)?;
        New { fstype: "cgroup", source: "cgroup", flags, data: &hierarchy.data }.on(&target)?;
    } else {
        attach_below(bound(&hierarchy.host_path, flags)?, top, name)?;
    }
    if name.contains(',') {
        for controller in name.split(',') {
            rustix::fs::symlinkat(name, top, controller)
                .map_err(|e| SysError::new("symlinkat", controller, e.raw_os_error()))?;
        }
    }
    Ok(())
}

fn bound(path: &Path, flags: u64) -> Result<OwnedFd> {
    let tree = clone_path(path, Reach::Tree)?;
    set_mount_flags(&tree, flags)?;
    Ok(tree)
}

/// The per-mount part of mount(2) flags, as attributes.
fn set_mount_flags(mount: &OwnedFd, flags: u64) -> Result<()> {
    let set = attributes(flags) & !libc::MOUNT_ATTR__ATIME & !libc::MOUNT_ATTR_NODIRATIME;
    Ok(mount_setattr(mount.as_fd(), MountAttributes { set, ..Default::default() }, Reach::One)?)
}
