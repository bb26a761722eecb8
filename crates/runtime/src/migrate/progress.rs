//! How far a migration is, for those who wait for it.

use std::fmt;
use std::time::{Duration, Instant};

/// How often progress is told, at most.
const OFTEN: Duration = Duration::from_millis(100);
/// The time over which a rate is taken.
const SPAN: Duration = Duration::from_millis(500);

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The destination would take it.
    Accepted {
        /// Milliseconds by which its clock is ahead, the time among them in which it was asked.
        clock: i64,
    },
    /// Its root filesystem is sent while it runs.
    Rootfs {
        /// On the disk here.
        bytes: u64,
        /// How many files and directories it has.
        files: u64,
    },
    /// Its memory is sent while it runs, and the rest of it while it stands still.
    Dumping,
    /// Something went over: told ten times a second at most.
    Moving(Progress),
    /// It stands still; the rest goes over.
    Sending {
        /// How much there is, but for memory, which is there already.
        bytes: u64,
    },
    /// The destination restores it.
    Restoring,
    /// It is the destination's.
    Committed,
    /// It ran there before all of its memory was there, and now that is.
    Arrived,
}

/// The content that goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The root filesystem, while the container runs: the first pass over it, or the next.
    Rootfs(u32),
    /// Memory, while the container runs: the first round over it, or the next.
    Round(u32),
    /// Memory that is left, while the container stands still.
    Rest,
    /// Memory that goes over while the container runs at the destination.
    PostCopy,
}

/// How far a [`Stage`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// Bytes that went over in it, before they were compressed.
    pub done: u64,
    /// About how many there are; none if that is not known.
    pub total: Option<u64>,
    /// Bytes of that kind in a second, just now; none in the first moments.
    pub rate: Option<u64>,
    /// About how long the rest of the memory would take if the container were stopped now; none where memory is not sent yet.
    pub downtime: Option<Duration>,
}

/// Hears of phases.
pub(super) type Tell = Box<dyn FnMut(Phase) + Send>;

/// Counts what goes over, and tells of it.
pub(super) struct Gauge {
    tell: Tell,
    stage: Option<(Stage, Option<u64>)>,
    done: u64,
    told: Option<Instant>,
    /// When the span began over which the rate is taken, and how much went over in it.
    since: (Instant, u64),
    rate: Option<f64>,
    /// Rounds over memory.
    rounds: u32,
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauge").field("stage", &self.stage).field("done", &self.done).finish_non_exhaustive()
    }
}

impl Gauge {
    pub(super) fn new(tell: Tell) -> Self {
        Self { tell, stage: None, done: 0, told: None, since: (Instant::now(), 0), rate: None, rounds: 0 }
    }

    pub(super) fn phase(&mut self, phase: Phase) {
        (self.tell)(phase);
    }

    /// Something else goes over from now on, about so many bytes.
    pub(super) fn begin(&mut self, stage: Stage, total: Option<u64>) {
        if let Stage::Round(round) = stage {
            self.rounds = round;
        }
        (self.stage, self.done, self.told) = (Some((stage, total)), 0, None);
        self.since = (Instant::now(), 0);
        self.tell_of_it();
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// So many bytes of the stage went over.
    pub(super) fn went(&mut self, bytes: usize) {
        let (now, bytes) = (Instant::now(), bytes as u64);
        self.done += bytes;
        self.since.1 += bytes;
        let span = now - self.since.0;
        if span >= SPAN {
            self.rate = Some(self.since.1 as f64 / span.as_secs_f64());
            self.since = (now, 0);
        }
        if self.told.is_none_or(|told| now - told >= OFTEN) {
            self.tell_of_it();
        }
    }

    fn tell_of_it(&mut self) {
        let Some((stage, total)) = self.stage else { return };
        self.told = Some(Instant::now());
        let total = total.map(|total| total.max(self.done));
        // A round begins with what would be left if the container were stopped then.
        let left = total.filter(|_| matches!(stage, Stage::Round(2..) | Stage::Rest));
        let downtime = left.zip(self.rate.filter(|rate| *rate > 0.0));
        (self.tell)(Phase::Moving(Progress {
            stage,
            done: self.done,
            total,
            rate: self.rate.map(|rate| rate as u64),
            downtime: downtime.map(|(left, rate)| Duration::from_secs_f64(left as f64 / rate)),
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn progress_is_told_of_each_stage_and_not_of_each_byte() {
        let (tell, told) = mpsc::channel();
        let mut gauge = Gauge::new(Box::new(move |phase| tell.send(phase).unwrap()));
        gauge.went(7);
        gauge.begin(Stage::Round(1), Some(3000));
        (0..1000).for_each(|_| gauge.went(1));
        gauge.begin(Stage::Round(2), Some(100));
        std::thread::sleep(SPAN);
        gauge.went(200);
        gauge.begin(Stage::Rest, Some(50));
        let told: Vec<_> = told
            .try_iter()
            .map(|phase| if let Phase::Moving(progress) = phase { progress } else { panic!("{phase:?}") })
            .collect();
        assert_eq!(gauge.rounds(), 2);
        assert!(told.len() >= 4 && told.len() < 100, "{told:?}");
        assert!(told[0].stage == Stage::Round(1) && told[0].done == 0 && told[0].total == Some(3000));
        let second: Vec<_> = told.iter().filter(|p| p.stage == Stage::Round(2)).collect();
        assert_eq!((second[0].total, second[0].downtime), (Some(100), None), "no rate is known yet");
        let last = second.last().unwrap();
        assert_eq!((last.done, last.total), (200, Some(200)), "more than was expected");
        let rest = told.last().unwrap();
        assert_eq!(rest.stage, Stage::Rest);
        // 50 bytes at 400 bytes in a second, or fewer.
        assert!(rest.downtime.unwrap() >= Duration::from_millis(125), "{rest:?}");
    }
}
