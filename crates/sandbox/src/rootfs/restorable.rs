//! A root filesystem as CRIU wants it: a mount point of its own, with every mount point in it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{FileType, Mode};

use super::put_root::PutRoot;
use super::resolve::Root;
use super::{attach, attach_at_path, change_propagation, clone_path};
use crate::error::Context;
use crate::plan::{MountSource, RootPlan};
use crate::{Error, Result, SysError};

/// A root filesystem mounted at a place of its own, in the calling thread's mount namespace.
#[derive(Debug)]
pub struct Restorable {
    path: PathBuf,
    put_root: Option<PutRoot>,
}

impl Restorable {
    /// Makes the missing mount points of `plan` in its root and mounts that at the empty directory `at`.
    ///
    /// To be called in a mount namespace that nobody else uses: all its mounts become slaves of the host's.
    /// Points on a tmpfs are left out, since CRIU restores what a tmpfs held.
    pub fn prepare(plan: &RootPlan, at: &Path) -> Result<Self> {
        change_propagation(Path::new("/"), (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits())?;
        let scratch = clone_path(&plan.path, true)?;
        attach_at_path(&scratch, at)?;
        let root = Root::from_fd(scratch, at);
        let made = make_points(&root, plan).and_then(|()| {
            // The container's own mount is over whatever is there.
            let covered = plan.mounts.iter().any(|mount| mount.destination == Path::new("/tmp"));
            if covered { Ok(None) } else { PutRoot::make(root.as_fd(), plan.readonly) }
        });
        drop(root);
        nix::mount::umount2(at, MntFlags::MNT_DETACH)
            .map_err(|e| SysError::new("umount2", at.display().to_string(), e as i32))?;
        let put_root = made?;
        attach_at_path(clone_path(&plan.path, true)?, at)?;
        Ok(Self { path: at.into(), put_root })
    }

    /// To be called when CRIU has entered the root, and nothing of the container runs yet: what was made for that moment
    /// is removed.
    pub fn entered(&mut self) {
        self.put_root = None;
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn make_points(root: &Root, plan: &RootPlan) -> Result<()> {
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

/// A bind is made for the moment, because other mount points may lie in it.
fn make_point(root: &Root, step: &crate::plan::MountPlan) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    let MountSource::Bind { path, recursive } = &step.source else {
        return root.make_dir(&step.destination, mode).map(drop);
    };
    let tree = clone_path(path, *recursive)?;
    let stat = rustix::fs::fstat(&tree)
        .map_err(|e| SysError::new("fstat", path.display().to_string(), e.raw_os_error()))?;
    let is_dir = |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let source_is_dir = is_dir(&stat);
    let target = if source_is_dir {
        root.make_dir(&step.destination, mode)?
    } else {
        root.make_file(&step.destination)?
    };
    let found = rustix::fs::fstat(&target)
        .map_err(|e| SysError::new("fstat", step.destination.display().to_string(), e.raw_os_error()))?;
    if is_dir(&found) != source_is_dir {
        // The kernel's word for it is EINVAL.
        let expected = if source_is_dir {
            "is not a directory, as its source is"
        } else {
            "is a directory, its source is none"
        };
        return Err(Error::invalid("mounts", format!("{}: {expected}", step.destination.display())));
    }
    attach(&tree, &target)
}
