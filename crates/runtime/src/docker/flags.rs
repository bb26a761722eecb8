//! The state in Docker's JSON: flags, of which not every combination is a state.

use std::num::NonZeroU32;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Exit, Health, Life, State};

/// The time of what never was, as Go writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The members of Docker's `State` object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Flags {
    /// The state in one word; not read back, since it follows from the rest.
    pub status: String,
    /// Whether it runs; also while it restarts.
    pub running: bool,
    /// Whether it is frozen.
    pub paused: bool,
    /// Whether it has ended and will be started again.
    pub restarting: bool,
    /// Whether the last run ended for want of memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Whether somebody is removing it.
    pub removal_in_progress: bool,
    /// Whether a removal has failed half-way.
    pub dead: bool,
    /// 0 if there is none.
    pub pid: u32,
    /// The exit code of the last run.
    pub exit_code: u8,
    /// Empty if there is none.
    pub error: String,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub finished_at: String,
    /// The result of its health check, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthFlags>,
}

/// Docker's `Health` object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthFlags {
    /// `starting`, `healthy`, `unhealthy` or `none`.
    pub status: String,
}

/// Flags that are no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IllegalState {
    /// Two that exclude each other, or one that needs another.
    #[error("illegal state: {0}")]
    Combination(&'static str),
    /// A member that cannot be understood.
    #[error("{field} {value:?}: expected {expected}")]
    Member {
        /// Its name.
        field: &'static str,
        /// The given value.
        value: String,
        /// The allowed values.
        expected: &'static str,
    },
}

impl From<State> for Flags {
    fn from(state: State) -> Self {
        let time = |time: Option<SystemTime>| {
            time.map_or_else(|| NEVER.to_owned(), |time| humantime::format_rfc3339_nanos(time).to_string())
        };
        Self {
            status: state.word().to_string(),
            running: state.is_running(),
            paused: state.is_paused(),
            restarting: state.is_restarting(),
            oom_killed: state.is_oom_killed(),
            removal_in_progress: state.removing,
            dead: state.is_dead(),
            pid: state.pid().map_or(0, NonZeroU32::get),
            exit_code: state.exit_code(),
            started_at: time(state.started_at),
            finished_at: time(state.finished_at),
            health: state.health.map(|health| HealthFlags { status: health.as_str().to_owned() }),
            error: state.error.unwrap_or_default(),
        }
    }
}

impl TryFrom<Flags> for State {
    type Error = IllegalState;

    fn try_from(flags: Flags) -> Result<Self, IllegalState> {
        let health = flags.health.as_ref().map_or(Ok(None), |health| {
            Health::parse(&health.status).map_err(|_| IllegalState::Member {
                field: "Health.Status",
                value: health.status.clone(),
                expected: "starting, healthy, unhealthy or none",
            })
        })?;
        Ok(Self {
            life: flags.life()?,
            removing: flags.removal_in_progress,
            started_at: time("StartedAt", &flags.started_at)?,
            finished_at: time("FinishedAt", &flags.finished_at)?,
            error: Some(flags.error).filter(|error| !error.is_empty()),
            health,
        })
    }
}

impl Flags {
    fn life(&self) -> Result<Life, IllegalState> {
        let illegal = |what| Err(IllegalState::Combination(what));
        let exit = Exit { code: self.exit_code, oom_killed: self.oom_killed };
        match (self.running, self.restarting, NonZeroU32::new(self.pid)) {
            (true, _, _) if self.dead => illegal("Running and Dead"),
            (true, true, None) if self.paused => {
                illegal("Restarting and Paused: there is no process to freeze")
            }
            (true, true, None) => Ok(Life::Restarting(exit)),
            (true, true, Some(_)) => illegal("Restarting with a Pid"),
            (true, false, None) => illegal("Running without a Pid"),
            (true, false, Some(_)) if exit != Exit::default() => {
                illegal("Running with an ExitCode or OOMKilled")
            }
            (true, false, Some(pid)) => Ok(Life::Running { pid, paused: self.paused }),
            (false, true, _) => illegal("Restarting without Running"),
            (false, false, _) if self.paused => illegal("Paused without Running"),
            (false, false, Some(_)) => illegal("a Pid without Running"),
            (false, false, None) if self.dead => Ok(Life::Dead(exit)),
            (false, false, None) => Ok(Life::Idle(exit)),
        }
    }
}

fn time(field: &'static str, text: &str) -> Result<Option<SystemTime>, IllegalState> {
    match text {
        "" | NEVER => Ok(None),
        text => humantime::parse_rfc3339(text).map(Some).map_err(|_| IllegalState::Member {
            field,
            value: text.to_owned(),
            expected: "a time such as 2026-01-31T12:00:00Z",
        }),
    }
}
