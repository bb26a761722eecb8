//! Cgroups of version 2 that the container has made: CRIU makes those below the first process's alone, and knows no limits there.

use std::collections::BTreeMap;

use hiber_criu::CgroupMode;
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, Names, OnDenied, Tree};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::host::procfs::Numbered;

/// The cgroups, and those of processes by the processes' numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Cgroups {
    tree: Tree,
    processes: BTreeMap<i32, String>,
    /// One that has threads instead of processes, which CRIU does not make: the first process is below the container's cgroup.
    #[serde(skip)]
    pub(crate) threaded: Option<String>,
    /// One to which BPF programs are attached.
    #[serde(skip)]
    pub(crate) with_programs: Option<String>,
}

impl Cgroups {
    /// Those of the container whose first process is `first`, and that is in the cgroup `paths`. Trusted attributes in the cgroups of
    /// one that is not `privileged` are somebody else's.
    pub(crate) fn of(first: i32, pids: &[i32], paths: &CgroupPaths, privileged: bool) -> Result<Self> {
        let (mut tree, places) = Cgroup::open(paths.clone(), OnDenied::Skip)?.tree()?;
        if tree.is_empty() {
            return Ok(Self::default());
        }
        if !privileged {
            tree.forget_trusted();
        }
        let mut processes = BTreeMap::new();
        let is_first = |(pid, name): &(u32, String)| *pid == first.unsigned_abs() && !name.is_empty();
        let threaded = places.iter().find(|place| is_first(place)).and_then(|_| tree.threaded());
        let threaded = threaded.map(str::to_owned);
        for Numbered { process, .. } in Numbered::all(first, pids) {
            let place = places.iter().find(|(pid, _)| Ok(*pid) == u32::try_from(process.outer));
            processes.extend(place.map(|(_, name)| (process.inner, name.clone())));
        }
        let with_programs = tree.with_programs().map(str::to_owned);
        Ok(Self { tree, processes, threaded, with_programs })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    /// One with attributes that only a privileged process can give.
    pub(crate) fn trusted(&self) -> Option<&str> {
        self.tree.trusted()
    }

    /// Where process `first` was below the container's cgroup, if there.
    pub(crate) fn place_of(&self, first: u32) -> Option<&str> {
        let place = self.processes.get(&i32::try_from(first).ok()?)?;
        (!place.is_empty()).then_some(place)
    }

    /// Those whose limits stay as they are, to be asked before CRIU makes any (criu(8), `--manage-cgroups`).
    pub(super) fn left(&self, mode: Option<CgroupMode>, cgroup: &Cgroup) -> Result<Names> {
        match mode {
            Some(CgroupMode::None) => Ok(self.tree.names()),
            Some(CgroupMode::Props | CgroupMode::Full | CgroupMode::Strict) => Ok(Names::new()),
            _ => Ok(cgroup.existing(&self.tree)?),
        }
    }

    /// Makes them again for the restored, frozen processes `pids`. The limits of those in `left` are as they are.
    pub(super) fn put_back(&self, first: i32, pids: &[i32], cgroup: &Cgroup, left: &Names) -> Result<()> {
        let mut places = Vec::new();
        for Numbered { process, .. } in Numbered::all(first, pids) {
            let name = self.processes.get(&process.inner).cloned();
            places.extend(u32::try_from(process.outer).ok().zip(name));
        }
        Ok(cgroup.make_tree(&self.tree, &places, left)?)
    }
}
