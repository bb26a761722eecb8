//! Memory that processes have asked the kernel not to pass on to a child, but to give the child zeros for.

use std::collections::BTreeMap;
use std::ops::Range;

use criu_proto::images::mm::VmaEntry;

use crate::error::Result;
use crate::images::Images;
use crate::inspect::address_space;
use crate::pagemap;

/// MADV_WIPEONFORK (madvise(2)), as a bit of an area's advices.
const WIPE_ON_FORK: u64 = 1 << 18;
/// The kinds of mmap(2), and MAP_DROPPABLE of Linux 6.11: the kernel may take such memory away whenever it likes.
const KIND: u32 = 0xf;
const DROPPABLE: u32 = 0x8;

/// The pages of a checkpoint that a child would find empty (MADV_WIPEONFORK, MAP_DROPPABLE): ranges of addresses, by the numbers
/// of the tasks in their pid namespace. Generators of libraries keep their state in such memory, and so does the kernel for its random
/// numbers in the vDSO (getrandom(2)). CRIU restores the first with its content; of the second CRIU 4.2 has no page in its images
/// (findings/criu-droppable-is-empty.sh).
///
/// # Errors
/// [`CriuError::Image`](crate::CriuError::Image) naming an image that is malformed.
pub fn wiped_on_fork(images: &Images) -> Result<BTreeMap<u32, Vec<Range<u64>>>> {
    let mut all = BTreeMap::new();
    for task in images.tasks()? {
        let areas = address_space(images, task.pid)?.map(|mm| mm.vmas).unwrap_or_default();
        let areas: Vec<_> = areas.iter().filter(|area| is_wiped(area)).collect();
        let name = format!("pagemap-{}.img", task.pid);
        if areas.is_empty() || !images.has(&name) {
            continue;
        }
        let mut pages = Vec::new();
        for run in pagemap::runs(images, &name)?.1 {
            let run = run?;
            let common = |area: &&VmaEntry| {
                let (start, end) = (area.start.unwrap_or_default(), area.end.unwrap_or_default());
                start.max(run.start)..end.min(run.end)
            };
            pages.extend(areas.iter().map(common).filter(|range| !range.is_empty()));
        }
        all.insert(task.pid, pages);
    }
    all.retain(|_, pages: &mut Vec<_>| !pages.is_empty());
    Ok(all)
}

fn is_wiped(area: &VmaEntry) -> bool {
    area.madv.unwrap_or_default() & WIPE_ON_FORK != 0 || area.flags.unwrap_or_default() & KIND == DROPPABLE
}
