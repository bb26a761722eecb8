//! The public error.

use std::path::{Path, PathBuf};

use hiber_sandbox::SysError;

use crate::checkpoint::named::CheckpointError;
use crate::state::Status;

pub(crate) use hiber_sandbox::error::chain;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on a container failed. Sources are causes: a message never repeats its source's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no container of that id.
    #[error("container does not exist")]
    NotFound,
    /// There is one already.
    #[error("container with given ID already exists")]
    Exists,
    /// There is already a process of that id in the container.
    #[error("process {0} already exists in the container")]
    ProcessExists(String),
    /// The container's process is gone.
    #[error("container not running")]
    NotRunning,
    /// The container is in a state that forbids the operation.
    #[error("{what}")]
    State {
        /// The sentence that says so, state included.
        what: String,
        /// The state.
        status: Status,
    },
    /// Somebody else is at it, and does not end. The sentence says who.
    #[error("{0}")]
    Locked(String),
    /// An argument that cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// Set-up or the kernel.
    #[error(transparent)]
    Sandbox(#[from] hiber_sandbox::Error),
    /// A named checkpoint that cannot be made or used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] hiber_criu::CriuError),
    /// A file that cannot be read or written.
    #[error("{path}: {why}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A failure with what was being done.
    #[error("{what}")]
    While {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<Error>,
    },
}

/// What sort of failure it is, for callers that answer with codes of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    NotFound,
    Exists,
    /// The container's state forbids it.
    State,
    /// The caller's configuration or arguments.
    Invalid,
    /// This host, kernel or version cannot.
    Unsupported,
    /// Everything else.
    Failed,
}

impl Error {
    /// The sort of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound => Kind::NotFound,
            Self::Exists | Self::ProcessExists(_) => Kind::Exists,
            Self::NotRunning | Self::State { .. } | Self::Locked(_) => Kind::State,
            Self::Invalid(_) => Kind::Invalid,
            Self::Sandbox(e) => sandbox_kind(e),
            Self::Checkpoint(CheckpointError::Exists { .. }) => Kind::Exists,
            Self::Checkpoint(CheckpointError::Missing { .. }) => Kind::NotFound,
            Self::Checkpoint(_) => Kind::Invalid,
            Self::While { source, .. } => source.kind(),
            Self::File { .. } | Self::Criu(_) => Kind::Failed,
        }
    }

    /// A file's failure as std reports it.
    pub(crate) fn file(path: &Path, e: &std::io::Error) -> Self {
        let why = hiber_sandbox::error::plain(e);
        Self::File { path: path.into(), why }
    }

    /// A failed system call.
    pub(crate) fn sys(call: &str, args: impl Into<String>, e: rustix::io::Errno) -> Self {
        Self::Sandbox(SysError::new(call, args, e.raw_os_error()).into())
    }
}

fn sandbox_kind(e: &hiber_sandbox::Error) -> Kind {
    use hiber_sandbox::Error as E;
    match e {
        E::Invalid { .. } => Kind::Invalid,
        E::Unsupported { .. } => Kind::Unsupported,
        E::While { source, .. } => sandbox_kind(source),
        _ => Kind::Failed,
    }
}

/// Adds what was being done to an error.
pub(crate) trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::While { what: what.into(), source: Box::new(e.into()) })
    }
}
