//! Which memory of a checkpoint can follow its tasks when they run already, and where its pages are.
//!
//! A restore with lazy pages leaves out what the maps of pages call lazy, which CRIU's dumps do for all private anonymous
//! memory that is not locked, but not where the parent checkpoint has the pages. CRIU has to be shown other maps there.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;

use criu_proto::images::mm::VmaEntry;

use crate::directory::ImageDirectory;
use crate::error::{CriuError, Result, bad};
use crate::images::{ChangedFiles, Images};
use crate::inspect::address_space;
use crate::pagemap::{self, IN_PARENT, LAZY, Run};

/// Longer chains of parents are refused: each level is followed by a call of its own.
const MAX_CHAIN: usize = 1000;

/// Pages of a task in a row, by their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LazyRun {
    /// Of the first page.
    pub start: u64,
    /// After the last.
    pub end: u64,
    /// Number of the file and offset of the first page in it; none where the dump has left the pages behind, for a page server.
    pub place: Option<(usize, u64)>,
}

/// A file of pages.
#[derive(Debug)]
#[non_exhaustive]
pub struct LazyFile {
    /// Its name in the directory of its checkpoint.
    pub name: String,
    /// The file.
    pub file: File,
    /// Its length in bytes.
    pub length: u64,
}

/// All memory of a checkpoint that can follow.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct LazyRestore {
    /// Files of pages.
    pub files: Vec<LazyFile>,
    /// Runs by the number of their task, in the order of addresses.
    pub tasks: BTreeMap<u32, Vec<LazyRun>>,
    /// Maps of pages that CRIU is to read instead of the checkpoint's.
    pub changed: ChangedFiles,
}

/// A map of pages of one checkpoint: its runs, where each is in the file of pages, and which file that is.
struct Map {
    runs: Vec<(Run, u64)>,
    file: Option<usize>,
}

impl LazyRun {
    fn length(&self) -> u64 {
        self.end - self.start
    }
}

impl LazyRestore {
    /// Of the checkpoint whose directory comes first in `chain`, before those that it builds on.
    ///
    /// # Errors
    /// [`CriuError::Image`] if a map of pages is malformed, or says that pages are in a parent that has them not.
    pub fn of(chain: &[ImageDirectory]) -> Result<Self> {
        let levels = chain.iter().map(Images::in_directory).collect::<Result<Vec<_>>>()?;
        let mut all = Self::default();
        let Some(images) = levels.first().filter(|_| levels.len() <= MAX_CHAIN) else { return Ok(all) };
        for task in images.tasks()? {
            let name = format!("pagemap-{}.img", task.pid);
            // A zombie has none.
            if !images.has(&name) {
                continue;
            }
            let mut maps = Vec::new();
            for (dir, images) in chain.iter().zip(&levels) {
                // A parent may be older than the task.
                maps.push(if images.has(&name) {
                    all.map(dir, images, &name)?
                } else {
                    Map { runs: vec![], file: None }
                });
            }
            let areas = address_space(images, task.pid)?.map(|mm| mm.vmas).unwrap_or_default();
            let lazy = all.divide(images, &name, &maps[0], &areas)?;
            let mut runs = Vec::new();
            for run in lazy {
                find(&maps, run.start, run.end, &mut runs).map_err(|at| {
                    bad(&images.dir().join(&name), format!("leaves {at:#x} to a parent that has it not"))
                })?;
            }
            all.tasks.insert(task.pid, runs);
        }
        Ok(all)
    }

    /// How many bytes are left to a page server.
    pub fn left_behind(&self) -> u64 {
        self.tasks.values().flatten().filter(|run| run.place.is_none()).map(LazyRun::length).sum()
    }

    /// The parts of a file, by its number, whose pages can follow, in their order.
    pub fn parts(&self, file: usize) -> Vec<Range<u64>> {
        let part = |run: &LazyRun| {
            let (of, offset) = run.place?;
            (of == file).then(|| offset..offset + run.length())
        };
        let mut parts: Vec<_> = self.tasks.values().flatten().filter_map(part).collect();
        parts.sort_unstable_by_key(|part| part.start);
        parts
    }

