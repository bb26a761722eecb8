//! Network namespaces of the container's own: what CRIU leaves out of them.

use std::collections::BTreeMap;

use hiber_sandbox::network;
use hiber_sandbox::plan::sysctl_path;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::procfs::Numbered;

/// The objects of each network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Networks {
    /// The first process's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) own: Option<network::Kept>,
    /// Others', by the number of a process in it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) others: BTreeMap<i32, network::Kept>,
}

impl Networks {
    /// Reads those of the processes `saved`, one for each network namespace that CRIU saves, of which `first` may be one.
    pub(crate) fn of(first: i32, saved: &[i32], spec: &Spec) -> Result<Self> {
        let mut networks = Self::default();
        let others: Vec<i32> = saved.iter().copied().filter(|pid| *pid != first).collect();
        if saved.contains(&first) {
            // Those of config.json are set anew at a restore, and may have been changed back to what is usual.
            let named = spec.linux().iter().flat_map(|linux| linux.sysctl().iter().flatten());
            let paths = named.map(|(name, _)| sysctl_path(name));
            let always: Vec<_> =
                paths.filter_map(|path| path.strip_prefix("net/").map(str::to_owned)).collect();
            networks.own = Some(network::Kept::of(first, &always)?);
        }
        for Numbered { process, .. } in Numbered::all(first, &others) {
            networks.others.insert(process.inner, network::Kept::of(process.outer, &[])?);
        }
        Ok(networks)
    }

    /// Processes in the networks whose firewalls are in here; `first` says which is the first one.
    pub(crate) fn with_firewall(&self, first: impl FnOnce() -> Result<u32>) -> Result<Vec<u32>> {
        let others = self.others.iter().filter(|(_, network)| network.has_firewall());
        let mut found: Vec<u32> = others.map(|(pid, _)| pid.unsigned_abs()).collect();
        if self.own.as_ref().is_some_and(network::Kept::has_firewall) {
            found.push(first()?);
        }
        Ok(found)
    }

    /// Gives the new network namespace of the first process, `pid`, what that had.
    pub(super) fn put_back_own(&self, pid: i32) -> Result<()> {
        Ok(self.own.as_ref().map_or(Ok(()), |network| network.put_back(pid))?)
    }

    /// Gives the network namespaces of other processes than the first what they had.
    pub(super) fn put_back_others(&self, first: i32, processes: &[Numbered]) -> Result<()> {
        for (inner, network) in &self.others {
            let pid = processes.iter().find(|of| of.process.inner == *inner).map(|of| of.process.outer);
            let pid = pid.filter(|pid| is_nested(*pid, first)).ok_or_else(|| {
                Error::Invalid(format!("kept.json: process {inner} has no network namespace of its own"))
            })?;
            network.put_back(pid)?;
        }
        Ok(())
    }
}

/// Whether it is in another network namespace than the first process and than this one.
fn is_nested(pid: i32, first: i32) -> bool {
    let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net")).ok();
    let own = of(&pid.to_string());
    own.is_some() && own != of(&first.to_string()) && own != of("thread-self")
}
