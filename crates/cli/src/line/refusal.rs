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

/// Refuses `flag` together with the first of these others that is given; `why` ends the message.
pub(crate) fn excludes(flag: &str, given: bool, others: &[(&str, bool)], why: &str) -> Result<(), Refusal> {
    match others.iter().find(|(_, other)| given && *other) {
        Some((other, _)) => Err(Refusal::value(format!("--{flag} and --{other} exclude each other{why}"))),
        None => Ok(()),
    }
}

/// Refuses the first of these flags that is given without `flag`.
pub(crate) fn belong_to(flag: &str, given: bool, flags: &[(&str, bool)]) -> Result<(), Refusal> {
    match flags.iter().find(|(_, other)| !given && *other) {
        Some((other, _)) => Err(Refusal::value(format!("--{other} needs --{flag}"))),
        None => Ok(()),
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
