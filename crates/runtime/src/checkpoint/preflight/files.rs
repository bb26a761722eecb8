//! Open and mapped files, and locks on them.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ::procfs::process::{MMapPath, Process};
use rustix::fs::OFlags;

use super::table::{
    BPF_MAP, DELETED, DEV_TTY, DEVICE, GHOST, IO_URING, KIND, LINK_REMAP, LOCK, OUTSIDE_FILE, PACKETS, QUEUE,
    TERMINAL,
};
use super::tasks::Proc;
use super::{Findings, bytes};

/// CRIU's DEFAULT_GHOST_LIMIT.
const GHOST_LIMIT: u64 = 1 << 20;
/// Unit of st_blocks (stat(2)).
const BLOCK: u64 = 512;
/// The kernel appends this to names of removed files.
const REMOVED: &str = " (deleted)";
/// Kinds of anonymous inodes that CRIU knows (files.c, dump_one_file).
const KNOWN: [&str; 7] =
    ["[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]"];
/// Device numbers (Documentation/admin-guide/devices.txt): memory devices, misc, terminals.
const MEM_MAJOR: u32 = 1;
const MISC_MAJOR: u32 = 10;
const TUN_MINOR: u32 = 200;
const AUTOFS_MINOR: u32 = 235;

/// CLOCK_BOOTTIME of linux/time.h, the last one that CRIU knows of a timerfd.
const BOOTTIME: i32 = 7;
/// linux/magic.h, mqueue.c
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const MQUEUE_MAGIC: i64 = 0x1980_0202;
/// The name of a file of memfd_secret(2).
const SECRET: &str = "/secretmem";

/// The permissions that flags give.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    pub(super) shell_job: bool,
    pub(super) file_locks: bool,
    pub(super) link_remap: bool,
    /// CRIU's own configuration may set another limit.
    pub(super) any_ghost: bool,
}

/// A socket that a process has open.
pub(super) struct SocketFd {
    pub(super) fd: i32,
    pub(super) inode: u64,
}

/// Looks at all files of a process; gives its sockets, and adds to `ghosts` the sizes of deleted files by device and
/// inode.
pub(super) fn check(
    findings: &mut Findings,
    task: &Proc,
    mounts: &HashSet<i32>,
    allowed: Allowed,
    ghosts: &mut std::collections::HashMap<(u64, u64), u64>,
) -> Vec<SocketFd> {
    let mut sockets = Vec::new();
    let mut checks = FileChecks { findings, task, mounts, allowed, ghosts };
    let dir = task.path("fd");
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let (Ok(target), Ok(meta)) = (std::fs::read_link(entry.path()), std::fs::metadata(entry.path()))
        else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        if meta.file_type().is_socket() {
            sockets.push(SocketFd { fd, inode: meta.ino() });
            continue;
        }
        checks.descriptor(fd, &target, &meta);
    }
    checks.mappings();
    sockets
}

struct FileChecks<'a> {
    findings: &'a mut Findings,
    task: &'a Proc,
    mounts: &'a HashSet<i32>,
    allowed: Allowed,
    ghosts: &'a mut std::collections::HashMap<(u64, u64), u64>,
}

