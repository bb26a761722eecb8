//! Mounts: those that config.json gives, as it gives them, and beside them what the container's own processes may have
//! mounted.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use caps::Capability;
use criu_proto::images::mnt::mnt_entry::FsType;
use hiber_criu::Images;
use hiber_criu::images::Task;
use hiber_sandbox::plan::{DEFAULT_DEVICES, MountPlan, MountSource, RootPlan};
use hiber_sandbox::rootfs::resolve::Root;

use super::grant::{Grant, Verdict};
use super::mount_images::{Mount, at_most, confining, read};
use super::namespaces;
use crate::checkpoint::crun::is_empty_directory;
use crate::checkpoint::externals::resolved;
use crate::error::Result;

/// Flags of mount(2) that restrict: ro, nosuid, nodev, noexec. The attributes of mount_setattr(2) have the same values.
const RESTRICTIVE: u64 = 0b1111;
const READ_ONLY: u32 = 1;
/// MS_SHARED
const SHARED: u64 = 1 << 20;
/// The key of masked files, which are binds of the host's /dev/null.
const NULL: &str = "/dev/null";

impl Grant<'_> {
    /// Returns whether a mount gets events from a mount outside the container.
    pub(super) fn mounts(
        &self,
        images: &Images,
        tasks: &[Task],
    ) -> Result<std::result::Result<bool, String>> {
        let Some(plan) = self.plan.init.root.as_ref().filter(|root| root.own_mount_namespace) else {
            return Ok(Ok(false));
        };
        let mut namespace_ids = Vec::new();
        for task in tasks {
            let id = namespaces::ids(images, task.pid)?.and_then(|ids| ids.mnt_ns_id);
            if let Some(id) = id.filter(|id| !namespace_ids.contains(id)) {
                namespace_ids.push(id);
            }
        }
        let (mut peers, mut masters) = (HashSet::new(), HashSet::new());
        // The first task's comes first; only whoever may mount has others.
        for (n, id) in namespace_ids.into_iter().enumerate() {
            let mounts = match read(images, id)? {
                Ok(mounts) => mounts,
                Err(problem) => return Ok(Err(problem)),
            };
            let points = RefCell::default();
            let check = Check { grant: self, plan, mounts: &mounts, keys: self.keys(), points };
            if let Err(problem) = check.all(n == 0) {
                return Ok(Err(format!("{problem} (mountpoints-{id}.img)")));
            }
            peers.extend(mounts.iter().map(|mount| mount.groups.0));
            masters.extend(mounts.iter().map(|mount| mount.groups.1).filter(|group| *group != 0));
        }
        Ok(Ok(masters.iter().any(|group| !peers.contains(group))))
    }

    /// The mounts that the restore supplies from outside, by key.
    fn keys(&self) -> Vec<String> {
        self.externals.iter().filter_map(|external| Some(external.as_mount()?.0.to_owned())).collect()
    }
}

/// The mount that must be at a mount point.
struct Wanted {
    types: Vec<FsType>,
    flags: u32,
    key: Key,
    /// Options of the file system that confine: each must be there.
    options: Vec<String>,
}

impl Wanted {
    fn is_bind(&self) -> bool {
        self.key == Key::Yes
    }

    /// CRIU has none of those in its images: a restore mounts what config.json has of them.
    fn is_left_to_us(&self) -> bool {
        self.types == [FsType::TRACEFS]
    }
}

/// Whether a mount comes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    No,
    Yes,
    Either,
}

/// The mounts of one namespace against the plan.
struct Check<'a> {
    grant: &'a Grant<'a>,
    plan: &'a RootPlan,
    mounts: &'a [Mount],
    keys: Vec<String>,
    /// The places of config.json's paths: each is asked for many times.
    points: RefCell<HashMap<PathBuf, PathBuf>>,
}

