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
        write!(f, "{} {}: {}", self.call, self.args, errno_text(self.errno))
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
    /// A step that the caller does itself failed (see [`Steps`](crate::parent::Steps)): the caller's own error.
    #[error(transparent)]
    Step(Box<dyn std::error::Error + Send + Sync>),
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

/// An I/O error without std's "(os error N)", in the words of [`SysError`].
pub fn plain(e: &std::io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), errno_text)
}

/// An errno in the words that runc and glibc have for it, which clients look for. The C library is not asked: musl, with
/// which the releases are built, has words of its own.
pub fn errno_text(errno: i32) -> String {
    let known = match errno {
        libc::EIO => "input/output error",
        libc::EBADF => "bad file descriptor",
        libc::EAGAIN => "resource temporarily unavailable",
        libc::ENOMEM => "cannot allocate memory",
        libc::EXDEV => "invalid cross-device link",
        libc::ENFILE => "too many open files in system",
        libc::ENOTTY => "inappropriate ioctl for device",
        libc::EDOM => "numerical argument out of domain",
        libc::ERANGE => "numerical result out of range",
        libc::EDEADLK => "resource deadlock avoided",
        libc::ENOLCK => "no locks available",
        libc::ELOOP => "too many levels of symbolic links",
        libc::EOPNOTSUPP => "operation not supported",
        libc::EBADMSG => "bad message",
        libc::EDQUOT => "disk quota exceeded",
        // The kernel's own, which a system call should not show (linux/errno.h): what a filesystem cannot do.
        524 => "operation not supported",
        _ => {
            return match nix::errno::Errno::from_raw(errno) {
                nix::errno::Errno::UnknownErrno => format!("errno {errno}"),
                known => known.desc().to_lowercase(),
            };
        }
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_reads_as_with_runc_whatever_the_c_library_says() {
        let text = |errno| SysError::new("write", "a file", errno).to_string();
        assert_eq!(text(libc::ENOTDIR), "write a file: not a directory");
        assert_eq!(text(libc::ERANGE), "write a file: numerical result out of range");
        assert_eq!(text(libc::ELOOP), "write a file: too many levels of symbolic links");
        assert_eq!(text(libc::EPERM), "write a file: operation not permitted");
        assert_eq!(text(524), "write a file: operation not supported");
        assert_eq!(text(4000), "write a file: errno 4000");
        assert_eq!(
            plain(&std::io::Error::from_raw_os_error(libc::EAGAIN)),
            "resource temporarily unavailable"
        );
    }
}
