//! The public error.

pub(crate) mod causes;

use std::any::Any;
use std::path::{Path, PathBuf};

use hiber_criu::CriuError;
use hiber_sys::SysError;

use crate::id::CheckpointError;
use crate::status::Status;

pub(crate) use hiber_sandbox::error::chain;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The failure of an operation on a container. Sources are causes: a message never repeats that of its source.
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
        /// The message, with the state.
        what: String,
        /// The state.
        status: Status,
    },
    /// Another process holds the container's lock, and does not end. The message names the process.
    #[error("{0}")]
    Locked(String),
    /// An argument that cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// Set-up or the kernel.
    #[error(transparent)]
    Sandbox(hiber_sandbox::Error),
    /// A named checkpoint that cannot be made or used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// CRIU.
    #[error(transparent)]
    Criu(CriuError),
    /// A file that cannot be read or written.
    #[error("{path}: {why}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// This host or the network refused something that has no path: a peer, a helper process, a thread.
    #[error("{what}")]
    Host {
        /// The action.
        what: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// A container that went to another machine before all of its memory did (post-copy), when one of the two failed: it has ended
    /// there, and runs nowhere.
    #[error("{what}")]
    Lost {
        /// The end that it has come to.
        what: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A mistake in this program: a thread panicked, a record cannot be encoded, a helper process speaks out of turn.
    #[error("{what}")]
    Internal {
        /// The action, or the part of the program.
        what: String,
        /// The mistake.
        #[source]
        source: Cause,
    },
    /// A failure, and the action that failed.
    #[error("{what}")]
    While {
        /// The action.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<Error>,
    },
}

/// The cause of a failure: another crate's error, or a sentence.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The kind of a failure, for callers that answer with codes of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// There is no such container, process or checkpoint.
    NotFound,
    /// The name is taken.
    Exists,
    /// The container's state forbids it.
    State,
    /// The caller's configuration or arguments.
    Invalid,
    /// This host, its kernel, CRIU or this version cannot.
    Unsupported,
    /// This host, its disk or the network refused, CRIU failed, or another program did.
    Failed,
    /// A container is lost that went to another machine before all of its memory did (post-copy): it has ended, and runs nowhere.
    Lost,
    /// A mistake in this program.
    Internal,
}

impl Error {
    /// The kind of this failure.
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
            Self::Criu(e) => criu_kind(e),
            Self::File { .. } | Self::Host { .. } => Kind::Failed,
            Self::Lost { .. } => Kind::Lost,
            Self::Internal { .. } => Kind::Internal,
        }
    }

    /// Something without a path that this host refused.
    pub(crate) fn host(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Host { what: what.into(), source: source.into() }
    }

    /// A container that has ended where it went, and runs nowhere.
    pub(crate) fn lost(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Lost { what: what.into(), source: source.into() }
    }

    /// A mistake in this program.
    pub(crate) fn internal(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Internal { what: what.into(), source: source.into() }
    }

    /// The end of a thread that panicked; `payload` is what joining it gives.
    pub(crate) fn panicked(thread: &str, payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::internal(thread, format!("it panicked: {}", text.unwrap_or("without a message")))
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

impl From<CriuError> for Error {
    /// Puts a failure of CRIU into this library's terms.
    fn from(mut e: CriuError) -> Self {
        if let Some(failure) = e.failure_mut() {
            failure.meaning = failure.diagnosis.cause.map(causes::meaning);
        }
        Self::Criu(e)
    }
}

impl From<SysError> for Error {
    fn from(e: SysError) -> Self {
        Self::Sandbox(e.into())
    }
}

impl From<hiber_sandbox::Error> for Error {
    /// An error from a step of this crate during a set-up stays the error that it was.
    fn from(e: hiber_sandbox::Error) -> Self {
        match e {
            hiber_sandbox::Error::Step(step) => match step.downcast() {
                Ok(own) => *own,
                Err(step) => Self::Sandbox(hiber_sandbox::Error::Step(step)),
            },
            e => Self::Sandbox(e),
        }
    }
}

fn sandbox_kind(e: &hiber_sandbox::Error) -> Kind {
    use hiber_sandbox::Error as E;
    match e {
        E::Invalid { .. } => Kind::Invalid,
        E::Unsupported { .. } => Kind::Unsupported,
        E::While { source, .. } => sandbox_kind(source),
        E::Step(step) => cause_kind(&**step),
        _ => Kind::Failed,
    }
}

fn criu_kind(e: &CriuError) -> Kind {
    match e {
        CriuError::Invalid { .. } => Kind::Invalid,
        CriuError::NotFound { .. } | CriuError::CannotStart { .. } | CriuError::TooOld { .. } => {
            Kind::Unsupported
        }
        CriuError::Handler { source, .. } => cause_kind(&**source),
        _ => Kind::Failed,
    }
}

/// The kind of a step's error inside another crate's work.
fn cause_kind(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> Kind {
    match (cause.downcast_ref::<Error>(), cause.downcast_ref::<hiber_sandbox::Error>()) {
        (Some(own), _) => own.kind(),
        (_, Some(sandbox)) => sandbox_kind(sandbox),
        _ => Kind::Failed,
    }
}

/// Adds the failed action to an error.
pub(crate) trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::While { what: what.into(), source: Box::new(e.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_in_a_step_of_a_set_up_stays_what_it_is() {
        let step = |e| Err::<(), _>(hiber_sandbox::Error::Step(Box::new(e)));
        let inside =
            |e| Error::from(hiber_sandbox::error::Context::context(step(e), "set it up").unwrap_err());
        let plain = Error::from(step(Error::NotRunning).unwrap_err());
        assert!(matches!(plain, Error::NotRunning), "{plain:?}");
        let full = std::io::Error::from_raw_os_error(28);
        let full = inside(Error::file("/s/state.json".as_ref(), &full));
        assert_eq!(full.kind(), Kind::Failed);
        assert_eq!(chain(&full), "set it up: /s/state.json: no space left on device");
        assert_eq!(inside(Error::NotFound).kind(), Kind::NotFound);
    }

    #[test]
    fn the_kind_of_what_stopped_criu_is_that_of_the_step() {
        let stopped = |source: Cause| {
            let (operation, step) = (hiber_criu::Operation::Restore, "post-restore".to_owned());
            Error::from(CriuError::Handler { operation, step, source, ended: None }).kind()
        };
        assert_eq!(stopped(Box::new(Error::Invalid("no console".into()))), Kind::Invalid);
        assert_eq!(stopped(Box::new(hiber_sandbox::Error::unsupported("x", "y"))), Kind::Unsupported);
        assert_eq!(stopped("anything else".into()), Kind::Failed);
        assert_eq!(
            Error::from(CriuError::NotFound { why: "nowhere".into(), remedy: "install it".into() }).kind(),
            Kind::Unsupported
        );
    }

    #[test]
    fn causes_are_in_the_kernels_words() {
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(chain(&Error::host("connect to a:1", refused)), "connect to a:1: connection refused");
    }
}
