//! Names of containers and of their checkpoints.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A container's id: one or more of `A-Z a-z 0-9 _ + - .`, neither `.` nor `..`. It is safe as
/// one component of a path. The rule is runc's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

/// The most bytes of an id: a file name has 255 (NAME_MAX), and the name of a directory that is being removed is longer by one.
pub const MAX_ID: usize = 254;

/// A container's id that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// No characters at all.
    #[error("container id cannot be empty")]
    Empty,
    /// More characters than the name of its directory has room for.
    #[error("container id of {0} bytes is too long: expected at most {MAX_ID}")]
    Length(usize),
    /// Something that cannot be an id.
    #[error("invalid container ID format: {0:?}: expected letters, digits and _+-. only")]
    Format(String),
}

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = InvalidId;
    fn from_str(id: &str) -> Result<Self, InvalidId> {
        if id.is_empty() {
            return Err(InvalidId::Empty);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
        if id == "." || id == ".." || !id.bytes().all(allowed) {
            return Err(InvalidId::Format(id.to_owned()));
        }
        if id.len() > MAX_ID {
            return Err(InvalidId::Length(id.len()));
        }
        Ok(Self(id.to_owned()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for ContainerId {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

/// A checkpoint's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`. It is safe as one component of a path. The rule is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckpointName(String);

/// An error about a checkpoint's name, or about the checkpoint under that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// It breaks the rule.
    #[error("Invalid checkpoint ID ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed")]
    Name(String),
    /// There is one already.
    #[error("checkpoint with name {name} already exists for container {container}")]
    Exists {
        /// The checkpoint.
        name: CheckpointName,
        /// The container.
        container: String,
    },
    /// There is none.
    #[error("checkpoint {name} does not exist for container {container}")]
    Missing {
        /// The checkpoint.
        name: CheckpointName,
        /// The container.
        container: String,
    },
    /// Something else has the name.
    #[error("{} exists and is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A namespace whose contents cannot be left out.
    #[error("empty namespace {0:?} is not supported: expected network")]
    EmptyNamespace(String),
}

impl CheckpointName {
    /// The present time as a name, to the millisecond: `2026-12-01T10.43.12.123Z`. Such names sort by time.
    pub fn of_now() -> Self {
        let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        Self(now.to_string().replace(':', "."))
    }

    /// The same after a text that a name can begin with.
    pub(crate) fn after(self, text: &str) -> Self {
        Self(format!("{text}{}", self.0))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CheckpointName {
    type Err = CheckpointError;
    fn from_str(name: &str) -> Result<Self, CheckpointError> {
        let mut bytes = name.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = bytes.len() > 0 && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if first && rest { Ok(Self(name.to_owned())) } else { Err(CheckpointError::Name(name.to_owned())) }
    }
}

impl TryFrom<String> for CheckpointName {
    type Error = CheckpointError;
    fn try_from(name: String) -> Result<Self, CheckpointError> {
        name.parse()
    }
}

impl From<CheckpointName> for String {
    fn from(name: CheckpointName) -> Self {
        name.0
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_as_in_runc() {
        for good in ["a", "test_busybox", "k8s.io+x-1", "...", "-x", "0"] {
            assert_eq!(good.parse::<ContainerId>().map(|id| id.to_string()), Ok(good.to_owned()));
        }
        assert_eq!("".parse::<ContainerId>(), Err(InvalidId::Empty));
        let longest = "x".repeat(MAX_ID);
        assert_eq!(longest.parse::<ContainerId>().map(|id| id.to_string()), Ok(longest.clone()));
        assert_eq!(format!("{longest}x").parse::<ContainerId>(), Err(InvalidId::Length(255)));
        for bad in [".", "..", "a/b", "a b", "ä", "a\n", "a:b", "/"] {
            let error = bad.parse::<ContainerId>().map_err(|e| e.to_string());
            assert!(error.is_err_and(|e| e.starts_with("invalid container ID format")), "{bad:?}");
        }
    }
}
