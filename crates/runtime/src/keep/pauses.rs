//! How long a keeper waits for its next checkpoint.

use std::time::Duration;

/// The longest pause after failures, unless the interval is longer.
const LONGEST: Duration = Duration::from_secs(600);

/// Intervals that grow with each failure in a row.
#[derive(Debug)]
pub struct Pauses {
    every: Duration,
    failures: u32,
}

impl Pauses {
    /// The interval without failures.
    pub fn new(every: Duration) -> Self {
        Self { every, failures: 0 }
    }

    /// A checkpoint was made: the time from its beginning to that of the next.
    pub fn made(&mut self) -> Duration {
        self.failures = 0;
        self.every
    }

    /// One has failed: the time until the next attempt, twice as long each time, up to ten minutes.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let longer = self.every.saturating_mul(2_u32.saturating_pow(self.failures));
        longer.min(LONGEST.max(self.every))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let seconds = Duration::from_secs;
        let mut pauses = Pauses::new(seconds(30));
        assert_eq!([pauses.failed(), pauses.failed(), pauses.failed()], [60, 120, 240].map(seconds));
        (0..100).for_each(|_| assert!(pauses.failed() >= seconds(240)));
        assert_eq!(pauses.failed(), LONGEST);
        assert_eq!((pauses.made(), pauses.failed()), (seconds(30), seconds(60)));
        assert_eq!(Pauses::new(seconds(3600)).failed(), seconds(3600));
    }
}
