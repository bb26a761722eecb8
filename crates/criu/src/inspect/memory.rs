//! Memory of tasks (mm-PID.img, pagemap-PID.img, pages-N.img).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;

use criu_proto::images::mm::{MmEntry, VmaEntry};
use serde::Serialize;

use crate::directory::ImageDirectory;
use crate::error::{CriuError, Result, bad};
use crate::images::{Images, Magic};
use crate::pagemap::{IN_PARENT, LAZY, PRESENT, Run, runs};

/// Arguments beyond are left out.
const MAX_ARGUMENTS: u64 = 64 << 10;

/// Memory of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Memory {
    /// `heap`, `stack`, `anonymous`, `anonymous shared`, `file private`, `file shared` and others.
    pub kind: &'static str,
    /// How many areas there are.
    pub areas: usize,
    /// Their size in bytes.
    pub mapped: u64,
    /// Bytes whose content is in this checkpoint.
    pub stored: u64,
    /// Bytes whose content is in the parent checkpoint.
    pub in_parent: u64,
    /// Bytes that were left behind, to be fetched on demand.
    pub lazy: u64,
}

/// Memory that is known by a number: a shared segment or file in memory, or a process of a pre-dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Segment {
    /// CRIU's number of a segment, or the process's number.
    pub id: u64,
    /// Bytes whose content is in this checkpoint.
    pub stored: u64,
    /// Bytes whose content is in the parent checkpoint.
    pub in_parent: u64,
}

/// CRIU's marks of areas, the more telling ones first (criu/include/image.h).
const KINDS: [(u32, &str); 14] = [
    (1 << 1, "stack"),
    (1 << 5, "heap"),
    (1 << 2, "vsyscall"),
    (1 << 3, "vdso"),
    (1 << 12, "vvar"),
    (1 << 10, "System V shared"),
    (1 << 11, "socket"),
    (1 << 13, "AIO ring"),
    (1 << 14, "memory file"),
    (1 << 15, "shadow stack"),
    (1 << 6, "file private"),
    (1 << 7, "file shared"),
    (1 << 8, "anonymous shared"),
    (1 << 9, "anonymous"),
];

/// CRIU's mark of a guard region (MADV_GUARD_INSTALL, Linux 6.13), which has an entry beside that of its area.
const GUARD: u32 = 1 << 16;

fn kind(area: &VmaEntry) -> &'static str {
    let status = area.status.unwrap_or_default();
    KINDS.iter().find(|(bit, _)| status & bit != 0).map_or("other", |(_, name)| name)
}

/// A task's address space; `None` for one that has none, such as a zombie.
pub(crate) fn address_space(images: &Images, pid: u32) -> Result<Option<MmEntry>> {
    let name = format!("mm-{pid}.img");
    if !images.has(&name) {
        return Ok(None);
    }
    let mut mm = match images.entries::<MmEntry>(&name, Magic::MM)?.next() {
        Some(entry) => entry?,
        None => return Err(bad(&images.dir().join(name), "has no entry")),
    };
    // Guard regions lie within other areas, and have no memory.
    mm.vmas.retain(|v| v.status.unwrap_or_default() & GUARD == 0);
    mm.vmas.sort_by_key(|v| v.start);
    let range = |v: &VmaEntry| v.start.unwrap_or_default()..v.end.unwrap_or_default();
    let mut end = 0;
    for area in mm.vmas.iter().map(range) {
        if area.is_empty() || area.start < end {
            let what = format!("has an area {area:#x?} that is empty, or overlaps one that ends at {end:#x}");
            return Err(bad(&images.dir().join(name), what));
        }
        end = area.end;
    }
    Ok(Some(mm))
}

/// The memory of a task by kind, largest first.
pub(super) fn by_kind(images: &Images, pid: u32, mm: &MmEntry) -> Result<Vec<Memory>> {
    let mut all: Vec<Memory> = Vec::new();
    let mut places = Vec::with_capacity(mm.vmas.len());
    for area in &mm.vmas {
        let kind = kind(area);
        let place = all.iter().position(|m| m.kind == kind).unwrap_or_else(|| {
            all.push(Memory { kind, areas: 0, mapped: 0, stored: 0, in_parent: 0, lazy: 0 });
            all.len() - 1
        });
        let (start, end) = (area.start.unwrap_or_default(), area.end.unwrap_or_default());
        all[place].areas += 1;
        all[place].mapped += end - start;
        places.push((start, end, place));
    }
    let name = format!("pagemap-{pid}.img");
    if images.has(&name) {
        count_pages(runs(images, &name)?.1, &places, &mut all)?;
    }
    all.sort_by_key(|m| std::cmp::Reverse((m.stored, m.mapped)));
    Ok(all)
}

/// Adds the pages to the memory that they are of. Both lists are in order: one pass over each.
fn count_pages(
    runs: impl Iterator<Item = Result<Run>>,
    places: &[(u64, u64, usize)],
    all: &mut [Memory],
) -> Result<()> {
    let mut rest = places;
    for run in runs {
        let run = run?;
        while let Some((_, end, _)) = rest.first()
            && *end <= run.start
        {
            rest = &rest[1..];
        }
        for (start, end, place) in rest {
            if *start >= run.end {
                break;
            }
            let bytes = (*end).min(run.end) - (*start).max(run.start);
            let memory = &mut all[*place];
            match run.flags {
                flags if flags & PRESENT != 0 => memory.stored += bytes,
                flags if flags & IN_PARENT != 0 => memory.in_parent += bytes,
                flags if flags & LAZY != 0 => memory.lazy += bytes,
                _ => {}
            }
            // Areas that end within the run are finished.
            if *end <= run.end {
                rest = &rest[1..];
            }
        }
    }
    Ok(())
}

