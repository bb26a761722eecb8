//! The cgroup trees as CRIU finds them: a directory with an entry for each hierarchy.
//!
//! CRIU would mount each of them anew, which takes 3 ms apiece with the tasks frozen and changes the options of the
//! host's cgroup2 mount (CRIU issue 3029), for which Linux 6.18 waits another 10 ms. Links to the mounts that are there do as
//! well for a dump. At a restore CRIU walks them from inside the container, where links lead elsewhere: there they are bound.
//!
//! A dump saves all that is below the cgroups of the tasks. Where the container has none of its own those are its runtime's, or the
//! root, and what is below them is the host's: of such hierarchies it finds empty directories by these names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hiber_sandbox::cgroup::{CgroupPaths, Layout};
use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, mount, mount_bind};

use crate::error::{Error, Result};
use crate::host::links::Links;

/// The directory for a dump.
#[derive(Debug)]
pub(super) struct CgroupYard(Links);

/// A hierarchy, by the name that CRIU gives it.
#[derive(Debug, PartialEq, Eq)]
struct Tree {
    name: String,
    /// Where it is mounted, if the container has cgroups there.
    point: Option<PathBuf>,
}

/// Whether the container has a cgroup of its own in the hierarchy of these controllers, as cgroups(7) names them.
pub(super) fn owns<'a>(own: &CgroupPaths, mut controllers: impl Iterator<Item = &'a str>) -> bool {
    controllers.any(|name| if name.is_empty() { own.v2.is_some() } else { own.v1.contains_key(name) })
}

