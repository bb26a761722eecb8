//! How many checkpoints stay: by their count, age and size.

use std::time::{Duration, SystemTime};

use derive_setters::Setters;

use super::described::Description;
use super::named::Checkpoints;
use super::reading;
use crate::error::Result;
use crate::id::CheckpointName;

/// A rule for which checkpoints of a container stay; without any part all do. The newest one that is whole stays whatever the
/// rule says: a container whose only checkpoint is too old or too large would have none. Each option has a setter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct Retention {
    /// As many stay at most.
    pub last: Option<usize>,
    /// Those stay that are no older.
    pub max_age: Option<Duration>,
    /// As many of the newest stay as have together no more bytes than this.
    pub max_bytes: Option<u64>,
}

/// The effect of a rule.
#[derive(Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retained {
    /// Those that stay, the newest first.
    pub kept: Vec<CheckpointName>,
    /// Those that are gone.
    pub removed: Vec<CheckpointName>,
    /// Those that the rule would remove, and that somebody reads at the moment: they go another time.
    pub in_use: Vec<CheckpointName>,
}

impl Retention {
    /// How many of these stay, which come with the newest first: when each was made, and its bytes.
    pub(crate) fn staying(&self, newest_first: &[(SystemTime, u64)], now: SystemTime) -> usize {
        let mut bytes = 0u64;
        let stays = |(index, (made, size)): &(usize, &(SystemTime, u64))| {
            bytes = bytes.saturating_add(*size);
            // One of the future is no older than any.
            let age = now.duration_since(*made).unwrap_or_default();
            *index == 0
                || (self.last.is_none_or(|last| *index < last)
                    && self.max_age.is_none_or(|most| age <= most)
                    && self.max_bytes.is_none_or(|most| bytes <= most))
        };
        newest_first.iter().enumerate().take_while(stays).count()
    }
}

impl Checkpoints {
    /// Those of these names that are whole and not known to be damaged, the newest first: each of them could be restored. Neither
    /// those that are being written nor halves that somebody else has left are among them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn restorable(&self, of: impl Fn(&CheckpointName) -> bool) -> Result<Vec<Description>> {
        let names = self.names()?.into_iter().filter(of);
        // One that somebody removes at this moment is none.
        let described = names.filter_map(|name| self.describe(&name).ok());
        let mut all: Vec<_> = described.filter(|one| one.whole && !one.is_damaged()).collect();
        all.sort_by_cached_key(|one| std::cmp::Reverse((one.created(), one.config.name.clone())));
        Ok(all)
    }

    /// Removes those of these names that the rule does not keep. Only what is [restorable](Self::restorable) counts and is removed;
    /// a checkpoint that is being restored, exported, verified or tried is left for another time.
    ///
    /// # Errors
    /// The directory cannot be read, or one cannot be removed; others are removed nevertheless.
    pub fn retain(&self, rule: &Retention, of: impl Fn(&CheckpointName) -> bool) -> Result<Retained> {
        let all = self.restorable(of)?;
        let made = |one: &Description| (one.created().unwrap_or(SystemTime::UNIX_EPOCH), one.size);
        let staying = rule.staying(&all.iter().map(made).collect::<Vec<_>>(), SystemTime::now());
        let (mut retained, mut failed) = (Retained::default(), Ok(()));
        for (index, one) in all.into_iter().enumerate() {
            let name = one.config.name;
            if index < staying {
                retained.kept.push(name);
                continue;
            }
            let removed = reading::seize(&one.path).and_then(|held| match &held {
                Some(_held) => self.delete(&name).map(|()| true),
                None => Ok(false),
            });
            match removed {
                Ok(true) => retained.removed.push(name),
                Ok(false) => retained.in_use.push(name),
                Err(e) => failed = failed.and(Err(e)),
            }
        }
        failed.map(|()| retained)
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
