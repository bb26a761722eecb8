//! From what a container is made again: the newest checkpoint, the one before, …, the start, and then nothing more.

use crate::id::CheckpointName;

/// The next step of a keeper that brings a container back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Restore this checkpoint.
    Restore(CheckpointName),
    /// Make the container anew, and start it.
    Start,
    /// Nothing is left to try.
    LeaveAlone,
}

/// The steps that were tried since the container has last been well.
#[derive(Debug, Default)]
pub struct Ladder {
    tried: Vec<CheckpointName>,
    started: bool,
}

impl Ladder {
    /// The next step, which counts as tried: these checkpoints can be restored, the newest first.
    pub fn next(&mut self, newest_first: &[CheckpointName]) -> Step {
        if self.started {
            return Step::LeaveAlone;
        }
        match newest_first.iter().find(|name| !self.tried.contains(name)) {
            Some(name) => {
                self.tried.push(name.clone());
                Step::Restore(name.clone())
            }
            None => {
                self.started = true;
                Step::Start
            }
        }
    }

    /// The last step shall be tried once more: it was not the checkpoint that failed.
    pub fn again(&mut self) {
        if self.started {
            self.started = false;
        } else {
            self.tried.pop();
        }
    }

    /// The container has run for as long as it had to: its next end is another matter.
    pub fn well(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_to_the_start_and_no_further() {
        let [a, b, c] = ["c1", "c2", "c3"].map(|name| name.parse::<CheckpointName>().unwrap());
        let all = [c.clone(), b.clone(), a.clone()];
        let mut ladder = Ladder::default();
        assert_eq!(ladder.next(&all), Step::Restore(c.clone()));
        ladder.again();
        assert_eq!(ladder.next(&all), Step::Restore(c.clone()));
        assert_eq!(ladder.next(&all), Step::Restore(b.clone()));
        // It runs well, so the newest has its chance again.
        ladder.well();
        assert_eq!(ladder.next(&all), Step::Restore(c));
        assert_eq!(ladder.next(&all), Step::Restore(b));
        assert_eq!(ladder.next(&all), Step::Restore(a));
        assert_eq!(ladder.next(&all), Step::Start);
        assert_eq!(ladder.next(&all), Step::LeaveAlone);
        assert_eq!(ladder.next(&[]), Step::LeaveAlone);
        ladder.again();
        assert_eq!(ladder.next(&all), Step::Start);
        assert_eq!(Ladder::default().next(&[]), Step::Start);
    }
}
