//! One mount of the plan.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fs::{FileType, Mode, OFlags};

use super::resolve::{Root, fd_path};
use super::{attach, change_propagation, clone_path, is_procfs};
use crate::plan::{CgroupMount, MountPlan, MountSource, RootPlan};
use crate::sys::mount::{MountAttributes, mount_setattr};
use crate::{Error, Result, SysError};

const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

/// Makes the mount `step`; `tree` is its source where the parent opened it.
pub(super) fn mount(root: &Root, plan: &RootPlan, step: &MountPlan, tree: Option<OwnedFd>) -> Result<()> {
    match &step.source {
        MountSource::Bind { path, recursive } => bind(root, step, path, *recursive, tree)?,
        MountSource::Filesystem { fstype, source, data } => {
            let data = with_label(data, plan.mount_label.as_deref().filter(|_| takes_label(fstype)));
            filesystem(root, step, fstype, source, &data)?;
        }
        MountSource::Cgroup => cgroup(root, plan, step)?,
    }
    for (flag, recursive) in &step.propagation {
        let target = root.open(&step.destination, OFlags::PATH)?;
        let flags = flag | if *recursive { MsFlags::MS_REC.bits() } else { 0 };
        change_propagation(&fd_path(target.as_fd()), flags)?;
    }
    Ok(())
}

fn bind(root: &Root, step: &MountPlan, source: &Path, recursive: bool, tree: Option<OwnedFd>) -> Result<()> {
    let tree = match tree {
        Some(tree) => {
            // It was cloned in the host's mount namespace and would else stay a peer of the host's mounts.
            let slave = MountAttributes { propagation: MsFlags::MS_SLAVE.bits(), ..Default::default() };
            mount_setattr(tree.as_fd(), slave, true)?;
            tree
        }
        None => clone_path(source, recursive)?,
    };
    let stat = rustix::fs::fstat(&tree)
        .map_err(|e| SysError::new("fstat", source.display().to_string(), e.raw_os_error()))?;
    let target = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        root.make_dir(&step.destination, DIR_MODE)?
    } else {
        root.make_file(&step.destination)?
    };
    check_not_in_proc(&target, step)?;
    if step.destination == Path::new("/proc") && !is_procfs(&tree)? {
        return Err(Error::invalid("mounts", "/proc cannot be mounted because it is not of type proc"));
    }
    if !step.attributes.is_empty() {
        mount_setattr(tree.as_fd(), step.attributes, false)?;
    }
    if !step.recursive.is_empty() {
        mount_setattr(tree.as_fd(), step.recursive, true)?;
    }
    attach(&tree, &target)
}

/// The plan checked the destination as written; a symbolic link in the image may still lead into /proc
/// (CVE-2019-16884, CVE-2019-19921).
fn check_not_in_proc(target: &OwnedFd, step: &MountPlan) -> Result<()> {
    if !step.destination.starts_with("/proc") && is_procfs(target)? {
        let problem = format!("{} cannot be mounted because it leads into /proc", step.destination.display());
        return Err(Error::invalid("mounts", problem));
    }
    Ok(())
}

fn filesystem(root: &Root, step: &MountPlan, fstype: &str, source: &str, data: &str) -> Result<()> {
    let remount = step.flags & MsFlags::MS_REMOUNT.bits() != 0;
    let found = root.find(&step.destination)?;
    let existed = found.is_some();
    let target = match found {
        Some(target) => target,
        None if remount => root.open(&step.destination, OFlags::PATH)?,
        None => root.make_dir(&step.destination, DIR_MODE)?,
    };
    if fstype == "proc" || fstype == "sysfs" {
        check_no_symlink(root, step)?;
    }
    check_not_in_proc(&target, step)?;
    let mut flags = step.flags;
    if fstype == "tmpfs" {
        flags &= !MsFlags::MS_RDONLY.bits(); // it still has to be filled: see finish_readonly
    }
    // A tmpfs with no mode of its own takes the one of the directory that it covers, as runc does; over a
    // directory that the image lacks it has the kernel's, 1777, so that the container's user may write.
    let mode = if fstype == "tmpfs" && existed && !data.split(',').any(|o| o.starts_with("mode=")) {
        let stat =
            rustix::fs::fstat(&target).map_err(|e| SysError::new("fstat", "the target", e.raw_os_error()))?;
        Some(format!("mode={:o}", stat.st_mode & 0o7777))
    } else {
        None
    };
    let data = [Some(data.to_owned()).filter(|d| !d.is_empty()), mode]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(",");
    mount_on(target.as_fd(), source, fstype, flags, &data)?;
    if step.copy_up {
        let top = root.open(&step.destination, OFlags::RDONLY | OFlags::DIRECTORY)?;
        copy_up(&target, &top)?;
    }
    if !step.recursive.is_empty() {
        let top = root.open(&step.destination, OFlags::PATH)?;
        mount_setattr(top.as_fd(), step.recursive, true)?;
    }
    Ok(())
}

