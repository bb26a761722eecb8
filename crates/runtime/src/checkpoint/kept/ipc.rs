//! System V objects of the container's own IPC namespace: segments that were removed while somebody has them attached, which
//! CRIU makes again for ever; those that are locked; and how much a message queue may hold.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::ipc::{Queue, find_segment, lock_segment, queues, remove_segment, segments, set_queue_bytes};
use hiber_sys::process::setns;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::threads::apart;

/// By the objects' numbers, which a restore gives them again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Ipc {
    /// Segments that go when nobody has them attached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed: Vec<i32>,
    /// Segments that stay in memory, and their sizes in bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    locked: BTreeMap<i32, u64>,
    /// How many bytes message queues may hold.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    queue_bytes: BTreeMap<i32, u64>,
}

impl Ipc {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How much memory is to stay in memory, in bytes.
    pub(crate) fn locked_bytes(&self) -> u64 {
        self.locked.values().fold(0, |sum, size| sum.saturating_add(*size))
    }

    /// The most that a message queue may hold, in bytes.
    pub(crate) fn largest_queue(&self) -> u64 {
        self.queue_bytes.values().copied().max().unwrap_or(0)
    }

    /// The properties of the objects in the IPC namespace of process `pid`. `files` are the names of its images: CRIU writes one
    /// for each kind of objects that there are.
    pub(super) fn of(pid: i32, files: &[String]) -> Result<Self> {
        let has = |kind: &str| files.iter().any(|name| name.starts_with(&format!("ipcns-{kind}-")));
        let (memory, messages) = (has("shm"), has("msg"));
        if !memory && !messages {
            return Ok(Self::default());
        }
        inside(pid, || {
            let mut found = Self::default();
            for segment in segments().map_err(|e| failed("shmctl", 0, e))? {
                if segment.removed {
                    found.removed.push(segment.id);
                }
                if segment.locked {
                    found.locked.insert(segment.id, segment.size);
                }
            }
            let queues = queues().map_err(|e| failed("msgctl", 0, e))?;
            let usual = usual_queue_bytes()?;
            let unusual = queues.into_iter().filter(|queue| queue.bytes != usual);
            found.queue_bytes = unusual.map(|queue| (queue.id, queue.bytes)).collect();
            Ok(found)
        })
    }

    /// Gives the objects in the IPC namespace of the restored process `pid` what they had.
    pub(super) fn put_back(&self, pid: i32) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        inside(pid, || {
            for (id, bytes) in &self.queue_bytes {
                let queue = Queue { id: *id, bytes: *bytes };
                match set_queue_bytes(queue) {
                    Err(Errno::PERM) => {
                        tracing::warn!(
                            "message queue {id} cannot hold {bytes} bytes: that takes CAP_SYS_RESOURCE"
                        );
                    }
                    other => other.map_err(|e| failed("msgctl", *id, e))?,
                }
            }
            for (id, size) in &self.locked {
                let segment = find_segment(*id).map_err(|e| failed("shmctl", *id, e))?;
                if segment.size != *size {
                    let why = format!("kept.json: segment {id} has {} bytes, not {size}", segment.size);
                    return Err(Error::Invalid(why));
                }
                lock_segment(*id).map_err(|e| failed("shmctl", *id, e))?;
            }
            self.removed.iter().try_for_each(|id| remove_segment(*id).map_err(|e| failed("shmctl", *id, e)))
        })
    }
}

/// How many bytes a new queue may hold in the calling thread's IPC namespace.
fn usual_queue_bytes() -> Result<u64> {
    let path = Path::new("/proc/sys/kernel/msgmnb");
    let text = hiber_sys::file::read_to_string(path).map_err(|e| Error::file(path, &e))?;
    text.trim().parse().map_err(|_| Error::File { path: path.into(), why: format!("says {text:?}") })
}

fn failed(call: &str, id: i32, e: Errno) -> Error {
    Error::sys(call, format!("{id} in the container's IPC namespace"), e)
}

/// Does something in the IPC namespace of a process, on a thread that joins it and ends.
pub(in crate::checkpoint) fn inside<T: Send>(pid: i32, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = format!("/proc/{pid}/ns/ipc");
    let namespace = File::open(&path).map_err(|e| Error::file(Path::new(&path), &e))?;
    let there = || {
        setns(namespace.as_fd(), NamespaceKind::Ipc.clone_flag(), "into the container's IPC namespace")?;
        what()
    };
    apart("the thread in the container's IPC namespace", there)
}
