//! The contract of a restored container that may not be the only one of its checkpoint: before its first instruction it can find out
//! that it is another one, and what no two processes may share is taken from it (docs/clones.md).
//!
//! In this order: memory that a child would not have gets wiped ([`wipe`]), the files appear ([`generation`]), the hook runs inside
//! ([`hook`]), and the first process gets its signal. CRIU holds the tasks all the while.

mod generation;
mod hook;
mod wipe;

use std::os::fd::AsFd;
use std::sync::Arc;

use hiber_criu::ImageDirectory;
use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::signal::Signal;
use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::container::handle::Container;
use crate::container::prepared::Prepared;
use crate::error::{Context, Error, Result};
use crate::host::threads::apart;
use crate::id::ContainerId;
use crate::state::clones::CloneRecord;
use crate::state::entry::Entry;
use crate::state::facts::Facts;
use crate::state::store::Store;
pub(crate) use generation::{Generation, Given};
use hook::Hook;

/// The annotation with the signal for the first process, by its name or number.
const SIGNAL: &str = "org.hiber.restore.signal";

/// A container that is a clone.
#[derive(Debug)]
pub(crate) struct AsClone {
    /// Its directory, which goes with it.
    pub(crate) record: CloneRecord,
    pub(crate) given: Given,
    pub(crate) generation: Generation,
}

/// The part of the contract that a configuration asks for.
#[derive(Debug)]
pub(crate) struct Unique {
    hook: Option<Hook>,
    signal: Option<Signal>,
    clone: Option<Arc<AsClone>>,
}

/// A container whose processes are whole and have not run.
pub(crate) struct Restored<'a> {
    pub(crate) id: &'a ContainerId,
    pub(crate) entry: &'a Entry,
    pub(crate) facts: &'a Facts,
    pub(crate) prepared: &'a Prepared,
    pub(crate) images: &'a ImageDirectory,
    /// Its processes, by their numbers here.
    pub(crate) pids: Vec<i32>,
}

impl Unique {
    /// Of a container, which may be a clone.
    ///
    /// # Errors
    /// The annotation that cannot be understood.
    pub(crate) fn of(spec: &Spec, clone: Option<Arc<AsClone>>) -> Result<Self> {
        let annotation = |name: &str| spec.annotations().as_ref().and_then(|all| all.get(name));
        let signal = annotation(SIGNAL).map(|text| {
            Signal::named(text).ok_or_else(|| {
                Error::Invalid(format!(
                    "annotation {SIGNAL}: {text:?} is no signal, expected a name such as SIGUSR1, or a number"
                ))
            })
        });
        Ok(Self { hook: Hook::of(annotation)?, signal: signal.transpose()?, clone })
    }

    /// Keeps the contract.
    pub(crate) fn keep(&self, restored: &Restored<'_>) -> Result<()> {
        let first = restored.facts.pid;
        wipe::wipe(restored.images, first, &restored.pids)
            .context("wipe the memory that no two processes may share")?;
        let namespaces = &restored.prepared.plan.namespaces;
        match &self.clone {
            Some(clone) => {
                restored.set_hostname()?;
                clone.generation.write(first, namespaces, &clone.given)?;
            }
            None => {
                let generation = Generation::next(&Store::of(restored.entry), restored.id)?;
                generation.write(first, namespaces, &Given::default())?;
            }
        }
        if let Some(hook) = &self.hook {
            let entry = restored.entry.try_clone()?;
            let spec = restored.prepared.spec.clone();
            hook.run(Container::of_created(restored.id.clone(), entry, restored.facts.clone(), spec))?;
        }
        if let Some(signal) = self.signal {
            let pid = Pid::from_raw(first).ok_or(Error::NotRunning)?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty())
                .map_err(|e| Error::sys("pidfd_open", first.to_string(), e))?;
            signal.send(pidfd.as_fd()).map_err(hiber_sandbox::Error::from)?;
        }
        Ok(())
    }
}

impl Restored<'_> {
    /// Gives it the host name of its configuration: CRIU has set that of the checkpoint.
    fn set_hostname(&self) -> Result<()> {
        let plan = &self.prepared.plan;
        let Some(name) = plan.init.hostname.as_ref().filter(|_| plan.namespaces.is_new(NamespaceKind::Uts))
        else {
            return Ok(());
        };
        let path = std::path::PathBuf::from(format!("/proc/{}/ns/uts", self.facts.pid));
        let namespace = std::fs::File::open(&path).map_err(|e| Error::file(&path, &e))?;
        apart("the thread that sets a host name", || {
            let flag = NamespaceKind::Uts.clone_flag();
            hiber_sys::process::setns(namespace.as_fd(), flag, "to set a host name")?;
            rustix::system::sethostname(name.as_bytes()).map_err(|e| Error::sys("sethostname", name, e))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_that_is_not_understood_is_named() {
        let spec = |name: &str, value: &str| {
            let mut spec = Spec::default();
            spec.set_annotations(Some([(name.to_owned(), value.to_owned())].into()));
            Unique::of(&spec, None).map(drop).map_err(|e| e.to_string())
        };
        assert!(spec(SIGNAL, "SIGHUP").is_ok());
        let message = spec(SIGNAL, "LOUD").unwrap_err();
        assert!(message.contains(SIGNAL) && message.contains("LOUD"), "{message}");
        let message = spec("org.hiber.hooks.restored", "[1]").unwrap_err();
        assert!(message.contains("org.hiber.hooks.restored"), "{message}");
        let message = spec("org.hiber.hooks.restored.timeout", "soon").unwrap_err();
        assert!(message.contains("soon"), "{message}");
    }
}
