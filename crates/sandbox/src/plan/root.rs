//! The root filesystem of a container: mounts, devices, restrictions.

use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use serde::{Deserialize, Serialize};

use super::{MountPlan, MountSource, NamespaceKind, Namespaces, Options};
use crate::{Error, Result, ids};

/// The root filesystem and what is mounted in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootPlan {
    /// Absolute path on the host.
    pub path: PathBuf,
    /// Whether the root filesystem itself is mounted read-only.
    pub readonly: bool,
    /// Propagation of the container's "/", as MS_* flag.
    pub propagation: u64,
    /// Whether the mount namespace is the container's own.
    pub own_mount_namespace: bool,
    /// Whether the cgroup namespace is the container's own.
    pub own_cgroup_namespace: bool,
    /// Enter the root by chroot(2) after MS_MOVE, where pivot_root(2) is impossible (a root on initramfs).
    pub no_pivot: bool,
    /// The mounts, in their order.
    pub mounts: Vec<MountPlan>,
    /// Device nodes; empty where the host's /dev is bind-mounted.
    pub devices: Vec<DeviceNode>,
    /// Whether /dev is made by us: links and the terminal belong there.
    pub own_dev: bool,
    /// Paths that the container sees as empty.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that the container cannot write to.
    pub readonly_paths: Vec<PathBuf>,
    /// SELinux label of new filesystems.
    pub mount_label: Option<String>,
    /// The directories of the container's cgroups, for cgroup mounts; filled in once these exist.
    pub cgroups: Vec<CgroupMount>,
}

/// A controller (or several, comma-separated; empty for v2) and the container's directory in its hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupMount {
    /// Directory name below /sys/fs/cgroup, as on the host: `cpu,cpuacct`, `systemd`; empty for v2.
    pub name: String,
    /// The data argument of mount(2): `cpu,cpuacct`, `name=systemd`.
    pub data: String,
    /// The container's directory on the host.
    pub host_path: PathBuf,
    /// The host's mount of v2, for a container in the host's cgroup namespace, which sees the whole hierarchy. A new mount there
    /// would reset the options of the whole machine's hierarchy (nsdelegate), and from Linux 6.18 on waits for RCU
    /// (`cgroup_get_tree`, kernel/cgroup/cgroup.c).
    pub whole: Option<PathBuf>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path in the container. A node that is bound comes from the same path on the host.
    pub path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// The device's major number; 0 for a FIFO.
    pub major: u32,
    /// The device's minor number; 0 for a FIFO.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// The owner, in the container's ids.
    pub uid: u32,
    /// The group, in the container's ids.
    pub gid: u32,
}

impl RootPlan {
    pub(super) fn from_spec(
        spec: &Spec,
        linux: &oci_spec::runtime::Linux,
        namespaces: &Namespaces,
        options: &Options,
    ) -> Result<Self> {
        let root = spec.root().as_ref().ok_or_else(|| Error::invalid("root", "is missing"))?;
        let path = root_path(root, namespaces, options)?;
        let mounts = spec.mounts().iter().flatten().enumerate();
        let mounts: Vec<_> =
            mounts.map(|(i, m)| MountPlan::from_spec(i, m, &options.bundle, &path)).collect::<Result<_>>()?;
        for (i, mount) in mounts.iter().enumerate() {
            mount.check_id_maps(i, namespaces, options.rootless)?;
            mount.check_owner(i, namespaces)?;
        }
        let own_mount_namespace = namespaces.has(NamespaceKind::Mount);
        let masked_paths = paths("linux.maskedPaths", linux.masked_paths())?;
        let mut readonly_paths = paths("linux.readonlyPaths", linux.readonly_paths())?;
        check_restrictions(&masked_paths, &readonly_paths, own_mount_namespace)?;
        // A mount over the root is not visible, so the root itself is made read-only.
        let readonly = root.readonly().unwrap_or(false) || readonly_paths.iter().any(|path| is_root(path));
        readonly_paths.retain(|path| !is_root(path));
        let own_dev = !mounts
            .iter()
            .any(|m| m.destination == Path::new("/dev") && matches!(m.source, MountSource::Bind { .. }));
        let devices = if own_dev { devices(linux)? } else { Vec::new() };
        let mount_label = linux.mount_label().clone().filter(|l| !l.is_empty());
        if mount_label.is_some() && !Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(Error::unsupported("linux.mountLabel", "selinux is disabled or not supported"));
        }
        Ok(Self {
            path,
            readonly,
            propagation: propagation(linux.rootfs_propagation().as_deref())?,
            own_mount_namespace,
            own_cgroup_namespace: namespaces.has(NamespaceKind::Cgroup),
            no_pivot: options.no_pivot,
            mounts,
            devices,
            own_dev,
            masked_paths,
            readonly_paths,
            mount_label,
            cgroups: Vec::new(),
        })
    }
}

