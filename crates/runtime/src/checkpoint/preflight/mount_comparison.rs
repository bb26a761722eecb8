//! Compares the container's mounts with those of config.json, and checks the objects of a pod that its processes hold.
//!
//! CRIU knows mounts from outside by their places. Another mount in such a place, or below it, would come back as the host's, or
//! a mount of the host would be copied. So every dump asks this before it stops anything.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hiber_criu::External;
use hiber_sandbox::mountinfo::{self, Mount};
use hiber_sandbox::plan::NamespaceKind;
use hiber_sandbox::rootfs::resolve::Root;
use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::table::{
    ATTACHED, HOST_MOUNTS, HOSTS, MOUNT, MOUNT_SOURCE, OVERMOUNTED, QUEUES, REPLACED, REPLACED_OPEN,
};
use super::tasks::Proc;
use super::{Accepted, Findings};
use crate::checkpoint::{Bind, Direction, Outside, destinations, kept, named_points, outside, shared, utf8};
use crate::container::task::Task;
use crate::error::{Error, Result};

/// File systems that CRIU makes anew and whose content is the kernel's, so that it is the same wherever they are mounted.
const REMADE: [&str; 12] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "securityfs",
    "debugfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "pstore",
    "binfmt_misc",
    "fusectl",
    "simfs",
];

/// The outcome.
pub(crate) struct MountComparison {
    /// The mounts that CRIU leaves to us.
    pub(crate) external: Vec<External>,
    /// Whether a bind's source was removed, so that the images must say that it is there.
    pub(crate) removed: bool,
    pub(super) findings: Findings,
    mounts: Vec<Mount>,
}

impl MountComparison {
    /// Refuses images that CRIU has written of other mounts than were compared, by the processes that it still holds.
    pub(crate) fn check_unchanged(&self, pid: i32) -> Result<()> {
        if mountinfo::of(&pid.to_string())? == self.mounts {
            return Ok(());
        }
        Err(Error::host("the container's mounts have changed meanwhile", "try again"))
    }

    /// Whether a file system that the container sees writes synchronously.
    pub(crate) fn is_synchronous(&self) -> bool {
        self.mounts.iter().any(Mount::is_synchronous)
    }

    /// Where symbolic links are not followed.
    pub(crate) fn nosymfollow(&self) -> Vec<PathBuf> {
        self.mounts.iter().filter(|mount| mount.nosymfollow).map(|mount| mount.point.clone()).collect()
    }

    /// Refuses what could not be restored, and tells what would be otherwise than now.
    pub(crate) fn accept(self, accepted: &mut Accepted) -> Result<Self> {
        accepted.judge(&self.findings)?;
        Ok(self)
    }
}

/// Compares, by what /proc shows.
pub(crate) fn compare_mounts(task: &Task) -> Result<MountComparison> {
    let (facts, spec) = (task.facts()?, &*task.container().spec()?);
    if !facts.namespaces.contains(&NamespaceKind::Mount) {
        let mut findings = Findings::default();
        findings.add(&HOST_MOUNTS, HOST_MOUNTS.about);
        return Ok(MountComparison { external: Vec::new(), removed: false, findings, mounts: Vec::new() });
    }
    let outside = outside(Direction::Dump, spec, facts)?;
    let mounts = mountinfo::of(&facts.pid.to_string())?;
    let places: HashSet<&Path> = outside.iter().map(|o| o.point.as_path()).collect();
    let mut comparison = Comparison {
        task,
        mounts: &mounts,
        places: &places,
        spec,
        destinations: None,
        host: None,
        findings: Findings::default(),
    };
    let mut replaced = Vec::new();
    for place in &outside {
        replaced.extend(comparison.at(place)?);
    }
    comparison.open(&replaced)?;
    let below = comparison.below(&outside)?;
    comparison.strangers(&below, &replaced)?;
    if shared::namespaces(spec).any(|kind| kind == NamespaceKind::Ipc) {
        comparison.attached()?;
    } else if facts.namespaces.contains(&NamespaceKind::Ipc) {
        comparison.queues(facts.pid)?;
    }
    let findings = comparison.findings;
    let removed = replaced.iter().any(|mount| mount.removed);
    let mut external: Vec<_> = outside.into_iter().map(|o| o.external).collect();
    for point in below {
        let key = utf8(&point)?;
        external.push(External::mount(key, key));
    }
    Ok(MountComparison { external, removed, findings, mounts })
}

