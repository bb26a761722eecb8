//! What a container has from outside, under the keys that runc and crun use: their checkpoints restore here and
//! ours there.

use std::path::{Path, PathBuf};

use hiber_criu::External;
use hiber_sandbox::cgroup::{Kind, Layout};
use hiber_sandbox::plan::{DEFAULT_DEVICES, NamespaceKind, in_container};
use hiber_sandbox::rootfs::resolve::Root;
use oci_spec::runtime::Spec;
use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::state::Facts;

/// Key of a network namespace that the container joined.
pub(crate) const NETWORK_KEY: &str = "extRootNetNS";
/// Key of a pid namespace that the container joined.
pub(crate) const PID_KEY: &str = "extRootPidNS";
/// Key of every masked file.
const NULL: &str = "/dev/null";

/// Which way the images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Dump,
    Restore,
}

/// Mounts that CRIU leaves to us: binds from the host, v1 cgroups, masked files.
pub(crate) fn mounts(direction: Direction, spec: &Spec, facts: &Facts) -> Result<Vec<External>> {
    let mut list = List { direction, external: Vec::new() };
    let root = Root::open_path(&facts.rootfs)?;
    for mount in spec.mounts().iter().flatten() {
        let fstype = mount.typ().as_deref().unwrap_or_default();
        let bound = fstype == "bind" || mount.options().iter().flatten().any(|o| o == "bind" || o == "rbind");
        let destination = Path::new("/").join(mount.destination());
        if bound {
            let source = facts.bundle.join(mount.source().clone().unwrap_or_default());
            list.add(&resolved(&root, &facts.rootfs, &destination), &source)?;
        } else if fstype == "cgroup" {
            cgroups(&mut list, &destination, facts)?;
        }
    }
    masks(&mut list, spec, facts);
    devices(&mut list, spec, facts)?;
    Ok(list.external)
}

struct List {
    direction: Direction,
    external: Vec<External>,
}

impl List {
    /// A mount at `point`, whose key is its mount point.
    fn add(&mut self, point: &Path, source: &Path) -> Result<()> {
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or_else(|| Error::Invalid(format!("{} is not UTF-8", path.display())))
        };
        let point = text(point)?;
        self.external.push(match self.direction {
            Direction::Dump => External::mount(&point, &point),
            Direction::Restore => External::mount_source(&point, &text(source)?),
        });
        Ok(())
    }
}

/// Where a destination really is: CRIU knows mounts by the kernel's name for them, with links resolved.
fn resolved(root: &Root, rootfs: &Path, destination: &Path) -> PathBuf {
    let mut missing = PathBuf::new();
    for ancestor in destination.ancestors() {
        if let Ok(fd) = root.open(ancestor, OFlags::PATH)
            && let Ok(real) =
                std::fs::read_link(hiber_sandbox::rootfs::resolve::fd_path(std::os::fd::AsFd::as_fd(&fd)))
            && let Ok(inside) = real.strip_prefix(rootfs)
        {
            return if missing.as_os_str().is_empty() {
                Path::new("/").join(inside)
            } else {
                Path::new("/").join(inside).join(missing)
            };
        }
        // Below a filesystem that only the container has.
        let name = PathBuf::from(ancestor.file_name().unwrap_or_default());
        missing = if missing.as_os_str().is_empty() { name } else { name.join(missing) };
    }
    destination.to_owned()
}

/// On v1 without a cgroup namespace each hierarchy is a bind of the host's, as runc saves it; crun does so with one,
/// too. Else CRIU makes the mounts itself, as it does on v2: but from within a user namespace the kernel takes no mount
/// with systemd's release agent.
fn cgroups(list: &mut List, destination: &Path, facts: &Facts) -> Result<()> {
    let has = |kind| facts.namespaces.contains(&kind);
    if list.direction == Direction::Dump && has(NamespaceKind::Cgroup) && !has(NamespaceKind::User) {
        return Ok(());
    }
    let layout = Layout::detect()?;
    if layout.kind() == Kind::V2 {
        return Ok(());
    }
    let mut seen: Vec<&Path> = Vec::new();
    for (controller, path) in &facts.cgroup.v1 {
        if seen.contains(&path.as_path()) {
            continue;
        }
        seen.push(path);
        let name =
            layout.v1().get(controller).and_then(|m| m.point.file_name()).unwrap_or(controller.as_ref());
        list.add(&destination.join(name), path)?;
    }
    Ok(())
}

