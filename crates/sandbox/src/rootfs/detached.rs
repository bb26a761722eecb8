//! A root filesystem for a program that mounts and enters by itself: a mount of its own, with every mount point in it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use hiber_sys::mount::Reach;
use nix::mount::{MntFlags, MsFlags};

use super::mount;
use super::put_root::{self, PutRoot};
use super::resolve::{Role, Root};
use super::tree::{attach, attach_at_path, change_propagation, clone_path};
use crate::error::Context;
use crate::plan::{MountPlan, MountSource, RootPlan};
use crate::{Result, SysError};

/// A root filesystem, mounted at a directory outside of its own path in the calling thread's mount namespace. Another program
/// mounts the container's file systems in it, and enters it by pivot_root(2).
#[derive(Debug)]
pub struct DetachedRoot {
    path: PathBuf,
    put_root: Option<PutRoot>,
}

impl DetachedRoot {
    /// Makes the missing mount points of `plan` in its root, and mounts the root at the empty directory `at`.
    ///
    /// To be called in a mount namespace that nobody else uses: all its mounts become slaves of the host's.
    /// Mount points on a tmpfs are left out: the program that mounts the tmpfs fills it, too.
    pub fn prepare(plan: &RootPlan, at: &Path) -> Result<Self> {
        change_propagation(Path::new("/"), (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits())?;
        let scratch = clone_path(&plan.path, Reach::Tree)?;
        attach_at_path(&scratch, at)?;
        let mut root = Root::from_fd(scratch, at);
        let made = make_points(&mut root, plan).and_then(|()| {
            if covers_tmp(plan) { Ok(None) } else { PutRoot::make(root.as_fd(), plan.readonly) }
        });
        drop(root);
        nix::mount::umount2(at, MntFlags::MNT_DETACH)
            .map_err(|e| SysError::new("umount2", at.display().to_string(), e as i32))?;
        let put_root = made?;
        attach_at_path(clone_path(&plan.path, Reach::Tree)?, at)?;
        Ok(Self { path: at.into(), put_root })
    }

    /// Whether [`prepare`](Self::prepare) makes a directory for the old root. If this process is killed before
    /// [`entered`](Self::entered), [`remove_put_root`](super::remove_put_root) removes the directory.
    pub fn needs_put_root(plan: &RootPlan) -> bool {
        !covers_tmp(plan) && put_root::is_needed(&plan.path, plan.readonly)
    }

    /// Removes the directory for the old root. To be called when the program has entered the root, and nothing of the
    /// container runs yet.
    pub fn entered(&mut self) {
        self.put_root = None;
    }

    /// The directory at which the root is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a mount of the container will hide the root's /tmp.
fn covers_tmp(plan: &RootPlan) -> bool {
    plan.mounts.iter().any(|mount| mount.destination == Path::new("/tmp"))
}

fn make_points(root: &mut Root, plan: &RootPlan) -> Result<()> {
    for step in &plan.mounts {
        let on_tmpfs = plan.mounts.iter().any(|m| {
            matches!(&m.source, MountSource::Filesystem { fstype, .. } if fstype == "tmpfs")
                && step.destination != m.destination
                && step.destination.starts_with(&m.destination)
        });
        // /sys/fs/cgroup comes with sysfs.
        if on_tmpfs || step.source == MountSource::Cgroup {
            continue;
        }
        make_point(root, step).context(format!("make the mount point {}", step.destination.display()))?;
    }
    Ok(())
}

/// Makes one mount point. A bind is mounted on it until all points are made, because other mount points may lie in the bind.
fn make_point(root: &mut Root, step: &MountPlan) -> Result<()> {
    let tree = match &step.source {
        MountSource::Bind { path, recursive } => Some(clone_path(path, Reach::if_recursive(*recursive))?),
        _ => None,
    };
    let point = root.point(&step.destination, tree.as_ref().map_or(Ok(true), mount::is_directory)?)?;
    mount::check(root, step, &point)?;
    if let Some(tree) = tree {
        attach(&tree, &point.fd)?;
        root.mounted(&step.destination, &point, Some((tree, Role { maybe_procfs: true, guarded: false })));
    }
    Ok(())
}
