//! Cgroups: the tasks are in the container's own, or below. Limits are not taken from images: hiber has made the
//! container's cgroup and set those of config.json before CRIU comes, and CRIU leaves what exists as it is.

use criu_proto::images::cgroup::{CgSetEntry, CgroupDirEntry, CgroupEntry, CgroupPropEntry};
use hiber_criu::Images;
use hiber_criu::images::Task;
use hiber_sandbox::plan::{IdMap, NamespaceKind};

use super::grant::{Grant, Verdict, core};
use crate::error::Result;

/// How deep cgroups may be nested.
const MAX_DEPTH: usize = 32;
/// Write bits of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// The values of cgroups that CRIU saves, by controller: what a container's own cgroups below its first one may be given.
/// Each is bounded by the container's.
const PROPERTIES: [(&str, &[&str]); 12] = [
    (
        "cgroup",
        &[
            "clone_children",
            "procs",
            "subtree_control",
            "max.descendants",
            "max.depth",
            "freeze",
            "type",
            "threads",
        ],
    ),
    (
        "cpu",
        &[
            "shares",
            "cfs_period_us",
            "cfs_quota_us",
            "rt_period_us",
            "rt_runtime_us",
            "weight",
            "weight.nice",
            "max",
            "idle",
            "uclamp.min",
            "uclamp.max",
            "pressure",
        ],
    ),
    (
        "memory",
        &[
            "limit_in_bytes",
            "memsw.limit_in_bytes",
            "swappiness",
            "soft_limit_in_bytes",
            "move_charge_at_immigrate",
            "oom_control",
            "use_hierarchy",
            "kmem.limit_in_bytes",
            "kmem.tcp.limit_in_bytes",
            "min",
            "low",
            "high",
            "max",
            "swap.max",
            "swap.high",
            "oom.group",
        ],
    ),
    (
        "cpuset",
        &[
            "cpus",
            "mems",
            "memory_migrate",
            "cpu_exclusive",
            "mem_exclusive",
            "mem_hardwall",
            "memory_spread_page",
            "memory_spread_slab",
            "sched_load_balance",
            "sched_relax_domain_level",
            "cpus.partition",
        ],
    ),
    (
        "blkio",
        &[
            "weight",
            "bfq.weight",
            "leaf_weight",
            "throttle.read_bps_device",
            "throttle.read_iops_device",
            "throttle.write_bps_device",
            "throttle.write_iops_device",
        ],
    ),
    ("io", &["max", "weight", "bfq.weight", "latency"]),
    ("freezer", &["state"]),
    ("net_cls", &["classid"]),
    ("net_prio", &["ifpriomap"]),
    ("pids", &["max"]),
    ("devices", &["list"]),
    ("misc", &["max"]),
];

