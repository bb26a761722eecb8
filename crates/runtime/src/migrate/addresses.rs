//! The addresses of a container that moves: of its own network namespace, which moves with it, or of one that it shares.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ::procfs::net::TcpState;
use ::procfs::process::{FDTarget, Process};
use hiber_sandbox::network;

use crate::checkpoint::network::owns_namespace;
use crate::container::task::Task;
use crate::error::{Result, chain};

/// Tells switches and neighbours where the container's addresses are now: all of a network namespace of its own; of one that it shares
/// those that its connections use. Nobody's container is given up because they do not hear it: they ask when their own knowledge is
/// too old.
pub(super) fn announce(task: &Task) {
    let announce = || -> Result<usize> {
        if let Some(pid) = of_its_own(task)? {
            return Ok(network::announce(pid, None)?);
        }
        let used = used_of_others(task)?;
        Ok(if used.is_empty() { 0 } else { network::announce(task.facts()?.pid, Some(&used))? })
    };
    match announce() {
        Ok(sent) => tracing::debug!("announced {sent} addresses"),
        Err(e) => tracing::warn!("{}", chain(&e)),
    }
}

/// The addresses that established connections of the container use, and that do not go along, since its network is a joined one, or the
/// host's: none if it has a network of its own.
pub(super) fn used_of_others(task: &Task) -> Result<Vec<IpAddr>> {
    let (facts, spec) = (task.facts()?, task.container().spec()?);
    if owns_namespace(facts, &spec) {
        return Ok(Vec::new());
    }
    let sockets: HashSet<u64> = task.pids()?.into_iter().flat_map(sockets).collect();
    let Ok(first) = Process::new(facts.pid) else { return Ok(Vec::new()) };
    let connections = first.tcp().into_iter().chain(first.tcp6()).flatten().filter(|entry| {
        let open = !matches!(entry.state, TcpState::Listen | TcpState::Close | TcpState::TimeWait);
        open && sockets.contains(&entry.inode)
    });
    // Both kinds of sockets have IPv4 addresses. Loopback's are everywhere.
    let addresses = connections.map(|entry| entry.local_address.ip().to_canonical());
    let addresses: BTreeSet<_> = addresses.filter(|address| !address.is_loopback()).collect();
    Ok(addresses.into_iter().collect())
}

/// The numbers of the sockets that a process has open.
fn sockets(pid: i32) -> Vec<u64> {
    let files = Process::new(pid).and_then(|process| process.fd());
    let socket = |file: ::procfs::process::FDInfo| match file.target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    };
    files.into_iter().flatten().flatten().filter_map(socket).collect()
}

/// Answers nobody any more who asks for them here.
pub(super) fn silence(task: &Task) {
    if let Err(e) = of_its_own(task).and_then(|pid| Ok(pid.map(network::silence).transpose()?)) {
        tracing::warn!("{}", chain(&e));
    }
}

/// Opens the network of a container that waited for the decision.
pub(super) fn open(task: &Task) -> Result<()> {
    Ok(of_its_own(task)?.map_or(Ok(()), network::open)?)
}

/// The first process, if the network namespace was made for the container.
fn of_its_own(task: &Task) -> Result<Option<i32>> {
    let (facts, spec) = (task.facts()?, task.container().spec()?);
    Ok(owns_namespace(facts, &spec).then_some(facts.pid))
}
