//! The cgroup hierarchies of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};

use super::dir::{Dir, if_there, read_file};
use super::version::Version;
use crate::error::{Error, Result};
use crate::mountinfo::unescape;

/// The kind of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only v1 hierarchies.
    V1,
    /// Only cgroup2; v1 hierarchies without a controller (`name=systemd`) do not count.
    V2,
    /// v1 controllers and a cgroup2 mount.
    Hybrid,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount point.
    pub point: PathBuf,
    /// The cgroup inside the hierarchy that is mounted there; `/` unless it is a bind mount or a
    /// mount made in a cgroup namespace.
    pub root: PathBuf,
}

/// The host's cgroup mounts and this process's place in them, as read once by [`Layout::detect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub(super) v1: BTreeMap<String, Mount>,
    pub(super) v2: Option<Mount>,
    v2_controllers: BTreeSet<String>,
    /// `/proc/self/cgroup`: own cgroup by controller; the key of cgroup2 is "".
    pub(super) own: BTreeMap<String, PathBuf>,
}

/// The directory below which distributions mount cgroups. Mounts elsewhere count only if there is none here: they belong to a
/// container, or a program made them for its own use.
const USUAL: &str = "/sys/fs/cgroup";

impl Layout {
    /// Reads `mountinfo` and `cgroup` of the calling thread, which may have a mount namespace of its own, and `cgroup.controllers`.
    ///
    /// # Errors
    /// No cgroup hierarchy is mounted, or procfs cannot be read.
    pub fn detect() -> Result<Self> {
        if let Some(layout) = Self::detect_v2()? {
            return Ok(layout);
        }
        let mountinfo = read_file(Path::new("/proc/thread-self/mountinfo"))?;
        let mountinfo: String =
            mountinfo.lines().filter(|l| !is_covered(l)).flat_map(|l| [l, "\n"]).collect();
        let own = read_file(Path::new("/proc/thread-self/cgroup"))?;
        let mut layout = Self::from_text(&mountinfo, &own, "")?;
        if let Some(mount) = &layout.v2 {
            let text = read_file(&mount.point.join("cgroup.controllers"))?;
            layout.v2_controllers = words(&text);
        }
        Ok(layout)
    }

    /// The layout if the usual place is the root of the cgroup2 hierarchy, as on most hosts. This check needs no mountinfo, which
    /// is long if many containers run.
    fn detect_v2() -> Result<Option<Self>> {
        /// The inode of a hierarchy's root: the first one of each (fs/kernfs/mount.c).
        const ROOT: u64 = 1;
        let Some(dir) = if_there(Dir::open(Path::new(USUAL))).unwrap_or_default() else { return Ok(None) };
        if dir.version() != Version::V2 || !rustix::fs::fstat(&dir).is_ok_and(|stat| stat.st_ino == ROOT) {
            return Ok(None);
        }
        let mount = Mount { point: USUAL.into(), root: "/".into() };
        Ok(Some(Self {
            v1: BTreeMap::new(),
            v2: Some(mount),
            v2_controllers: words(&dir.read("cgroup.controllers")?),
            own: parse_own(&read_file(Path::new("/proc/thread-self/cgroup"))?),
        }))
    }

    /// The layout that these texts describe: `mountinfo` as in proc_pid_mountinfo(5), `own` as
    /// `/proc/self/cgroup`, `v2_controllers` as the `cgroup.controllers` of the cgroup2 mount.
    ///
    /// # Errors
    /// There is no cgroup mount in `mountinfo`.
    pub fn from_text(mountinfo: &str, own: &str, v2_controllers: &str) -> Result<Self> {
        let own = parse_own(own);
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        let mut mounts: Vec<_> = mountinfo.lines().filter_map(parse_mount).collect();
        if mounts.iter().any(|(_, mount, _)| mount.point.starts_with(USUAL)) {
            mounts.retain(|(_, mount, _)| mount.point.starts_with(USUAL));
        }
        // The oldest mount wins.
        for (version, mount, options) in mounts {
            match version {
                Version::V2 => {
                    v2.get_or_insert(mount);
                }
                Version::V1 => {
                    for name in options.split(',').filter(|o| own.contains_key(*o)) {
                        v1.entry(name.to_owned()).or_insert_with(|| mount.clone());
                    }
                }
            }
        }
        if v1.is_empty() && v2.is_none() {
            return Err(Error::unsupported("cgroups", "no cgroup hierarchy is mounted"));
        }
        Ok(Self { v1, v2, v2_controllers: words(v2_controllers), own })
    }

    /// The kind of this host.
    pub fn kind(&self) -> Kind {
        match (self.v1.keys().any(|name| !name.starts_with("name=")), &self.v2) {
            (true, Some(_)) => Kind::Hybrid,
            (false, Some(_)) => Kind::V2,
            (_, None) => Kind::V1,
        }
    }

