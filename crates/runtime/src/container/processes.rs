//! All processes of a container that have an id.

use crate::container::process::{Attributes, Process};
use crate::container::task::Task;
use crate::error::Result;
use crate::state::entry::Entry;
use crate::state::processes::{ProcessId, Record};

impl Task {
    /// The first process, and those that were executed with an id and not deleted, by any process: zombies included, but
    /// not those that are gone. One whose record cannot be read is logged and left out.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let entry = self.container().entry();
        let mut further: Vec<Process> = Record::all(entry)?
            .into_iter()
            .filter_map(|(id, record)| {
                open(entry, id, record).unwrap_or_else(|e| {
                    tracing::warn!("a process that cannot be loaded: {e}");
                    None
                })
            })
            .collect();
        further.sort_by(|a, b| a.id().cmp(&b.id()));
        Ok(self.init().cloned().into_iter().chain(further).collect())
    }
}

fn open(entry: &Entry, id: ProcessId, record: Record) -> Result<Option<Process>> {
    let (pid, start_time) = record.read(entry, &id)?;
    let attributes = Attributes { id: Some(id), record: Some(record), ..Attributes::default() };
    Process::open(pid, start_time, attributes)
}