impl FileChecks<'_> {
    fn descriptor(&mut self, fd: i32, target: &str, meta: &Metadata) {
        let info =
            hiber_sys::file::read_to_string(self.task.path(&format!("fdinfo/{fd}"))).unwrap_or_default();
        let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        if !self.allowed.file_locks && info.lines().any(|line| line.starts_with("lock:")) {
            let kind = field("lock:").and_then(|l| l.split_whitespace().nth(1)).unwrap_or_default();
            self.findings.of(self.task, &LOCK, format!("descriptor {fd} holds a {kind} lock")).path =
                Some(target.to_owned());
        }
        let outside = || {
            let mount = field("mnt_id:").and_then(|n| n.parse().ok());
            // A first process with another root directory shows none of the container's mounts.
            !self.mounts.is_empty() && mount.is_some_and(|id: i32| !self.mounts.contains(&id))
        };
        let kind = meta.file_type();
        let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok()).unwrap_or_default();
        let is_pidfd = target == "anon_inode:[pidfd]" || target.starts_with("pidfd:");
        // PIDFD_THREAD of pidfd_open(2)
        if is_pidfd && flags & OFlags::EXCL.bits() != 0 {
            self.findings.of(
                self.task,
                &KIND,
                format!("descriptor {fd} is a pidfd of a thread (PIDFD_THREAD)"),
            );
        } else if let Some(name) = target.strip_prefix("anon_inode:") {
            self.anonymous(fd, name, field("clockid:").and_then(|clock| clock.parse().ok()));
        } else if kind.is_char_device() {
            let outside = outside();
            self.device(fd, target, meta, outside);
        } else if kind.is_block_device() {
            self.of_path(&DEVICE, format!("descriptor {fd} is a block device"), target);
        } else if target.starts_with(SECRET) {
            self.secret(&format!("descriptor {fd} is"));
        } else if kind.is_fifo() && target.starts_with("pipe:") {
            if flags & OFlags::DIRECT.bits() != 0 {
                self.findings.of(
                    self.task,
                    &PACKETS,
                    format!("descriptor {fd} is a pipe of packets (O_DIRECT)"),
                );
            }
        } else if is_memory(target) || target.starts_with("pidfd:") {
            // Saved as they are, wherever the other end is.
        } else if target.starts_with('/') {
            let is_of = |magic| {
                let path = self.task.path(&format!("fd/{fd}"));
                rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == magic)
            };
            if outside() && is_of(MQUEUE_MAGIC) {
                self.of_path(&QUEUE, format!("descriptor {fd} is a POSIX message queue"), target);
            } else if target.ends_with(REMOVED) && is_of(PROC_SUPER_MAGIC) {
                // Of a process that has ended: CRIU makes one for it meanwhile.
            } else if outside() {
                self.of_path(
                    &OUTSIDE_FILE,
                    format!("descriptor {fd} is a file outside the container"),
                    target,
                );
            } else if kind.is_file() || kind.is_dir() || kind.is_symlink() {
                self.deleted(target, meta, &format!("descriptor {fd} is"));
            }
        }
    }

    fn of_path(&mut self, check: &'static super::Check, what: String, path: &str) {
        self.findings.of(self.task, check, what).path = Some(path.to_owned());
    }

    /// `clock` is that of a timer.
    fn anonymous(&mut self, fd: i32, name: &str, clock: Option<i32>) {
        if name == "[io_uring]" {
            self.findings.of(self.task, &IO_URING, format!("descriptor {fd} is an io_uring"));
        } else if name == "bpf-map" {
            self.findings.of(self.task, &BPF_MAP, format!("descriptor {fd} is a BPF map"));
        } else if clock.is_some_and(|clock| clock > BOOTTIME) {
            let what = format!("descriptor {fd} is a timer that wakes the machine (CLOCK_BOOTTIME_ALARM)");
            self.findings.of(self.task, &KIND, what);
        } else if !KNOWN.contains(&name) {
            let name = name.trim_matches(['[', ']']);
            self.findings.of(
                self.task,
                &KIND,
                format!("descriptor {fd} is of a kind that CRIU cannot save ({name})"),
            );
        }
    }

    fn device(&mut self, fd: i32, target: &str, meta: &Metadata, outside: bool) {
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        if (major, minor) == (5, 0) {
            self.of_path(&DEV_TTY, format!("descriptor {fd} is the controlling terminal"), target);
        } else if is_terminal(major, minor) && outside && !self.allowed.shell_job {
            let what = format!("descriptor {fd} is a terminal outside the container");
            self.of_path(&TERMINAL, what, target);
        }
        if is_terminal(major, minor) {
            return;
        }
        let known = major == MEM_MAJOR || major == MISC_MAJOR && [TUN_MINOR, AUTOFS_MINOR].contains(&minor);
        if !known {
            self.of_path(&DEVICE, format!("descriptor {fd} is device {major}:{minor}"), target);
        } else if outside {
            self.of_path(&OUTSIDE_FILE, format!("descriptor {fd} is a device outside the container"), target);
        }
    }

    fn secret(&mut self, subject: &str) {
        let what = format!("{subject} memory that nobody else can read (memfd_secret)");
        self.findings.of(self.task, &KIND, what);
    }

    /// A file without a name, or without this one.
    fn deleted(&mut self, target: &str, meta: &Metadata, subject: &str) {
        let Some(name) = target.strip_suffix(REMOVED) else { return };
        if meta.nlink() > 0 {
            // A name that only looks like one of a removed file.
            let there = self.task.root().and_then(|root| {
                let file = root.open(Path::new(target), OFlags::PATH | OFlags::NOFOLLOW).ok()?;
                rustix::fs::fstat(&file).ok()
            });
            if !self.allowed.link_remap && there.is_none_or(|is| is.st_ino != meta.ino()) {
                let what = format!(
                    "{subject} a file that was removed under this name and has {} others",
                    meta.nlink()
                );
                self.of_path(&LINK_REMAP, what, name);
            }
            return;
        }
        let size = meta.blocks() * BLOCK;
        if size > GHOST_LIMIT && !self.allowed.any_ghost {
            self.of_path(&GHOST, format!("{subject} a deleted file of {}", bytes(size)), name);
            return;
        }
        if self.ghosts.insert((meta.dev(), meta.ino()), size).is_none() {
            self.of_path(&DELETED, format!("{subject} a deleted file of {}", bytes(size)), name);
        }
    }

    fn mappings(&mut self) {
        let Ok(maps) = Process::new(self.task.pid).and_then(|p| p.maps()) else { return };
        let mut seen = HashSet::new();
        for map in maps {
            let MMapPath::Path(path) = &map.pathname else { continue };
            if !seen.insert((map.dev, map.inode)) || !needs_look(path) {
                continue;
            }
            let (start, end) = map.address;
            let Ok(meta) = std::fs::metadata(self.task.path(&format!("map_files/{start:x}-{end:x}"))) else {
                continue;
            };
            let target = path.to_string_lossy();
            let kind = meta.file_type();
            if target.starts_with(SECRET) {
                self.secret("mapped is");
            } else if kind.is_file() {
                self.deleted(&target, &meta, "mapped is");
            } else if kind.is_char_device() && rustix::fs::major(meta.rdev()) != MEM_MAJOR
                || kind.is_block_device()
            {
                self.of_path(&DEVICE, "a device is mapped".into(), &target);
            }
        }
    }
}

