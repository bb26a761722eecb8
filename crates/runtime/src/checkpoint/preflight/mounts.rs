//! Mounts that CRIU cannot save: those that neither config.json names nor CRIU knows how to make again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ::procfs::process::{MountInfo, MountOptFields, Process};
use hiber_criu::External;

use super::Findings;
use super::table::{MOUNT, MOUNT_LINE, SHARING};
use super::tasks::Proc;

/// File systems that CRIU makes anew at a restore (filesystems.c).
const KNOWN: [&str; 18] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "binfmt_misc",
    "tmpfs",
    "devpts",
    "simfs",
    "pstore",
    "mqueue",
    "securityfs",
    "fusectl",
    "debugfs",
    "tracefs",
    "cgroup",
    "cgroup2",
    "aufs",
    "overlay",
    "autofs",
];

/// Looks at the first process's mounts; gives how many are tmpfs, and the bytes that they hold.
/// `destinations` are where config.json mounts something.
pub(super) fn check(
    findings: &mut Findings,
    first: &Proc,
    external: &[External],
    destinations: &HashSet<PathBuf>,
) -> (u64, u64) {
    let Ok(mounts) = Process::new(first.pid).and_then(|p| p.mountinfo()) else { return (0, 0) };
    long_lines(findings, first);
    let points: HashSet<String> = external.iter().filter_map(point).collect();
    let root =
        mounts.iter().find(|m| m.mount_point.as_os_str() == "/").map(|m| (m.majmin.clone(), master(m)));
    let (root_device, root_master) = root.unwrap_or_default();
    let shared: HashSet<u32> = mounts.iter().flat_map(|m| &m.opt_fields).filter_map(group).collect();
    let outer: HashSet<u32> =
        mounts.iter().filter(|m| is_external(m, &points)).filter_map(master).chain(root_master).collect();
    let mut seen = HashSet::new();
    let (mut count, mut held) = (0, 0);
    for mount in mounts.iter().filter(|m| m.mount_point.as_os_str() != "/" && !is_external(m, &points)) {
        if let Some(group) = master(mount).filter(|g| !shared.contains(g) && !outer.contains(g)) {
            let what =
                format!("a mount of type {} gets its events from outside (master:{group})", mount.fs_type);
            findings.add(&SHARING, what).path = Some(mount.mount_point.display().to_string());
        }
        // CRIU binds it from a mount that it makes, or that a restore supplies.
        let is_source = |m: &&MountInfo| {
            m.majmin == mount.majmin
                && (m.root == "/" && KNOWN.contains(&m.fs_type.as_str())
                    || is_external(m, &points) && Path::new(&mount.root).starts_with(&m.root))
        };
        // Cgroups are saved apart, by the cgroups that the processes are in.
        if mount.fs_type == "cgroup" || mount.fs_type == "cgroup2" {
            continue;
        }
        if mount.majmin != root_device && !mounts.iter().any(|m| is_source(&m)) {
            let source = mount.mount_source.clone().unwrap_or_default();
            let finding = if destinations.contains(&mount.mount_point) {
                let what = format!("CRIU cannot save a mount of type {}", mount.fs_type);
                let finding = findings.add(&MOUNT, what);
                finding.advice = "let config.json bind one of the host's there instead".into();
                finding
            } else {
                findings.add(
                    &MOUNT,
                    format!("a mount of type {} ({source}) is not in config.json", mount.fs_type),
                )
            };
            finding.path = Some(mount.mount_point.display().to_string());
        } else if mount.fs_type == "tmpfs" && seen.insert(mount.majmin.clone()) {
            count += 1;
            let inside = first.root().and_then(|root| root.find(&mount.mount_point).ok()?);
            if let Some(stat) = inside.and_then(|dir| rustix::fs::fstatvfs(dir).ok()) {
                held += stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
            }
        }
    }
    (count, held)
}

/// CRIU's bfd.c reads a page at a time and wants a whole line in it.
fn long_lines(findings: &mut Findings, first: &Proc) {
    const BUFFER: usize = 4096;
    let bytes = std::fs::read(first.path("mountinfo")).unwrap_or_default();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| line.len() >= BUFFER) {
        let point = line.split(|byte| *byte == b' ').nth(4).unwrap_or_default();
        let what = format!("a mount's line in mountinfo has {} bytes", line.len() + 1);
        findings.add(&MOUNT_LINE, what).path = Some(String::from_utf8_lossy(point).into_owned());
    }
}

/// The mount point of a mount from outside.
fn point(external: &External) -> Option<String> {
    external.as_mount().map(|(point, _)| point.to_owned())
}

fn is_external(mount: &MountInfo, points: &HashSet<String>) -> bool {
    points.contains(mount.mount_point.to_string_lossy().as_ref())
}

fn master(mount: &MountInfo) -> Option<u32> {
    mount.opt_fields.iter().find_map(|field| match field {
        MountOptFields::Master(group) => Some(*group),
        _ => None,
    })
}

fn group(field: &MountOptFields) -> Option<u32> {
    match field {
        MountOptFields::Shared(group) => Some(*group),
        _ => None,
    }
}