impl CgroupYard {
    /// Makes the directory `at`, for processes whose cgroups are those of `own`. `None` if hierarchies are not mounted from
    /// their roots, so that CRIU has to mount them itself.
    pub(super) fn make(at: PathBuf, own: &CgroupPaths, processes: &[i32]) -> Result<Option<Self>> {
        let read = |who: &str| {
            let path = PathBuf::from(format!("/proc/{who}/cgroup"));
            hiber_sys::file::read_to_string(&path).map_err(|e| Error::file(&path, &e))
        };
        let text = read("thread-self")?;
        let Some(trees) = trees(&text, &Layout::detect()?, own) else { return Ok(None) };
        let (mounted, others): (Vec<_>, Vec<_>) = trees.into_iter().partition(|tree| tree.point.is_some());
        let mut places = BTreeSet::new();
        if !others.is_empty() {
            // One that has ended meanwhile is nowhere.
            for text in processes.iter().filter_map(|pid| read(&pid.to_string()).ok()) {
                let Some(found) = places_in(&text, &others) else { return Ok(None) };
                places.extend(found);
            }
        }
        let links = mounted.into_iter().filter_map(|tree| Some((tree.name, tree.point?)));
        let links = Links::make(at, links)?;
        for place in places {
            let directory = links.path().join(place);
            std::fs::create_dir_all(&directory).map_err(|e| Error::file(&directory, &e))?;
        }
        tracing::debug!("CRIU finds the cgroup hierarchies in {}", links.path().display());
        Ok(Some(Self(links)))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Binds the hierarchies below the directory `at`, in a file system that only the calling thread's mount namespace has. CRIU mounts
/// those itself that are not there: parts of hierarchies, and what may only be read here.
pub(super) fn bind(at: &Path, layout: &Layout) -> Result<()> {
    let text = own()?;
    let fail = |what: &Path, e| Error::sys("mount", what.display().to_string(), e);
    mount("hiber", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0700")
        .map_err(|e| fail(at, e))?;
    for (name, point) in writable(&text, layout) {
        let place = at.join(name);
        std::fs::create_dir(&place).map_err(|e| Error::file(&place, &e))?;
        mount_bind(&point, &place).map_err(|e| fail(&point, e))?;
    }
    Ok(())
}

/// Whether [`bind`] finds all hierarchies, so that CRIU mounts none: in a cgroup namespace it would see a part of those.
pub(super) fn is_whole(layout: &Layout) -> Result<bool> {
    let text = own()?;
    Ok(writable(&text, layout).len() == text.lines().count())
}

fn own() -> Result<String> {
    let path = Path::new("/proc/thread-self/cgroup");
    hiber_sys::file::read_to_string(path).map_err(|e| Error::file(path, &e))
}

/// The hierarchies that are mounted whole and may be written to, by their names in a yard.
fn writable(text: &str, layout: &Layout) -> Vec<(String, PathBuf)> {
    let of = |line: &str| {
        let controllers = line.split(':').nth(1)?;
        let point = whole(layout, controllers)?;
        let flags = rustix::fs::statvfs(point).ok()?.f_flag;
        (!flags.contains(StatVfsMountFlags::RDONLY)).then(|| (name_of(controllers), point.to_owned()))
    };
    text.lines().filter_map(of).collect()
}

/// The hierarchies in a /proc/PID/cgroup (cgroups(7)): `unified`, or by their controllers.
fn trees(text: &str, layout: &Layout, own: &CgroupPaths) -> Option<Vec<Tree>> {
    let tree = |line: &str| {
        let controllers = line.split(':').nth(1)?;
        let name = name_of(controllers);
        if !owns(own, controllers.split(',')) {
            return Some(Tree { name, point: None });
        }
        // Mounted anew, cgroup2 would lose the host's options.
        Some(Tree { name, point: Some(whole(layout, controllers)?.to_owned()) })
    };
    text.lines().map(tree).collect()
}

/// Where the hierarchy of these controllers is mounted, from its root on.
fn whole<'a>(layout: &'a Layout, controllers: &str) -> Option<&'a Path> {
    let mount = match controllers.split(',').next() {
        None | Some("") => layout.v2(),
        Some(first) => layout.v1().get(first),
    };
    mount.filter(|mount| mount.root == Path::new("/")).map(|mount| &*mount.point)
}

fn name_of(controllers: &str) -> String {
    match controllers {
        "" => "unified".into(),
        named => named.trim_start_matches("name=").into(),
    }
}

/// Where a process is in these hierarchies, below a yard. `None` if that is outside of what the cgroup namespace has.
fn places_in(text: &str, trees: &[Tree]) -> Option<Vec<PathBuf>> {
    let mut places = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, Path::new(fields.next()?));
        let name = name_of(controllers);
        if trees.iter().any(|tree| tree.name == name) {
            let inner = path.strip_prefix("/").ok()?;
            if inner.components().any(|part| part == std::path::Component::ParentDir) {
                return None;
            }
            places.push(Path::new(&name).join(inner));
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(v1: &[&str], v2: bool) -> CgroupPaths {
        let v1 = v1.iter().map(|name| ((*name).to_owned(), PathBuf::from("/x"))).collect();
        CgroupPaths { v1, v2: v2.then(|| "/x".into()), systemd: None }
    }

    fn found(text: &str, mountinfo: &str, own: &CgroupPaths) -> Option<Vec<(String, Option<PathBuf>)>> {
        let trees = trees(text, &Layout::from_text(mountinfo, text, "memory pids").unwrap(), own)?;
        Some(trees.into_iter().map(|tree| (tree.name, tree.point)).collect())
    }

    #[test]
    fn hierarchies_have_the_names_that_criu_gives_them() {
        let mounts = "1 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            2 0 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            3 0 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let own = own(&["name=systemd", "cpu", "cpuacct"], true);
        let found = found("3:name=systemd:/\n2:cpu,cpuacct:/x\n0::/y\n", mounts, &own).unwrap();
        let expected = [
            ("systemd", "/sys/fs/cgroup/systemd"),
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("unified", "/sys/fs/cgroup/unified"),
        ];
        assert_eq!(found, expected.map(|(name, path)| (name.to_owned(), Some(path.into()))));
    }

    #[test]
    fn what_is_not_the_containers_is_not_shown() {
        let v2 = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let text = "3:name=systemd:/\n2:memory:/a b/c\n0::/\n";
        let unified = ("unified".to_owned(), Some("/sys/fs/cgroup".into()));
        let other = |name: &str| (name.to_owned(), None);
        let expected = vec![other("systemd"), other("memory"), unified];
        assert_eq!(found(text, v2, &own(&[], true)), Some(expected));
        let part = "1 0 0:1 /below /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found("0::/\n", part, &own(&[], true)), None);

        let others = ["systemd", "memory"].map(|name| Tree { name: name.into(), point: None });
        let places = places_in(text, &others).unwrap();
        assert_eq!(places, [PathBuf::from("systemd"), PathBuf::from("memory/a b/c")]);
        assert_eq!(places_in("2:memory:/../x\n", &others), None, "nothing is made outside of the yard");
    }
}