/// Checks that the files of pages are as long as their maps say: CRIU reads a shorter one forever.
///
/// # Errors
/// [`CriuError::Image`] naming the file.
impl Images {
    /// Checks that the memory of a checkpoint in a directory is all there: as much as its maps name.
    ///
    /// # Errors
    /// [`CriuError::Image`] naming the file of pages that is too short, or a map that is malformed.
    pub fn check_pages(&self) -> Result<()> {
        self.real_dir().map_or(Ok(()), |dir| check_pages(self, dir))
    }
}

fn check_pages(images: &Images, dir: &ImageDirectory) -> Result<()> {
    let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
    for name in images.names()?.iter().filter(|n| n.starts_with("pagemap-") && n.ends_with(".img")) {
        let (id, runs) = runs(images, name)?;
        for run in runs {
            let run = run?;
            if run.flags & PRESENT != 0 {
                let sum = needed.entry(id).or_default();
                *sum = sum.saturating_add(run.end - run.start);
            }
        }
    }
    for (id, needed) in needed.into_iter().filter(|(_, needed)| *needed > 0) {
        let name = format!("pages-{id}.img");
        let path = dir.path().join(&name);
        let found = dir.stat_of(&name).map(|stat| stat.st_size.cast_unsigned()).unwrap_or(0);
        if found < needed {
            return Err(bad(
                &path,
                format!("has {found} bytes, expected {needed}; restore from another copy"),
            ));
        }
    }
    Ok(())
}

/// Tells task, start and end of each run of pages that was left behind for lazy transfer.
pub(crate) fn lazy_pages(images: &Images, mut tell: impl FnMut(u64, u64, u64)) -> Result<()> {
    for (task, name) in numbered(&images.names()?, "pagemap-") {
        for run in runs(images, name)?.1 {
            let run = run?;
            if run.flags & LAZY != 0 && run.flags & PRESENT == 0 && run.start < run.end {
                tell(task, run.start, run.end);
            }
        }
    }
    Ok(())
}

/// The images whose names are this prefix and a number, with that.
fn numbered<'a>(names: &'a [String], prefix: &str) -> impl Iterator<Item = (u64, &'a String)> {
    names.iter().filter_map(move |name| {
        let id = name.strip_prefix(prefix)?.strip_suffix(".img")?.parse().ok()?;
        Some((id, name))
    })
}

/// The pages in the pagemaps with this prefix: `pagemap-shmem-` of shared segments, `pagemap-` of processes.
pub(super) fn segments(images: &Images, names: &[String], prefix: &str) -> Result<Vec<Segment>> {
    let segment = |(id, name): (u64, &String)| {
        let mut segment = Segment { id, stored: 0, in_parent: 0 };
        for run in runs(images, name)?.1 {
            let run = run?;
            match run.flags {
                flags if flags & PRESENT != 0 => segment.stored += run.end - run.start,
                flags if flags & IN_PARENT != 0 => segment.in_parent += run.end - run.start,
                _ => {}
            }
        }
        Ok(segment)
    };
    numbered(names, prefix).map(segment).collect()
}

/// The arguments of a task, from its memory; `None` where that is not in this checkpoint, or was changed by the task
/// so that nothing is left.
pub(super) fn arguments(images: &Images, pid: u32, mm: &MmEntry) -> Result<Option<Vec<String>>> {
    let (Some(dir), Some(start), Some(end)) = (images.real_dir(), mm.mm_arg_start, mm.mm_arg_end) else {
        return Ok(None);
    };
    let name = format!("pagemap-{pid}.img");
    let len = end.saturating_sub(start).min(MAX_ARGUMENTS);
    if len == 0 || !images.has(&name) {
        return Ok(None);
    }
    let end = start.saturating_add(len);
    let (id, runs) = runs(images, &name)?;
    let name = format!("pages-{id}.img");
    let path = dir.path().join(&name);
    let Some(pages) = dir.file_if_any(&name)? else { return Ok(None) };
    let (mut text, mut offset) = (Vec::new(), 0);
    for run in runs {
        let run = run?;
        let present = run.flags & PRESENT != 0;
        let (from, to) = (start.max(run.start), end.min(run.end));
        if present && from < to {
            let mut part = vec![0; (to - from) as usize];
            pages.read_exact_at(&mut part, offset + (from - run.start)).map_err(|e| match e.kind() {
                ErrorKind::UnexpectedEof => bad(&path, format!("truncated: lacks pages of process {pid}")),
                _ => CriuError::io(format!("read {}", path.display()), e),
            })?;
            text.extend(part);
        }
        if present {
            offset += run.end - run.start;
        }
        if run.end >= end {
            break;
        }
    }
    let complete = text.len() as u64 == len && text.iter().any(|byte| *byte != 0);
    let words = || text.strip_suffix(b"\0").unwrap_or(&text).split(|byte| *byte == 0);
    Ok(complete.then(|| words().map(|word| String::from_utf8_lossy(word).into_owned()).collect()))
}
