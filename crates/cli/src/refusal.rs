//! Why a command's arguments are refused.

use hiber::id::InvalidId;

/// Why a command's arguments are refused.
pub(super) enum Refusal {
    /// Malformed: help is shown.
    Form(String),
    /// A value that cannot be.
    Value(String),
}

impl From<InvalidId> for Refusal {
    fn from(e: InvalidId) -> Self {
        Refusal::Value(e.to_string())
    }
}