    /// How many bytes each task has, in images or at a page server.
    pub fn bytes_of_tasks(&self) -> impl Iterator<Item = u64> {
        self.tasks.values().map(|runs| runs.iter().map(LazyRun::length).sum())
    }

    fn map(&mut self, dir: &ImageDirectory, images: &Images, name: &str) -> Result<Map> {
        let (number, runs) = pagemap::runs(images, name)?;
        let mut offset = 0;
        let mut all = Vec::new();
        for run in runs {
            let run = run?;
            all.push((run, offset));
            offset += if run.is_present() { run.len() } else { 0 };
        }
        let file =
            if offset > 0 { Some(self.open(dir, &format!("pages-{number}.img"), offset)?) } else { None };
        Ok(Map { runs: all, file })
    }

    fn open(&mut self, dir: &ImageDirectory, name: &str, length: u64) -> Result<usize> {
        let path = dir.path().join(name);
        let file = dir.file(name).map_err(|e| CriuError::io(format!("open {}", path.display()), e))?;
        let found =
            file.metadata().map_err(|e| CriuError::io(format!("look at {}", path.display()), e))?.len();
        if found < length {
            return Err(bad(
                &path,
                format!("has {found} bytes, expected {length}; restore from another copy"),
            ));
        }
        self.files.push(LazyFile { name: name.into(), file, length });
        Ok(self.files.len() - 1)
    }

    /// The lazy part of a task's map. CRIU gets a changed map where necessary.
    fn divide(&mut self, images: &Images, name: &str, map: &Map, areas: &[VmaEntry]) -> Result<Vec<Run>> {
        let mut shown = Vec::new();
        for (run, _) in &map.runs {
            if run.flags & (LAZY | IN_PARENT) != IN_PARENT {
                shown.push(*run);
                continue;
            }
            let mut at = run.start;
            for area in areas.iter().filter(|area| can_be_lazy(area)) {
                let (start, end) =
                    (area.start.unwrap_or_default().max(at), area.end.unwrap_or_default().min(run.end));
                if start >= end {
                    continue;
                }
                shown.push(Run { start: at, end: start, ..*run });
                shown.push(Run { start, end, flags: LAZY });
                at = end;
            }
            shown.push(Run { start: at, ..*run });
        }
        shown.retain(|run| !run.is_empty());
        if shown.len() != map.runs.len() || shown.iter().zip(&map.runs).any(|(new, (old, _))| new != old) {
            let (number, _) = pagemap::runs(images, name)?;
            self.changed.push((name.to_owned(), pagemap::encoded(&images.dir().join(name), number, &shown)?));
        }
        Ok(shown.into_iter().filter(|run| run.flags & LAZY != 0).collect())
    }
}

/// Finds pages in a checkpoint, or in those that it builds on; else the address that is nowhere.
fn find(maps: &[Map], start: u64, end: u64, found: &mut Vec<LazyRun>) -> Result<(), u64> {
    let Some((map, parents)) = maps.split_first() else { return Err(start) };
    let first = map.runs.partition_point(|(run, _)| run.end <= start);
    let mut at = start;
    for (run, offset) in &map.runs[first..] {
        if at >= end || run.start > at {
            break;
        }
        let to = run.end.min(end);
        if run.is_present() {
            let place = map.file.map(|file| (file, offset + (at - run.start)));
            found.push(LazyRun { start: at, end: to, place });
        } else if run.flags & IN_PARENT != 0 {
            find(parents, at, to, found)?;
        } else {
            found.push(LazyRun { start: at, end: to, place: None });
        }
        at = to;
    }
    if at < end { Err(at) } else { Ok(()) }
}

