//! Making the container's root the root.

use std::os::fd::AsFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{Mode, OFlags};

use super::resolve::Root;
use super::tree::change_propagation;
use crate::error::Context;
use crate::plan::RootPlan;
use crate::{Result, SysError};

/// Enters the root. Afterwards "/" is the container's, and no mount of the host is left.
pub fn enter(root: &Root, plan: &RootPlan) -> Result<()> {
    let result = if !plan.own_mount_namespace {
        change_root(root)
    } else if plan.no_pivot {
        move_root(root, &plan.path)
    } else {
        pivot(root)
    };
    result.context(format!("enter the root filesystem {}", plan.path.display()))?;
    // The container sees `linux.rootfsPropagation` on its root; the default only hides the container's mounts from the host.
    let default = (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits();
    if plan.own_mount_namespace && plan.propagation != default {
        change_propagation(Path::new("/"), plan.propagation).context("set linux.rootfsPropagation")?;
    }
    root.check_guarded()
}

/// Enters the root of a container that has the mount namespace of its caller.
pub fn change_root(root: &Root) -> Result<()> {
    fchdir(root).and_then(|()| chroot_here())
}

fn fchdir(dir: impl AsFd) -> Result<()> {
    rustix::process::fchdir(dir).map_err(|e| SysError::new("fchdir", "a root", e.raw_os_error()).into())
}

fn chroot_here() -> Result<()> {
    rustix::process::chroot(".").map_err(|e| SysError::new("chroot", "the new root", e.raw_os_error()))?;
    chdir("/")
}

fn chdir(path: &str) -> Result<()> {
    rustix::process::chdir(path).map_err(|e| SysError::new("chdir", path, e.raw_os_error()).into())
}

/// pivot_root(".", "."): the old root ends up on top of the new one and is unmounted from there, so no
/// directory for it is needed (pivot_root(2), "pivot_root(".", ".")").
fn pivot(root: &Root) -> Result<()> {
    let old = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("open", "/", e.raw_os_error()))?;
    fchdir(root)?;
    rustix::process::pivot_root(".", ".")
        .map_err(|e| SysError::new("pivot_root", "the new root", e.raw_os_error()))?;
    fchdir(&old)?;
    // Unmounting must not reach the host, whatever the propagation of the old root is.
    change_propagation(Path::new("."), (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits())?;
    unmount(".")?;
    chdir("/")
}

fn unmount(path: &str) -> Result<()> {
    nix::mount::umount2(path, MntFlags::MNT_DETACH)
        .map_err(|e| SysError::new("umount2", path, e as i32).into())
}

/// For a root on the initial ramdisk, which pivot_root(2) cannot replace.
///
/// Mounts of proc and sysfs in the old root would let a container with CAP_SYS_ADMIN mount unmasked ones
/// (mount_too_revealing in the kernel), so they are taken away first.
fn move_root(root: &Root, path: &Path) -> Result<()> {
    let table = hiber_sys::file::read_to_string("/proc/self/mountinfo")
        .map_err(|e| SysError::io("read", "/proc/self/mountinfo", &e))?;
    // Mounts below one of them are unmounted with it: iproute2, for instance, binds /sys/fs/bpf over itself.
    let mut gone: Vec<&str> = Vec::new();
    for line in table.lines() {
        let Some((fields, rest)) = line.split_once(" - ") else { continue };
        let Some(point) = fields.split(' ').nth(4) else { continue };
        if gone.iter().any(|above| Path::new(point).starts_with(above)) {
            continue;
        }
        if Path::new(point).starts_with(path) || !(rest.starts_with("proc ") || rest.starts_with("sysfs ")) {
            continue;
        }
        change_propagation(Path::new(point), (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits())?;
        if unmount(point).is_err() {
            // The mount is locked in a user namespace; a cover on it does as well.
            nix::mount::mount(Some("tmpfs"), point, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .map_err(|e| SysError::new("mount", format!("tmpfs on {point}"), e as i32))?;
        }
        gone.push(point);
    }
    fchdir(root)?;
    nix::mount::mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|e| SysError::new("mount", format!("move {} to /", path.display()), e as i32))?;
    chroot_here()
}
