//! A note of a keeper for the next one: `ROOT/~keep/ID/record.json`.
//!
//! A keeper deletes a container before it restores it under the same id. If it is killed in between there is no container, and only this
//! record says that there should be one. It also says since when the container's checkpoints are of this container: another one may have
//! had the id before, or this one was made anew. The keeper at work holds a lock (flock(2)) on the directory.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::owned;
use crate::id::ContainerId;
use crate::runtime::Runtime;
use crate::state::facts::Facts;

/// Where the records are. Containers have no such ids.
const DIRECTORY: &str = "~keep";
const RECORD: &str = "record.json";
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    version: u32,
    bundle: PathBuf,
    /// When the container was created that is kept.
    created: SystemTime,
    /// The beginning of its story: checkpoints from before are of another container.
    since: SystemTime,
    /// Why it is being brought back, if it is.
    restarting: Option<String>,
}

/// The work of a keeper on a container, for as long as this lives.
#[derive(Debug)]
pub struct Keeping {
    path: PathBuf,
    record: Option<Record>,
    _locked: OwnedFd,
}

impl Keeping {
    /// Begins it, or goes on where a killed keeper has left it.
    ///
    /// # Errors
    /// Another keeper is at it, or the root cannot be written.
    pub fn begin(runtime: &Runtime, id: &ContainerId) -> Result<Self> {
        let path = runtime.store.own_directory(DIRECTORY)?.join(id);
        let fail = |e: Errno| Error::file(&path, &e.into());
        match rustix::fs::mkdir(&path, owned::PRIVATE_DIR) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(fail(e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let locked = rustix::fs::open(&path, flags, Mode::empty()).map_err(fail)?;
        match rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Invalid(format!(
                    "container {id} is kept already, by another `hiber keep`"
                )));
            }
            Err(e) => return Err(fail(e)),
        }
        let record = std::fs::read(path.join(RECORD)).ok();
        let record = record.and_then(|json| serde_json::from_slice::<Record>(&json).ok());
        let record = record.filter(|record| record.version == VERSION);
        Ok(Self { path, record, _locked: locked })
    }

    /// The reason why the container was being brought back when the keeper before was killed, and its bundle.
    pub fn interrupted(&self) -> Option<(String, PathBuf)> {
        let record = self.record.as_ref()?;
        Some((record.restarting.clone()?, record.bundle.clone()))
    }

    /// The bundle of the container that is kept.
    pub fn bundle(&self) -> Option<&Path> {
        self.record.as_ref().map(|record| record.bundle.as_path())
    }

    /// Whether it was this container that the keeper before has kept.
    pub fn knows(&self, facts: &Facts) -> bool {
        self.record.as_ref().is_some_and(|record| record.created == facts.created)
    }

    /// Since when checkpoints are of the container that is kept.
    pub fn since(&self) -> SystemTime {
        self.record.as_ref().map_or(SystemTime::UNIX_EPOCH, |record| record.since)
    }

    /// Keeps this container. It is the one from before if it was created at the same time.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn keep(&mut self, facts: &Facts) -> Result<()> {
        let since = if self.knows(facts) { self.since() } else { facts.created };
        self.write(Record::of(facts, since))
    }

    /// The container has ended, and is about to be deleted and made again.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn restarting(&mut self, reason: &str) -> Result<()> {
        let Some(record) = self.record.clone() else { return Ok(()) };
        self.write(Record { restarting: Some(reason.to_owned()), ..record })
    }

    /// It runs again: out of a checkpoint it is the container that it was; otherwise its story begins now.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn restarted(&mut self, facts: &Facts, anew: bool) -> Result<()> {
        let since = if anew { facts.created } else { self.since() };
        self.write(Record::of(facts, since))
    }

    /// Nobody needs the record any more.
    pub fn forget(self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }

    fn write(&mut self, record: Record) -> Result<()> {
        if self.record.as_ref() == Some(&record) {
            return Ok(());
        }
        let json = serde_json::to_vec(&record).map_err(|e| Error::internal("write down a container", e))?;
        let path = self.path.join(RECORD);
        owned::replace(&path, &json).map_err(|e| Error::file(&path, &e))?;
        self.record = Some(record);
        Ok(())
    }
}

impl Record {
    fn of(facts: &Facts, since: SystemTime) -> Self {
        Self {
            version: VERSION,
            bundle: facts.bundle.clone(),
            created: facts.created,
            since,
            restarting: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn facts(created: SystemTime) -> Facts {
        let json = serde_json::json!({
            "version": 1, "id": "box", "pid": 7, "startTime": 1, "bundle": "/b", "rootfs": "/b/rootfs",
            "created": created, "cgroup": hiber_sandbox::cgroup::CgroupPaths::default(), "namespaces": [], "streams": [],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_killed_keeper_is_followed_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, id) = (Runtime::new(&dir.path().join("root")), "box".parse().unwrap());
        let begun = SystemTime::now();
        let mut keeping = Keeping::begin(&runtime, &id).unwrap();
        assert!(keeping.interrupted().is_none() && keeping.bundle().is_none());
        keeping.keep(&facts(begun)).unwrap();
        let other = Keeping::begin(&runtime, &id).unwrap_err().to_string();
        assert!(other.contains("box is kept already"), "{other}");
        keeping.restarting("it crashed").unwrap();
        drop(keeping);
        let mut keeping = Keeping::begin(&runtime, &id).unwrap();
        assert_eq!(keeping.interrupted(), Some(("it crashed".into(), "/b".into())));
        let again = begun + Duration::from_secs(5);
        keeping.restarted(&facts(again), false).unwrap();
        assert_eq!((keeping.since(), keeping.interrupted()), (begun, None));
        drop(keeping);
        // The same container, and then another one of that id.
        let mut keeping = Keeping::begin(&runtime, &id).unwrap();
        keeping.keep(&facts(again)).unwrap();
        assert_eq!(keeping.since(), begun);
        let other = again + Duration::from_secs(5);
        keeping.keep(&facts(other)).unwrap();
        assert_eq!(keeping.since(), other);
        keeping.restarted(&facts(again), true).unwrap();
        assert_eq!(keeping.since(), again);
        keeping.forget();
        assert_eq!(Keeping::begin(&runtime, &id).unwrap().since(), SystemTime::UNIX_EPOCH);
        assert!(runtime.ids().unwrap().is_empty(), "a record is no container");
    }
}
