//! Files of overlays that inotify(7) and fanotify(7) watch. The kernel names them by inode, and an overlay opens none by that: CRIU
//! needs their paths.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hiber_sandbox::mountinfo;
use hiber_sandbox::rootfs::resolve::Root;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat, fstat, statat};

use super::Findings;
use super::table::WATCH;
use super::tasks::Proc;
use crate::container::task::Task;
use crate::error::Result;

/// How many files are looked at, at most: some seconds' worth.
const MAX_FILES: usize = 2_000_000;

/// Device and inode.
type Key = (u64, u64);

/// Paths of what is watched on overlays, for CRIU to search; those that are not found it complains of.
pub(crate) fn watched_paths(task: &Task) -> Result<Vec<PathBuf>> {
    let init = task.facts()?.pid;
    let points = overlays(init);
    if points.is_empty() {
        return Ok(Vec::new());
    }
    let tasks = task.tasks()?;
    let mut watched = watches(&tasks, &points);
    find(init, &points, &mut watched);
    Ok(watched.into_values().filter_map(|watch| watch.path).collect())
}

/// Tells of what is watched and not found.
pub(super) fn check(findings: &mut Findings, first: &Proc, tasks: &[Proc]) {
    let points = overlays(first.pid);
    let mut watched = watches(tasks, &points);
    find(first.pid, &points, &mut watched);
    for ((_, inode), watch) in watched.iter().filter(|(_, watch)| watch.path.is_none()) {
        let what = format!("descriptor {} watches inode {inode} of an overlay, which has no path", watch.fd);
        findings.of(&tasks[watch.task], &WATCH, what);
    }
}

/// Where overlays are mounted, by device.
fn overlays(pid: i32) -> BTreeMap<u64, Vec<PathBuf>> {
    let mounts = mountinfo::of(&pid.to_string()).unwrap_or_default();
    let mut points: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for mount in mounts.into_iter().filter(|mount| mount.fstype == "overlay") {
        let Some((major, minor)) = mount.device.split_once(':') else { continue };
        if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
            points.entry(rustix::fs::makedev(major, minor)).or_default().push(mount.point);
        }
    }
    points
}

struct Watch {
    /// Its place among the processes.
    task: usize,
    fd: String,
    path: Option<PathBuf>,
}

/// The files on these devices that processes watch.
fn watches(tasks: &[Proc], points: &BTreeMap<u64, Vec<PathBuf>>) -> BTreeMap<Key, Watch> {
    let mut found = BTreeMap::new();
    if points.is_empty() {
        return found;
    }
    for (number, task) in tasks.iter().enumerate() {
        for entry in std::fs::read_dir(task.path("fd")).into_iter().flatten().flatten() {
            let is_watch = std::fs::read_link(entry.path()).is_ok_and(|target| {
                matches!(target.to_str(), Some("anon_inode:inotify" | "anon_inode:[fanotify]"))
            });
            if !is_watch {
                continue;
            }
            let fd = entry.file_name().to_string_lossy().into_owned();
            let info =
                hiber_sys::file::read_to_string(task.path(&format!("fdinfo/{fd}"))).unwrap_or_default();
            for key in info.lines().filter_map(key).filter(|(device, _)| points.contains_key(device)) {
                found.entry(key).or_insert_with(|| Watch { task: number, fd: fd.clone(), path: None });
            }
        }
    }
    found
}

/// `inotify wd:1 ino:98c0c2 sdev:38 mask:…`: the inode, and the device as the kernel has it inside (proc_pid_fdinfo(5)).
fn key(line: &str) -> Option<Key> {
    let number = |name: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name))?;
        u64::from_str_radix(value, 16).ok()
    };
    let (inode, device) = (number("ino:")?, number("sdev:")?);
    // MAJOR and MINOR of linux/kdev_t.h
    let (major, minor) = (u32::try_from(device >> 20).ok()?, (device & 0xf_ffff) as u32);
    Some((rustix::fs::makedev(major, minor), inode))
}

/// Looks for them from the mount points on, those next to these first.
fn find(pid: i32, points: &BTreeMap<u64, Vec<PathBuf>>, watched: &mut BTreeMap<Key, Watch>) {
    let Ok(root) = Root::open_path(Path::new(&format!("/proc/{pid}/root"))) else { return };
    let devices: BTreeSet<u64> = watched.keys().map(|(device, _)| *device).collect();
    let mut left = watched.len();
    let mut found = |path: &Path, stat: &Stat| {
        if let Some(watch) = watched.get_mut(&(stat.st_dev, stat.st_ino)).filter(|watch| watch.path.is_none())
        {
            watch.path = Some(path.to_owned());
            left -= 1;
        }
        left > 0
    };
    let mut seen = 0;
    for device in devices {
        let mut next: VecDeque<PathBuf> = points[&device].iter().cloned().collect();
        while let Some(directory) = next.pop_front() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let Ok(opened) = root.open(&directory, flags) else { continue };
            match fstat(&opened) {
                Ok(stat) if stat.st_dev == device => {
                    if !found(&directory, &stat) {
                        return;
                    }
                }
                _ => continue,
            }
            for entry in Dir::read_from(&opened).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                seen += 1;
                let Ok(stat) = statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
                else {
                    continue;
                };
                if stat.st_dev != device {
                    continue;
                }
                let path = directory.join(OsStr::from_bytes(name.to_bytes()));
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    next.push_back(path);
                } else if !found(&path, &stat) {
                    return;
                }
                if seen > MAX_FILES {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_names_device_and_inode() {
        let line =
            "inotify wd:1 ino:98c0c2 sdev:800038 mask:102 ignored_mask:0 fhandle-bytes:20 fhandle-type:f8";
        assert_eq!(key(line), Some((rustix::fs::makedev(8, 0x38), 0x98_c0c2)));
        assert_eq!(key("fanotify ino:5 sdev:2 mflags:0 mask:2"), Some((rustix::fs::makedev(0, 2), 5)));
        assert_eq!(key("fanotify flags:0 event-flags:0"), None);
        assert_eq!(key("pos:\t0"), None);
    }
}
