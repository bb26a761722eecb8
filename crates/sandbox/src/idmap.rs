//! Id-mapped mounts, and the user namespaces that carry their maps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use crate::error::Context;
use crate::parent::{reap, write_file};
use crate::plan::{IdMap, MountIdMaps, NamespaceKind, Namespaces};
use crate::sys::clone::spawn_in_user_namespace;
use crate::sys::mount::map_ids;
use crate::{Result, SysError};

/// Maps the ids of a detached tree.
pub(crate) fn apply(tree: BorrowedFd<'_>, maps: &MountIdMaps, container: &Namespaces) -> Result<()> {
    let namespace = match container.joined(NamespaceKind::User) {
        Some(join) if maps.uid.is_empty() => open(&join.path.display().to_string())?,
        _ if maps.uid.is_empty() => namespace_with(&container.uid_maps, &container.gid_maps)?,
        _ => namespace_with(&maps.uid, &maps.gid)?,
    };
    map_ids(tree, namespace.as_fd(), maps.recursive)
}

/// A user namespace with these maps and no process in it.
fn namespace_with(uid: &[IdMap], gid: &[IdMap]) -> Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|e| SysError::new("pipe2", "to a user namespace's keeper", e.raw_os_error()))?;
    let keeper = spawn_in_user_namespace(read.as_fd(), write.as_fd())?;
    let pid = keeper.pid;
    let made = write_file(&format!("/proc/{pid}/gid_map"), &lines(gid))
        .and_then(|()| write_file(&format!("/proc/{pid}/uid_map"), &lines(uid)))
        .context("write the maps")
        .and_then(|()| open(&format!("/proc/{pid}/ns/user")));
    drop(write);
    reap(pid);
    made
}

fn open(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("open", path, e.raw_os_error()).into())
}

/// Maps as the kernel reads them (user_namespaces(7)).
pub(crate) fn lines(maps: &[IdMap]) -> String {
    maps.iter().map(|IdMap { container, host, size }| format!("{container} {host} {size}\n")).collect()
}