/// Masked files are binds of /dev/null; masked directories are tmpfs mounts, which CRIU makes itself.
fn masks(list: &mut List, spec: &Spec, facts: &Facts) {
    let masked = spec.linux().iter().flat_map(|l| l.masked_paths().iter().flatten());
    if list.direction == Direction::Restore {
        if masked.count() > 0 {
            list.external.push(External::mount_source(NULL, NULL));
        }
        return;
    }
    let inside = PathBuf::from(format!("/proc/{}/root", facts.pid));
    let Ok(root) = Root::open_path(&inside) else { return };
    for path in masked.map(|path| in_container(path)) {
        let file = root.find(&path).ok().flatten();
        let stat = file.and_then(|fd| rustix::fs::fstat(&fd).ok());
        let is_file = |s: &rustix::fs::Stat| {
            rustix::fs::FileType::from_raw_mode(s.st_mode) != rustix::fs::FileType::Directory
        };
        if stat.as_ref().is_some_and(is_file) {
            list.external.push(External::mount(&path.to_string_lossy(), NULL));
        }
    }
}

/// Device nodes are binds in a user namespace; elsewhere they are part of /dev, and naming them harms nothing.
fn devices(list: &mut List, spec: &Spec, facts: &Facts) -> Result<()> {
    if !facts.namespaces.contains(&NamespaceKind::User) {
        return Ok(());
    }
    for (path, ..) in DEFAULT_DEVICES {
        list.add(Path::new(path), Path::new(path))?;
    }
    for device in spec.linux().iter().flat_map(|l| l.devices().iter().flatten()) {
        list.add(device.path(), device.path())?;
    }
    Ok(())
}

/// Network and pid namespaces that the container joined by path: they are there before and after.
pub(super) fn namespaces(spec: &Spec, pid: i32) -> Result<Vec<External>> {
    joined(spec)
        .map(|(kind, key, _)| {
            let file = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
            let stat =
                rustix::fs::stat(&file).map_err(|e| Error::sys("stat", file.display().to_string(), e))?;
            Ok(External::namespace(kind, stat.st_ino, key))
        })
        .collect()
}

/// Joined namespaces of the kinds that CRIU takes from outside: name, key, path.
pub(crate) fn joined(spec: &Spec) -> impl Iterator<Item = (&'static str, &'static str, PathBuf)> {
    by_path(spec).filter_map(|(kind, path)| match kind {
        NamespaceKind::Network => Some(("net", NETWORK_KEY, path)),
        NamespaceKind::Pid => Some(("pid", PID_KEY, path)),
        _ => None,
    })
}

/// Joined namespaces of the kinds that a restore enters by path: name, path.
pub(crate) fn entered(spec: &Spec) -> impl Iterator<Item = (&'static str, PathBuf)> {
    by_path(spec)
        .filter(|(kind, _)| !matches!(kind, NamespaceKind::Network | NamespaceKind::Pid))
        .map(|(kind, path)| (kind.proc_name(), path))
}

fn by_path(spec: &Spec) -> impl Iterator<Item = (NamespaceKind, PathBuf)> {
    let all = spec.linux().iter().flat_map(|l| l.namespaces().iter().flatten());
    let with_path = |ns: &oci_spec::runtime::LinuxNamespace| {
        let path = ns.path().clone().filter(|p| !p.as_os_str().is_empty())?;
        Some((NamespaceKind::from(ns.typ()), path))
    };
    all.filter_map(with_path).collect::<Vec<_>>().into_iter()
}
