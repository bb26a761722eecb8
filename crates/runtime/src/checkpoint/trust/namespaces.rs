//! The namespaces that a restore puts tasks into: CRIU makes those in which the first task differs from the CRIU that
//! dumped it, and stays in its own, which are the host's, for all others.

use std::path::Path;

use caps::Capability;
use criu_proto::images::core::TaskKobjIdsEntry;
use criu_proto::images::ns::{NetnsEntry, PidnsEntry, UidGidExtent, UsernsEntry};
use hiber_criu::Images;
use hiber_criu::images::{Magic, Task};
use hiber_sandbox::plan::{IdMap, NamespaceKind};

use super::grant::{Grant, Verdict};
use crate::checkpoint::externals::{NETWORK_KEY, PID_KEY};
use crate::error::Result;

/// Those that CRIU makes by their ids. The cgroup namespace comes from cgroup.img, and a time namespace is made for every
/// restore.
const BY_ID: [NamespaceKind; 6] = [
    NamespaceKind::Pid,
    NamespaceKind::Network,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::Mount,
    NamespaceKind::User,
];

fn id(ids: &TaskKobjIdsEntry, kind: NamespaceKind) -> Option<u32> {
    match kind {
        NamespaceKind::Pid => ids.pid_ns_id,
        NamespaceKind::Network => ids.net_ns_id,
        NamespaceKind::Ipc => ids.ipc_ns_id,
        NamespaceKind::Uts => ids.uts_ns_id,
        NamespaceKind::Mount => ids.mnt_ns_id,
        NamespaceKind::User => ids.user_ns_id,
        NamespaceKind::Cgroup => ids.cgroup_ns_id,
        NamespaceKind::Time => ids.time_ns_id,
    }
}

/// The ids of a task; none of a dead one.
pub(super) fn ids(images: &Images, pid: u32) -> Result<Option<TaskKobjIdsEntry>> {
    let entries = images.entries_if_any::<TaskKobjIdsEntry>(&format!("ids-{pid}.img"), Magic::IDS)?;
    Ok(entries.and_then(|mut entries| entries.next()).transpose()?)
}

