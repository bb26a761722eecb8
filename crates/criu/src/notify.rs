//! The steps of a dump or restore at which CRIU waits for its caller.

use std::os::fd::OwnedFd;

use criu_proto::rpc::CriuNotify;

use crate::error::HandlerError;

/// The answer of a handler: `Err` makes the operation fail (network-unlock, pre-resume and post-resume excepted: CRIU 4 only logs
/// those). CRIU then cleans up: after a failed dump the tasks run on, after a failed restore they are gone.
pub type Answer = Result<(), HandlerError>;

/// A step of a dump.
#[derive(Debug)]
#[non_exhaustive]
pub enum DumpNotify<'a> {
    /// `pre-dump`: a dump begins, nothing is frozen yet. (Pre-dumps, in spite of the name, send nothing.)
    PreDump,
    /// `network-lock`: the tasks are frozen, their network is about to be locked. Sent if they have a
    /// network namespace of their own, also where CRIU is to lock nothing.
    NetworkLock,
    /// `network-unlock`: the counterpart; also sent after failures.
    NetworkUnlock,
    /// `query-ext-files` (CRIU 3.19): the handler may add objects that stay outside the images, in the
    /// syntax of criu(8)'s --external.
    QueryExtFiles(&'a mut Vec<String>),
    /// `post-dump`: all images are written, the tasks are still frozen. After `Ok` they are killed (or
    /// run on, with `leave_running`); after `Err`, or if the caller dies, they run on.
    PostDump,
    /// `status-ready`: the page server listens.
    StatusReady,
}

/// A step of a restore.
#[derive(Debug)]
#[non_exhaustive]
pub enum RestoreNotify {
    /// `pre-restore`: nothing has been made yet.
    PreRestore,
    /// `setup-namespaces`: the first task lives in its new namespaces, which are still empty.
    SetupNamespaces {
        /// The first task, in CRIU's pid namespace.
        pid: i32,
    },
    /// `post-setup-namespaces`: mounts and the rest of the namespaces are restored.
    PostSetupNamespaces,
    /// `orphan-pts-master`: the master of a terminal whose other end is among the restored files.
    OrphanPtsMaster(OwnedFd),
    /// `post-restore`: the tasks are restored and stopped. The last step that can still fail cleanly.
    PostRestore {
        /// The first task, in CRIU's pid namespace.
        pid: i32,
    },
    /// `network-unlock`: the network is about to be unlocked. A failure after it kills the tasks.
    NetworkUnlock,
    /// `pre-resume`: the tasks are about to run. CRIU only logs a failure.
    PreResume,
    /// `post-resume`: they run. CRIU only logs a failure.
    PostResume,
    /// `status-ready`: CRIU is ready to be connected to.
    StatusReady,
}

/// Why a notification could not be turned into one of the enums.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undecoded {
    /// A step that this version does not know: to be acknowledged.
    Unknown,
    /// A known step without what belongs to it.
    Broken(&'static str),
}

impl<'a> DumpNotify<'a> {
    pub(crate) fn decode(step: &str, external: &'a mut Vec<String>) -> Result<Self, Undecoded> {
        Ok(match step {
            "pre-dump" => Self::PreDump,
            "network-lock" => Self::NetworkLock,
            "network-unlock" => Self::NetworkUnlock,
            "query-ext-files" => Self::QueryExtFiles(external),
            "post-dump" => Self::PostDump,
            "status-ready" => Self::StatusReady,
            _ => return Err(Undecoded::Unknown),
        })
    }
}

impl RestoreNotify {
    pub(crate) fn decode(step: &str, notify: &CriuNotify, fds: Vec<OwnedFd>) -> Result<Self, Undecoded> {
        let pid = notify.pid.filter(|&pid| pid > 0).ok_or(Undecoded::Broken("the pid is missing"));
        Ok(match step {
            "pre-restore" => Self::PreRestore,
            "setup-namespaces" => Self::SetupNamespaces { pid: pid? },
            "post-setup-namespaces" => Self::PostSetupNamespaces,
            "orphan-pts-master" => {
                let master = fds.into_iter().next();
                Self::OrphanPtsMaster(
                    master.ok_or(Undecoded::Broken("the terminal's descriptor is missing"))?,
                )
            }
            "post-restore" => Self::PostRestore { pid: pid? },
            "network-unlock" => Self::NetworkUnlock,
            "pre-resume" => Self::PreResume,
            "post-resume" => Self::PostResume,
            "status-ready" => Self::StatusReady,
            _ => return Err(Undecoded::Unknown),
        })
    }
}