struct Comparison<'a> {
    task: &'a Task,
    mounts: &'a [Mount],
    /// Where mounts from outside are to be.
    places: &'a HashSet<&'a Path>,
    spec: &'a Spec,
    /// Where config.json has something mounted, by the kernel's names, once that was asked for.
    destinations: Option<HashSet<PathBuf>>,
    /// The host's mounts, once they were asked for.
    host: Option<Vec<Mount>>,
    findings: Findings,
}

impl<'a> Comparison<'a> {
    fn mounted_at<'b>(&'b self, point: &'b Path) -> impl Iterator<Item = &'a Mount> + 'b {
        self.mounts.iter().filter(move |mount| mount.point == point)
    }

    /// Whether it can be bound from another mount of the container's, but for those of `except`.
    fn is_inner(&self, mount: &Mount, except: &[&Mount]) -> bool {
        let others = self.mounts.iter().filter(|m| m.point != mount.point && !except.contains(m));
        others.into_iter().any(|whole| mount.is_part_of(whole))
    }

    /// Checks the mount at a place where one from outside should be, and returns the mount if its source is another one now. A
    /// mount that is gone was unmounted, and is not missed.
    fn at(&mut self, place: &Outside) -> Result<Option<&'a Mount>> {
        let here: Vec<_> = self.mounted_at(&place.point).collect();
        let Some(mount) = here.last().copied() else { return Ok(None) };
        // A read-only path is a second mount of the same.
        if let Some(other) = here.iter().find(|other| !other.shows_as(mount)) {
            let what =
                format!("two mounts lie over each other, of types {} and {}", other.fstype, mount.fstype);
            self.tell(&OVERMOUNTED, what, &place.point);
            return Ok(None);
        }
        let Some(Bind { source, .. }) = &place.bind else { return Ok(None) };
        // Without asking a file server that may not answer.
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let present = statx(CWD, source, flags, StatxFlags::BASIC_STATS);
        let root = Root::open_path(Path::new(&format!("/proc/{}/root", self.task.facts()?.pid)))?;
        let inside = root.find(&place.point)?.and_then(|file| {
            let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
            statx(&file, "", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).ok()
        });
        // A mount below a covered parent cannot be compared.
        let inside = inside.filter(|s| here.iter().any(|mount| u64::from(mount.id) == s.stx_mnt_id));
        let which = |s: rustix::fs::Statx| (s.stx_dev_major, s.stx_dev_minor, s.stx_ino);
        let same = present.is_ok_and(|present| inside.is_none_or(|inside| which(present) == which(inside)));
        if same {
            return Ok(None);
        }
        // A mount that the host has nowhere belongs to the container, or cannot be made again.
        if !self.hosts()?.iter().any(|m| m.device == mount.device)
            || !mount.removed && self.is_inner(mount, &[])
        {
            let what = format!("a mount of type {} is in the place of one of config.json", mount.fstype);
            self.tell(&OVERMOUNTED, what, &place.point);
            return Ok(None);
        }
        if let Err(e) = present {
            let what = format!("the source of {} is missing ({e})", place.point.display());
            self.tell(&MOUNT_SOURCE, what, source);
            return Ok(None);
        }
        let what = format!("{} was replaced since, and a restore takes what is there then", source.display());
        self.tell(&REPLACED, what, &place.point);
        Ok(Some(mount))
    }

    /// Whether config.json has something mounted there. Most of its paths are those that the kernel has, without links.
    fn is_destination(&mut self, point: &Path) -> Result<bool> {
        if named_points(self.spec).any(|path| Path::new("/").join(path) == point) {
            return Ok(true);
        }
        if self.destinations.is_none() {
            self.destinations = Some(destinations(self.spec, self.task.facts()?)?);
        }
        Ok(self.destinations.iter().flatten().any(|place| place == point))
    }

    fn hosts(&mut self) -> Result<&[Mount]> {
        if self.host.is_none() {
            self.host = Some(mountinfo::of("thread-self")?);
        }
        Ok(self.host.as_deref().unwrap_or_default())
    }

    fn tell(&mut self, check: &'static super::Check, what: String, path: &Path) {
        self.findings.add(check, what).path = Some(path.display().to_string());
    }

    /// Whether a process uses a file of a mount whose source was replaced: what is there then is another.
    fn open(&mut self, replaced: &[&Mount]) -> Result<()> {
        if replaced.is_empty() {
            return Ok(());
        }
        for process in self.task.tasks()?.iter().filter(|process| !process.is_dead()) {
            let mounts = mountinfo::of(&process.pid.to_string()).unwrap_or_default();
            let is_replaced = |m: &&Mount| replaced.iter().any(|r| r.shows_as(m));
            let ids: HashSet<u64> = mounts.iter().filter(is_replaced).map(|m| m.id.into()).collect();
            for link in used(process) {
                let found = statx(CWD, &link, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID);
                if found.is_ok_and(|s| ids.contains(&s.stx_mnt_id)) {
                    let path = std::fs::read_link(&link).unwrap_or_default();
                    let finding = self.findings.of(process, &REPLACED_OPEN, REPLACED_OPEN.about);
                    finding.path = Some(path.display().to_string());
                }
            }
        }
        Ok(())
    }

    /// Mounts below binds. A mount that the host has there, too, comes from outside; returns its place.
    fn below(&mut self, outside: &[Outside]) -> Result<HashSet<PathBuf>> {
        let binds = outside.iter().filter_map(|o| Some((&o.point, o.bind.as_ref()?)));
        let mut found = HashSet::new();
        // By number: of the bind that each is below, if all in between is the host's, too.
        let mut below: Vec<(u32, (&PathBuf, &Bind))> = Vec::new();
        for (point, bind) in binds {
            below.extend(self.mounted_at(point).map(|mount| (mount.id, (point, bind))));
        }
        let mut next = 0;
        while let Some((parent, bind)) = below.get(next).copied() {
            next += 1;
            for mount in self.mounts.iter().filter(|m| m.parent == parent && m.id != parent) {
                let taken = self.places.contains(mount.point.as_path());
                if taken || !mount.is_below(bind.0) || self.is_destination(&mount.point)? {
                    continue;
                }
                if self.is_hosts(mount, bind)? {
                    found.insert(mount.point.clone());
                    below.push((mount.id, bind));
                }
            }
        }
        Ok(found)
    }

    /// Whether the host has the same at the same place below the bind's source, and a restore finds it there.
    fn is_hosts(&mut self, mount: &Mount, (point, bind): (&PathBuf, &Bind)) -> Result<bool> {
        let place = bind.real_source().join(mount.point.strip_prefix(point).unwrap_or(&mount.point));
        Ok(bind.recursive && self.hosts()?.iter().any(|m| m.point == place && m.shows_as(mount)))
    }

    /// File systems of the host's that are neither where config.json nor where a bind of it has them: the container would
    /// come back with a copy, or not at all.
    fn strangers(&mut self, below: &HashSet<PathBuf>, replaced: &[&Mount]) -> Result<()> {
        let mounts = self.mounts;
        for mount in mounts {
            if REMADE.contains(&mount.fstype.as_str()) || self.is_expected(mount, below)? {
                continue;
            }
            if mount.idmapped {
                // CRIU would make it without its map, and the owners of a tmpfs's files would be those that the map shows.
                self.tell(&MOUNT, "an id-mapped mount was made inside".into(), &mount.point);
            } else if mount.removed {
                let what = "what was bound there was removed since, and no restore has its content";
                self.tell(&MOUNT, what.into(), &mount.point);
            } else if mount.fstype == "devpts"
                && let Some(number) = self.number_of_two(mount)?
            {
                // CRIU takes terminals for one another by their numbers.
                let what = format!(
                    "a terminal {number} of a devpts that was mounted inside is open, and another one of that number"
                );
                self.tell(&MOUNT, what, &mount.point);
            } else if mount.fstype == "tracefs" {
                // The kernel mounts it by itself below debugfs, where somebody looks for it.
                let automatic = |above: &&Mount| above.id == mount.parent && above.fstype == "debugfs";
                if !mounts.iter().any(|above| automatic(&above)) {
                    self.tell(
                        &MOUNT,
                        "a tracefs was mounted inside, which CRIU leaves out".into(),
                        &mount.point,
                    );
                }
            } else if mount.fstype == "overlay" && !self.is_part_of_expected(mount, below)? {
                // CRIU would look for its directories from the host's root.
                let what = "an overlay was mounted inside, and no restore finds its directories";
                self.tell(&MOUNT, what.into(), &mount.point);
            } else if !self.is_inner(mount, replaced)
                && self.hosts()?.iter().any(|m| m.device == mount.device)
            {
                let what = format!(
                    "a mount of type {} is the host's, and no rbind of config.json has it there",
                    mount.fstype
                );
                self.tell(&HOSTS, what, &mount.point);
            }
        }
        Ok(())
    }

    /// The number of a terminal that is open both of this devpts and of another one.
    fn number_of_two(&self, mount: &Mount) -> Result<Option<u32>> {
        let (mut here, mut elsewhere) = (HashSet::new(), HashSet::new());
        for process in self.task.tasks()?.iter().filter(|process| !process.is_dead()) {
            for link in entries(process, "fd") {
                let Ok(is) = statx(CWD, &link, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE) else { continue };
                let Some(number) = terminal(&is, process, &link) else { continue };
                let is_here = format!("{}:{}", is.stx_dev_major, is.stx_dev_minor) == mount.device;
                if is_here { &mut here } else { &mut elsewhere }.insert(number);
            }
        }
        Ok(here.intersection(&elsewhere).min().copied())
    }

    /// Whether a mount is where config.json, or a bind of it, has one.
    fn is_expected(&mut self, mount: &Mount, below: &HashSet<PathBuf>) -> Result<bool> {
        Ok(mount.point == Path::new("/")
            || self.places.contains(mount.point.as_path())
            || below.contains(&mount.point)
            || self.is_destination(&mount.point)?)
    }

    fn is_part_of_expected(&mut self, mount: &Mount, below: &HashSet<PathBuf>) -> Result<bool> {
        let mounts = self.mounts;
        for whole in mounts.iter().filter(|whole| mount.is_part_of(whole)) {
            if self.is_expected(whole, below)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// POSIX message queues, as the container's mount of them shows them, or one that nobody else sees. Nobody can read their
    /// messages without removing them, and the kernel does not tell who has asked to be notified.
    fn queues(&mut self, pid: i32) -> Result<()> {
        let mount = self.mounts.iter().find(|mount| mount.fstype == "mqueue");
        let names = match mount {
            Some(mount) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let root = Root::open_path(Path::new(&format!("/proc/{pid}/root")))?;
                root.open(&mount.point, flags).map(queue_names).unwrap_or_default()
            }
            None => hidden_queues(pid)?,
        };
        for name in names {
            let place = mount.map_or(Path::new("/"), |mount| &mount.point);
            self.tell(&QUEUES, QUEUES.about.into(), &place.join(name));
        }
        Ok(())
    }

    /// Whether a process has System V memory of a namespace that it shares.
    fn attached(&mut self) -> Result<()> {
        for process in self.task.tasks()?.iter().filter(|process| !process.is_dead()) {
            let maps = hiber_sys::file::read_to_string(process.path("maps")).unwrap_or_default();
            let segment = maps.lines().find_map(|line| Some(&line[line.find(" /SYSV")? + 1..]));
            if let Some(segment) = segment {
                self.findings.of(process, &ATTACHED, ATTACHED.about).path = Some(segment.into());
            }
        }
        Ok(())
    }
}