impl Grant<'_> {
    pub(super) fn namespaces(&self, images: &Images, tasks: &[Task]) -> Result<Verdict> {
        let [first, others @ ..] = tasks else { return Ok(Err("has no task".into())) };
        if first.ppid != 0 || others.iter().any(|task| task.ppid == 0) {
            return Ok(Err("has more than one first task, or none (pstree.img)".into()));
        }
        let (Some(outside), Some(inside)) = (images.inventory().root_ids.as_ref(), ids(images, first.pid)?)
        else {
            return Ok(Err("does not name its namespaces (inventory.img, ids-N.img)".into()));
        };
        for kind in BY_ID {
            let own = id(outside, kind).unwrap_or(0) != id(&inside, kind).unwrap_or(0);
            if let Err(problem) = self.namespace(kind, own) {
                return Ok(Err(problem));
            }
        }
        for task in others {
            let Some(ids) = ids(images, task.pid)? else { continue };
            if let Err(problem) = self.nested(&inside, &ids, task.pid) {
                return Ok(Err(problem));
            }
        }
        if let Err(problem) = self.external(images, &inside)? {
            return Ok(Err(problem));
        }
        self.id_maps(images, inside.user_ns_id.unwrap_or(0))
    }

    fn namespace(&self, kind: NamespaceKind, own: bool) -> Verdict {
        let namespaces = &self.plan.namespaces;
        // Those are joined whatever the images say: a restore's inventory has CRIU in them.
        if matches!(kind, NamespaceKind::Ipc | NamespaceKind::Uts) && namespaces.joined(kind).is_some() {
            return Ok(());
        }
        match (own, namespaces.has(kind)) {
            (true, true) | (false, false) => Ok(()),
            (true, false) => Err(format!("has a {} namespace, and config.json has none", kind.as_str())),
            // A container that joins the caller's namespace by its path looks like one without a namespace.
            (false, true) if namespaces.joined(kind).is_some_and(|join| is_own(kind, &join.path)) => Ok(()),
            (false, true) => {
                Err(format!("would be in the host's {} namespace; config.json says another", kind.as_str()))
            }
        }
    }

    /// Processes may make further namespaces inside, as far as CRIU saves them, if they may at all.
    fn nested(&self, first: &TaskKobjIdsEntry, ids: &TaskKobjIdsEntry, pid: u32) -> Verdict {
        let other = BY_ID.into_iter().find(|kind| id(ids, *kind) != id(first, *kind));
        match other {
            None => Ok(()),
            Some(NamespaceKind::Mount | NamespaceKind::Network) if self.can(Capability::CAP_SYS_ADMIN) => {
                Ok(())
            }
            Some(kind) => Err(format!(
                "has a process, {pid}, in another {} namespace, and config.json grants no way there",
                kind.as_str()
            )),
        }
    }

    /// A joined network or pid namespace comes from outside, and no other does.
    fn external(&self, images: &Images, ids: &TaskKobjIdsEntry) -> Result<Verdict> {
        let net = ids.net_ns_id.unwrap_or(0);
        let net = images.entries_if_any::<NetnsEntry>(&format!("netns-{net}.img"), Magic::NETNS)?;
        let net = net.and_then(|mut entries| entries.next()).transpose()?.and_then(|entry| entry.ext_key);
        let pid = ids.pid_ns_id.unwrap_or(0);
        let pid = images.entries_if_any::<PidnsEntry>(&format!("pidns-{pid}.img"), Magic::PIDNS)?;
        let pid = pid.and_then(|mut entries| entries.next()).transpose()?.and_then(|entry| entry.ext_key);
        let all = [(NamespaceKind::Network, net, NETWORK_KEY), (NamespaceKind::Pid, pid, PID_KEY)];
        for (kind, has, key) in all {
            let wanted = self.plan.namespaces.joined(kind).filter(|join| !is_own(kind, &join.path));
            if has.as_deref() != wanted.map(|_| key) {
                let (has, wanted) = (has.unwrap_or_default(), wanted.map_or("", |_| key));
                return Ok(Err(format!(
                    "has the {} namespace {has:?} from outside; config.json wants {wanted:?}",
                    kind.as_str()
                )));
            }
        }
        Ok(Ok(()))
    }

    /// The ids that a new user namespace has: CRIU takes them from the images.
    fn id_maps(&self, images: &Images, id: u32) -> Result<Verdict> {
        let namespaces = &self.plan.namespaces;
        if !namespaces.is_new(NamespaceKind::User) {
            return Ok(Ok(()));
        }
        let entry = images.entries::<UsernsEntry>(&format!("userns-{id}.img"), Magic::USERNS)?.next();
        let entry = entry.transpose()?.unwrap_or_default();
        for (name, has, wanted) in [
            ("users", &entry.uid_map, &namespaces.uid_maps),
            ("groups", &entry.gid_map, &namespaces.gid_maps),
        ] {
            if maps(has) != plan_maps(wanted) {
                return Ok(Err(format!("maps {name} to others than config.json (userns-{id}.img)")));
            }
        }
        Ok(Ok(()))
    }
}

fn maps(extents: &[UidGidExtent]) -> Vec<[u32; 3]> {
    let n = |field: Option<u32>| field.unwrap_or(0);
    let mut all: Vec<_> = extents.iter().map(|e| [n(e.first), n(e.lower_first), n(e.count)]).collect();
    all.sort_unstable();
    all
}

fn plan_maps(maps: &[IdMap]) -> Vec<[u32; 3]> {
    let mut all: Vec<_> = maps.iter().map(|map| [map.container, map.host, map.size]).collect();
    all.sort_unstable();
    all
}

/// Whether a path leads to the caller's own namespace.
fn is_own(kind: NamespaceKind, path: &Path) -> bool {
    let identity = |path: &Path| rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let own = Path::new("/proc/self/ns").join(kind.proc_name());
    identity(path).is_some_and(|joined| Some(joined) == identity(&own))
}
