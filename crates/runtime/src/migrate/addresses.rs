//! The addresses of a container that moves, where its network namespace is its own and moves with it.

use hiber_sandbox::network;

use crate::checkpoint::network::owns_namespace;
use crate::container::task::Task;
use crate::error::{Result, chain};

/// Tells switches and neighbours where the container's addresses are now. Nobody's container is given up because they do not hear it:
/// they ask when their own knowledge is too old.
pub(super) fn announce(task: &Task) {
    match of_its_own(task).and_then(|pid| Ok(pid.map(network::announce).transpose()?)) {
        Ok(sent) => tracing::debug!("announced {} addresses", sent.unwrap_or_default()),
        Err(e) => tracing::warn!("{}", chain(&e)),
    }
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
