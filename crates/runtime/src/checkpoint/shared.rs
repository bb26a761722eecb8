//! IPC and UTS namespaces that config.json joins, as in every pod: their System V memory and host name belong to the others,
//! too, and are neither saved nor written back.
//!
//! CRIU takes only network and pid namespaces from outside. But it leaves alone what it lives in itself: so a dump is
//! started in these namespaces, and a restore enters them.

use hiber_criu::amend::{Shared, shared_inventory};
use hiber_criu::{Images, InheritedCgroups};
use hiber_sandbox::plan::NamespaceKind;
use oci_spec::runtime::Spec;

use super::externals::by_path;
use crate::error::Result;

/// Those that a container has in common with others.
pub(crate) fn namespaces(spec: &Spec) -> impl Iterator<Item = NamespaceKind> {
    by_path(spec).map(|(kind, _)| kind).filter(|k| matches!(k, NamespaceKind::Ipc | NamespaceKind::Uts))
}

/// The container's namespaces that CRIU is started in for a dump: these, and a network that need not be saved.
pub(super) fn launched_in(spec: &Spec, fresh_network: bool) -> Vec<NamespaceKind> {
    fresh_network.then_some(NamespaceKind::Network).into_iter().chain(namespaces(spec)).collect()
}

/// The inventory that CRIU is to read instead of that of `images`: CRIU leaves the namespaces alone that config.json joins (other runtimes
/// have CRIU save them, and it would write them into those that it enters), and tasks in the cgroups in which they are born. `None` if
/// the inventory says so already.
pub(crate) fn inventory(
    images: &Images,
    spec: &Spec,
    cgroups: Option<InheritedCgroups>,
) -> Result<Option<(String, Vec<u8>)>> {
    let kinds: Vec<_> = namespaces(spec).collect();
    let has = |kind| kinds.contains(&kind);
    let set = cgroups.map(|cgroups| cgroups.set);
    let shared = Shared { ipc: has(NamespaceKind::Ipc), uts: has(NamespaceKind::Uts), cgroups: set };
    if shared == Shared::default() {
        return Ok(None);
    }
    Ok(shared_inventory(images, shared)?)
}
