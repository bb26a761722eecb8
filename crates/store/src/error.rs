//! Failures.

use std::io;
use std::path::{Path, PathBuf};

/// A file or directory of the store, and what is wrong with it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Error {
    /// The file or directory.
    pub path: PathBuf,
    /// The reason. Malformed and damaged files are [`io::ErrorKind::InvalidData`].
    pub why: io::Error,
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(path: &Path, why: impl Into<io::Error>) -> Self {
        Self { path: path.into(), why: why.into() }
    }

    pub(crate) fn bad(path: &Path, why: impl Into<String>) -> Self {
        Self::new(path, io::Error::new(io::ErrorKind::InvalidData, why.into()))
    }

    pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |why| Self { path: path.clone(), why }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.why.source()
    }
}
