//! The end of the doubt about a migration that was cut off: the source knows what it has decided, and the destination has a container that
//! waits for that.

use std::time::Duration;

use derive_setters::Setters;

use super::addresses;
use super::connection::{Connection, Route};
use super::place::Destination;
use super::word::Word;
use crate::error::{Error, Result, chain};
use crate::helpers::guard;
use crate::helpers::lazy::{Token, record};
use crate::id::ContainerId;
use crate::runtime::Runtime;
use crate::state::migration::{self, Decision, Identity, Incoming};

/// How the other end is reached. Each choice has a setter.
#[derive(Debug, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct ResolveOptions {
    /// Where it is; where the container went if absent.
    pub other: Option<Destination>,
    /// The command that receives, at the other end of ssh; the migration's own if absent.
    pub receiver: Option<String>,
    /// For TLS; the migration's own if absent.
    pub identity: Option<Identity>,
    /// How long the other end may neither send nor take anything.
    pub stall: Duration,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self { other: None, receiver: None, identity: None, stall: Duration::from_secs(10) }
    }
}

/// Ends the doubt about a migration of container `id`, at either end. Where the container has come to, its source is asked at
/// `options.other`; where it came from, its destination is told.
///
/// # Errors
/// If there is nothing to be resolved, the other end cannot be reached, or has not decided yet; [`Error::Lost`] if the container went
/// there before its memory, and the two lost each other before all of it had gone.
pub fn resolve(runtime: &Runtime, id: &ContainerId, options: &ResolveOptions) -> Result<Decision> {
    let (other, identity, stall) = (options.other.as_ref(), options.identity.as_ref(), options.stall);
    migration::sweep(&runtime.store);
    let incoming = match runtime.store.open(id) {
        Ok(entry) => Incoming::of(&entry)?,
        Err(Error::NotFound) => None,
        Err(e) => return Err(e),
    };
    if let Some(incoming) = incoming {
        let why = format!("container {id} came from another machine: say where that is, as ssh://HOST");
        let destination = other.ok_or(Error::Invalid(why))?;
        let receiver = options.receiver.as_deref().unwrap_or(super::RECEIVER);
        let mut connection = Connection::to(&Route { destination, receiver, identity }, stall)?;
        connection.say(&Word::Ask { token: Token::of_hex(&incoming.token)? })?;
        let decision = match connection.hear_result()? {
            Word::Decision { token, decision } if token.to_hex() == incoming.token => decision,
            said => return Err(connection.unexpected(&said)),
        };
        let signs = connection.signs();
        let settled = apply(runtime, id, decision)?;
        drop(signs);
        if settled {
            connection.say(&Word::Settled)?;
        }
        connection.close();
        return Ok(decision);
    }
    let Some((token, record)) = migration::unsettled(&runtime.store, id).pop() else {
        return Err(Error::Invalid(format!("container {id}: there is no migration in doubt")));
    };
    if record.following && migration::is_at_work(&runtime.store, &token) {
        let why = "somebody is still at it: the rest of its memory is on its way";
        return Err(Error::host(
            format!("container {id} is the destination's, {}", record.way.destination),
            why,
        ));
    }
    let decision = decided(runtime, &token)?;
    let destination = &other.cloned().map_or_else(|| record.way.destination.parse(), Ok)?;
    let receiver = options.receiver.as_deref().unwrap_or(&record.way.receiver);
    let identity = identity.or(record.way.identity.as_ref());
    let mut connection = Connection::to(&Route { destination, receiver, identity }, stall)?;
    connection.say(&Word::Decision { token: Token::of_hex(&token)?, decision })?;
    match connection.hear_result()? {
        Word::Settled => migration::settled(&runtime.store, &token),
        Word::Refuse(why) => return Err(connection.refused(&why)),
        said => return Err(connection.unexpected(&said)),
    }
    connection.close();
    if record.following && decision == Decision::Committed {
        let why = "the two lost each other before the source heard that all of its memory was there: unless it was, it has ended";
        return Err(Error::lost(
            format!("container {id} was the destination's, {}", record.way.destination),
            why,
        ));
    }
    Ok(decision)
}

/// The decision that was made here. A decision for the destination is told only when nothing runs here any more.
fn decided(runtime: &Runtime, token: &str) -> Result<Decision> {
    let decision = migration::decision(&runtime.store, token)?;
    if let (Decision::Committed, Some(id)) = (decision, migration::container(&runtime.store, token))
        && let Ok(entry) = runtime.store.open(&id)
    {
        let _lock = entry.lock()?;
        guard::settle(&entry)?;
    }
    Ok(decision)
}

/// Answers a destination that asks.
pub(super) fn answer(runtime: &Runtime, mut connection: Connection, token: &Token) -> Result<()> {
    // Another may hold the container's lock for long.
    let signs = connection.signs();
    let decision = decided(runtime, &token.to_hex());
    drop(signs);
    let decision = decision?;
    connection.say(&Word::Decision { token: token.clone(), decision })?;
    if matches!(connection.hear_result(), Ok(Word::Settled)) {
        migration::settled(&runtime.store, &token.to_hex());
    }
    Ok(())
}

/// Does what a source says by itself.
pub(super) fn heed(
    runtime: &Runtime,
    mut connection: Connection,
    token: &Token,
    decision: Decision,
) -> Result<()> {
    let waits = |id: &ContainerId| {
        let entry = runtime.store.open(id).ok()?;
        Incoming::of(&entry).ok()?.filter(|incoming| incoming.token == token.to_hex())
    };
    let signs = connection.signs();
    let found = runtime.ids()?.into_iter().find(|id| waits(id).is_some());
    let settled = match &found {
        Some(id) => apply(runtime, id, decision),
        // It has heard before, or has nothing to be dropped.
        None => Ok(true),
    };
    drop(signs);
    match settled {
        Ok(true) => connection.say(&Word::Settled)?,
        Ok(false) => connection.say(&Word::Refuse("the source has not decided".into()))?,
        Err(e) => {
            connection.say(&Word::Refuse(chain(&e)))?;
            return Err(e);
        }
    }
    Ok(())
}

/// Lets a container run that has come, or drops it; whether the decision was one.
fn apply(runtime: &Runtime, id: &ContainerId, decision: Decision) -> Result<bool> {
    match decision {
        Decision::Committed => {
            let container = runtime.open(id)?;
            if let Some(e) = record::failure(container.entry()) {
                // Its memory was to come while it ran, and the two ends have lost each other before.
                tracing::warn!("{}", chain(&e));
                Incoming::forget(container.entry())?;
                return Ok(true);
            }
            // A receiver that was killed in between may have let it run already.
            let task = container.task()?;
            addresses::open(&task)?;
            task.cgroup().thaw()?;
            Incoming::forget(container.entry())?;
            addresses::announce(&task);
            Ok(true)
        }
        Decision::Aborted => runtime.force_delete(id).map(|()| true),
        Decision::Open | Decision::Unknown => Ok(false),
    }
}