/// Files that are there by their name are what most mappings are of.
fn needs_look(path: &Path) -> bool {
    let text = path.to_string_lossy();
    (text.ends_with(REMOVED) || text.starts_with("/dev/")) && !is_memory(&text)
}

/// Shared memory, which has no name on any mount.
fn is_memory(target: &str) -> bool {
    ["/memfd:", "/SYSV", "/dev/zero (deleted)", "/[aio]", "/anon_hugepage"]
        .iter()
        .any(|p| target.starts_with(p))
}

/// CRIU's is_tty: the console, virtual, serial and Unix98 terminals.
fn is_terminal(major: u32, minor: u32) -> bool {
    matches!((major, minor), (4, _) | (5, 0..=2) | (136..=143, _) | (204, _) | (229, _))
}

/// The mounts that a process's mount namespace has, by number.
pub(super) fn mount_ids(tasks: &[Proc]) -> HashSet<i32> {
    let mut namespaces: HashSet<PathBuf> = HashSet::new();
    let mut ids = HashSet::new();
    for task in tasks.iter().filter(|t| !t.is_dead()) {
        let Ok(namespace) = std::fs::read_link(task.path("ns/mnt")) else { continue };
        if namespaces.insert(namespace)
            && let Ok(mounts) = Process::new(task.pid).and_then(|p| p.mountinfo())
        {
            ids.extend(mounts.into_iter().map(|m| m.mnt_id));
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_no_file() {
        for memory in ["/memfd:x (deleted)", "/SYSV00000000 (deleted)", "/dev/zero (deleted)"] {
            assert!(is_memory(memory) && !needs_look(Path::new(memory)));
        }
        assert!(needs_look(Path::new("/tmp/x (deleted)")) && needs_look(Path::new("/dev/nvidia0")));
        assert!(!needs_look(Path::new("/usr/lib/libc.so.6")));
    }

    #[test]
    fn terminals_are_told_from_other_devices() {
        assert!(is_terminal(136, 3) && is_terminal(5, 0) && is_terminal(4, 64));
        assert!(!is_terminal(10, 200) && !is_terminal(195, 0));
    }
}