/// The root filesystem's real path on the host.
fn root_path(root: &oci_spec::runtime::Root, namespaces: &Namespaces, options: &Options) -> Result<PathBuf> {
    if root.path().as_os_str().is_empty() {
        return Err(Error::invalid("root.path", "is empty; expected the root filesystem's directory"));
    }
    let given = options.bundle.join(root.path());
    #[expect(clippy::disallowed_methods, reason = "the root itself is a path of the host")]
    let path = std::fs::canonicalize(&given).map_err(|e| {
        Error::invalid(
            "root.path",
            format!("invalid rootfs: {}: {}", given.display(), crate::error::plain(&e)),
        )
    })?;
    if !path.is_dir() {
        return Err(Error::invalid("root.path", format!("{} is not a directory", given.display())));
    }
    if path == Path::new("/") && namespaces.is_new(NamespaceKind::Mount) {
        return Err(Error::invalid("root.path", "the host's / cannot be the root of a container"));
    }
    Ok(path)
}

/// Whether a path in the container is the root itself.
fn is_root(path: &Path) -> bool {
    !path.components().any(|c| matches!(c, Component::Normal(_)))
}

fn check_restrictions(masked: &[PathBuf], readonly: &[PathBuf], own_mount_namespace: bool) -> Result<()> {
    let restricts = !masked.is_empty() || !readonly.is_empty();
    if restricts && !own_mount_namespace {
        return Err(Error::invalid(
            "linux.namespaces",
            "unable to mask or restrict paths without a private MNT namespace: expected one of type mount",
        ));
    }
    if let Some(root) = masked.iter().find(|path| is_root(path)) {
        let problem =
            format!("{} is the root filesystem itself, of which nothing would be left", root.display());
        return Err(Error::invalid("linux.maskedPaths", problem));
    }
    Ok(())
}

/// A path of `linux.maskedPaths` or `linux.readonlyPaths`. A relative path starts at the container's root, as with runc and crun.
pub fn in_container(path: &str) -> PathBuf {
    Path::new("/").join(path).components().collect()
}

fn paths(field: &str, list: &Option<Vec<String>>) -> Result<Vec<PathBuf>> {
    let below_root = |(i, path): (usize, &String)| match path.is_empty() {
        true => Err(Error::invalid(format!("{field}[{i}]"), "is empty; expected a path in the container")),
        false => Ok(in_container(path)),
    };
    list.iter().flatten().enumerate().map(below_root).collect()
}

fn propagation(given: Option<&str>) -> Result<u64> {
    let recursive = |flag: MsFlags| (flag | MsFlags::MS_REC).bits();
    Ok(match given.unwrap_or("") {
        "" | "rslave" => recursive(MsFlags::MS_SLAVE),
        "slave" => MsFlags::MS_SLAVE.bits(),
        "rprivate" => recursive(MsFlags::MS_PRIVATE),
        "private" => MsFlags::MS_PRIVATE.bits(),
        "rshared" => recursive(MsFlags::MS_SHARED),
        "shared" => MsFlags::MS_SHARED.bits(),
        "runbindable" => recursive(MsFlags::MS_UNBINDABLE),
        "unbindable" => MsFlags::MS_UNBINDABLE.bits(),
        other => {
            return Err(Error::invalid(
                "linux.rootfsPropagation",
                format!("{other:?} is none of shared, slave, private, unbindable or their r forms"),
            ));
        }
    })
}

/// Nodes that every container has (runtime-spec "Default Devices"): path, major, minor.
pub const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

fn devices(linux: &oci_spec::runtime::Linux) -> Result<Vec<DeviceNode>> {
    let mut nodes: Vec<DeviceNode> = DEFAULT_DEVICES
        .iter()
        .map(|(path, major, minor)| DeviceNode {
            path: path.into(),
            kind: libc::S_IFCHR,
            major: *major,
            minor: *minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    for (i, device) in linux.devices().iter().flatten().enumerate() {
        let node = device_node(i, device)?;
        // A device of the configuration replaces the default device with the same path.
        nodes.retain(|n| n.path != node.path);
        nodes.push(node);
    }
    Ok(nodes)
}

fn device_node(index: usize, device: &LinuxDevice) -> Result<DeviceNode> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    if !device.path().is_absolute() {
        return Err(Error::invalid(
            field("path"),
            format!("{} is not an absolute path", device.path().display()),
        ));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(Error::invalid(field("type"), "\"a\" is none of c, b, u, p")),
    };
    // linux/kdev_t.h: 12 and 20 bits; more would be cut off
    let number = |name: &str, n: i64, bits: u32| {
        let fits = u32::try_from(n).ok().filter(|n| n >> bits == 0);
        fits.ok_or_else(|| Error::invalid(field(name), format!("{n} is no device number")))
    };
    Ok(DeviceNode {
        path: device.path().clone(),
        kind,
        major: number("major", device.major(), 12)?,
        minor: number("minor", device.minor(), 20)?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: ids::check(field("uid"), device.uid().unwrap_or(0))?,
        gid: ids::check(field("gid"), device.gid().unwrap_or(0))?,
    })
}
