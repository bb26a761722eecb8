//! Errors between this program and CRIU.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::diagnose::Diagnosis;
use crate::version::Version;

/// The crate's result.
pub type Result<T, E = CriuError> = std::result::Result<T, E>;

/// The error of whoever handles notifications: any error.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// A failure of CRIU, of the conversation with it, or of its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CriuError {
    /// There is no criu program.
    #[error("criu not found: {why}; {remedy}")]
    NotFound {
        /// Where it was looked for, and why it is not there.
        why: String,
        /// The way to have one.
        remedy: String,
    },
    /// There is one, but it does not run on this machine.
    #[error("{} cannot start: {reason}{}", criu.display(), listed(printed))]
    CannotStart {
        /// The program.
        criu: PathBuf,
        /// The reason: an exit status, a failed exec.
        reason: String,
        /// The lines that it printed, most telling first.
        printed: Vec<String>,
    },
    /// It runs, but lacks what was asked of it.
    #[error("{} is CRIU {found}, but {what} needs CRIU {needed}", criu.display())]
    TooOld {
        /// The program.
        criu: PathBuf,
        /// Its version.
        found: Version,
        /// The oldest version that has it.
        needed: Version,
        /// The requested feature.
        what: &'static str,
    },
    /// An option that cannot be right.
    #[error("{option}: {problem}")]
    Invalid {
        /// The option.
        option: &'static str,
        /// The value and what was expected.
        problem: String,
    },
    /// A packet that does not belong to the conversation.
    #[error("criu {operation}: {problem}")]
    Protocol {
        /// The request.
        operation: Operation,
        /// The mistake in the answer.
        problem: String,
    },
    /// The criu process ended before it answered.
    #[error("criu {} died ({how}): {failure}", failure.operation)]
    Died {
        /// Its exit status or signal.
        how: String,
        /// Its diagnosis.
        failure: Box<Failure>,
    },
    /// CRIU answered that it failed.
    #[error("criu {op} failed: {0}", op = .0.operation)]
    Failed(Box<Failure>),
    /// The handler of notifications refused a step; its own error is the source.
    #[error("criu {operation} stopped at {step}")]
    Handler {
        /// The operation.
        operation: Operation,
        /// The notification.
        step: String,
        /// The handler's error.
        source: HandlerError,
        /// How CRIU then ended. `None`: it could not stop any more and succeeded.
        ended: Option<Box<CriuError>>,
    },
    /// A system call of this side failed.
    #[error("{what}")]
    Io {
        /// The action.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// An image file that cannot be used.
    #[error("{}: {problem}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The reason.
        problem: String,
    },
}

impl CriuError {
    /// A failed system call of this side.
    pub(crate) fn io(what: impl Into<String>, e: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: e.into() }
    }

    /// As [`failure`](Self::failure), to change: a caller that moves the log says where it is now.
    pub fn failure_mut(&mut self) -> Option<&mut Failure> {
        match self {
            Self::Died { failure, .. } | Self::Failed(failure) => Some(failure),
            Self::Handler { ended, .. } => ended.as_mut().and_then(|e| e.failure_mut()),
            _ => None,
        }
    }

    /// CRIU's own report, if there is one; also behind a handler's error.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Died { failure, .. } | Self::Failed(failure) => Some(failure),
            Self::Handler { ended, .. } => ended.as_ref().and_then(|e| e.failure()),
            _ => None,
        }
    }
}

/// The explanation of a failed operation of CRIU. Displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The operation.
    pub operation: Operation,
    /// The errno of CRIU's response: ESRCH, EEXIST (pid taken), EBADRQC (bad options) and others.
    pub cr_errno: Option<i32>,
    /// The first error of CRIU's response, unless it is one that CRIU gets over.
    pub cr_errmsg: Option<String>,
    /// The log file, if options named one and it exists.
    pub log: Option<PathBuf>,
    /// Error lines of the log and of what CRIU printed, first ones first, with what they mean.
    pub diagnosis: Diagnosis,
    /// An explanation and advice in the caller's own terms, which replace those of the cause.
    pub meaning: Option<String>,
    /// Whose fault it is, if a caller knows: `process 7 (nc -l): …`.
    pub seen: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &self.diagnosis;
        let message = d.told_by.as_ref().or(self.cr_errmsg.as_ref()).or(d.lines.first());
        match (message, self.cr_errno) {
            (Some(message), _) => f.write_str(message)?,
            (None, Some(errno)) => write!(f, "{}", io::Error::from_raw_os_error(errno))?,
            (None, None) => f.write_str("it gave no reason")?,
        }
        if let Some(later) = &d.later {
            write!(f, ", then {later}")?;
        }
        if let Some(said) = &d.said {
            write!(f, ", after a program had said {said:?}")?;
        }
        match (&self.meaning, self.diagnosis.cause) {
            (Some(meaning), _) => write!(f, " ({meaning})")?,
            (None, Some(cause)) => write!(f, " ({}; {})", cause.explanation, cause.advice)?,
            (None, None) => {}
        }
        if let Some(seen) = &self.seen {
            write!(f, "; {seen}")?;
        }
        match &self.log {
            Some(log) => write!(f, "; log: {}", log.display()),
            None => Ok(()),
        }
    }
}

/// An operation of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Tell its version.
    Version,
    /// Probe the kernel.
    FeatureCheck,
    /// Save a process tree.
    Dump,
    /// Save its memory while it runs.
    PreDump,
    /// Make a process tree from images.
    Restore,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "version",
            Self::FeatureCheck => "feature check",
            Self::Dump => "dump",
            Self::PreDump => "pre-dump",
            Self::Restore => "restore",
        })
    }
}

/// `: first; second`, or nothing.
fn listed(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
}

/// An error about the image at `path`.
pub(crate) fn bad(path: &std::path::Path, problem: impl Into<String>) -> CriuError {
    CriuError::Image { path: path.into(), problem: problem.into() }
}
