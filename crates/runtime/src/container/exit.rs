//! How a process ended.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The way in which a process ended, if it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It never ran.
    NotYet,
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Signaled(i32),
    /// Unknown: it was a child of another process, which reaped it before this one looked, on a kernel before 6.15.
    Unknown,
    /// It did not end: the wait was cancelled.
    Cancelled,
}

/// The result of waiting for a container or process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitStatus {
    /// How it ended.
    pub ended: Ended,
    /// Whether the kernel killed a process of the container's because memory ran out.
    pub oom_killed: bool,
    /// When that was noticed.
    pub at: SystemTime,
    /// Why the container could not be run or removed, or why nobody waits any more.
    pub error: Option<String>,
}

impl Ended {
    /// From a status of waitpid(2).
    pub(crate) fn from_wait_status(status: i32) -> Self {
        // The low seven bits are the signal, of which the eighth tells that it dumped core; then the code (wait(2)).
        match status & 0x7f {
            0 => Self::Exited((status >> 8) as u8),
            signal => Self::Signaled(signal),
        }
    }
}

impl ExitStatus {
    fn new(ended: Ended, error: Option<String>) -> Self {
        Self { ended, oom_killed: false, at: SystemTime::now(), error }
    }

    pub(crate) fn not_yet() -> Self {
        Self::new(Ended::NotYet, None)
    }

    pub(crate) fn unknown() -> Self {
        Self::new(Ended::Unknown, None)
    }

    pub(crate) fn cancelled(why: impl Into<String>) -> Self {
        Self::new(Ended::Cancelled, Some(why.into()))
    }

    /// As in a shell: the exit code, or 128 and the signal; 0 where nothing has run, 255 where it is not known, -1 where the wait
    /// was cancelled.
    pub fn code(&self) -> i32 {
        match self.ended {
            Ended::NotYet => 0,
            Ended::Exited(code) => code.into(),
            Ended::Signaled(signal) => 128 + signal,
            Ended::Unknown => 255,
            Ended::Cancelled => -1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_as_a_shell_counts() {
        let code = |ended| ExitStatus::new(ended, None).code();
        let cases = [
            (Ended::from_wait_status(0), Ended::Exited(0), 0),
            (Ended::from_wait_status(7 << 8), Ended::Exited(7), 7),
            (Ended::from_wait_status(9), Ended::Signaled(9), 137),
            (Ended::from_wait_status(11 | 0x80), Ended::Signaled(11), 139),
            (Ended::NotYet, Ended::NotYet, 0),
            (Ended::Unknown, Ended::Unknown, 255),
        ];
        for (ended, expected, shell) in cases {
            assert_eq!((ended, code(ended)), (expected, shell));
        }
        let cancelled = ExitStatus::cancelled("enough");
        assert_eq!((cancelled.code(), cancelled.error.as_deref()), (-1, Some("enough")));
        let json = serde_json::to_string(&cancelled).unwrap();
        assert_eq!(serde_json::from_str::<ExitStatus>(&json).unwrap(), cancelled);
    }
}
