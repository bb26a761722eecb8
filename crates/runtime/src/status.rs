//! The status of a container.

use serde::{Deserialize, Serialize};

/// A container's status (runtime-spec "State"; `paused` is runc's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being set up.
    Creating,
    /// Set up; its program is not yet executed.
    Created,
    /// Its first process runs its program.
    Running,
    /// Frozen.
    Paused,
    /// Its first process is gone.
    Stopped,
}

impl Status {
    /// Its name, as JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