/// /proc and /sys must be what they are called: no link in the image may move them.
fn check_no_symlink(root: &Root, step: &MountPlan) -> Result<()> {
    let relative = step.destination.strip_prefix("/").unwrap_or(&step.destination);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, relative, flags, Mode::empty(), rustix::fs::ResolveFlags::NO_SYMLINKS)
        .map(drop)
        .map_err(|_| {
            Error::invalid(
                "mounts",
                format!("{} must be mounted on ordinary directory", step.destination.display()),
            )
        })
}

fn mount_on(target: BorrowedFd<'_>, source: &str, fstype: &str, flags: u64, data: &str) -> Result<()> {
    nix::mount::mount(
        Some(source),
        &fd_path(target),
        Some(fstype),
        MsFlags::from_bits_retain(flags),
        Some(data).filter(|d| !d.is_empty()),
    )
    .map_err(|e| {
        let options = if data.is_empty() { String::new() } else { format!(", data {data:?}") };
        let what = format!("{fstype} from {source:?} (flags {flags:#x}{options})");
        let error = Error::from(SysError::new("mount", what, e as i32));
        match needs(fstype).filter(|_| e == nix::errno::Errno::EPERM) {
            Some(what) => Error::While { what: what.into(), source: Box::new(error) },
            None => error,
        }
    })
}

/// What a user namespace must own to mount a filesystem that shows another namespace; the kernel says EPERM alone.
fn needs(fstype: &str) -> Option<&'static str> {
    Some(match fstype {
        "sysfs" => "a new sysfs takes a network namespace of the container's own",
        "mqueue" => "a new mqueue takes an ipc namespace of the container's own",
        "proc" => {
            "a new procfs takes a pid namespace of the container's own, and one without masks around it"
        }
        _ => return None,
    })
}

/// Adds an SELinux context to mount data.
pub(super) fn with_label(data: &str, label: Option<&str>) -> String {
    match label {
        None => data.to_owned(),
        Some(label) if data.is_empty() => format!("context=\"{label}\""),
        Some(label) => format!("{data},context=\"{label}\""),
    }
}

/// Filesystems whose files take the mount's context; proc, sysfs and mqueue have their own.
fn takes_label(fstype: &str) -> bool {
    !matches!(fstype, "proc" | "sysfs" | "mqueue")
}

/// Copies what the covered directory `from` held to the new tmpfs `to`.
fn copy_up(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let open = |dir: BorrowedFd<'_>, name: &std::ffi::CStr, flags: OFlags| {
        rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SysError::new("openat", name.to_string_lossy(), e.raw_os_error()))
    };
    let sys = |call: &'static str, name: &std::ffi::CStr| {
        let name = name.to_string_lossy().into_owned();
        move |e: rustix::io::Errno| SysError::new(call, name, e.raw_os_error())
    };
    let from = open(from.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let entries = rustix::fs::Dir::read_from(&from).map_err(sys("getdents", c"."))?;
    for entry in entries {
        let entry = entry.map_err(sys("getdents", c"."))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(&from, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(sys("fstatat", name))?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode).map_err(sys("mkdirat", name))?;
                let below = |dir: BorrowedFd<'_>| open(dir, name, OFlags::RDONLY | OFlags::DIRECTORY);
                copy_up(&below(from.as_fd())?, &below(to.as_fd())?)?;
            }
            FileType::Symlink => {
                let link =
                    rustix::fs::readlinkat(&from, name, Vec::new()).map_err(sys("readlinkat", name))?;
                rustix::fs::symlinkat(link, to, name).map_err(sys("symlinkat", name))?;
            }
            FileType::RegularFile => {
                let mut source = std::fs::File::from(open(from.as_fd(), name, OFlags::RDONLY)?);
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(to, name, flags, mode).map_err(sys("openat", name))?;
                std::io::copy(&mut source, &mut std::fs::File::from(copy))
                    .map_err(|e| SysError::io("copy_file_range", name.to_string_lossy(), &e))?;
            }
            _ => continue,
        }
        let owner = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(to, name, Some(owner.0), Some(owner.1), flags).map_err(sys("fchownat", name))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // Again, for the umask and for the set-id bits that chown took.
            rustix::fs::chmodat(to, name, mode, rustix::fs::AtFlags::empty())
                .map_err(sys("fchmodat", name))?;
        }
    }
    Ok(())
}

