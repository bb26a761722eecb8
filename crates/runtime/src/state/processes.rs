//! Records of further processes of a container that have an id.
//!
//! ```text
//! ROOT/ID/processes/PROCESS/process.json   number and start time
//! ```

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::owned;
use crate::id::{ContainerId, InvalidId, MAX_ID};
use crate::state::entry::Entry;

/// The id of a container's first process.
pub const INIT_ID: &str = "init";
const DIR: &str = "processes";
const FILE: &str = "process.json";

/// A process's id in its container, by the rule of [`ContainerId`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(String);

impl ProcessId {
    pub(crate) fn init() -> Self {
        Self(INIT_ID.to_owned())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProcessId {
    type Err = Error;
    /// [`INIT_ID`] is the first process's.
    fn from_str(id: &str) -> Result<Self> {
        match id.parse::<ContainerId>() {
            Ok(_) if id == INIT_ID => Err(Error::ProcessExists(id.to_owned())),
            Ok(id) => Ok(Self(id.to_string())),
            Err(InvalidId::Empty) => Err(Error::Invalid("process id cannot be empty".into())),
            Err(InvalidId::Length(length)) => {
                Err(Error::Invalid(format!("process id of {length} bytes: expected at most {MAX_ID}")))
            }
            Err(InvalidId::Format(id)) => Err(Error::Invalid(format!(
                "invalid process ID format: {id:?}: expected letters, digits and _+-. only"
            ))),
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The record of a process.
#[derive(Debug)]
pub(crate) struct Record(PathBuf);

/// A record that vanishes unless it is kept.
pub(crate) struct Claim(Option<Record>);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    pid: i32,
    start_time: u64,
}

impl Record {
    /// Takes an id for a new process. The id of an ended process is free again after its deletion.
    pub(crate) fn claim(entry: &Entry, id: &ProcessId) -> Result<Claim> {
        let all = entry.path().join(DIR);
        let dir = all.join(id.as_str());
        let mut private = std::fs::DirBuilder::new();
        private.mode(owned::PRIVATE_DIR.as_raw_mode());
        match private.recursive(true).create(&all).and_then(|()| private.recursive(false).create(&dir)) {
            Ok(()) => Ok(Claim(Some(Self(dir)))),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::ProcessExists(id.to_string()))
            }
            Err(e) => Err(Error::file(&dir, &e)),
        }
    }

    pub(crate) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file(&self.0, &e)),
            _ => Ok(()),
        }
    }

    /// The records in the container's directory, with the ids.
    ///
    /// # Errors
    /// The directory of records is there and cannot be read.
    pub(crate) fn all(entry: &Entry) -> Result<Vec<(ProcessId, Self)>> {
        let all = entry.path().join(DIR);
        let found = match std::fs::read_dir(&all) {
            Ok(found) => found,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::file(&all, &e)),
        };
        let record = |at: std::fs::DirEntry| Some((at.file_name().to_str()?.parse().ok()?, Self(at.path())));
        Ok(found.flatten().filter_map(record).collect())
    }

    /// The number and the start time of the process of this record, the process `id` of a container.
    pub(crate) fn read(&self, entry: &Entry, id: &ProcessId) -> Result<(i32, u64)> {
        let path = self.0.join(FILE);
        let text = entry.read(&format!("{DIR}/{id}/{FILE}"))?;
        let text = text.ok_or_else(|| Error::file(&path, &Errno::NOENT.into()))?;
        let written: Written = serde_json::from_slice(&text)
            .map_err(|e| Error::File { path, why: format!("cannot be understood: {e}") })?;
        Ok((written.pid, written.start_time))
    }
}

impl Claim {
    pub(crate) fn write(&self, pid: i32, start_time: u64) -> Result<()> {
        let Some(Record(dir)) = &self.0 else { return Ok(()) };
        let path = dir.join(FILE);
        let text = serde_json::to_vec(&Written { pid, start_time })
            .map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
        owned::write(&path, &text).map_err(|e| Error::file(&path, &e))
    }

    pub(crate) fn keep(mut self) -> Option<Record> {
        self.0.take()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(Err(e)) = self.0.take().map(|record| record.remove()) {
            tracing::warn!("after a failed exec: {e}");
        }
    }
}
