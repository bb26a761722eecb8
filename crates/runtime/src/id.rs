//! Names of containers.

use std::fmt;
use std::str::FromStr;

/// A container's id: one or more of `A-Z a-z 0-9 _ + - .`, neither `.` nor `..`. It is safe as
/// one component of a path. The rule is runc's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

/// The most bytes of an id: a name in a directory has 255 (NAME_MAX), and one more is needed for that of what is removed.
pub const MAX_ID: usize = 254;

/// A container's id that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
