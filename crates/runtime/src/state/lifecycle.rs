//! The record of operations on a container, for its followers.
//!
//! `ROOT/ID/events` has a JSON object on each line. The process that performs an operation appends the line, in one write(2), and
//! inotify wakes the followers. Nobody waits for anybody, and no operation fails because of the record: a line that cannot be
//! written is lost. At [`MAX_SIZE`] the file is emptied and begins anew, so that a container that lives for years with a health
//! check each second does not fill the disk.
//!
//! Events of the kernel are not in the record: followers see the end of a process, want of memory and the directory's removal
//! themselves ([`Events`](crate::Events)).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::state::entry::Entry;

/// The file's name in the container's directory.
pub(crate) const FILE: &str = "events";
/// Some thousand lines.
pub(crate) const MAX_SIZE: u64 = 256 << 10;

/// An operation on a container, or a change of its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Lifecycle {
    /// It was created.
    Create {
        /// Its first process.
        pid: i32,
    },
    /// Its program was executed.
    Start,
    /// A further process was set up in it.
    ExecAdded {
        /// The id that the caller gave it, if any.
        exec: Option<String>,
    },
    /// The program of that process was executed.
    ExecStarted {
        /// The id that the caller gave it, if any.
        exec: Option<String>,
        /// Its number in the runtime's pid namespace.
        pid: i32,
        /// When it started, in clock ticks since boot (proc_pid_stat(5), field 22).
        start_time: u64,
    },
    /// A signal is about to be sent to it, by this library; its first process knows whether it ends.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// It was frozen.
    Paused,
    /// It runs on.
    Resumed,
    /// A checkpoint of it was written.
    Checkpointed {
        /// The directory with the images.
        path: PathBuf,
        /// Whether that is its end.
        exit: bool,
    },
    /// It went to another machine, where it runs from now on; here it has ended.
    Migrated {
        /// Where to.
        destination: String,
    },
    /// It runs, and its memory follows it.
    MemoryArriving,
    /// The memory of a restored container, which was to follow it, is all there.
    MemoryArrived,
    /// The memory does not arrive any more, so the container was ended.
    MemoryFailed {
        /// Why.
        reason: String,
    },
    /// As [`MemoryFailed`](Self::MemoryFailed), of memory that came from another machine: the container runs nowhere any more.
    MemoryLost {
        /// Why.
        reason: String,
    },
    /// All memory has arrived from another container, which has not reported its own end.
    SourceUnconfirmed,
    /// It was made from a checkpoint, and runs.
    Restored {
        /// The directory with the images.
        path: PathBuf,
        /// Its first process.
        pid: i32,
    },
    /// It had ended, and a keeper has made it again.
    BroughtBack {
        /// Why it had ended.
        reason: String,
        /// From which checkpoint; from its start if from none.
        checkpoint: Option<String>,
    },
}

/// The lines in the content of the file. One that cannot be understood, such as one of a newer version, is skipped.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = Line> + '_ {
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.filter_map(|line| serde_json::from_slice(line).ok())
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// RFC 3339.
    pub(crate) time: String,
    #[serde(flatten)]
    pub(crate) what: Lifecycle,
}

impl Entry {
    /// Records an operation.
    pub(crate) fn note(&self, what: Lifecycle) {
        let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let noted =
            serde_json::to_vec(&Line { time, what }).map_err(|e| e.to_string()).and_then(|mut line| {
                line.push(b'\n');
                self.append(&line).map_err(|e| e.to_string())
            });
        if let Err(e) = noted {
            tracing::debug!("{}: {e}", self.path().join(FILE).display());
        }
    }

    /// The operations until now. A line that cannot be read or understood is left out.
    pub(crate) fn noted(&self) -> Vec<Line> {
        lines(&self.read(FILE).ok().flatten().unwrap_or_default()).collect()
    }

    fn append(&self, line: &[u8]) -> rustix::io::Result<()> {
        let file = match self.events.get() {
            Some(file) => file,
            None => {
                let flags =
                    OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let file: OwnedFd = rustix::fs::openat(self.dir(), FILE, flags, Mode::from_raw_mode(0o600))?;
                self.events.get_or_init(|| file)
            }
        };
        if rustix::fs::fstat(file)?.st_size as u64 > MAX_SIZE {
            rustix::fs::ftruncate(file, 0)?;
        }
        rustix::io::write(file, line).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::store::Store;

    #[test]
    fn lines_are_appended_and_the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let id = "box".parse().unwrap();
        let (entry, _lock) = Store::new(dir.path()).create(&id).unwrap();
        entry.note(Lifecycle::Create { pid: 7 });
        entry.note(Lifecycle::Paused);
        let path = dir.path().join("box/events");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Line> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0].what, Lifecycle::Create { pid: 7 });
        assert_eq!(lines[1].what, Lifecycle::Paused);
        assert!(text.contains(r#""type":"create","data":{"pid":7}"#), "{text}");
        for _ in 0..10_000 {
            entry.note(Lifecycle::Resumed);
        }
        let size = std::fs::metadata(&path).unwrap().len();
        assert!((1..MAX_SIZE + 200).contains(&size), "{size}");
    }

    #[test]
    fn what_cannot_be_written_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let id = "box".parse().unwrap();
        let (entry, _lock) = Store::new(dir.path()).create(&id).unwrap();
        std::fs::create_dir(dir.path().join("box/events")).unwrap();
        entry.note(Lifecycle::Start);
        assert!(dir.path().join("box/events").is_dir());
    }
}
