//! The parts of a container that come from outside, under the keys that runc and crun use: their checkpoints restore here and
//! ours there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use hiber_criu::External;
use hiber_sandbox::cgroup::{Kind, Layout};
use hiber_sandbox::mountinfo;
use hiber_sandbox::plan::{self, DEFAULT_DEVICES, NamespaceKind, in_container};
use hiber_sandbox::rootfs::resolve::Root;
use oci_spec::runtime::Spec;
use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::state::facts::Facts;

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

/// A mount that CRIU leaves to us.
#[derive(Debug)]
pub(crate) struct Outside {
    /// Where it is in the container.
    pub(crate) point: PathBuf,
    pub(crate) external: External,
    /// Of a bind that config.json asks for.
    pub(crate) bind: Option<Bind>,
}

#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    /// With all that is mounted below it.
    pub(crate) recursive: bool,
}

impl Bind {
    /// The source as the kernel names it.
    #[expect(clippy::disallowed_methods, reason = "a path that config.json names on the host")]
    pub(crate) fn real_source(&self) -> PathBuf {
        std::fs::canonicalize(&self.source).unwrap_or_else(|_| self.source.clone())
    }
}

/// All mounts that CRIU leaves to us, for a restore with those that recursive binds bring along.
pub(crate) fn mounts(direction: Direction, spec: &Spec, facts: &Facts) -> Result<Vec<External>> {
    let outside = outside(direction, spec, facts)?;
    let below = match direction {
        Direction::Restore => below_binds(&outside)?,
        Direction::Dump => Vec::new(),
    };
    Ok(outside.into_iter().map(|o| o.external).chain(below).collect())
}

/// Mounts of config.json that CRIU leaves to us: binds from the host, v1 cgroups, masked files.
pub(crate) fn outside(direction: Direction, spec: &Spec, facts: &Facts) -> Result<Vec<Outside>> {
    let mut list = List { direction, outside: Vec::new() };
    let root = Root::open_path(&facts.rootfs)?;
    for mount in spec.mounts().iter().flatten() {
        let destination = Path::new("/").join(mount.destination());
        if let Some(recursive) = is_bind(mount) {
            let source = facts.bundle.join(mount.source().clone().unwrap_or_default());
            list.add(&resolved(&root, &facts.rootfs, &destination), &source)?;
            if let Some(last) = list.outside.last_mut() {
                last.bind = Some(Bind { source, recursive });
            }
        } else if mount.typ().as_deref() == Some("cgroup") {
            cgroups(&mut list, &destination, facts)?;
        }
    }
    masks(&mut list, spec, facts);
    devices(&mut list, spec, facts)?;
    Ok(list.outside)
}

/// Whether it is a bind, and a recursive one.
fn is_bind(mount: &oci_spec::runtime::Mount) -> Option<bool> {
    let has = |option: &str| mount.options().iter().flatten().any(|o| o == option);
    let fstype = mount.typ().as_deref().unwrap_or_default();
    (fstype.is_empty() || fstype == "bind" || has("bind") || has("rbind")).then(|| has("rbind"))
}

/// Where config.json has something mounted, masks included, in its own words.
pub(crate) fn named_points(spec: &Spec) -> impl Iterator<Item = &Path> {
    let masked = spec.linux().iter().flat_map(|l| l.masked_paths().iter().flatten()).map(Path::new);
    masked.chain(spec.mounts().iter().flatten().map(|mount| mount.destination().as_path()))
}

/// As [`named_points`], in the kernel's.
pub(crate) fn destinations(spec: &Spec, facts: &Facts) -> Result<HashSet<PathBuf>> {
    let root = Root::open_path(&facts.rootfs)?;
    let place = |path: &Path| resolved(&root, &facts.rootfs, &Path::new("/").join(path));
    Ok(named_points(spec).map(place).collect())
}

/// The host's mounts below the sources of recursive binds. At a dump each was named by its place in the container.
fn below_binds(outside: &[Outside]) -> Result<Vec<External>> {
    let recursive = |o: &Outside| {
        let bind = o.bind.as_ref().filter(|bind| bind.recursive)?;
        Some((o.point.clone(), bind.real_source()))
    };
    let binds: Vec<_> = outside.iter().filter_map(recursive).collect();
    if binds.is_empty() {
        return Ok(Vec::new());
    }
    let mut taken: HashSet<PathBuf> = outside.iter().map(|o| o.point.clone()).collect();
    let mut externals = Vec::new();
    for mount in mountinfo::of("thread-self")? {
        for (point, source) in binds.iter().filter(|(_, source)| mount.is_below(source)) {
            let Ok(inside) = mount.point.strip_prefix(source) else { continue };
            let place = point.join(inside);
            // CRIU's requests are UTF-8; what is not could not be saved.
            if let (Some(key), Some(at)) = (place.to_str(), mount.point.to_str())
                && taken.insert(place.clone())
            {
                externals.push(External::mount_source(key, at));
            }
        }
    }
    Ok(externals)
}

struct List {
    direction: Direction,
    outside: Vec<Outside>,
}

impl List {
    /// A mount at `point`, whose key is its mount point.
    fn add(&mut self, point: &Path, source: &Path) -> Result<()> {
        let key = utf8(point)?;
        let external = match self.direction {
            Direction::Dump => External::mount(key, key),
            Direction::Restore => External::mount_source(key, utf8(source)?),
        };
        self.outside.push(Outside { point: point.to_owned(), external, bind: None });
        Ok(())
    }
}

/// A path as CRIU's requests can have it.
pub(crate) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::Invalid(format!("{} is not UTF-8", path.display())))
}

/// Where a destination really is: CRIU knows mounts by the kernel's name for them, with links resolved.
pub(super) fn resolved(root: &Root, rootfs: &Path, destination: &Path) -> PathBuf {
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
        let masked: Vec<_> = masked.map(|path| in_container(path)).collect();
        // The key that runc gives, and those of crun: the paths.
        for key in masked.first().map(|_| NULL.into()).into_iter().chain(masked) {
            if !list.outside.iter().any(|outside| outside.point == key)
                && let Some(name) = key.to_str()
            {
                let external = External::mount_source(name, NULL);
                list.outside.push(Outside { point: key, external, bind: None });
            }
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
            let external = External::mount(&path.to_string_lossy(), NULL);
            list.outside.push(Outside { point: path, external, bind: None });
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

/// The user namespace that is joined, if one is.
pub(super) fn joined_user_namespace(spec: &Spec) -> Option<PathBuf> {
    by_path(spec).find(|(kind, _)| *kind == NamespaceKind::User).map(|(_, path)| path)
}

pub(super) fn by_path(spec: &Spec) -> impl Iterator<Item = (NamespaceKind, PathBuf)> {
    let all = spec.linux().iter().flat_map(|l| l.namespaces().iter().flatten());
    let with_path = |ns: &oci_spec::runtime::LinuxNamespace| {
        let path = ns.path().clone().filter(|p| !p.as_os_str().is_empty())?;
        Some((plan::namespace_kind(ns.typ()), path))
    };
    all.filter_map(with_path).collect::<Vec<_>>().into_iter()
}
