//! The rights and properties of a container's first process, as the kernel tells the host.

use hiber_tests::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Namespaces that a container can share with the host. A restored one has a time namespace of its own always.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
const CONFINING: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// A mount: root, type, options that restrict.
type Mount = (String, String, Vec<String>);

/// All of it.
#[derive(Debug)]
pub(crate) struct Portrait {
    /// Kinds that are the host's.
    shared: Vec<&'static str>,
    /// By their names in /proc/PID/status.
    status: BTreeMap<String, String>,
    /// By mount point, lowest first.
    mounts: BTreeMap<String, Vec<Mount>>,
    /// The hard limit of open files.
    files: u64,
    /// Policy, realtime priority, nice value.
    scheduling: (i64, i64, i64),
    oom_score_adj: i64,
    /// Absolute, by hierarchy.
    cgroups: String,
    /// Its cgroup's directories with owner and limit, and the mode of each.
    cgroup: Vec<(String, u32)>,
    /// Whether it could make a directory.
    made: bool,
}

impl Portrait {
    pub(crate) fn of(c: &Container) -> Self {
        let pid = c.state()["pid"].to_string();
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        let shared = |kind: &&str| namespace("self", kind) == namespace(&pid, kind);
        let status = read("status");
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let stat = read("stat");
        let stat: Vec<_> = stat.rsplit_once(") ").unwrap_or_default().1.split(' ').collect();
        let number = |n: usize| stat.get(n - 3).and_then(|n| n.parse().ok()).unwrap_or(i64::MIN);
        let limits = read("limits");
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
        let files = files.split_whitespace().nth(4).and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
        Self {
            shared: NAMESPACES.into_iter().filter(shared).collect(),
            status: fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
            mounts: mounts(&read("mountinfo")),
            files,
            scheduling: (number(41), number(40), number(19)),
            oom_score_adj: read("oom_score_adj").trim().parse().unwrap_or(i64::MIN),
            cgroups: read("cgroup"),
            cgroup: cgroup(c),
            made: fs::exists(format!("/proc/{pid}/root/dev/shm/made")).unwrap_or(true),
        }
    }

    /// The rights of this one beyond another's.
    pub(crate) fn more_than(&self, other: &Self) -> Vec<String> {
        let mut more = Vec::new();
        let mut note = |is_more: bool, what: String| more.extend(is_more.then_some(what));
        note(self.shared != other.shared, format!("namespaces of the host: {:?}", self.shared));
        for (name, value) in &self.status {
            let was = other.status.get(name).map_or("", String::as_str);
            let bits = |text: &str| u64::from_str_radix(text, 16).unwrap_or(u64::MAX);
            let count = |text: &str| text.parse::<u32>().unwrap_or(0);
            let is_more = match name.as_str() {
                "CapInh" | "CapPrm" | "CapEff" | "CapBnd" | "CapAmb" => bits(value) & !bits(was) != 0,
                "NoNewPrivs" | "Seccomp_filters" => count(value) < count(was),
                // the number of strict mode is less than that of filters
                "Seccomp" => (value == "0") != (was == "0"),
                "Uid" | "Gid" | "Groups" => value != was,
                _ => false,
            };
            note(is_more, format!("{name}: {value}, was {was}"));
        }
        self.more_mounts(other, &mut note);
        note(self.files > other.files, format!("{} open files", self.files));
        let (policy, priority, nice) = self.scheduling;
        let was = other.scheduling;
        let is_more = ![0, 3, 5].contains(&policy) && policy != was.0 || priority > was.1 || nice < was.2;
        note(is_more, format!("scheduling: {:?}, was {was:?}", self.scheduling));
        let (is, was) = (self.oom_score_adj, other.oom_score_adj);
        // A process that exec starts has 0, whatever config.json says.
        note(is < was.min(0), format!("oom_score_adj {is}, was {was}"));
        note(self.cgroups != other.cgroups, format!("cgroups {}, were {}", self.cgroups, other.cgroups));
        let is_less = |(is, was): (&(String, u32), &(String, u32))| is.0 == was.0 && is.1 & !was.1 == 0;
        let is_more =
            self.cgroup.len() != other.cgroup.len() || !self.cgroup.iter().zip(&other.cgroup).all(is_less);
        note(is_more, format!("cgroup {:?}, was {:?}", self.cgroup, other.cgroup));
        note(self.made && !other.made, "a directory, by a call that its filter denies".into());
        more
    }

    fn more_mounts(&self, other: &Self, note: &mut impl FnMut(bool, String)) {
        for (point, was) in &other.mounts {
            let Some((root, fstype, options)) = self.mounts.get(point).and_then(|all| all.last()) else {
                // Without its volume, which lies on the root, a container has less.
                note(point != "/data", format!("nothing mounted at {point}"));
                continue;
            };
            let top = was.last().unwrap();
            note((root, fstype) != (&top.0, &top.1), format!("{fstype} of {root} at {point}, was {top:?}"));
            // runc leaves the directory of v1's hierarchies writable, so a checkpoint of such a container comes up, too.
            let holder = point == "/sys/fs/cgroup" && fstype == "tmpfs";
            let lost = |option: &&String| !(options.contains(option) || holder && *option == "ro");
            let lost: Vec<_> = top.2.iter().filter(lost).collect();
            note(!lost.is_empty(), format!("{point} without {lost:?}"));
        }
        for (point, all) in &self.mounts {
            let known = other.mounts.get(point).map_or(0, Vec::len);
            for (root, fstype, _) in all.iter().skip(known) {
                note(fstype != "tmpfs", format!("{fstype} of {root} at {point}"));
            }
        }
    }
}

fn mounts(mountinfo: &str) -> BTreeMap<String, Vec<Mount>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in mountinfo.lines() {
        let (own, filesystem) = line.split_once(" - ").unwrap();
        let own: Vec<_> = own.split(' ').collect();
        let fstype = filesystem.split(' ').next().unwrap().to_owned();
        let options = own[5].split(',').filter(|o| CONFINING.contains(o)).map(str::to_owned).collect();
        all.entry(own[4].to_owned()).or_default().push((own[3].to_owned(), fstype, options));
    }
    all
}

/// The rights that a container's cgroup gives, and to whom.
fn cgroup(c: &Container) -> Vec<(String, u32)> {
    let mut all: Vec<_> = hiber_tests::cgroup::directories(&c.bundle().cgroup())
        .into_iter()
        .map(|dir| {
            let meta = fs::metadata(&dir).unwrap();
            let limit = fs::read_to_string(dir.join("pids.max")).unwrap_or_default();
            (format!("{} {}:{} {}", dir.display(), meta.uid(), meta.gid(), limit.trim()), meta.mode())
        })
        .collect();
    all.sort();
    all
}
