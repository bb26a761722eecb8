//! A short description of a process and its resource use.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::container::task::Task;
use crate::error::{Error, Result};
use crate::host::procfs;

/// A process of a container, as managers of containers list it. Memory is in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ProcessSummary {
    /// Its number in the runtime's pid namespace.
    pub pid: i32,
    /// Its id in the container, if it has one.
    pub exec_id: Option<String>,
    /// The program's name (proc_pid_comm(5)).
    pub image_name: String,
    /// When it started, to a hundredth of a second.
    pub created: SystemTime,
    /// CPU time in the kernel.
    pub kernel_time: Duration,
    /// CPU time in the program.
    pub user_time: Duration,
    /// Memory of its own that it may use without asking again: data and stack.
    pub memory_committed: u64,
    /// The part in RAM that it does not share, in bytes.
    pub working_set_private: u64,
    /// The part in RAM that may be shared: files and shared memory.
    pub working_set_shared: u64,
}

/// Details of a process that a manager passes along: a protocol buffer and the name of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessDetails<'a> {
    /// Its type, as in `google.protobuf.Any`; what stands before the last slash is a prefix.
    pub type_url: &'a str,
    /// The message.
    pub value: &'a [u8],
}

/// The one type of details on Linux: a message whose field 1 is the process's id.
const DETAILS: &str = "containerd.runc.v1.ProcessDetails";

impl ProcessDetails<'_> {
    /// The process's id in its container.
    ///
    /// # Errors
    /// The type is another one, which is named, or the message is malformed.
    pub fn exec_id(&self) -> Result<String> {
        let name = self.type_url.rsplit('/').next().unwrap_or_default();
        if name != DETAILS {
            return Err(Error::Invalid(format!(
                "process details of type {:?}: expected {DETAILS}",
                self.type_url
            )));
        }
        let malformed = || Error::Invalid(format!("process details of type {DETAILS}: malformed"));
        match self.value {
            [] => Ok(String::new()),
            // Field 1, length-delimited; an id is shorter than 128 bytes.
            [0x0a, length, text @ ..] if usize::from(*length) == text.len() && *length < 128 => {
                String::from_utf8(text.to_vec()).map_err(|_| malformed())
            }
            _ => Err(malformed()),
        }
    }
}

impl ProcessSummary {
    /// Of a process by its number, with the id that it has in its container; none if it is gone.
    ///
    /// # Errors
    /// procfs cannot be read.
    pub fn of(pid: i32, exec_id: Option<String>) -> Result<Option<Self>> {
        let Some(usage) = procfs::usage(pid) else { return Ok(None) };
        let boot = boot_time()?;
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let time = |count: u64| Duration::from_millis(count.saturating_mul(1000) / ticks);
        let page = rustix::param::page_size() as u64;
        Ok(Some(Self {
            pid,
            exec_id,
            image_name: usage.command,
            created: boot + time(usage.start_time),
            kernel_time: time(usage.kernel_ticks),
            user_time: time(usage.user_ticks),
            memory_committed: usage.data_pages * page,
            working_set_private: usage.resident_pages.saturating_sub(usage.shared_pages) * page,
            working_set_shared: usage.shared_pages * page,
        }))
    }

    /// Of a process by its number and the details that a manager has of it.
    ///
    /// # Errors
    /// As [`ProcessDetails::exec_id`]; procfs cannot be read.
    pub fn from_details(pid: i32, details: ProcessDetails<'_>) -> Result<Option<Self>> {
        Self::of(pid, Some(details.exec_id()?))
    }
}

fn boot_time() -> Result<SystemTime> {
    let path = Path::new("/proc/stat");
    let text = hiber_sys::file::read_to_string(path).map_err(|e| Error::file(path, &e))?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
    let seconds = seconds.ok_or_else(|| Error::File { path: path.into(), why: "has no btime".into() })?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

impl Task {
    /// All processes of the container's cgroup; those with an id tell it.
    pub fn summaries(&self) -> Result<Vec<ProcessSummary>> {
        let known = self.processes()?;
        let id = |pid| known.iter().find(|p| p.pid() == pid).and_then(|p| p.id().map(ToString::to_string));
        let mut summaries = Vec::new();
        for pid in self.pids()? {
            // One that has ended meanwhile is none of them.
            summaries.extend(ProcessSummary::of(pid, id(pid))?);
        }
        Ok(summaries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_process() {
        let me = ProcessSummary::of(std::process::id() as i32, None).unwrap().unwrap();
        let age = me.created.elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(600), "{age:?}");
        assert!(me.working_set_private > 0 && me.working_set_shared > 0 && me.memory_committed > 0, "{me:?}");
        assert!(!me.image_name.is_empty());
        assert_eq!(ProcessSummary::of(i32::MAX, None).unwrap(), None);
    }

    #[test]
    fn details_of_another_type_are_named() {
        let details = |type_url, value| ProcessDetails { type_url, value };
        let good = details("types.containerd.io/containerd.runc.v1.ProcessDetails", b"\x0a\x03job");
        assert_eq!(good.exec_id().unwrap(), "job");
        assert_eq!(details(DETAILS, b"").exec_id().unwrap(), "");
        let error = details("io.example/HcsDetails", b"").exec_id().unwrap_err().to_string();
        assert_eq!(error, format!("process details of type \"io.example/HcsDetails\": expected {DETAILS}"));
        for bad in [&b"\x0a"[..], b"\x0a\x05job", b"\x12\x03job", b"\x0a\x01\xff"] {
            assert!(details(DETAILS, bad).exec_id().unwrap_err().to_string().ends_with("malformed"));
        }
    }
}
