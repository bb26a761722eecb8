//! The facts of a container, which are written once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use hiber_sandbox::cgroup::CgroupPaths;
use hiber_sandbox::plan::{NamespaceKind, Namespaces};
use hiber_sandbox::resctrl::Group;
use hiber_sandbox::rootfs;
use oci_spec::runtime::{Hooks, Spec};
use serde::{Deserialize, Serialize};

use crate::host::procfs;

/// A container's facts, as its `state.json` keeps them. Nothing in it changes while the container lives, so
/// nothing in it can become untrue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The format of this file; readers refuse unknown ones.
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// The first process in the runtime's pid namespace; 0 until it is cloned.
    pub pid: i32,
    /// When that process started, in clock ticks since boot (proc_pid_stat(5), field 22): tells it from a later
    /// process of the same number.
    pub start_time: u64,
    /// The inode of that process's pidfd (pidfs, Linux 6.9), which no other has until the next boot; none on older kernels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pidfd_inode: Option<u64>,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root filesystem, absolute.
    pub rootfs: PathBuf,
    /// When the container was created.
    pub created: SystemTime,
    /// Its cgroups.
    pub cgroup: CgroupPaths,
    /// Its group in resctrl.
    #[serde(default)]
    pub resctrl: Group,
    /// Namespaces that are not the runtime's own.
    pub namespaces: Vec<NamespaceKind>,
    /// The standard input, output and error of the first process at its start: targets of the links in /proc/PID/fd, such as
    /// `pipe:[123]`. A checkpoint keeps them, so that a restore can hand in new ones.
    pub streams: Vec<String>,
    /// Whether a restore makes an empty /tmp in the root filesystem, which is removed again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_root: bool,
    /// The mount of the root filesystem over itself that a container in the host's mount namespace has: its number in
    /// mountinfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_root: Option<u64>,
    /// Name of its session keyring; without one its processes have their callers'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<String>,
}

/// The version of [`Facts`] that this code writes.
pub(crate) const FACTS_VERSION: u32 = 1;

impl Facts {
    /// The kinds of namespaces in which a further process must follow the first.
    pub(crate) fn joinable(&self) -> Namespaces {
        Namespaces { new: self.namespaces.clone(), ..Namespaces::default() }
    }

    /// Adds the namespaces that a restored first process has beyond those of config.json: CRIU puts restored processes into a
    /// time namespace, and the images may come from another configuration. `pid` is the number outside of the container.
    pub(crate) fn follow(&mut self, pid: i32) {
        let more: Vec<_> =
            procfs::other_namespaces(pid).filter(|kind| !self.namespaces.contains(kind)).collect();
        self.namespaces.extend(more);
    }

    /// Removes the parts outside of the container's namespaces and cgroup: its mounts in the host's mount namespace, and the
    /// directory that a killed restore has left in the root filesystem.
    pub(crate) fn clear_root(&self) -> hiber_sandbox::Result<()> {
        if self.put_root {
            rootfs::remove_put_root(&self.rootfs);
        }
        self.host_root.map_or(Ok(()), |id| rootfs::unmount_host_root(&self.rootfs, id))
    }

    /// Whether the container has a pid namespace of its own, which dies with its first process.
    pub(crate) fn own_pid_namespace(&self) -> bool {
        self.namespaces.contains(&NamespaceKind::Pid)
    }
}

/// The part of a container's configuration that shows and hooks need.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConfigSummary {
    /// The version of the runtime specification.
    pub oci_version: String,
    /// The annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The hooks.
    pub hooks: Option<Hooks>,
}

impl ConfigSummary {
    /// Of a configuration that is there.
    pub(crate) fn of(spec: &Spec) -> Self {
        let annotations = spec.annotations().iter().flatten();
        Self {
            oci_version: spec.version().clone(),
            annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
            hooks: spec.hooks().clone(),
        }
    }
}
