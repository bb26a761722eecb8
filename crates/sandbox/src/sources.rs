//! Sources of mounts and devices that init may not open itself: the parent opens them and hands them over.

use hiber_sys::mount::Reach;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::error::Context;
use crate::messages::FdRole;
use crate::plan::{MountPlan, MountSource, NamespaceKind, Plan, RootPlan};
use crate::rootfs::{attributes, clone_path};
use crate::{Error, Result, SysError, idmap};
use hiber_sys::process;

/// Opens the sources that exist before init mounts anything.
pub(crate) fn open(plan: &Plan) -> Result<Vec<(FdRole, OwnedFd)>> {
    let mut fds = Vec::new();
    let Some(root) = plan.init.root.as_ref() else { return Ok(fds) };
    for (i, mount) in root.mounts.iter().enumerate() {
        if !plan.init.needs_parent_for(mount) || is_in_root(root, mount) {
            continue;
        }
        let MountSource::Bind { path, recursive } = &mount.source else { continue };
        if let Some(tree) = clone_if_permitted(path, Reach::if_recursive(*recursive))
            .context(format!("open mounts[{i}].source"))?
        {
            set_attributes(plan, i, mount, &tree)?;
            fds.push((FdRole::MountSource(i), map_ids(plan, i, mount, tree)?));
        }
    }
    if plan.init.needs_parent_for_devices() {
        for (i, device) in root.devices.iter().enumerate() {
            let tree = clone_if_permitted(&device.path, Reach::One).context("open linux.devices")?;
            fds.extend(tree.map(|tree| (FdRole::Device(i), tree)));
        }
    }
    Ok(fds)
}

/// `None` if the caller is root of a user namespace that does not own its mount namespace. Such a caller can clone no mount; init
/// then opens the source itself, or asks the parent to open it in init's mount namespace.
fn clone_if_permitted(path: &Path, reach: Reach) -> Result<Option<OwnedFd>> {
    match clone_path(path, reach) {
        Err(Error::Sys(e)) if e.errno == libc::EPERM => Ok(None),
        tree => tree.map(Some),
    }
}

/// Opens the source of the `index`-th mount, which earlier ones of the container may cover, as init sees it now.
pub(crate) fn open_in_namespace_of(plan: &Plan, init: BorrowedFd<'_>, index: usize) -> Result<OwnedFd> {
    let asked = plan.init.root.as_ref().and_then(|root| root.mounts.get(index));
    let Some((mount, MountSource::Bind { path, recursive })) = asked.map(|mount| (mount, &mount.source))
    else {
        let problem = format!("init asked for the source of mounts[{index}], which is no bind");
        return Err(Error::invalid("mounts", problem));
    };
    // On a separate thread, which cannot return to the caller's mount namespace.
    let opened = std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<OwnedFd> {
            process::unshare(libc::CLONE_FS as u64, "to enter a mount namespace")?;
            process::setns(init, NamespaceKind::Mount.clone_flag(), "into the container's mount namespace")?;
            let tree = clone_path(path, Reach::if_recursive(*recursive))?;
            set_attributes(plan, index, mount, &tree)?;
            Ok(tree)
        });
        let panicked = |_| Err(SysError::new("clone", "a thread, which panicked", libc::EPROTO).into());
        thread.join().unwrap_or_else(panicked)
    });
    map_ids(plan, index, mount, opened.context(format!("open mounts[{index}].source"))?)
}

/// Sets the attributes from the mount's options, apart from those that the container's user namespace may not change.
fn set_attributes(plan: &Plan, index: usize, mount: &MountPlan, tree: &OwnedFd) -> Result<()> {
    let MountSource::Bind { path, .. } = &mount.source else { return Ok(()) };
    attributes::set(tree, mount, path, plan.init.in_user_namespace)
        .context(format!("set the options of mounts[{index}]"))
}

fn map_ids(plan: &Plan, index: usize, mount: &MountPlan, tree: OwnedFd) -> Result<OwnedFd> {
    if let Some(maps) = &mount.id_maps {
        idmap::apply(tree.as_fd(), maps, &plan.namespaces)
            .context(format!("map the ids of mounts[{index}]"))?;
    }
    Ok(tree)
}

/// Whether the source's path leads into the container's own root, where earlier mounts can cover or create the source.
fn is_in_root(root: &RootPlan, mount: &MountPlan) -> bool {
    let MountSource::Bind { path, .. } = &mount.source else { return false };
    #[expect(clippy::disallowed_methods, reason = "sources are paths of the host")]
    let real = path.ancestors().find_map(|p: &Path| std::fs::canonicalize(p).ok());
    real.is_some_and(|real| real.starts_with(&root.path))
}
