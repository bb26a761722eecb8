//! The meaning of a container's end.
//!
//! A program that signals a container by hiber says so beforehand in its record of operations (`ROOT/ID/events`): a signal leaves no trace of who
//! sent it, and an exit status does not tell a request from a crash (redis exits with 0 on SIGTERM, a shell with 143, and a kernel that is
//! short of memory sends the same SIGKILL as `hiber kill`).

use hiber_sys::signal::Signal;

use crate::checkpoint::words::Word;
use crate::container::exit::{Ended, ExitStatus};
use crate::container::task::Task;
use crate::error::{Error, Result};
use crate::state::lifecycle::Lifecycle;

/// The signals that ask a process to end, in the order in which they are sent: SIGINT, SIGTERM, SIGQUIT, SIGKILL.
const ENDING: [i32; 4] = [2, 15, 3, 9];
/// The annotation by which engines name another signal (image-spec, conversion.md).
const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";

/// When a container that has ended is brought back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    /// After a crash.
    #[default]
    Crash,
    /// Whenever nobody asked for its end.
    Always,
    /// Not at all.
    Never,
}

impl Word for Restart {
    const CHOICE: &'static str = "restart";
    const WORDS: &'static [&'static str] = &["crash", "always", "never"];
    const MEANINGS: &'static [Self] = &[Self::Crash, Self::Always, Self::Never];
}

/// The meaning of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Somebody asked for it, by hiber.
    Asked(String),
    /// It ended by itself, and well: with status 0.
    Done,
    /// Anything else.
    Crashed(String),
}

impl Ending {
    /// Whether a container that has ended so is brought back.
    pub fn is_followed(&self, restart: Restart) -> bool {
        match (self, restart) {
            (Self::Asked(_), _) | (_, Restart::Never) | (Self::Done, Restart::Crash) => false,
            (Self::Crashed(_), _) | (Self::Done, Restart::Always) => true,
        }
    }

    /// Of a container on which these operations were done.
    fn of(status: &ExitStatus, done: &[Lifecycle], stop_signal: Option<i32>) -> Self {
        let asks = |signal: i32| {
            ENDING.contains(&signal) || stop_signal == Some(signal) || status.ended == Ended::Signaled(signal)
        };
        let asked = done.iter().find_map(|what| match what {
            Lifecycle::Signalled { signal } if asks(*signal) => {
                Some(format!("signal {signal} was sent to it by hiber"))
            }
            Lifecycle::Checkpointed { exit: true, path } => Some(format!("it sleeps in {}", path.display())),
            Lifecycle::Migrated { destination } => Some(format!("it has moved to {destination}")),
            _ => None,
        });
        match (asked, status.ended) {
            (Some(why), _) => Self::Asked(why),
            _ if status.oom_killed && status.ended != Ended::Exited(0) => {
                Self::Crashed("the kernel killed it for want of memory".into())
            }
            (None, Ended::Exited(0)) => Self::Done,
            (None, Ended::Exited(code)) => Self::Crashed(format!("it exited with status {code}")),
            (None, Ended::Signaled(signal)) => Self::Crashed(format!("signal {signal} ended it")),
            (None, _) => Self::Crashed("it ended, and nobody knows how".into()),
        }
    }
}

impl Task {
    /// The meaning of the end of the container's first process, `status`. Waits for the program that works on the container at this moment,
    /// if there is one: a checkpoint that ends the container, or a migration, says so afterwards.
    ///
    /// # Errors
    /// That program does not come to an end within a minute.
    pub fn ending(&self, status: &ExitStatus) -> Result<Ending> {
        let entry = self.container().entry();
        let deleted = || Ok(Ending::Asked("it was deleted".into()));
        match entry.lock() {
            Err(Error::NotFound) => return deleted(),
            Err(_) if entry.is_removed() => return deleted(),
            locked => drop(locked?),
        }
        let done: Vec<_> = entry.noted().into_iter().map(|line| line.what).collect();
        let summary = self.container().config_summary().ok();
        let stop = summary.as_ref().and_then(|summary| summary.annotations.get(STOP_SIGNAL));
        let stop = stop.and_then(|text| Signal::named(text.trim())).map(Signal::number);
        Ok(Ending::of(status, &done, stop))
    }

    /// Notes in the container's record of operations that a keeper has brought it back, and why; from the start if from no checkpoint.
    pub fn note_kept(&self, reason: &str, checkpoint: Option<&crate::id::CheckpointName>) {
        let checkpoint = checkpoint.map(|name| name.as_str().to_owned());
        self.container().entry().note(Lifecycle::BroughtBack { reason: reason.to_owned(), checkpoint });
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn ended(ended: Ended) -> ExitStatus {
        ExitStatus { ended, oom_killed: false, at: SystemTime::now(), error: None }
    }

    fn sent(signal: i32) -> Lifecycle {
        Lifecycle::Signalled { signal }
    }

    #[test]
    fn who_asked_is_told_from_a_crash() {
        let is_asked = |status: Ended, done: &[Lifecycle], stop| {
            matches!(Ending::of(&ended(status), done, stop), Ending::Asked(_))
        };
        for signal in ENDING {
            assert!(is_asked(Ended::Exited(0), &[sent(signal)], None), "{signal}");
            assert!(!is_asked(Ended::Signaled(signal), &[], None), "{signal} of somebody else");
        }
        // A reload, and a crash later.
        assert!(!is_asked(Ended::Signaled(11), &[sent(1)], None));
        assert!(is_asked(Ended::Signaled(1), &[Lifecycle::Start, sent(1)], None));
        assert!(is_asked(Ended::Exited(0), &[sent(37)], Some(37)));
        assert!(!is_asked(Ended::Exited(0), &[sent(37)], None));
        let checkpointed = |exit| Lifecycle::Checkpointed { path: "/c".into(), exit };
        assert!(is_asked(Ended::Signaled(9), &[checkpointed(true)], None));
        assert!(!is_asked(Ended::Signaled(9), &[checkpointed(false)], None));
        assert!(is_asked(Ended::Signaled(9), &[Lifecycle::Migrated { destination: "x".into() }], None));
    }

    #[test]
    fn restarts_follow_the_word() {
        let oom = ExitStatus { oom_killed: true, ..ended(Ended::Signaled(9)) };
        let oom = Ending::of(&oom, &[], None);
        assert_eq!(oom, Ending::Crashed("the kernel killed it for want of memory".into()));
        let done = Ending::of(&ended(Ended::Exited(0)), &[], None);
        assert_eq!(done, Ending::Done);
        let unknown = Ending::of(&ended(Ended::Unknown), &[], None);
        let asked = Ending::of(&ended(Ended::Exited(1)), &[sent(15)], None);
        for (ending, crash, always) in
            [(&oom, true, true), (&done, false, true), (&unknown, true, true), (&asked, false, false)]
        {
            assert_eq!(ending.is_followed(Restart::Crash), crash, "{ending:?}");
            assert_eq!(ending.is_followed(Restart::Always), always, "{ending:?}");
            assert!(!ending.is_followed(Restart::Never));
        }
    }
}