    /// The v1 hierarchies, by controller or `name=…`.
    pub fn v1(&self) -> &BTreeMap<String, Mount> {
        &self.v1
    }

    /// The cgroup2 mount.
    pub fn v2(&self) -> Option<&Mount> {
        self.v2.as_ref()
    }

    /// The cgroup2 directory that a `/proc/PID/cgroup` names, if it can be reached.
    pub(super) fn v2_dir_of(&self, proc_cgroup: &str) -> Option<PathBuf> {
        let mount = self.v2.as_ref()?;
        let inside = parse_own(proc_cgroup).remove("")?;
        Some(mount.point.join(inside.strip_prefix(&mount.root).ok()?))
    }

    /// The directory of this process's own cgroup where containers are frozen.
    pub(super) fn own_freezer(&self) -> Option<PathBuf> {
        let (mount, key) = match self.v1.get("freezer") {
            Some(mount) => (mount, "freezer"),
            None => (self.v2.as_ref()?, ""),
        };
        Some(mount.point.join(self.own.get(key)?.strip_prefix(&mount.root).ok()?))
    }

    /// The directory of the cpuset that a `/proc/PID/cgroup` names, if it can be reached, and its hierarchy.
    pub(super) fn cpuset_of(&self, proc_cgroup: &str) -> Option<(PathBuf, Version)> {
        match self.v1.get("cpuset") {
            Some(mount) => {
                let inside = parse_own(proc_cgroup).remove("cpuset")?;
                Some((mount.point.join(inside.strip_prefix(&mount.root).ok()?), Version::V1))
            }
            None => Some((self.v2_dir_of(proc_cgroup)?, Version::V2)),
        }
    }

    /// All usable controllers, with their names of v1 or v2 (`blkio` or `io`).
    pub fn controllers(&self) -> BTreeSet<&str> {
        self.v1.keys().chain(&self.v2_controllers).map(String::as_str).collect()
    }

    /// The version of the hierarchy with the controller `v1_name`, or else `v2_name`; the names differ for `blkio` and `io`
    /// alone.
    pub(super) fn find(&self, v1_name: &str, v2_name: &str) -> Option<Version> {
        if self.v1.contains_key(v1_name) {
            Some(Version::V1)
        } else if self.v2_controllers.contains(v2_name) {
            Some(Version::V2)
        } else {
            None
        }
    }

    /// The mount that `path` lies below.
    pub(super) fn mount_of(&self, path: &Path) -> Option<&Mount> {
        self.v1.values().chain(&self.v2).find(|mount| path.starts_with(&mount.point))
    }
}

/// `/proc/PID/cgroup`: `ID:CONTROLLER,CONTROLLER:PATH` lines; cgroup2 is `0::PATH`.
fn parse_own(text: &str) -> BTreeMap<String, PathBuf> {
    let mut own = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(names), Some(path)) = (parts.next(), parts.next()) {
            own.extend(names.split(',').map(|name| (name.to_owned(), PathBuf::from(path))));
        }
    }
    own
}

/// A line of mountinfo, if it is a cgroup mount, with the options of its superblock.
fn parse_mount(line: &str) -> Option<(Version, Mount, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = right.nth(1).unwrap_or("");
    let mut left = left.split(' ').skip(3);
    let root = unescape(left.next()?);
    let point = unescape(left.next()?);
    Some((version, Mount { point, root }, options))
}

