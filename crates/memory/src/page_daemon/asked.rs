//! Pages that a page server was asked for and has not given yet.

use std::collections::{BTreeMap, VecDeque};

use super::failure::Touch;
use super::missing::{Missing, Range};
use super::server::Answer;

/// How much a thread takes at once, and is asked of a page server at once, in bytes.
pub(super) const PORTION: u64 = 1 << 20;
/// How many requests a page server that answers in their order has at a time, and how many answers are kept that nobody has put in place.
const WINDOW: usize = 6;
/// How many more it has of pages that somebody waits for.
const URGENT: usize = 64;
/// How many bytes a page server is asked for at a time that gives pages first for which somebody waits: of those it has more at once.
const AHEAD: u64 = 8 << 20;
const URGENT_AHEAD: u64 = 64 << 20;

/// Such pages.
#[derive(Debug)]
pub(super) enum Asked {
    /// The requests, in whose order the answers come.
    InOrder(VecDeque<Touch>),
    /// Pages that come in any order, by their task, and how many bytes they are.
    Any(BTreeMap<i32, Missing>, u64),
}

impl Default for Asked {
    fn default() -> Self {
        Self::InOrder(VecDeque::new())
    }
}

fn length(touch: &Touch) -> u64 {
    touch.end.saturating_sub(touch.start)
}

impl Asked {
    /// Of a server that [`prefers`](super::PageServer::prefers), or not.
    pub(super) fn of(prefers: bool) -> Self {
        if prefers { Self::Any(BTreeMap::new(), 0) } else { Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::InOrder(requests) => requests.is_empty(),
            Self::Any(_, bytes) => *bytes == 0,
        }
    }

    /// Whether more may be asked for, for which somebody waits or not.
    pub(super) fn has_room(&self, arrived: &VecDeque<(Touch, Vec<u8>)>, waits: bool) -> bool {
        match self {
            Self::InOrder(requests) => requests.len() + arrived.len() < if waits { URGENT } else { WINDOW },
            Self::Any(_, bytes) => {
                let kept: u64 = arrived.iter().map(|(touch, _)| length(touch)).sum();
                bytes + kept < if waits { URGENT_AHEAD } else { AHEAD }
            }
        }
    }

    pub(super) fn add(&mut self, what: Touch) {
        match self {
            Self::InOrder(requests) => requests.push_back(what),
            Self::Any(pages, bytes) => {
                *bytes += length(&what);
                let range = Range { start: what.start, end: what.end, origin: what.start };
                pages.entry(what.task).or_default().insert(range);
            }
        }
    }

    /// The first of these pages that were asked for, and can be asked for again, because somebody waits for them now.
    pub(super) fn again(&self, what: &Touch) -> Option<Touch> {
        let Self::Any(pages, _) = self else { return None };
        let range = pages.get(&what.task)?.from(what.start).filter(|range| range.start < what.end)?;
        let range = range.first((what.end - range.start).min(PORTION));
        Some(Touch { task: what.task, start: range.start, end: range.end })
    }

    /// The pages of an answer, which were asked for, and those of its request that have to be asked for once more.
    pub(super) fn take(&mut self, answer: &Answer) -> Result<(Touch, Option<Touch>), String> {
        let (task, start, length) = (answer.task, answer.address, answer.bytes.len() as u64);
        let end = start.checked_add(length).ok_or("answers with pages that end nowhere")?;
        let got = Touch { task, start, end };
        let asked = match self {
            Self::Any(pages, bytes) => {
                let asked = pages.get_mut(&task).filter(|pages| {
                    length > 0 && pages.of_origin(start, end).iter().map(Range::length).sum::<u64>() == length
                });
                let Some(asked) = asked else {
                    let why = format!(
                        "answers with {length} bytes of process {task} at {start:#x}, which nobody has asked for"
                    );
                    return Err(why);
                };
                asked.remove(start, end);
                *bytes -= length;
                return Ok((got, None));
            }
            Self::InOrder(requests) => requests.pop_front().ok_or("answers what nobody has asked")?,
        };
        if (task, start) != (asked.task, asked.start) || length == 0 || length > asked.end - asked.start {
            return Err(format!(
                "answers with {length} bytes of process {task} at {start:#x}; expected up to {} of process {} at {:#x}",
                asked.end - asked.start,
                asked.task,
                asked.start
            ));
        }
        Ok((got, (end < asked.end).then_some(Touch { start: end, ..asked })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(start: u64, end: u64) -> Touch {
        Touch { task: 7, start, end }
    }

    fn answer(address: u64, length: usize) -> Answer {
        Answer { task: 7, address, bytes: vec![0; length] }
    }

    #[test]
    fn answers_in_order_may_be_short_and_nothing_else() {
        let mut asked = Asked::of(false);
        asked.add(touch(0, 100));
        asked.add(touch(300, 400));
        assert_eq!(asked.again(&touch(300, 400)), None);
        assert_eq!(asked.take(&answer(0, 60)), Ok((touch(0, 60), Some(touch(60, 100)))));
        assert!(
            asked.take(&answer(300, 101)).unwrap_err().contains("expected up to 100 of process 7 at 0x12c")
        );
        assert!(asked.take(&answer(300, 1)).unwrap_err().contains("nobody has asked"));
    }

    #[test]
    fn answers_in_any_order_are_of_pages_that_were_asked_for() {
        let mut asked = Asked::of(true);
        asked.add(touch(0, 100));
        asked.add(touch(100, 200));
        asked.add(touch(300, 400));
        assert_eq!(asked.again(&touch(90, 95)), Some(touch(90, 95)));
        assert_eq!(asked.again(&touch(250, 350)), Some(touch(300, 350)));
        assert_eq!(asked.again(&touch(200, 300)), None);
        assert_eq!(asked.take(&answer(50, 100)), Ok((touch(50, 150), None)));
        for (address, length) in [(50, 1), (140, 20), (250, 60), (0, 0), (u64::MAX, 2), (350, 51)] {
            assert!(asked.take(&answer(address, length)).is_err(), "{address} {length}");
        }
        assert!(asked.take(&Answer { task: 8, ..answer(0, 10) }).is_err());
        for (address, length) in [(0, 50), (150, 50), (300, 100)] {
            assert!(!asked.is_empty());
            asked.take(&answer(address, length)).unwrap();
        }
        assert!(asked.is_empty());
    }
}
