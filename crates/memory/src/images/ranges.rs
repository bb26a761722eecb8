//! Sets of addresses.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges without overlap, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range, which may overlap others.
    pub fn add(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((start, end)) = self.0.range(..=range.end).next_back().map(|(s, e)| (*s, *e))
            && end >= range.start
        {
            self.0.remove(&start);
            range = range.start.min(start)..range.end.max(end);
        }
        self.0.insert(range.start, range.end);
    }

    /// Takes a range out, which need not all be there.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((start, end)) = self.0.range(..range.end).next_back().map(|(s, e)| (*s, *e))
            && end > range.start
        {
            self.0.remove(&start);
            if start < range.start {
                self.0.insert(start, range.start);
            }
            if end > range.end {
                self.0.insert(range.end, end);
            }
        }
    }

    /// The range at an address, from there on; where there is none, how far it is to the next.
    pub fn at(&self, address: u64) -> Result<Range<u64>, Option<u64>> {
        match self.0.range(..=address).next_back() {
            Some((_, end)) if *end > address => Ok(address..*end),
            _ => Err(self.0.range(address..).next().map(|(start, _)| *start)),
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// How many addresses there are.
    pub fn total(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut all = Self::default();
        ranges.into_iter().for_each(|range| all.add(range));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_as_a_set_of_numbers() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut ranges, mut set) = (Ranges::default(), std::collections::BTreeSet::new());
        for _ in 0..2_000 {
            let start = random.u64(..200);
            let range = start..start + random.u64(..20);
            if random.bool() {
                ranges.add(range.clone());
                set.extend(range);
            } else {
                ranges.remove(range.clone());
                set.retain(|n| !range.contains(n));
            }
            assert!(ranges.iter().flatten().eq(set.iter().copied()));
            assert_eq!(ranges.total(), set.len() as u64);
            let at = random.u64(..200);
            match ranges.at(at) {
                Ok(range) => assert!(
                    range.start == at && range.clone().all(|n| set.contains(&n)) && !set.contains(&range.end)
                ),
                Err(next) => assert!(!set.contains(&at) && next == set.range(at..).next().copied()),
            }
        }
    }
}