/// Whether this cgroup mount cannot be reached by its path any more: another one lies over it or over a parent.
fn is_covered(line: &str) -> bool {
    let Some((_, mount, _)) = parse_mount(line) else { return false };
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statx(rustix::fs::CWD, &mount.point, flags, StatxFlags::MNT_ID) {
        // Linux before 5.8 does not report this.
        Ok(stat) if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 => false,
        Ok(stat) => line.split(' ').next() != Some(stat.stx_mnt_id.to_string().as_str()),
        Err(_) => true,
    }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::paths::CgroupPaths;

    pub(crate) const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
90 23 0:30 / /srv/rootfs/cg/cpu rw - cgroup cgroup rw,cpu,cpuacct
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/me\\040mory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
    const OWN: &str = "4:memory:/a/b:c\n2:cpu,cpuacct:/\n9:name=systemd:/x\n0::/user/me\n";

    fn hybrid() -> Layout {
        Layout::from_text(HYBRID, OWN, "hugetlb\n").unwrap()
    }

    #[test]
    fn hybrid_hosts() {
        let layout = hybrid();
        assert_eq!(layout.kind(), Kind::Hybrid);
        assert_eq!(
            layout.controllers().into_iter().collect::<Vec<_>>(),
            ["cpu", "cpuacct", "hugetlb", "memory", "name=systemd"]
        );
        // The usual place wins over an older mount elsewhere; escapes are undone.
        assert_eq!(layout.v1()["cpu"].point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(layout.v1()["memory"].point, Path::new("/sys/fs/cgroup/me mory"));
        assert_eq!(layout.find("cpu", "cpu"), Some(Version::V1));
        assert_eq!(layout.find("hugetlb", "hugetlb"), Some(Version::V2));
        assert_eq!(layout.find("blkio", "io"), None);
    }

    #[test]
    fn kinds() {
        let v2 = "30 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let named = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let both = format!("{v2}{named}");
        assert_eq!(Layout::from_text(v2, "0::/\n", "").unwrap().kind(), Kind::V2);
        assert_eq!(Layout::from_text(&both, OWN, "").unwrap().kind(), Kind::V2);
        assert_eq!(Layout::from_text(named, OWN, "").unwrap().kind(), Kind::V1);
        let none = Layout::from_text("31 23 0:28 / / rw - ext4 x rw", OWN, "").unwrap_err();
        assert_eq!(none.to_string(), "cgroups: not supported: no cgroup hierarchy is mounted");
    }

    #[test]
    fn covered_mounts_are_told_by_their_number() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let proc = mounts.lines().rfind(|l| l.split(' ').nth(4) == Some("/proc")).unwrap();
        let id = proc.split(' ').next().unwrap();
        let line = |id: &str, point: &str| format!("{id} 1 0:30 / {point} rw - cgroup2 cgroup2 rw");
        assert!(!is_covered(&line(id, "/proc")), "{proc}");
        assert!(is_covered(&line(&format!("{id}1"), "/proc")));
        assert!(is_covered(&line(id, "/proc/no-such")));
        assert!(!is_covered(&line("1", "/proc").replace("cgroup2", "tmpfs")), "no cgroup");
    }

    #[test]
    fn absolute_paths_lie_below_the_mounts() {
        let paths = hybrid().resolve(Some(Path::new("/../../x/./y/../z")), "id").unwrap();
        assert_eq!(paths.v1["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct/x/z"));
        assert_eq!(paths.v1["memory"], Path::new("/sys/fs/cgroup/me mory/x/z"));
        assert_eq!(paths.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/x/z")));
        // cpu and cpuacct are one directory.
        assert_eq!(paths.directories().len(), 4);
        let json = serde_json::to_string(&paths).unwrap();
        assert_eq!(serde_json::from_str::<CgroupPaths>(&json).unwrap(), paths);
    }

    #[test]
    fn relative_paths_lie_below_the_own_cgroup() {
        for given in [None, Some(Path::new("")), Some(Path::new("id")), Some(Path::new("../../id"))] {
            let paths = hybrid().resolve(given, "id").unwrap();
            assert_eq!(paths.v1["memory"], Path::new("/sys/fs/cgroup/me mory/a/b:c/id"));
            assert_eq!(paths.v1["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct/id"));
            assert_eq!(paths.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/id")));
        }
        let systemd = hybrid().resolve(Some(Path::new("a.slice:p:n")), "id").unwrap();
        assert_eq!(systemd.v1["name=systemd"], Path::new("/sys/fs/cgroup/systemd/x/a.slice:p:n"));
        // On v2 it is a sibling.
        let v2 = "30 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::from_text(v2, "0::/user/me\n", "").unwrap();
        let paths = layout.resolve(None, "id").unwrap();
        assert_eq!(paths.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/user/id")));
        let top = Layout::from_text(v2, "0::/\n", "").unwrap().resolve(None, "id").unwrap();
        assert_eq!(top.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/id")));
    }

    #[test]
    fn a_mount_that_is_not_the_whole_hierarchy() {
        let nested = "35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let layout = Layout::from_text(nested, "4:memory:/docker/1/me\n", "").unwrap();
        let paths = layout.resolve(None, "id").unwrap();
        assert_eq!(paths.v1["memory"], Path::new("/sys/fs/cgroup/memory/me/id"));
        for outside in ["/elsewhere", "/docker/1/../2"] {
            let layout = Layout::from_text(nested, &format!("4:memory:{outside}\n"), "").unwrap();
            let error = layout.resolve(None, "id").unwrap_err().to_string();
            assert!(error.starts_with("linux.cgroupsPath: a relative path lies below"), "{error}");
            assert!(layout.resolve(Some(Path::new("/abs")), "id").is_ok());
        }
    }

    #[test]
    fn refused_paths() {
        for bad in ["/", "..", "/a/..", "./", "a\nb"] {
            let error = hybrid().resolve(Some(Path::new(bad)), "id").unwrap_err().to_string();
            assert!(error.starts_with("linux.cgroupsPath: "), "{error}");
        }
    }
}
