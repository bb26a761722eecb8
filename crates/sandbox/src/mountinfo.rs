//! The kernel's lists of mounts (proc_pid_mountinfo(5)).

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use crate::{Result, SysError};

/// The kernel appends this to the root of a mount whose file or directory was removed.
const REMOVED: &str = "//deleted";

/// A mount of a mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's number.
    pub id: u32,
    /// The number of the mount that this one lies on.
    pub parent: u32,
    /// The device number of the superblock: `MAJOR:MINOR`.
    pub device: String,
    /// The mounted part of the file system, as a path in it.
    pub root: PathBuf,
    /// Whether that part has been removed since.
    pub removed: bool,
    /// The mount point, below the process's root.
    pub point: PathBuf,
    /// Whether symbolic links are not followed in it.
    pub nosymfollow: bool,
    /// Whether owners are shown by a map of their own (mount_setattr(2), MOUNT_ATTR_IDMAP).
    pub idmapped: bool,
    /// The file system's type.
    pub fstype: String,
    /// The file system's own options, between commas, with the kernel's escapes ([`unescape`]).
    pub options: String,
}

/// The mounts that process `pid` sees (`self` and `thread-self` are names of processes, too). As a rule each comes after the
/// mount that it lies on.
///
/// # Errors
/// If there is no such process.
pub fn of(pid: &str) -> Result<Vec<Mount>> {
    Ok(read(pid)?.lines().filter_map(parse).collect())
}

fn read(pid: &str) -> Result<String> {
    let path = format!("/proc/{pid}/mountinfo");
    let read = || {
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        hiber_sys::file::read(file)
    };
    let bytes = read().map_err(|e| SysError::new("read", path.clone(), e.raw_os_error()))?;
    Ok(hiber_sys::file::text(bytes))
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (id, parent) = (left.next()?.parse().ok()?, left.next()?.parse().ok()?);
    let device = left.next()?.to_owned();
    let root = left.next()?;
    let (root, removed) = match root.strip_suffix(REMOVED) {
        Some(was) => (was, true),
        None => (root, false),
    };
    let (root, point) = (unescape(root), unescape(left.next()?));
    let options = left.next()?;
    let has = |option| options.split(',').any(|has| has == option);
    let (nosymfollow, idmapped) = (has("nosymfollow"), has("idmapped"));
    let mut right = right.split(' ');
    let fstype = right.next()?.to_owned();
    let options = right.nth(1).unwrap_or_default().to_owned();
    Some(Mount { id, parent, device, root, removed, point, nosymfollow, idmapped, fstype, options })
}

/// The peer groups of the calling thread's mounts (mount_namespaces(7)).
#[derive(Debug)]
pub struct PeerGroups(HashMap<u64, u32>);

impl PeerGroups {
    /// Reads them.
    ///
    /// # Errors
    /// If there is no /proc.
    pub fn read() -> Result<Self> {
        Ok(Self(read("thread-self")?.lines().filter_map(peer_group).collect()))
    }

    /// The group from which copies of the mount at `path` get events, if there is one.
    ///
    /// # Errors
    /// If there is no such path.
    pub fn of(&self, path: &Path) -> Result<Option<u32>> {
        let stat = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)
            .map_err(|e| SysError::new("statx", path.display().to_string(), e.raw_os_error()))?;
        Ok(self.0.get(&stat.stx_mnt_id).copied())
    }
}

/// The number of a mount, and of the group whose peer it is, or else whose slave.
fn peer_group(line: &str) -> Option<(u64, u32)> {
    let (left, _) = line.split_once(" - ")?;
    let number = |kind| left.split(' ').skip(6).find_map(|field| field.strip_prefix(kind)?.parse().ok());
    Some((left.split(' ').next()?.parse().ok()?, number("shared:").or_else(|| number("master:"))?))
}

impl Mount {
    /// Whether the two show the same part of the same file system.
    pub fn shows_as(&self, other: &Self) -> bool {
        (&self.device, &self.root, self.removed) == (&other.device, &other.root, other.removed)
    }

    /// Whether a bind mount of `whole`, a mount of the container, could give this mount.
    pub fn is_part_of(&self, whole: &Self) -> bool {
        self.device == whole.device && self.root.starts_with(&whole.root)
    }

    /// Whether its file system writes synchronously (`sync`).
    pub fn is_synchronous(&self) -> bool {
        self.options.split(',').any(|option| option == "sync")
    }

    /// Whether its point is below a path.
    pub fn is_below(&self, path: &Path) -> bool {
        self.point != path && self.point.starts_with(path)
    }
}

/// Undoes the octal escapes of space, tab, newline and backslash.
pub fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = r"31 28 8:1 /a\040b//deleted /x\134y rw,nosuid shared:1 master:2 - ext4 /dev/sda1 rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.parent, mount.device.as_str()), (31, 28, "8:1"));
        assert_eq!((mount.root.as_path(), mount.removed), (Path::new("/a b"), true));
        assert_eq!((mount.point.as_path(), mount.fstype.as_str()), (Path::new("/x\\y"), "ext4"));
        assert!(mount.is_below(Path::new("/")) && !mount.is_below(Path::new("/x\\y")));
        assert_eq!(parse("garbage"), None);
    }

    #[test]
    fn a_mount_is_in_its_group_before_its_masters() {
        for (fields, group) in [
            (" shared:1 master:2", Some((31, 1))),
            (" master:2 propagate_from:3", Some((31, 2))),
            (" unbindable", None),
            ("", None),
        ] {
            let line = format!("31 28 8:1 /a /x rw,nosuid{fields} - ext4 shared:7 rw");
            assert_eq!(peer_group(&line), group, "{line}");
        }
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(of("self").unwrap().iter().any(|mount| mount.point == Path::new("/")));
        assert!(of("0").is_err());
    }
}
