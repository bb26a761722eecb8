//! Spans of time in Docker's words.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24;
const WEEK: u64 = 7 * DAY;
const MONTH: u64 = 30 * DAY;
const YEAR: u64 = 365 * DAY;

/// A span of time as Docker's command line tells it: `About a minute`, `3 hours`.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => return "Less than a second".into(),
        1 => return "1 second".into(),
        s if s < MINUTE => return format!("{s} seconds"),
        s if s < 2 * MINUTE => return "About a minute".into(),
        s if s < HOUR => return format!("{} minutes", s / MINUTE),
        _ => {}
    }
    // Rounded to hours, but for years.
    let half_up = span.as_secs_f64() / HOUR as f64 + 0.5;
    match half_up as u64 {
        1 => "About an hour".into(),
        h if h < 2 * DAY => format!("{h} hours"),
        h if h < 2 * WEEK => format!("{} days", h / DAY),
        h if h < 2 * MONTH => format!("{} weeks", h / WEEK),
        h if h < 2 * YEAR => format!("{} months", h / MONTH),
        _ => format!("{} years", seconds / HOUR / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_their_limits() {
        let (m, h, d) = (MINUTE, HOUR, 24 * HOUR);
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (2, "2 seconds"),
            (59, "59 seconds"),
            (m, "About a minute"),
            (2 * m - 1, "About a minute"),
            (2 * m, "2 minutes"),
            (h - 1, "59 minutes"),
            (h, "About an hour"),
            (h + 30 * m - 1, "About an hour"),
            (h + 30 * m, "2 hours"),
            (47 * h, "47 hours"),
            (2 * d, "2 days"),
            (13 * d, "13 days"),
            (14 * d, "2 weeks"),
            (59 * d, "8 weeks"),
            (60 * d, "2 months"),
            (125 * d, "4 months"),
            (729 * d, "24 months"),
            (730 * d, "2 years"),
            (3 * 365 * d, "3 years"),
        ];
        for (seconds, words) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), words, "{seconds} s");
        }
    }
}