/// The container's cgroups: one cgroup2, or a tmpfs with a directory per v1 hierarchy, as on the host.
fn cgroup(root: &Root, plan: &RootPlan, step: &MountPlan) -> Result<()> {
    let target = root.make_dir(&step.destination, DIR_MODE)?;
    check_not_in_proc(&target, step)?;
    let flags = step.flags;
    let bind = |path: &Path, target: &OwnedFd| -> Result<()> {
        let tree = clone_path(path, true)?;
        set_mount_flags(&tree, flags)?;
        attach(&tree, target)
    };
    if let [CgroupMount { name, host_path, whole, .. }] = plan.cgroups.as_slice()
        && name.is_empty()
    {
        if let Some(whole) = whole {
            return bind(whole, &target);
        }
        return match mount_on(target.as_fd(), "cgroup", "cgroup2", flags, "") {
            // Not the owner of the cgroup namespace, or a /sys that is bound from the host has one there: show what is
            // there from the container's cgroup down; and nothing where it has none, for what it is in is the host's.
            Err(Error::Sys(e)) if matches!(e.errno, libc::EPERM | libc::EBUSY) => {
                if host_path.as_os_str().is_empty() {
                    let flags = flags | MsFlags::MS_RDONLY.bits();
                    return mount_on(target.as_fd(), "tmpfs", "tmpfs", flags, "mode=755");
                }
                bind(host_path, &target)
            }
            other => other,
        };
    }
    let data = with_label("mode=755", plan.mount_label.as_deref());
    mount_on(target.as_fd(), "tmpfs", "tmpfs", flags & !MsFlags::MS_RDONLY.bits(), &data)?;
    for hierarchy in &plan.cgroups {
        let at = step.destination.join(&hierarchy.name);
        let target = root.make_dir(&at, DIR_MODE)?;
        if plan.own_cgroup_namespace {
            mount_on(target.as_fd(), "cgroup", "cgroup", flags, &hierarchy.data)?;
        } else {
            bind(&hierarchy.host_path, &target)?;
        }
        if let Some((dir, _)) = Some(&step.destination).zip(hierarchy.name.find(',')) {
            for controller in hierarchy.name.split(',') {
                let parent = root.open(dir, OFlags::PATH)?;
                rustix::fs::symlinkat(&hierarchy.name, &parent, controller)
                    .map_err(|e| SysError::new("symlinkat", controller, e.raw_os_error()))?;
            }
        }
    }
    if flags & MsFlags::MS_RDONLY.bits() != 0 {
        let top = root.open(&step.destination, OFlags::PATH)?;
        set_mount_flags(&top, flags)?;
    }
    Ok(())
}

/// The per-mount part of mount(2) flags, as attributes.
fn set_mount_flags(mount: &OwnedFd, flags: u64) -> Result<()> {
    let pairs = [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ];
    let set = pairs.iter().filter(|(ms, _)| flags & ms.bits() != 0).map(|(_, attr)| attr).sum();
    mount_setattr(mount.as_fd(), MountAttributes { set, ..Default::default() }, false)
}

/// A tmpfs that is to be read-only had to be writable until now.
pub(super) fn finish_readonly(root: &Root, plan: &RootPlan) -> Result<()> {
    for step in &plan.mounts {
        let tmpfs = matches!(&step.source, MountSource::Filesystem { fstype, .. } if fstype == "tmpfs");
        if tmpfs && step.flags & MsFlags::MS_RDONLY.bits() != 0 {
            let top = root.open(&step.destination, OFlags::PATH)?;
            set_mount_flags(&top, MsFlags::MS_RDONLY.bits())?;
        }
    }
    Ok(())
}