impl Check<'_> {
    fn all(&self, first: bool) -> Verdict {
        for mount in self.mounts {
            self.outside(mount)?;
        }
        // A process that may mount may also unmount, or mount again.
        let may_mount = self.grant.can(Capability::CAP_SYS_ADMIN);
        if may_mount {
            return self.mounts.iter().try_for_each(|mount| self.mountable(mount));
        }
        if !first {
            return Err("has a second mount namespace".into());
        }
        self.root()?;
        let mut wanted = self.wanted();
        for mount in self.mounts.iter().filter(|mount| mount.point != Path::new("/")) {
            self.planned(mount, &mut wanted)?;
        }
        let may_lack = |point: &Path, wanted: &[Wanted]| {
            wanted.iter().all(Wanted::is_left_to_us)
                || wanted.iter().all(Wanted::is_bind) && self.lies_on_the_root(point)
        };
        if let Some((point, _)) = wanted.iter().find(|(point, wanted)| !may_lack(point, wanted)) {
            return Err(format!("lacks the mount at {}", point.display()));
        }
        self.restrictions()
    }

    /// Whether below what config.json mounts there is the container's own root: whoever unmounted a volume is left with
    /// less. Else it may cover what the container is not to see.
    fn lies_on_the_root(&self, point: &Path) -> bool {
        self.plan.mounts.iter().filter(|mount| point.starts_with(self.point(&mount.destination))).count() == 1
    }

    /// Nothing comes from outside but what config.json gives, where it gives it.
    fn outside(&self, mount: &Mount) -> Verdict {
        let at = mount.point.display();
        if let Some(key) = &mount.key {
            let own =
                Path::new(key) == mount.point && (self.keys.contains(key) || mount.point == Path::new("/"));
            let mask = (key == NULL || is_empty_directory(key)) && self.is_masked(&mount.point);
            if !own && !mask {
                return Err(format!("has {key:?} of the host at {at}, where config.json has no such mount"));
            }
        }
        let shares = |mount: &MountPlan| mount.propagation.iter().any(|(flag, _)| flag & SHARED != 0);
        let planned = self.plan.mounts.iter().find(|m| self.point(&m.destination) == mount.point);
        if mount.shared_outside && self.plan.propagation & SHARED == 0 && !planned.is_some_and(shares) {
            return Err(format!("shares with the host what is mounted below {at}; config.json does not"));
        }
        Ok(())
    }

    fn is_masked(&self, point: &Path) -> bool {
        self.plan.masked_paths.iter().any(|path| path == point || self.point(path) == point)
    }

    /// Where a path of config.json really is.
    fn point(&self, path: &Path) -> PathBuf {
        if let Some(point) = self.points.borrow().get(path) {
            return point.clone();
        }
        let absolute = Path::new("/").join(path);
        let find = |absolute: PathBuf| match Root::open_path(&self.plan.path) {
            Ok(root) => resolved(&root, &self.plan.path, &absolute),
            Err(_) => absolute,
        };
        let is_mount = self.mounts.iter().any(|mount| mount.point == absolute);
        let point = if is_mount { absolute } else { find(absolute) };
        self.points.borrow_mut().insert(path.to_owned(), point.clone());
        point
    }

    /// A mount that a process with CAP_SYS_ADMIN may have made, or a bind of an existing one.
    fn mountable(&self, mount: &Mount) -> Verdict {
        use FsType as T;
        let bind = |mount: &Mount| {
            let source = |other: &Mount| {
                other.id != mount.id && other.device == mount.device && mount.root.starts_with(&other.root)
            };
            mount.key.is_some() || mount.point == Path::new("/") || self.mounts.iter().any(source)
        };
        let everywhere = [T::PROC, T::SYSFS, T::TMPFS, T::DEVPTS, T::MQUEUE, T::CGROUP, T::CGROUP2];
        let of_the_host =
            [T::DEVTMPFS, T::BINFMT_MISC, T::DEBUGFS, T::TRACEFS, T::SECURITYFS, T::PSTORE, T::FUSECTL];
        let allowed = everywhere.contains(&mount.fstype)
            || of_the_host.contains(&mount.fstype) && (!self.grant.plan.init.in_user_namespace || bind(mount))
            || mount.fstype == T::UNSUPPORTED && bind(mount)
            // Its layers are paths, which a restore would look for on the host.
            || mount.fstype == T::OVERLAYFS && (mount.key.is_some() || mount.point == Path::new("/"));
        match allowed {
            true => Ok(()),
            false => Err(format!(
                "has a mount of type {:?} at {}, which no process of the container can make",
                mount.fstype,
                mount.point.display()
            )),
        }
    }

    fn root(&self) -> Verdict {
        let root = self.mounts.iter().filter(|mount| mount.point == Path::new("/")).collect::<Vec<_>>();
        match root.as_slice() {
            [root] if self.plan.readonly && root.flags & READ_ONLY == 0 => {
                Err("has a root file system that can be written; config.json has root.readonly".into())
            }
            [_] => Ok(()),
            all => Err(format!("has {} mounts at /; expected one", all.len())),
        }
    }

    /// The mounts of config.json by their points. Several at one point are one on the other.
    fn wanted(&self) -> BTreeMap<PathBuf, Vec<Wanted>> {
        let mut all: BTreeMap<PathBuf, Vec<Wanted>> = BTreeMap::new();
        for mount in &self.plan.mounts {
            if let Some(wanted) = self.of_plan(mount) {
                all.entry(self.point(&mount.destination)).or_default().push(wanted);
            }
        }
        all
    }

    fn of_plan(&self, mount: &MountPlan) -> Option<Wanted> {
        use FsType as T;
        let recursive = mount.recursive.set & RESTRICTIVE;
        let flags = |own: u64| u32::try_from(own & RESTRICTIVE | recursive).unwrap_or(0);
        Some(match &mount.source {
            MountSource::Bind { .. } => {
                let flags = flags(mount.attributes.set);
                Wanted { types: Vec::new(), flags, key: Key::Yes, options: Vec::new() }
            }
            MountSource::Cgroup => Wanted {
                types: vec![T::TMPFS, T::CGROUP2, T::CGROUP],
                flags: flags(mount.flags),
                key: Key::Either,
                options: Vec::new(),
            },
            MountSource::Filesystem { fstype, data, .. } => {
                let types = match fstype.as_str() {
                    "proc" => vec![T::PROC],
                    "sysfs" => vec![T::SYSFS],
                    "tmpfs" => vec![T::TMPFS],
                    "devpts" => vec![T::DEVPTS],
                    "mqueue" => vec![T::MQUEUE],
                    "devtmpfs" => vec![T::DEVTMPFS],
                    "cgroup2" => vec![T::CGROUP2],
                    "binfmt_misc" => vec![T::BINFMT_MISC],
                    "debugfs" => vec![T::DEBUGFS],
                    "tracefs" => vec![T::TRACEFS],
                    "securityfs" => vec![T::SECURITYFS],
                    "pstore" => vec![T::PSTORE],
                    "fusectl" => vec![T::FUSECTL],
                    "overlay" => vec![T::OVERLAYFS],
                    // Nothing of the kind is in images.
                    _ => return None,
                };
                Wanted { types, flags: flags(mount.flags), key: Key::No, options: confining(fstype, data) }
            }
        })
    }

    /// A mount that config.json or the runtime makes, or a tmpfs, which shows nothing of the host.
    fn planned(&self, mount: &Mount, wanted: &mut BTreeMap<PathBuf, Vec<Wanted>>) -> Verdict {
        let at = mount.point.display();
        let here = wanted.get_mut(&mount.point).filter(|here| !here.is_empty());
        if let Some(here) = here {
            let problems: Vec<_> = here.iter().map(|wanted| unlike(mount, wanted)).collect();
            if let Some(fitting) = problems.iter().position(Option::is_none) {
                here.remove(fitting);
                return self.is_on_its_parent(mount);
            }
            // Read-only and masked paths of config.json lie on its own mounts there.
            if !self.is_restricted(mount) {
                let problem = problems.into_iter().flatten().next().unwrap_or_default();
                return Err(format!("has a mount at {at} {problem}"));
            }
        }
        let known = mount.fstype == FsType::TMPFS && mount.key.is_none()
            || self.is_restricted(mount)
            || self.is_hierarchy(mount)
            || self.is_below_a_bind(mount)
            || self.is_seen_elsewhere(mount)
            || self.is_device(mount);
        match known {
            true => self.is_on_its_parent(mount),
            false => {
                Err(format!("has a mount of type {:?} at {at} that config.json does not have", mount.fstype))
            }
        }
    }

    /// A mount below another one covers what it is said to cover only if it is mounted on that.
    fn is_on_its_parent(&self, mount: &Mount) -> Verdict {
        let length = |path: &Path| path.components().count();
        let over = |other: &&Mount| other.point != mount.point && mount.point.starts_with(&other.point);
        let longest = self.mounts.iter().filter(over).map(|other| length(&other.point)).max();
        let parent = self.mounts.iter().find(|other| other.id == mount.parent);
        // Several at one point are one on the other.
        let fits = |parent: &Mount| {
            parent.point == mount.point
                || mount.point.starts_with(&parent.point) && Some(length(&parent.point)) == longest
        };
        match parent.is_some_and(fits) {
            true => Ok(()),
            false => Err(format!("has a mount at {} that is below another", mount.point.display())),
        }
    }

    /// Files that are visible elsewhere as well, with no more rights: a bind that somebody made from the host. Nothing of it may
    /// be covered where it is seen, but by what makes it read-only if this is so, too.
    fn is_seen_elsewhere(&self, mount: &Mount) -> bool {
        let is_source = |other: &&Mount| {
            other.id != mount.id
                && other.device == mount.device
                && mount.root.starts_with(&other.root)
                && other.flags & !mount.flags & 0b1111 == 0
        };
        let reveals = |other: &Mount| {
            let read_only = mount.flags & READ_ONLY != 0 && self.is_read_only_path(other);
            other.id != mount.id
                && other.parent != mount.id
                && !read_only
                && self.covered(other).is_some_and(|(device, covered)| {
                    device == mount.device
                        && (covered.starts_with(&mount.root) || mount.root.starts_with(&covered))
                })
        };
        mount.key.is_none()
            && mount.fstype == FsType::UNSUPPORTED
            && self.mounts.iter().any(|other| is_source(&other))
            && !self.mounts.iter().any(reveals)
    }

    /// The file system that a mount lies on, and the place there.
    fn covered(&self, mount: &Mount) -> Option<(u32, PathBuf)> {
        let parent = self.mounts.iter().find(|other| other.id == mount.parent)?;
        let inside = mount.point.strip_prefix(&parent.point).ok()?;
        // Joining nothing adds a slash.
        let empty = inside.as_os_str().is_empty();
        Some((parent.device, if empty { parent.root.clone() } else { parent.root.join(inside) }))
    }

    /// A masked or read-only path.
    fn is_restricted(&self, mount: &Mount) -> bool {
        self.is_mask(mount) || self.is_read_only_path(mount)
    }

    fn is_mask(&self, mount: &Mount) -> bool {
        let covers = match &mount.key {
            // crun gives files that it masks the key that a bind there would have.
            Some(key) if Path::new(key) == mount.point => !self.is_bound(&mount.point),
            Some(key) => key == NULL || is_empty_directory(key),
            None => mount.fstype == FsType::TMPFS && mount.flags & READ_ONLY != 0,
        };
        covers && self.is_masked(&mount.point)
    }

    fn is_bound(&self, point: &Path) -> bool {
        let binds = |mount: &MountPlan| matches!(mount.source, MountSource::Bind { .. });
        self.plan.mounts.iter().any(|mount| binds(mount) && point.starts_with(self.point(&mount.destination)))
    }

    /// A read-only path is a bind of itself.
    fn is_read_only_path(&self, mount: &Mount) -> bool {
        let listed = self.plan.readonly_paths.iter();
        let listed = listed.into_iter().any(|path| *path == mount.point || self.point(path) == mount.point);
        listed
            && mount.key.is_none()
            && mount.flags & READ_ONLY != 0
            && self.covered(mount) == Some((mount.device, mount.root.clone()))
    }

    /// The host's mounts below the source of a recursive bind, relative to the source.
    fn is_below_a_bind(&self, mount: &Mount) -> bool {
        let brings = |plan: &MountPlan| {
            let flags = u32::try_from(plan.recursive.set & RESTRICTIVE).unwrap_or(0);
            matches!(plan.source, MountSource::Bind { recursive: true, .. })
                && mount.point.starts_with(self.point(&plan.destination))
                && mount.flags & flags == flags
        };
        mount.key.is_some() && self.plan.mounts.iter().any(brings)
    }

    /// A hierarchy of cgroup v1, in the directory that config.json's mount of type cgroup is.
    fn is_hierarchy(&self, mount: &Mount) -> bool {
        let top = self.plan.mounts.iter().find(|m| {
            m.source == MountSource::Cgroup && mount.point.parent() == Some(&self.point(&m.destination))
        });
        let Some(top) = top else { return false };
        let flags = u32::try_from(top.flags & RESTRICTIVE).unwrap_or(0);
        matches!(mount.fstype, FsType::CGROUP | FsType::CGROUP2)
            && mount.flags & flags == flags
            && (mount.key.is_some() || self.plan.own_cgroup_namespace)
    }

    /// A device of the host, bound, as in user namespaces; and the terminal of the container.
    fn is_device(&self, mount: &Mount) -> bool {
        let is = |path: &Path| path == mount.point;
        let listed = DEFAULT_DEVICES.iter().any(|(path, ..)| is(Path::new(path)))
            || self.plan.devices.iter().any(|device| is(&device.path));
        let bound = self.grant.plan.init.bind_devices && mount.key.is_some() && listed;
        let console = self.grant.plan.init.process.terminal
            && is(Path::new("/dev/console"))
            && mount.fstype == FsType::DEVPTS;
        bound || console
    }

    /// Everything that config.json masks or makes read-only is so, as far as it is there at all.
    fn restrictions(&self) -> Verdict {
        let points: HashMap<&Path, Vec<&Mount>> =
            self.mounts.iter().fold(HashMap::new(), |mut all, mount| {
                all.entry(mount.point.as_path()).or_insert_with(Vec::new).push(mount);
                all
            });
        let at = |path: &Path, fits: &dyn Fn(&Mount) -> bool| {
            let is = |point: &Path| points.get(point).is_some_and(|all| all.iter().any(|mount| fits(mount)));
            is(path) || is(&self.point(path))
        };
        for path in &self.plan.masked_paths {
            if !at(path, &|mount| self.is_mask(mount)) && self.exists(path) {
                return Err(format!("does not mask {}, which config.json does", path.display()));
            }
        }
        for path in &self.plan.readonly_paths {
            let done = at(path, &|mount| mount.flags & READ_ONLY != 0 || self.is_mask(mount));
            if !done && self.exists(path) {
                return Err(format!("does not make {} read-only, which config.json does", path.display()));
            }
        }
        Ok(())
    }

    /// Whether a path is there in the restored container, before its processes make any.
    fn exists(&self, path: &Path) -> bool {
        let point = self.point(path);
        let mounts = self.plan.mounts.iter().filter(|m| point.starts_with(self.point(&m.destination)));
        let over = mounts.max_by_key(|m| m.destination.components().count());
        let Some(over) = over else {
            let found = Root::open_path(&self.plan.path).and_then(|root| root.find(&point));
            return !matches!(found, Ok(None));
        };
        let inside = point.strip_prefix(self.point(&over.destination)).unwrap_or(Path::new("")).to_owned();
        let at = |dir: &Path| rustix::fs::lstat(dir.join(&inside)).is_ok();
        match &over.source {
            MountSource::Bind { path, .. } => at(path),
            // The kernel shows the same here and there.
            MountSource::Filesystem { fstype, .. } => match fstype.as_str() {
                "proc" => at(Path::new("/proc")),
                "sysfs" => at(Path::new("/sys")),
                _ => false,
            },
            MountSource::Cgroup => false,
        }
    }
}

