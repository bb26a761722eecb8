//! Memory that a dump left behind: which pages of which task are yet to be brought over.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::images::Images;
use crate::pagemap::PAGE;

/// Pages by the number of their task.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LazyMemory(BTreeMap<u64, Left>);

/// The remaining memory of a task.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Ranges of pages by their address: start and end.
    ranges: BTreeMap<u64, u64>,
    /// Whether some have been taken out.
    touched: bool,
}

impl LazyMemory {
    /// The memory that a dump with lazy pages left behind.
    ///
    /// # Errors
    /// [`CriuError::Image`](crate::CriuError::Image) naming the map of pages that is malformed.
    pub fn of(images: &Images) -> Result<Self> {
        let mut memory = Self::default();
        crate::inspect::lazy_pages(images, |task, start, end| memory.add(task, start, end))?;
        Ok(memory)
    }

    fn add(&mut self, task: u64, start: u64, end: u64) {
        self.0.entry(task).or_default().ranges.insert(start, end);
    }

    /// Takes pages out, which need not all be there.
    pub(crate) fn remove(&mut self, task: u64, start: u64, pages: u64) {
        let Some(Left { ranges, touched }) = self.0.get_mut(&task) else { return };
        let end = start.saturating_add(pages.saturating_mul(PAGE));
        while let Some((from, to)) = ranges.range(..end).next_back().map(|(from, to)| (*from, *to))
            && to > start
        {
            *touched = true;
            ranges.remove(&from);
            if from < start {
                ranges.insert(from, start);
            }
            if to > end {
                ranges.insert(end, to);
            }
        }
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.ranges().map(|(.., pages)| pages).sum()
    }

    /// How many pages there are of tasks of which none was taken out.
    pub(crate) fn pages_of_untouched(&self) -> u64 {
        let untouched = |task: &u64| self.0.get(task).is_some_and(|left| !left.touched);
        self.ranges().filter(|(task, ..)| untouched(task)).map(|(.., pages)| pages).sum()
    }

    /// Task, address and number of pages.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.0.iter().flat_map(|(task, left)| {
            left.ranges.iter().map(|(start, end)| (*task, *start, (end - start) / PAGE))
        })
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn with(task: u64, pages: u64) -> Self {
        let mut memory = Self::default();
        memory.add(task, PAGE, PAGE * (pages + 1));
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(memory: &LazyMemory) -> Vec<(u64, u64, u64)> {
        memory.ranges().map(|(task, start, pages)| (task, start / PAGE, pages)).collect()
    }

    #[test]
    fn pages_are_taken_out_wherever_they_are() {
        let mut memory = LazyMemory::with(1, 10);
        memory.add(1, 20 * PAGE, 30 * PAGE);
        memory.add(2, 0, PAGE);
        memory.remove(1, 3 * PAGE, 2);
        assert_eq!(ranges(&memory), [(1, 1, 2), (1, 5, 6), (1, 20, 10), (2, 0, 1)]);
        memory.remove(1, 3 * PAGE, 2);
        memory.remove(1, 2 * PAGE, 20);
        assert_eq!(ranges(&memory), [(1, 1, 1), (1, 22, 8), (2, 0, 1)]);
        memory.remove(3, 0, 100);
        memory.remove(2, PAGE, 100);
        assert_eq!(memory.pages_of_untouched(), 1);
        memory.remove(1, 0, u64::MAX);
        memory.remove(2, 0, 0);
        assert_eq!((ranges(&memory), memory.pages()), (vec![(2, 0, 1)], 1));
    }
}
