//! Errors of the sandbox.

use std::fmt;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed system call: its name, its arguments as a person would write them, and the errno.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SysError {
    /// Name of the call, as in its man page: `openat2`.
    pub call: String,
    /// What it was called on: `"etc/passwd" below /srv/rootfs`.
    pub args: String,
    /// The kernel's answer (errno(3)).
    pub errno: i32,
}

impl SysError {
    /// A failure of `call` on `args`.
    pub fn new(call: &str, args: impl Into<String>, errno: impl Into<i32>) -> Self {
        Self { call: call.into(), args: args.into(), errno: errno.into() }
    }
    /// A failure of `call` on `args`, as std reports it; an error without errno becomes EIO.
    pub fn io(call: &str, args: impl Into<String>, e: &std::io::Error) -> Self {
        Self::new(call, args, e.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = nix::errno::Errno::from_raw(self.errno).desc().to_lowercase();
        write!(f, "{} {}: {message}", self.call, self.args)
    }
}

impl std::error::Error for SysError {}

/// What can go wrong when a container is set up or reached.
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
        /// What is missing.
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
        /// What is wrong with it.
        why: String,
        /// The errno behind that.
        errno: i32,
    },
    /// The container's first process, or one that joined it, could not be set up.
    #[error("{0}")]
    Init(crate::wire::Failure),
    /// That process is gone, and has not said why.
    #[error("the container's first process died while it was set up: {how}")]
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
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// A failure with what was being done, in the container's terms.
    #[error("{what}")]
    While {
        /// What was being done.
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
    /// Something that cannot be had here.
    pub fn unsupported(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), why: why.into() }
    }
}

/// Adds what was being done to an error.
pub trait Context<T> {
    /// Wraps the error with `what`.
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::While { what: what.into(), source: Box::new(e.into()) })
    }
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text = format!("{text}: {e}");
        source = e.source();
    }
    text
}

/// An I/O error without std's "(os error N)", in the words of [`SysError`].
pub fn plain(e: &std::io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), |n| nix::errno::Errno::from_raw(n).desc().to_lowercase())
}