/// The difference between a mount and the one that is wanted there.
fn unlike(mount: &Mount, wanted: &Wanted) -> Option<String> {
    if !wanted.types.is_empty() && !wanted.types.contains(&mount.fstype) {
        return Some(format!("of type {:?}; config.json wants {:?}", mount.fstype, wanted.types[0]));
    }
    // runc leaves the directory writable that hierarchies of cgroup v1 are mounted in, which shows nothing itself.
    let holder = wanted.types.contains(&FsType::CGROUP) && mount.fstype == FsType::TMPFS;
    let missing = wanted.flags & !mount.flags & !(if holder { READ_ONLY } else { 0 });
    if missing != 0 {
        let names = [(1, "ro"), (2, "nosuid"), (4, "nodev"), (8, "noexec")];
        let names: Vec<_> =
            names.iter().filter(|(bit, _)| missing & bit != 0).map(|(_, name)| *name).collect();
        return Some(format!("without {}", names.join(", ")));
    }
    match (wanted.key, &mount.key) {
        (Key::Yes, None) => return Some("that is not config.json's, from outside".into()),
        (Key::No, Some(_)) => return Some("from outside; config.json wants a new one".into()),
        _ => {}
    }
    let has = |option: &String| mount.options.split(',').any(|own| at_most(own, option));
    wanted.options.iter().find(|option| !has(option)).map(|option| format!("without {option}"))
}
