//! Failures of the service, and the gRPC code that each is answered with.

use containerd_shim_protos::ttrpc::{self, Code};

pub(crate) use hiber_sandbox::error::chain;

/// The crate's result.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request fails. Sources are causes: a message never repeats its source's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A field of the request that cannot be right.
    #[error("{field}: {problem}")]
    Invalid { field: String, problem: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Exists(String),
    /// The task's state forbids it.
    #[error("{0}")]
    State(String),
    /// Not at this moment, or not here.
    #[error("{0}")]
    Unavailable(String),
    /// The runtime; with what was being done.
    #[error("{what}")]
    Runtime {
        what: String,
        #[source]
        source: hiber::Error,
    },
    /// A file, pipe or process of the shim's own.
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    /// The code that containerd and its clients act on (google.rpc.Code).
    fn code(&self) -> Code {
        use hiber::Kind;
        match self {
            Self::Invalid { .. } => Code::INVALID_ARGUMENT,
            Self::NotFound(_) => Code::NOT_FOUND,
            Self::Exists(_) => Code::ALREADY_EXISTS,
            Self::State(_) => Code::FAILED_PRECONDITION,
            Self::Unavailable(_) => Code::UNAVAILABLE,
            Self::Io { .. } => Code::UNKNOWN,
            Self::Runtime { source, .. } => match source.kind() {
                Kind::NotFound => Code::NOT_FOUND,
                Kind::Exists => Code::ALREADY_EXISTS,
                Kind::State => Code::FAILED_PRECONDITION,
                Kind::Invalid => Code::INVALID_ARGUMENT,
                Kind::Unsupported => Code::UNIMPLEMENTED,
                Kind::Internal => Code::INTERNAL,
                // As containerd's own shim answers what the host refuses: its clients show the text.
                _ => Code::UNKNOWN,
            },
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(e: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(e.code(), chain(&e)))
    }
}

/// Adds what was being done.
pub(crate) trait Context<T> {
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, hiber::Error> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Runtime { what: what.into(), source })
    }
}

impl<T> Context<T> for std::result::Result<T, hiber_sandbox::Error> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(hiber::Error::from).context(what)
    }
}

impl<T> Context<T> for std::result::Result<T, hiber_sandbox::SysError> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(hiber::Error::from).context(what)
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io { what: what.into(), source })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(std::io::Error::from).context(what)
    }
}
