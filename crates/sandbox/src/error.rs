//! Errors of the sandbox.

use serde::{Deserialize, Serialize};

pub use hiber_sys::error::{SysError, errno_text, plain};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The ways in which setting up or reaching a container fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of config.json that cannot be right: `linux.resources.memory.limit: …`.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, as its path in config.json.
        field: String,
        /// The value and what was expected.
        problem: String,
    },
    /// Something valid that this kernel, host or version of hiber cannot do.
    #[error("{field}: not supported: {why}")]
    Unsupported {
        /// The field or feature.
        field: String,
        /// The missing ability.
        why: String,
    },
    /// A hook failed.
    #[error("error running {kind} hook #{index}: {why}")]
    Hook {
        /// `createRuntime`, …
        kind: String,
        /// Its place in config.json's list.
        index: usize,
        /// How it ended and what it wrote.
        why: String,
    },
    /// The program cannot be executed.
    #[error("exec: {name:?}: {why}")]
    Exec {
        /// As given in `process.args`.
        name: String,
        /// The reason.
        why: String,
        /// The errno behind that.
        errno: i32,
    },
    /// The container's first process, or one that joined it, could not be set up.
    #[error("{0}")]
    Init(Failure),
    /// The process ended during its set-up, without a message.
    #[error("the process died while it was set up: {how}")]
    Died {
        /// How it ended.
        how: String,
        /// By which signal, if by one.
        signal: Option<i32>,
    },
    /// systemd refused something, or cannot be reached.
    #[error("systemd: {what}: {why}")]
    Systemd {
        /// The unit, or what was asked.
        what: String,
        /// systemd's own words, or how the connection failed.
        why: String,
    },
    /// A step that the caller does itself failed (see [`Steps`](crate::Steps)): the caller's own error.
    #[error(transparent)]
    Step(Box<dyn std::error::Error + Send + Sync>),
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// A failure, and the action that failed.
    #[error("{what}")]
    While {
        /// The action, in the container's terms.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<Error>,
    },
}

impl Error {
    /// An invalid field.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }
    /// The errno of the system call that failed, if that is what it comes from.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Sys(e) => Some(e.errno),
            Self::Exec { errno, .. } => Some(*errno),
            Self::Init(failure) => failure.errno,
            Self::While { source, .. } => source.errno(),
            _ => None,
        }
    }
    /// Something that is not supported here.
    pub fn unsupported(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), why: why.into() }
    }
}

/// A failure in init, with its causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The failed actions and their cause, outermost first.
    pub chain: Vec<String>,
    /// The innermost errno, where a system call failed.
    pub errno: Option<i32>,
}

impl Failure {
    /// Flattens an error, so that it can be sent.
    pub fn new(error: &Error) -> Self {
        let mut chain = vec![error.to_string()];
        let mut errno = None;
        let mut current: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(e) = current {
            // The source of `While` is a `Box<Error>`, not an `Error`.
            let own = e.downcast_ref::<Error>().or_else(|| e.downcast_ref::<Box<Error>>().map(|b| &**b));
            match own {
                Some(Error::Sys(sys)) => errno = Some(sys.errno),
                Some(Error::Exec { errno: n, .. }) => errno = Some(*n),
                _ => {}
            }
            current = e.source();
            if let Some(source) = current {
                chain.push(source.to_string());
            }
        }
        Self { chain, errno }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

/// Adds the failed action to an error.
pub trait Context<T> {
    /// Wraps the error with `what`.
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::While { what: what.into(), source: Box::new(e.into()) })
    }
}

/// An error with its causes on one line, each I/O error among them in the words of [`plain`].
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let own = e.downcast_ref().map_or_else(|| e.to_string(), plain);
        text = format!("{text}: {own}");
        source = e.source();
    }
    text
}
