//! Choices that are words, wherever they are read: on the command line, in a request of containerd's, in an annotation.

use hiber_criu::{CgroupMode, NetworkLock};

/// A word that is none of a choice's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {choice} {given:?}: expected {}", .expected.join(" or "))]
pub struct UnknownWord {
    /// The choice that the word belongs to.
    pub choice: &'static str,
    /// The word that was given.
    pub given: String,
    /// The words that there are.
    pub expected: &'static [&'static str],
}

/// A choice between a few words.
pub trait Word: Copy + 'static {
    /// The name of the choice, for errors.
    const CHOICE: &'static str;
    /// The words.
    const WORDS: &'static [&'static str];
    /// Their meanings, at the same places.
    const MEANINGS: &'static [Self];

    /// The word for a meaning.
    fn word(self) -> &'static str
    where
        Self: PartialEq,
    {
        let found = Self::MEANINGS.iter().position(|meaning| *meaning == self);
        found.and_then(|place| Self::WORDS.get(place)).copied().unwrap_or_default()
    }

    /// The meaning of a word.
    ///
    /// # Errors
    /// It is none of [`WORDS`](Self::WORDS).
    fn of_word(word: &str) -> Result<Self, UnknownWord> {
        let found = Self::WORDS.iter().zip(Self::MEANINGS).find(|(known, _)| **known == word);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| UnknownWord {
            choice: Self::CHOICE,
            given: word.to_owned(),
            expected: Self::WORDS,
        })
    }
}

/// CRIU knows more, which runtimes do not offer: `props` and `none` need cgroups that somebody else made.
impl Word for CgroupMode {
    const CHOICE: &'static str = "manage-cgroups-mode";
    const WORDS: &'static [&'static str] = &["soft", "full", "strict", "ignore"];
    const MEANINGS: &'static [Self] = &[Self::Soft, Self::Full, Self::Strict, Self::Ignore];
}

impl Word for NetworkLock {
    const CHOICE: &'static str = "network-lock";
    const WORDS: &'static [&'static str] = &["iptables", "nftables", "skip"];
    const MEANINGS: &'static [Self] = &[Self::Iptables, Self::Nftables, Self::Skip];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::options::{PreCopyMode, Resources};

    fn all_words<T: Word + PartialEq + std::fmt::Debug>() {
        assert_eq!(T::WORDS.len(), T::MEANINGS.len());
        for (word, meaning) in T::WORDS.iter().zip(T::MEANINGS) {
            assert_eq!(T::of_word(word), Ok(*meaning));
        }
    }

    #[test]
    fn every_word_has_its_meaning_and_others_are_answered_with_the_known_ones() {
        all_words::<CgroupMode>();
        all_words::<NetworkLock>();
        all_words::<PreCopyMode>();
        all_words::<Resources>();
        for mode in CgroupMode::MEANINGS {
            assert_eq!(CgroupMode::of_word(&mode.to_string()), Ok(*mode), "CRIU calls it so, too");
        }
        let unknown = CgroupMode::of_word("Soft").unwrap_err().to_string();
        assert_eq!(
            unknown,
            "invalid manage-cgroups-mode \"Soft\": expected soft or full or strict or ignore"
        );
    }
}