fn queue_names(dir: OwnedFd) -> Vec<String> {
    let entries = rustix::fs::Dir::read_from(&dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "." && name != "..").collect()
}

/// The message queues in the IPC namespace of a process, by a mount of them on no path.
fn hidden_queues(pid: i32) -> Result<Vec<String>> {
    let mount = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen("mqueue", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(context.as_fd())?;
        let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    };
    kept::ipc::inside(pid, || match mount() {
        Ok(dir) => Ok(queue_names(dir)),
        // a kernel without them
        Err(Errno::NODEV) => Ok(Vec::new()),
        Err(e) => Err(Error::sys("fsmount", "mqueue", e)),
    })
}

/// The number of an open terminal of a devpts (Documentation/admin-guide/devices.txt); a master tells it in /proc (`tty-index`).
fn terminal(is: &rustix::fs::Statx, process: &Proc, link: &Path) -> Option<u32> {
    const SLAVES: u32 = 136;
    const MASTER: (u32, u32) = (5, 2);
    if !FileType::from_raw_mode(is.stx_mode.into()).is_char_device() {
        return None;
    }
    if is.stx_rdev_major == SLAVES {
        return Some(is.stx_rdev_minor);
    }
    if (is.stx_rdev_major, is.stx_rdev_minor) != MASTER {
        return None;
    }
    let info = hiber_sys::file::read_to_string(process.path("fdinfo").join(link.file_name()?)).ok()?;
    info.lines().find_map(|line| line.strip_prefix("tty-index:")?.trim().parse().ok())
}

/// The links in a directory of a process in /proc.
fn entries(process: &Proc, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(process.path(name)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The links of /proc to the files that a process has open or mapped, or is in.
fn used(process: &Proc) -> impl Iterator<Item = PathBuf> {
    let all = |name: &str| entries(process, name);
    let single = ["cwd", "root", "exe"].map(|name| process.path(name));
    single.into_iter().chain(all("fd")).chain(all("map_files"))
}
