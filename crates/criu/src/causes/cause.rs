//! One cause.

/// An explanation for people.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cause {
    /// Its name, which does not change: `tcp-connection`.
    pub id: &'static str,
    /// Parts of an error line of CRIU's: all must be in it.
    words: &'static [&'static str],
    /// The meaning: a clause without a full stop.
    pub explanation: &'static str,
    /// The advice: a clause without a full stop.
    pub advice: &'static str,
}

impl Cause {
    /// Whether a line of CRIU's has all its words.
    pub(super) fn matches(&self, line: &str) -> bool {
        self.words.iter().all(|word| line.contains(word))
    }
}

pub(super) const fn cause(
    id: &'static str,
    words: &'static [&'static str],
    explanation: &'static str,
    advice: &'static str,
) -> Cause {
    Cause { id, words, explanation, advice }
}