impl Grant<'_> {
    pub(super) fn cgroups(&self, images: &Images, entry: &CgroupEntry, tasks: &[Task]) -> Result<Verdict> {
        let hierarchies = hiber_sys::file::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let said = self.directories(entry, &hierarchies).and_then(|()| sets(entry));
        if let Err(problem) = said {
            return Ok(Err(format!("{problem} (cgroup.img)")));
        }
        let Some(first) = tasks.first() else { return Ok(Ok(())) };
        let core = core(images, first.pid)?;
        let set = core.thread_core.cg_set.or(core.tc.cg_set).unwrap_or(0);
        let moved = set != 0 && Some(set) != images.inventory().root_cg_set;
        let set = entry.sets.iter().find(|entry| moved && entry.id == Some(set));
        Ok(self.namespace_of(set).map_err(|problem| format!("{problem} (cgroup.img)")))
    }

    /// A cgroup namespace is made where the first task's cgroups say what of their paths is outside of it.
    fn namespace_of(&self, set: Option<&CgSetEntry>) -> Verdict {
        let inside = set.is_some_and(|set| set.ctls.iter().any(|c| c.cgns_prefix.is_some()));
        let all = set.is_some_and(|set| set.ctls.iter().all(|c| c.cgns_prefix.is_some()));
        match (self.plan.namespaces.has(NamespaceKind::Cgroup), inside, all) {
            (true, _, false) => {
                Err("does not put the processes into a cgroup namespace, as config.json says".into())
            }
            (false, true, _) => Err("has a cgroup namespace, and config.json has none".into()),
            _ => Ok(()),
        }
    }

    fn directories(&self, entry: &CgroupEntry, hierarchies: &str) -> Verdict {
        for controller in &entry.controllers {
            let names = &controller.cnames;
            let known = hierarchies.lines().any(|line| {
                let own: Vec<_> = line.split(':').nth(1).unwrap_or_default().split(',').collect();
                names.iter().all(|name| own.contains(&name.as_str()))
            });
            if names.is_empty() || !known {
                return Err(format!("has cgroups of {:?}, of which this machine has none", names.join(",")));
            }
            // CRIU moves the directory that its tasks were in to the container's; it would make all others as they are.
            match controller.dirs.as_slice() {
                [] => {}
                [dir] => {
                    let name = dir.dir_name.as_deref().unwrap_or_default();
                    if !is_below(name) {
                        return Err(format!("has the cgroup {name:?}, which is no plain path"));
                    }
                    let used = |set: &CgSetEntry| {
                        let path = |c: &&criu_proto::images::cgroup::CgMemberEntry| {
                            names.contains(&c.name.clone().unwrap_or_default())
                        };
                        set.ctls
                            .iter()
                            .filter(path)
                            .any(|c| inside(c.path.as_deref().unwrap_or_default(), name).is_some())
                    };
                    if !entry.sets.iter().any(used) {
                        return Err(format!("has the cgroup {name:?}, in which is no process"));
                    }
                    self.owner(dir)?;
                    self.below(dir, 0)?;
                }
                _ => return Err(format!("has several cgroups of {:?} side by side", names.join(","))),
            }
        }
        Ok(())
    }

    /// Only those whom config.json gives the container's cgroup own it, and its values.
    fn owner(&self, dir: &CgroupDirEntry) -> Verdict {
        let namespaces = &self.plan.namespaces;
        let root = |maps: &[IdMap]| maps.iter().find(|map| map.container == 0).map(|map| map.host);
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let users = [Some(0), Some(uid), root(&namespaces.uid_maps)];
        let groups = [Some(0), Some(gid), root(&namespaces.gid_maps)];
        let name = dir.dir_name.as_deref().unwrap_or_default();
        let values = dir.properties.iter().map(|p| (p.name.as_deref().unwrap_or_default(), &p.perms));
        // CRIU writes whatever its memory has as the owner and mode of these.
        let values = values.filter(|(name, _)| !["freezer.state", "cgroup.freeze"].contains(name));
        for (value, perms) in std::iter::once(("", &dir.dir_perms)).chain(values) {
            let Some(perms) = perms.as_ref() else { continue };
            let (uid, gid) = (perms.uid.unwrap_or(u32::MAX), perms.gid.unwrap_or(u32::MAX));
            let mode = perms.mode.unwrap_or(u32::MAX);
            if !users.contains(&Some(uid)) || !groups.contains(&Some(gid)) || mode & OTHERS_WRITE != 0 {
                let mode = mode & 0o7777;
                return Err(format!(
                    "gives {value:?} of the cgroup {name:?} to {uid}:{gid}, with mode {mode:o}"
                ));
            }
        }
        Ok(())
    }

    fn below(&self, dir: &CgroupDirEntry, depth: usize) -> Verdict {
        if depth > MAX_DEPTH {
            return Err(format!("has cgroups more than {MAX_DEPTH} deep"));
        }
        let name = dir.dir_name.as_deref().unwrap_or_default();
        // At the top values are left as hiber has set them.
        let marks = |p: &CgroupPropEntry| depth > 0 && !self.marked_network && marks_network(p);
        if let Some(strange) = dir.properties.iter().find(|p| !is_known(p) || marks(p)) {
            let property = strange.name.as_deref().unwrap_or_default();
            return Err(format!(
                "has the value {property:?} for the cgroup {name:?}, which config.json does not give"
            ));
        }
        for child in &dir.children {
            let name = child.dir_name.as_deref().unwrap_or_default();
            if name.contains('/') || !is_below(name) {
                return Err(format!("has the cgroup {name:?}, which is no plain name"));
            }
            self.below(child, depth + 1)?;
        }
        Ok(())
    }
}

