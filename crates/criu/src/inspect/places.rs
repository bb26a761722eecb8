//! Mounts and cgroups (mountpoints-N.img, cgroup.img).

use std::collections::BTreeMap;

use criu_proto::images::cgroup::CgroupEntry;
use criu_proto::images::mnt::MntEntry;
use criu_proto::images::mnt::mnt_entry::FsType;
use serde::Serialize;

use crate::error::Result;
use crate::images::{Images, Magic};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Mount {
    /// Its number in the images.
    pub id: u32,
    /// The mount that it is on; that of the root is not in the list.
    pub parent: u32,
    /// Where it is in the container.
    pub mountpoint: String,
    /// `proc`, `tmpfs` and so on.
    pub filesystem: String,
    /// The mounted source, as mountinfo shows it.
    pub source: String,
    /// The mounted part of the filesystem.
    pub root: String,
    /// `ro`, `nosuid` and so on, and the filesystem's own options.
    pub options: Vec<String>,
    /// The key under which a restore must give it from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
}

/// Cgroups that some tasks are in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CgroupSet {
    /// Path by hierarchy: a controller's name, `name=systemd`, or empty for cgroup v2.
    pub paths: BTreeMap<String, String>,
    /// The tasks.
    pub processes: Vec<u32>,
}

/// Flags of mount(2).
const MOUNT_FLAGS: [(u32, &str); 7] = [
    (1, "ro"),
    (2, "nosuid"),
    (4, "nodev"),
    (8, "noexec"),
    (1 << 10, "noatime"),
    (1 << 11, "nodiratime"),
    (1 << 21, "relatime"),
];

/// All mounts of all mount namespaces.
pub(super) fn mounts(images: &Images, names: &[String]) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for name in names.iter().filter(|n| n.starts_with("mountpoints-") && n.ends_with(".img")) {
        for entry in images.entries::<MntEntry>(name, Magic::MNTS)? {
            mounts.push(mount(&entry?));
        }
    }
    Ok(mounts)
}

fn mount(entry: &MntEntry) -> Mount {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let flags = entry.flags.unwrap_or_default();
    let own = MOUNT_FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_owned());
    let options = text(&entry.options);
    let others = options.split(',').filter(|o| !o.is_empty()).map(str::to_owned);
    let filesystem = match (&entry.fsname, entry.fstype.map(|t| t.enum_value())) {
        (Some(name), _) => name.clone(),
        (None, Some(Ok(FsType::UNSUPPORTED))) => "other".into(),
        (None, Some(Ok(kind))) => format!("{kind:?}").to_lowercase().replace('_', "-"),
        (None, _) => "unknown".into(),
    };
    // CRIU notes paths below its own root, "." or none before the first slash.
    let mountpoint = text(&entry.mountpoint);
    let inside = mountpoint.trim_start_matches('.').trim_start_matches('/');
    Mount {
        id: entry.mnt_id.unwrap_or_default(),
        parent: entry.parent_mnt_id.unwrap_or_default(),
        mountpoint: format!("/{inside}"),
        filesystem,
        source: text(&entry.source),
        root: text(&entry.root),
        options: own.chain(others).collect(),
        external: entry.ext_key.clone(),
    }
}

/// The cgroups, and who is in which: `members` are pairs of a set's id and a process.
pub(super) fn cgroups(images: &Images, members: &[(u32, u32)]) -> Result<Vec<CgroupSet>> {
    let mut processes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (set, pid) in members {
        processes.entry(*set).or_default().push(*pid);
    }
    // CRIU has a set for each task even where they are in the same cgroups.
    let mut by_paths: BTreeMap<BTreeMap<String, String>, Vec<u32>> = BTreeMap::new();
    for entry in images.entries_if_any::<CgroupEntry>("cgroup.img", Magic::CGROUP)?.into_iter().flatten() {
        for set in entry?.sets {
            let path = |c: criu_proto::images::cgroup::CgMemberEntry| {
                (c.name.unwrap_or_default(), c.path.unwrap_or_default())
            };
            let paths = set.ctls.into_iter().map(path).collect();
            // A second set of the same number has nobody.
            let members = processes.remove(&set.id.unwrap_or_default()).unwrap_or_default();
            if !members.is_empty() {
                by_paths.entry(paths).or_default().extend(members);
            }
        }
    }
    let set = |(paths, mut processes): (_, Vec<u32>)| {
        processes.sort_unstable();
        CgroupSet { paths, processes }
    };
    Ok(by_paths.into_iter().map(set).collect())
}
