//! Why a command's arguments are refused.

use std::fmt;

use hiber::id::InvalidId;
use hiber::{CheckpointError, UnknownWord};

/// Why a command's arguments are refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Malformed: help is shown.
    Form(String),
    /// A value that cannot be.
    Value(String),
}

impl Refusal {
    /// Malformed: help is shown.
    pub(crate) fn form(why: impl Into<String>) -> Self {
        Self::Form(why.into())
    }

    /// A value that cannot be.
    pub(crate) fn value(why: impl Into<String>) -> Self {
        Self::Value(why.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Form(why) | Self::Value(why)) = self;
        f.write_str(why)
    }
}

impl From<InvalidId> for Refusal {
    fn from(e: InvalidId) -> Self {
        Self::Value(e.to_string())
    }
}

impl From<CheckpointError> for Refusal {
    fn from(e: CheckpointError) -> Self {
        Self::Value(e.to_string())
    }
}

impl From<UnknownWord> for Refusal {
    fn from(e: UnknownWord) -> Self {
        Self::Value(e.to_string())
    }
}