/// All tasks are in cgroups that the image has, or below.
fn sets(entry: &CgroupEntry) -> Verdict {
    for member in entry.sets.iter().flat_map(|set| &set.ctls) {
        let name = member.name.as_deref().unwrap_or_default();
        let path = member.path.as_deref().unwrap_or_default();
        let controller = entry.controllers.iter().find(|c| c.cnames.iter().any(|n| n == name));
        let dir = controller.and_then(|c| c.dirs.first()).and_then(|dir| dir.dir_name.as_deref());
        let Some(dir) = dir.filter(|dir| inside(path, dir).is_some()) else {
            return Err(format!(
                "has a process in {path:?} of {name:?}, which is not in the container's cgroup"
            ));
        };
        if member.cgns_prefix.is_some_and(|prefix| !is_ancestor(prefix, dir)) {
            return Err(format!("has a cgroup namespace in another cgroup than {dir:?} of {name:?}"));
        }
    }
    Ok(())
}

/// Whether so many bytes of a cgroup's path, "/" and `dir`, name that cgroup or one above. CRIU puts the container's own in
/// their place, and makes the namespace there; with none of them it would make the namespace in the host's root.
fn is_ancestor(prefix: u32, dir: &str) -> bool {
    let end = usize::try_from(prefix).ok().and_then(|prefix| prefix.checked_sub(1));
    end.is_some_and(|end| end == dir.len() || end > 0 && dir.as_bytes().get(end) == Some(&b'/'))
}

/// The part of a cgroup's path below the container's, if it lies there.
fn inside<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    let below = path.strip_prefix('/')?.strip_prefix(dir)?;
    let plain = below.is_empty() || below.strip_prefix('/').is_some_and(is_below);
    plain.then_some(below)
}

/// Whether a path is relative and leads only down.
fn is_below(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

fn is_known(property: &CgroupPropEntry) -> bool {
    let name = property.name.as_deref().unwrap_or_default();
    if name == "tasks" {
        return true;
    }
    // Together with a release agent, it is how cgroup v1 starts programs on the host.
    if name == "notify_on_release" {
        return property.value.as_deref().is_none_or(|value| value.trim() == "0");
    }
    let Some((controller, rest)) = name.split_once('.') else { return false };
    PROPERTIES.iter().any(|(known, names)| *known == controller && names.contains(&rest))
        || controller == "hugetlb" && is_hugetlb(rest)
}

/// Whether packets get a class or a priority, by which the host's rules tell them apart.
fn marks_network(property: &CgroupPropEntry) -> bool {
    let value = property.value.as_deref().unwrap_or_default();
    let last = |line: &str| line.split_whitespace().next_back().is_none_or(|number| number == "0");
    property.name.as_deref().is_some_and(|name| name.starts_with("net_")) && !value.lines().all(last)
}

/// `2MB.limit_in_bytes`, `2MB.max`
fn is_hugetlb(rest: &str) -> bool {
    let Some((size, value)) = rest.split_once('.') else { return false };
    size.chars().all(|c| c.is_ascii_alphanumeric())
        && matches!(value, "limit_in_bytes" | "rsvd.limit_in_bytes" | "max" | "rsvd.max")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_made_in_the_cgroup_or_above_it() {
        let accepted: Vec<_> = (0..12).filter(|prefix| is_ancestor(*prefix, "pod/c/in")).collect();
        assert_eq!(accepted, [4, 6, 9]);
    }

    #[test]
    fn values_have_known_names() {
        let known = |name: &str, value: &str| {
            let (name, value) = (Some(name.to_owned()), Some(value.to_owned()));
            is_known(&CgroupPropEntry { name, value, ..Default::default() })
        };
        for name in [
            "pids.max",
            "memory.limit_in_bytes",
            "cgroup.subtree_control",
            "hugetlb.2MB.limit_in_bytes",
            "tasks",
        ] {
            assert!(known(name, "0"), "{name}");
        }
        for name in
            ["../pids.max", "pids.max/../../x", "release_agent", "cgroup.kill", "pids.", "", "hugetlb./.max"]
        {
            assert!(!known(name, "0"), "{name}");
        }
        assert!(known("notify_on_release", "0") && !known("notify_on_release", "1"));
    }

    #[test]
    fn a_path_is_inside_or_not() {
        assert_eq!(inside("/a/c", "a/c"), Some(""));
        assert_eq!(inside("/a/c/d", "a/c"), Some("/d"));
        for outside in ["/", "/a", "/a/cd", "/a/c/", "/a/c/../..", "/a/c//d", "a/c"] {
            assert_eq!(inside(outside, "a/c"), None, "{outside}");
        }
    }
}
