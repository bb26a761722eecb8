//! Pages that stay in a task that stands still when its images go away, and follow when somebody asks for them.

use std::io;
use std::ops::Range;

use hiber_criu::page_protocol::Memory;
use hiber_criu::pagemap::{LAZY, PAGE, Run};

use super::batch::read_at;
use super::unwritten::here;
use super::{Pages, Ranges};

/// Such pages of one task.
#[derive(Debug)]
pub struct Behind {
    memory: Memory,
    /// The task.
    pid: i32,
    pages: Ranges,
}

impl Behind {
    /// Pages of the task with this number here.
    pub fn new(memory: Memory, pid: i32, pages: Ranges) -> Self {
        Self { memory, pid, pages }
    }

    /// Whose they are.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// How many bytes are still there.
    pub fn bytes(&self) -> u64 {
        self.pages.total()
    }

    /// The first of these addresses that is of a page which was not taken yet, and up to where such pages follow it.
    pub fn next(&self, within: &Range<u64>) -> Option<Range<u64>> {
        let found = match self.pages.at(within.start) {
            Ok(found) => found,
            Err(next) => self.pages.at(next?).ok()?,
        };
        let found = found.start..found.end.min(within.end);
        (!found.is_empty()).then_some(found)
    }

    /// Takes pages, each once. The task must stand still.
    ///
    /// # Errors
    /// If they cannot be read: the task has ended.
    pub fn take(&mut self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or_default();
        let mut bytes = vec![0; length];
        let read = read_at(self.pid, range.start, &mut bytes);
        if read < length {
            let (pid, at) = (self.pid, range.start + read as u64);
            let why = format!("the page at {at:#x} of process {pid} cannot be read: it has ended");
            return Err(io::Error::other(why));
        }
        self.pages.remove(range.clone());
        Ok(bytes)
    }
}

/// Divides the runs of a task into those that are here, those that may follow, and those that must not wait: the first are among the
/// runs as they were, the second as lazy ones that are not present, and the third are told, too.
pub(super) fn divided(runs: &[Run], pages: &Pages, clean: &Ranges) -> (Vec<Run>, Ranges, Vec<Range<u64>>) {
    let (mut all, mut behind, mut unread) = (Vec::<Run>::new(), Ranges::default(), Vec::new());
    for run in runs {
        let mut start = run.start;
        while start < run.end {
            let (end, flags) = match here(pages, clean, start, run.end) {
                _ if !run.is_present() => (run.end, run.flags),
                Ok(end) => (end, run.flags),
                Err(end) if run.flags & LAZY != 0 => {
                    behind.add(start..end);
                    (end, LAZY)
                }
                Err(end) => {
                    unread.push(start..end);
                    (end, run.flags)
                }
            };
            match all.last_mut().filter(|last| last.end == start && last.flags == flags) {
                Some(last) => last.end = end,
                None => all.push(Run { start, end, flags }),
            }
            start = end;
        }
    }
    debug_assert!(behind.iter().all(|range| range.start % PAGE == 0));
    (all, behind, unread)
}

#[cfg(test)]
mod tests {
    use hiber_criu::ImageDirectory;
    use hiber_criu::pagemap::PRESENT;

    use super::super::{Blocks, Finisher, Place};
    use super::*;

    #[test]
    fn pages_are_taken_once_and_found_wherever_one_begins() {
        let memory = vec![7_u8; 10 * PAGE as usize];
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let page = |n: u64| first + n * PAGE;
        let pages = [page(1)..page(3), page(5)..page(8)].into_iter().collect();
        let mut behind = Behind::new(Memory::Task(1), std::process::id().cast_signed(), pages);
        assert_eq!(behind.next(&(page(0)..page(9))), Some(page(1)..page(3)));
        assert_eq!(behind.next(&(page(3)..page(6))), Some(page(5)..page(6)));
        assert_eq!(behind.next(&(page(3)..page(5))), None);
        assert_eq!(behind.take(&(page(5)..page(7))).unwrap(), vec![7; 2 * PAGE as usize]);
        assert_eq!(behind.next(&(page(3)..page(9))), Some(page(7)..page(8)));
        assert_eq!(behind.bytes(), 3 * PAGE);
        let mut gone = Behind::new(Memory::Task(1), behind.pid, std::iter::once(PAGE..2 * PAGE).collect());
        assert!(gone.take(&(PAGE..2 * PAGE)).unwrap_err().to_string().contains("at 0x1000 of process"));
        assert_eq!(gone.bytes(), PAGE);
    }

    #[test]
    fn only_lazy_pages_that_are_not_here_stay() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::Here(ImageDirectory::open(dir.path()).unwrap(), Finisher::default());
        let mut pages = Pages::create(&place, "pages-1.img", Memory::Task(1)).unwrap();
        let block = Blocks::default().take();
        pages.put(&block, &[(2 * PAGE, 0..4 * PAGE as usize)]).unwrap();
        let clean: Ranges = std::iter::once(2 * PAGE..4 * PAGE).collect();
        let run = |start, end, flags| Run { start: start * PAGE, end: end * PAGE, flags };
        let runs = [run(1, 3, PRESENT), run(3, 8, PRESENT | LAZY), run(8, 9, 0), run(9, 10, PRESENT)];
        let (all, behind, unread) = divided(&runs, &pages, &clean);
        assert_eq!(
            all,
            [
                run(1, 3, PRESENT),
                run(3, 4, PRESENT | LAZY),
                run(4, 8, LAZY),
                run(8, 9, 0),
                run(9, 10, PRESENT)
            ]
        );
        assert_eq!(behind.iter().collect::<Vec<_>>(), std::slice::from_ref(&(4 * PAGE..8 * PAGE)));
        assert_eq!(unread, [PAGE..2 * PAGE, 9 * PAGE..10 * PAGE]);
    }
}
