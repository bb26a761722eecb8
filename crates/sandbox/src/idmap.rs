//! The maps of user namespaces: those of containers, and those for id-mapped mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use crate::child::{reap, write_file};
use crate::error::Context;
use crate::plan::{IdMap, MountIdMaps, NamespaceKind, Namespaces};
use crate::{Error, Result, SysError};
use hiber_sys::clone::spawn_in_user_namespace;
use hiber_sys::mount::{Reach, map_ids};

/// Whether this process is outside of the machine's initial user namespace, the only one that maps all ids to themselves
/// (user_namespaces(7)). The answer is kept, because a runtime never changes its user namespace.
pub fn in_user_namespace() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let map = rustix::fs::open("/proc/self/uid_map", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let map = map.and_then(hiber_sys::file::read).map(hiber_sys::file::text).unwrap_or_default();
        let fields: Vec<_> = map.split_ascii_whitespace().collect();
        !map.is_empty() && fields != ["0", "0", "4294967295"]
    })
}

/// Writes the maps of process `pid`'s new user namespace, for a plain user with the setuid programs newuidmap(1) and
/// newgidmap(1) where they cover more than the caller's own id.
///
/// # Errors
/// With the field's name: the kernel or the program refuses the map, or the program is not in PATH.
pub(crate) fn write(pid: i32, namespaces: &Namespaces, rootless: bool) -> Result<()> {
    let own = [rustix::process::getegid().as_raw(), rustix::process::geteuid().as_raw()];
    let maps = [("gid", &namespaces.gid_maps), ("uid", &namespaces.uid_maps)];
    for ((kind, maps), own) in maps.into_iter().zip(own) {
        let alone = matches!(maps[..], [IdMap { host, size: 1, .. }] if host == own);
        if rootless && alone && kind == "gid" {
            // Otherwise a process without privilege over the group could not write the map (user_namespaces(7)).
            write_file(&format!("/proc/{pid}/setgroups"), "deny").context("forbid setgroups(2)")?;
        }
        let written = write_file(&format!("/proc/{pid}/{kind}_map"), &lines(maps));
        let denied = matches!(&written, Err(Error::Sys(e)) if e.errno == libc::EPERM);
        let field = format!("linux.{kind}Mappings");
        if denied && rootless && !alone {
            write_by_program(&field, &format!("new{kind}map"), pid, maps)?;
        } else {
            written.context(format!("set {field}"))?;
        }
    }
    Ok(())
}

fn write_by_program(field: &str, name: &str, pid: i32, maps: &[IdMap]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    let program = program.ok_or_else(|| {
        let why = format!(
            "ids other than the caller's own take the program {name} (package uidmap), which is not in PATH"
        );
        Error::unsupported(field, why)
    })?;
    tracing::debug!("{field}: by {}", program.display());
    let maps = lines(maps);
    let output = std::process::Command::new(&program)
        .arg(pid.to_string())
        .args(maps.split_ascii_whitespace())
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| SysError::io("exec", program.display().to_string(), &e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::invalid(field, format!("{name} failed ({}): {}", output.status, said.trim())))
}

/// Maps the ids of a detached tree.
pub(crate) fn apply(tree: BorrowedFd<'_>, maps: &MountIdMaps, container: &Namespaces) -> Result<()> {
    let namespace = match container.joined(NamespaceKind::User) {
        Some(join) if maps.uid.is_empty() => open(&join.path.display().to_string())?,
        _ if maps.uid.is_empty() => namespace_with(&container.uid_maps, &container.gid_maps)?,
        _ => namespace_with(&maps.uid, &maps.gid)?,
    };
    Ok(map_ids(tree, namespace.as_fd(), Reach::if_recursive(maps.recursive))?)
}

/// Maps the owners of a detached tree's files by the container's user namespace.
pub fn apply_own(tree: BorrowedFd<'_>, container: &Namespaces) -> Result<()> {
    apply(tree, &MountIdMaps::default(), container)
}

/// A user namespace with these maps and no process in it.
pub fn namespace_with(uid: &[IdMap], gid: &[IdMap]) -> Result<OwnedFd> {
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