/// As CRIU decides (vma_entry_can_be_lazy in criu/include/vma.h).
pub(crate) fn can_be_lazy(area: &VmaEntry) -> bool {
    const ANONYMOUS: u32 = 0x20;
    const PRIVATE: u32 = 0x02;
    const LOCKED: u32 = 0x2000;
    const HUGE: u32 = 0x4_0000;
    // vsyscall, vdso, vvar: the kernel's own (criu/include/image.h)
    const KERNELS: u32 = 1 << 2 | 1 << 3 | 1 << 12;
    let (flags, status) = (area.flags.unwrap_or_default(), area.status.unwrap_or_default());
    flags & (ANONYMOUS | PRIVATE | LOCKED | HUGE) == ANONYMOUS | PRIVATE && status & KERNELS == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pagemap::{PAGE, PRESENT};

    fn run(start: u64, end: u64, flags: u32) -> Run {
        Run { start: start * PAGE, end: end * PAGE, flags }
    }

    fn map(file: usize, runs: &[Run]) -> Map {
        let mut offset = 0;
        let with_offset = |run: &Run| {
            let at = offset;
            offset += if run.is_present() { run.len() } else { 0 };
            (*run, at)
        };
        Map { runs: runs.iter().map(with_offset).collect(), file: Some(file) }
    }

    #[test]
    fn pages_are_found_through_all_parents() {
        let maps = [
            map(0, &[run(1, 2, PRESENT), run(2, 8, IN_PARENT), run(8, 9, PRESENT | LAZY), run(9, 10, LAZY)]),
            map(1, &[run(0, 4, PRESENT), run(4, 6, IN_PARENT), run(6, 20, PRESENT)]),
            map(2, &[run(3, 5, PRESENT), run(5, 6, PRESENT)]),
        ];
        let mut found = Vec::new();
        find(&maps, PAGE, 10 * PAGE, &mut found).unwrap();
        let expected = [
            (1, 2, Some((0, 0))),
            (2, 4, Some((1, 2))),
            (4, 5, Some((2, 1))),
            (5, 6, Some((2, 2))),
            (6, 8, Some((1, 4))),
            (8, 9, Some((0, 1))),
            (9, 10, None),
        ];
        let expected = expected.map(|(start, end, place)| LazyRun {
            start: start * PAGE,
            end: end * PAGE,
            place: place.map(|(file, offset)| (file, offset * PAGE)),
        });
        assert_eq!(found, expected);
        assert_eq!(find(&maps, 9 * PAGE, 12 * PAGE, &mut found), Err(10 * PAGE));
        assert_eq!(find(&maps[..1], 2 * PAGE, 3 * PAGE, &mut found), Err(2 * PAGE), "there is no parent");
    }

    #[test]
    fn what_a_parent_has_of_anonymous_memory_becomes_lazy() {
        let dir = tempfile::tempdir().unwrap();
        let dir = ImageDirectory::open(dir.path()).unwrap();
        let inventory = [&0x5831_3116u32.to_le_bytes()[..], &2u32.to_le_bytes(), &[8, 2]].concat();
        dir.write("inventory.img", &inventory).unwrap();
        let images = Images::in_directory(&dir).unwrap();
        let area = |start: u64, end: u64, flags: u32| VmaEntry {
            start: Some(start * PAGE),
            end: Some(end * PAGE),
            flags: Some(flags),
            ..VmaEntry::default()
        };
        // Anonymous, of a file, locked.
        let areas = [area(0, 4, 0x22), area(4, 6, 0x02), area(6, 10, 0x22), area(10, 12, 0x2022)];
        let written = [run(1, 2, PRESENT), run(2, 12, IN_PARENT)];
        pagemap::write(&dir, "pagemap-1.img", 5, &written).unwrap();
        let mut all = LazyRestore::default();
        let lazy = all.divide(&images, "pagemap-1.img", &map(0, &written), &areas).unwrap();
        assert_eq!(lazy, [run(2, 4, LAZY), run(6, 10, LAZY)]);
        dir.write("pagemap-1.img", &all.changed[0].1).unwrap();
        let (number, shown) = pagemap::runs(&images, "pagemap-1.img").unwrap();
        assert_eq!(
            (number, shown.collect::<Result<Vec<_>>>().unwrap()),
            (
                5,
                vec![
                    run(1, 2, PRESENT),
                    run(2, 4, LAZY),
                    run(4, 6, IN_PARENT),
                    run(6, 10, LAZY),
                    run(10, 12, IN_PARENT),
                ]
            )
        );
        let whole = [run(1, 3, PRESENT | LAZY), run(3, 4, PRESENT)];
        assert_eq!(all.divide(&images, "pagemap-1.img", &map(0, &whole), &areas).unwrap(), [whole[0]]);
        assert_eq!(all.changed.len(), 1, "that one CRIU can read as it is");
    }
}
