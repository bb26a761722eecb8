//! Which pages of an address space are yet to be brought, and where they were at the dump.

use std::collections::BTreeMap;

pub use hiber_criu::pagemap::PAGE;

/// Pages in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// Where they are now.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where the first was at the dump.
    pub(super) origin: u64,
}

impl Range {
    pub(super) fn length(&self) -> u64 {
        self.end - self.start
    }

    /// The part of it in `start..end`, which overlaps it.
    fn cut(self, start: u64, end: u64) -> Self {
        let from = self.start.max(start);
        Self { start: from, end: self.end.min(end), origin: self.origin + (from - self.start) }
    }

    /// No more of it than this, from its beginning.
    #[must_use]
    pub(super) fn first(self, length: u64) -> Self {
        self.cut(self.start, self.start.saturating_add(length))
    }
}

/// Ranges that do not overlap, by where they start now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Missing(BTreeMap<u64, Range>);

impl Missing {
    pub(super) fn insert(&mut self, range: Range) {
        if range.start < range.end {
            self.0.insert(range.start, range);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.0.values().map(Range::length).sum()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The contiguous missing range from this address on.
    pub(super) fn at(&self, address: u64) -> Option<Range> {
        let (_, range) = self.0.range(..=address).next_back()?;
        (address < range.end).then(|| range.cut(address, range.end))
    }

    /// The same, or what comes next.
    pub(super) fn from(&self, address: u64) -> Option<Range> {
        self.at(address).or_else(|| self.0.range(address..).next().map(|(_, range)| *range))
    }

    /// The missing range around an address: at most `around` contiguous bytes, aligned to `around`.
    pub(super) fn around(&self, address: u64, around: u64) -> Option<Range> {
        let (_, range) = self.0.range(..=address).next_back()?;
        let start = address - address % around;
        (address < range.end).then(|| range.cut(start, start + around))
    }

    /// The missing ranges of those that were in `start..end` at the dump.
    pub(super) fn of_origin(&self, start: u64, end: u64) -> Vec<Range> {
        let part = |range: &Range| {
            let (from, to) = (range.origin.max(start), (range.origin + range.length()).min(end));
            (from < to).then(|| {
                let now = range.start + (from - range.origin);
                Range { start: now, end: now + (to - from), origin: from }
            })
        };
        self.0.values().filter_map(part).collect()
    }

    /// Takes what is in `start..end` out.
    pub(super) fn remove(&mut self, start: u64, end: u64) -> Vec<Range> {
        let mut removed = Vec::new();
        while let Some((_, range)) = self.0.range(..end).next_back().map(|(at, range)| (*at, *range))
            && range.end > start
        {
            self.0.remove(&range.start);
            self.insert(Range { end: start.max(range.start), ..range });
            if range.end > end {
                self.insert(range.cut(end, range.end));
            }
            removed.push(range.cut(start, end));
        }
        removed
    }

    /// Follows an mremap(2).
    pub(super) fn remap(&mut self, from: u64, to: u64, length: u64) {
        let moved = self.remove(from, from.saturating_add(length));
        // Whatever was there is gone, of which an event came before.
        self.remove(to, to.saturating_add(length));
        for range in moved {
            let start = to + (range.start - from);
            self.insert(Range { start, end: start + range.length(), origin: range.origin });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(all: &[(u64, u64, u64)]) -> Missing {
        let mut ranges = Missing::default();
        all.iter().for_each(|(start, end, origin)| {
            ranges.insert(Range { start: *start, end: *end, origin: *origin });
        });
        ranges
    }

    #[test]
    fn pages_that_move_are_found_where_they_are() {
        let mut all = ranges(&[(10, 20, 10), (30, 40, 30)]);
        all.remap(15, 100, 20);
        assert_eq!(all, ranges(&[(10, 15, 10), (100, 105, 15), (115, 120, 30), (35, 40, 35)]));
        assert_eq!(all.at(117), Some(Range { start: 117, end: 120, origin: 32 }));
        assert_eq!(all.at(105), None);
        assert_eq!(all.from(105), Some(Range { start: 115, end: 120, origin: 30 }));
        assert_eq!(
            all.of_origin(14, 32),
            [
                Range { start: 14, end: 15, origin: 14 },
                Range { start: 100, end: 105, origin: 15 },
                Range { start: 115, end: 117, origin: 30 },
            ]
        );
        all.remap(100, 10, 3);
        assert_eq!(all.at(11), Some(Range { start: 11, end: 13, origin: 16 }));
    }

    #[test]
    fn pages_that_are_removed_are_missing_no_more() {
        let mut all = ranges(&[(10, 20, 110), (20, 40, 220)]);
        let removed = all.remove(15, 25);
        assert_eq!(removed.len(), 2);
        assert_eq!(all, ranges(&[(10, 15, 110), (25, 40, 225)]));
        assert_eq!(all.bytes(), 20);
        all.remove(12, 13);
        assert_eq!(all, ranges(&[(10, 12, 110), (13, 15, 113), (25, 40, 225)]));
        assert_eq!(all.around(27, 16), Some(Range { start: 25, end: 32, origin: 225 }));
        assert_eq!(all.around(12, 16), None);
        all.remove(0, u64::MAX);
        assert!(all.is_empty());
    }

    /// Against a page at a time, in any order.
    #[test]
    fn it_is_as_if_each_page_were_kept_by_itself() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut ranges = ranges(&[(0, 40, 1000), (60, 90, 2000)]);
            let mut pages: BTreeMap<u64, u64> = (0..40).map(|at| (at, 1000 + at)).collect();
            pages.extend((60..90).map(|at| (at, 1940 + at)));
            for _ in 0..30 {
                let (from, to, length) = (random.u64(0..100), random.u64(0..100), random.u64(1..30));
                if random.bool() {
                    ranges.remove(from, from + length);
                    pages.retain(|at, _| !(from..from + length).contains(at));
                } else if from.abs_diff(to) >= length {
                    ranges.remap(from, to, length);
                    let moved: Vec<_> = pages.range(from..from + length).map(|(a, o)| (*a, *o)).collect();
                    pages.retain(|at, _| {
                        !(from..from + length).contains(at) && !(to..to + length).contains(at)
                    });
                    pages.extend(moved.into_iter().map(|(at, origin)| (at - from + to, origin)));
                }
            }
            for at in 0..140 {
                assert_eq!(ranges.at(at).map(|range| range.origin), pages.get(&at).copied(), "{seed} {at}");
            }
            assert_eq!(ranges.bytes(), pages.len() as u64);
        }
    }
}
