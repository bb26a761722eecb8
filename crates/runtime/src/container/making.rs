//! A container in the making: its facts, and which of the parts that these name are its own by now.

use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, Layout, Limits, OnDenied};
use hiber_sandbox::resctrl;

use crate::container::prepared::Prepared;
use crate::container::process;
use crate::error::{Error, Result, chain};
use crate::host::procfs;
use crate::state::clones::CloneRecord;
use crate::state::entry::Entry;
use crate::state::facts::Facts;

/// [`Cgroup::create`] or [`Cgroup::make`].
type MakeCgroup = fn(&Layout, &CgroupPaths, &Limits, OnDenied) -> hiber_sandbox::Result<Cgroup>;

/// A container that a failure would remove again. The removal kills the processes in its cgroup, so it must not take another
/// container's cgroup for its own.
pub(crate) struct Making {
    pub(crate) facts: Facts,
    owns_cgroup: bool,
    owns_resctrl: bool,
}

impl Making {
    pub(crate) fn new(facts: Facts) -> Self {
        Self { facts, owns_cgroup: false, owns_resctrl: false }
    }

    /// Makes the cgroup by `make`. The facts name the directories to remove if this is interrupted.
    pub(crate) fn make_cgroup(&mut self, prepared: &Prepared, make: MakeCgroup) -> Result<Cgroup> {
        // If `make` fails it has undone its work, so any cgroup that is there belongs to somebody else.
        let cgroup = make(&prepared.layout, &prepared.cgroup, &prepared.limits, prepared.on_denied)?;
        self.facts.cgroup = cgroup.paths().clone();
        self.owns_cgroup = true;
        prepared.plan.resctrl.as_ref().map_or(Ok(()), resctrl::GroupPlan::make)?;
        self.owns_resctrl = true;
        Ok(cgroup)
    }

    /// Puts the first process, or its parent of the first stage, into the cgroup and the resctrl group. This makes the cgroup of a
    /// systemd unit.
    pub(crate) fn adopt(&mut self, cgroup: &mut Cgroup, pid: u32) -> hiber_sandbox::Result<()> {
        let adopted = cgroup.adopt(pid);
        if adopted.is_err() && self.facts.cgroup.systemd.is_some() {
            // As in make_cgroup: a unit of that name is another container's.
            self.owns_cgroup = false;
        }
        adopted?;
        self.facts.resctrl.add(pid)
    }

    /// Records a process as the container's first.
    pub(crate) fn note_process(&mut self, entry: &Entry, pid: i32) -> Result<()> {
        self.facts.pid = pid;
        self.facts.start_time = procfs::alive_since(pid).ok_or(Error::NotRunning)?;
        self.facts.pidfd_inode = process::pidfd_inode(pid);
        entry.write_facts(&self.facts)
    }

    /// Removes the remains of a failed creation, and logs what cannot be removed. False if somebody else has removed them, because
    /// another container may have the id by now.
    pub(crate) fn undo(&self, entry: &Entry) -> bool {
        if entry.is_removed() {
            return false;
        }
        let facts = &self.facts;
        let destroy = || Cgroup::open(facts.cgroup.clone(), OnDenied::Skip)?.destroy();
        let cgroup = if self.owns_cgroup { destroy() } else { Ok(()) };
        let resctrl = if self.owns_resctrl { facts.resctrl.remove() } else { Ok(()) };
        for e in [cgroup, resctrl, facts.clear_root()].into_iter().filter_map(std::result::Result::err) {
            tracing::warn!("after a failed creation: {}", chain(&e));
        }
        let clone = CloneRecord::of(entry).ok().flatten();
        if let Err(e) = entry.remove() {
            tracing::warn!("after a failed creation: {}", chain(&e));
        }
        clone.iter().for_each(CloneRecord::remove);
        true
    }
}
