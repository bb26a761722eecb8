//! A container's state as Docker shows it, with Docker's transitions, waiters and words.
//!
//! [`State`] is a value: it can be shown, and written as JSON and read back. [`StateCell`] is what a manager of containers keeps
//! for each: it changes the state and wakes the waiters.

mod cell;
mod flags;
mod human;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub use cell::StateCell;
pub use flags::{Flags, HealthFlags, IllegalState};
pub use human::duration;

use crate::error::Error;

/// A container's state. It cannot be paused or have a pid without running, run while it is dead, or have an exit code
/// of a run that goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Flags", try_from = "Flags")]
pub struct State {
    life: Life,
    removing: bool,
    started_at: Option<SystemTime>,
    finished_at: Option<SystemTime>,
    error: Option<String>,
    health: Option<Health>,
}

/// The states that exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Not running: never started, or ended.
    Idle(Exit),
    Running {
        pid: NonZeroU32,
        /// Freezing needs a running process.
        paused: bool,
    },
    /// Ended, and about to be started again: Docker calls that running, without a pid.
    Restarting(Exit),
    /// Not running, and could not be removed.
    Dead(Exit),
}

/// The end of the last run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 and the number of the signal.
    pub code: u8,
    /// Whether the kernel killed a process of the container because memory was short.
    pub oom_killed: bool,
}

impl Default for Life {
    fn default() -> Self {
        Self::Idle(Exit::default())
    }
}

/// The result of a container's health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not known yet.
    Starting,
    /// The check succeeds.
    Healthy,
    /// The check fails.
    Unhealthy,
}

impl Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// A health word; `none` is that of a container without health check.
    ///
    /// # Errors
    /// Another word, which is named.
    pub fn parse(word: &str) -> Result<Option<Self>, Error> {
        match word {
            "none" => Ok(None),
            "starting" => Ok(Some(Self::Starting)),
            "healthy" => Ok(Some(Self::Healthy)),
            "unhealthy" => Ok(Some(Self::Unhealthy)),
            other => Err(Error::Invalid(format!(
                "invalid health {other:?}: expected starting, healthy, unhealthy or none"
            ))),
        }
    }
}

/// A state in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// Never started.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Ended, and about to be started again.
    Restarting,
    /// Being removed.
    Removing,
    /// Ended.
    Exited,
    /// Half removed.
    Dead,
}

impl Word {
    const ALL: [Self; 7] = [
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Running,
        Self::Dead,
        Self::Created,
        Self::Exited,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Word {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|word| word.as_str() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str).join(", ");
            Error::Invalid(format!("invalid container state {text:?}: expected one of {words}"))
        })
    }
}

impl State {
    /// That of a container that was never started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether Docker calls it running: while it restarts, too.
    pub fn is_running(&self) -> bool {
        matches!(self.life, Life::Running { .. } | Life::Restarting(_))
    }

    /// Whether it is frozen.
    pub fn is_paused(&self) -> bool {
        matches!(self.life, Life::Running { paused: true, .. })
    }

    /// Whether it has ended and is about to be started again.
    pub fn is_restarting(&self) -> bool {
        matches!(self.life, Life::Restarting(_))
    }

    /// Whether somebody is removing it.
    pub fn is_removing(&self) -> bool {
        self.removing
    }

    /// Whether a removal has failed half-way.
    pub fn is_dead(&self) -> bool {
        matches!(self.life, Life::Dead(_))
    }

    /// The first process; none unless it runs.
    pub fn pid(&self) -> Option<NonZeroU32> {
        match self.life {
            Life::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    fn exit(&self) -> Exit {
        match self.life {
            Life::Idle(exit) | Life::Restarting(exit) | Life::Dead(exit) => exit,
            Life::Running { .. } => Exit::default(),
        }
    }

    /// The exit code of the last run; 0 while it runs, and before.
    pub fn exit_code(&self) -> u8 {
        self.exit().code
    }

    /// Whether the last run ended for want of memory.
    pub fn is_oom_killed(&self) -> bool {
        self.exit().oom_killed
    }

    /// The error of the last run.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// When it was started; none if it never was.
    pub fn started_at(&self) -> Option<SystemTime> {
        self.started_at
    }

    /// When it last ended.
    pub fn finished_at(&self) -> Option<SystemTime> {
        self.finished_at
    }

    /// The result of its health check, if it has one.
    pub fn health(&self) -> Option<Health> {
        self.health
    }

    /// The state in one word.
    pub fn word(&self) -> Word {
        match self.life {
            Life::Running { paused: true, .. } => Word::Paused,
            Life::Running { .. } => Word::Running,
            Life::Restarting(_) => Word::Restarting,
            _ if self.removing => Word::Removing,
            Life::Dead(_) => Word::Dead,
            Life::Idle(_) if self.started_at.is_none() => Word::Created,
            Life::Idle(_) => Word::Exited,
        }
    }

    /// The state in a line for people: `Up 3 minutes (Paused)`, `Exited (137) 2 hours ago`.
    pub fn line(&self, now: SystemTime) -> String {
        let since = |then: Option<SystemTime>| {
            let span = then.and_then(|then| now.duration_since(then).ok()).unwrap_or(Duration::ZERO);
            duration(span)
        };
        let ago = since(self.finished_at);
        match (self.life, self.health) {
            (Life::Running { paused: true, .. }, _) => format!("Up {} (Paused)", since(self.started_at)),
            (Life::Restarting(exit), _) => format!("Restarting ({}) {ago} ago", exit.code),
            (Life::Running { .. }, Some(Health::Starting)) => {
                format!("Up {} (health: starting)", since(self.started_at))
            }
            (Life::Running { .. }, Some(health)) => {
                format!("Up {} ({})", since(self.started_at), health.as_str())
            }
            (Life::Running { .. }, None) => format!("Up {}", since(self.started_at)),
            _ if self.removing => "Removal In Progress".into(),
            (Life::Dead(_), _) => "Dead".into(),
            (Life::Idle(_), _) if self.started_at.is_none() => "Created".into(),
            (Life::Idle(_), _) if self.finished_at.is_none() => String::new(),
            (Life::Idle(exit), _) => format!("Exited ({}) {ago} ago", exit.code),
        }
    }
}

#[cfg(test)]
mod tests;
