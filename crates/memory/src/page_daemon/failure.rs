//! The reasons why memory does not arrive.

use std::io;

use rustix::io::Errno;

/// Pages of a task that are touched at the same time, by their addresses at the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    /// The task's number at the dump.
    pub task: i32,
    /// The first page.
    pub start: u64,
    /// Where they end.
    pub end: u64,
}

/// Why memory does not come any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// CRIU has gone, or says something else than a CRIU.
    #[error("the restore ended before it was done: {0}")]
    Restore(io::Error),
    /// A page cannot be read: the file is shorter than it was, or cannot be read there.
    #[error("memory of process {task} at {address:#x} cannot be read from the images: they are damaged")]
    Image {
        /// The process.
        task: i32,
        /// The address.
        address: u64,
    },
    /// A page cannot be had from where its file is written from.
    #[error("memory of process {task} at {address:#x} cannot be had")]
    Unfilled {
        /// The process.
        task: i32,
        /// The address.
        address: u64,
        /// The reason.
        #[source]
        why: std::io::Error,
    },
    /// The kernel does not take a page: ENOMEM where the limit of the process's cgroup is reached.
    #[error("memory of process {task} at {address:#x} cannot be put in place: {errno}")]
    Copy {
        /// The process.
        task: i32,
        /// The address.
        address: u64,
        /// The error.
        errno: Errno,
    },
    /// The events of a process do not arrive any more.
    #[error("userfaultfd of process {task}: {why}")]
    Events {
        /// The process.
        task: i32,
        /// The error.
        why: io::Error,
    },
    /// The page server does not give what it was asked for.
    #[error("the page server {0}")]
    Server(String),
    /// This process lacks something.
    #[error("{0}: {1}")]
    Host(&'static str, io::Error),
}
