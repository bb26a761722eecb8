//! An existing container: its fixed facts. Its processes are its [`Task`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use oci_spec::runtime::Spec;

use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::state::clones::CloneRecord;
use crate::state::entry::Entry;
use crate::state::facts::{ConfigSummary, Facts};
use crate::state::store::Store;

/// A handle on an existing container; clones share it. It keeps the container's directory open, so it stays with
/// this container even when another one gets the id.
#[derive(Debug, Clone)]
pub struct Container(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: ContainerId,
    entry: Entry,
    facts: Option<Facts>,
    spec: Mutex<Option<Arc<Spec>>>,
}

impl Container {
    pub(crate) fn open(store: &Store, id: &ContainerId) -> Result<Self> {
        let entry = store.open(id)?;
        let facts = entry.facts()?;
        Ok(Self::new(id.clone(), entry, facts, None))
    }

    /// A container that was just created from `spec`.
    pub(crate) fn of_created(id: ContainerId, entry: Entry, facts: Facts, spec: Arc<Spec>) -> Self {
        Self::new(id, entry, Some(facts), Some(spec))
    }

    pub(crate) fn new(id: ContainerId, entry: Entry, facts: Option<Facts>, spec: Option<Arc<Spec>>) -> Self {
        Self(Arc::new(Inner { id, entry, facts, spec: Mutex::new(spec) }))
    }

    /// The same container with the facts as they are on disk now, for a handle that was opened during the creation.
    pub(crate) fn reread(&self) -> Result<Self> {
        let entry = self.entry().try_clone()?;
        let facts = entry.facts()?;
        Ok(Self::new(self.0.id.clone(), entry, facts, None))
    }

    /// The container's id.
    pub fn id(&self) -> &ContainerId {
        &self.0.id
    }

    /// The facts from its creation. Fails for a creation that was interrupted before they were written.
    pub fn facts(&self) -> Result<&Facts> {
        self.0.facts.as_ref().ok_or(Error::NotRunning)
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// Its bundle's directory, absolute.
    pub fn bundle(&self) -> Result<&Path> {
        Ok(&self.facts()?.bundle)
    }

    /// The configuration that it was created from, with the limits as this handle knows them. Read once.
    pub fn spec(&self) -> Result<Arc<Spec>> {
        let mut spec = self.0.spec.lock().unwrap_or_else(PoisonError::into_inner);
        match &*spec {
            Some(spec) => Ok(Arc::clone(spec)),
            None => {
                let read = Arc::new(self.entry().config()?);
                Ok(Arc::clone(spec.insert(read)))
            }
        }
    }

    /// Keeps a changed configuration, here and on disk.
    pub(crate) fn replace_spec(&self, spec: Spec) -> Result<()> {
        self.entry().write_config(&spec)?;
        *self.0.spec.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(spec));
        Ok(())
    }

    /// Its labels: the annotations of its configuration.
    pub fn labels(&self) -> Result<BTreeMap<String, String>> {
        let spec = self.spec()?;
        Ok(spec.annotations().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// The part of the configuration that is needed to show the container and to run its hooks.
    pub fn config_summary(&self) -> Result<ConfigSummary> {
        let spec = self.0.spec.lock().unwrap_or_else(PoisonError::into_inner);
        spec.as_ref().map_or_else(|| self.entry().config_summary(), |spec| Ok(ConfigSummary::of(spec)))
    }

    /// Whether it is a clone, whose root filesystem goes with it ([`Runtime::make_clone`](crate::Runtime::make_clone)).
    pub fn is_clone(&self) -> bool {
        CloneRecord::of(self.entry()).ok().flatten().is_some()
    }

    /// The user who made it.
    pub fn owner(&self) -> Result<u32> {
        self.entry().owner()
    }

    /// When it was created.
    pub fn created(&self) -> SystemTime {
        self.0.facts.as_ref().map_or(SystemTime::UNIX_EPOCH, |f| f.created)
    }
}
