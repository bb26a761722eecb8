//! A dump whose caller reads the memory himself: CRIU leaves all pages to a "parent checkpoint", in whose place the caller's page
//! server stands.
//!
//! It is an incremental dump (`track_mem`, `parent_img`) after all memory was declared clean: CRIU looks which pages there are,
//! and neither reads nor sends any. For a GiB it then needs 30 ms instead of 160 to 220.
//!
//! Where the kernel has soft-dirty bits, they are what CRIU goes by. Where it has none, CRIU refuses incremental dumps, although
//! no page would be dirty. Its notes about the kernel (`/run/criu.kdat`, kerndat.c) say so, and [`notes_with_tracking`] are such
//! notes with the opposite. A caller that shows them to a CRIU must have every page that it leaves out.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use criu_proto::images::core::CoreEntry;
use criu_proto::images::inventory::InventoryEntry;

use crate::directory::{ImageDirectory, PARENT};
use crate::error::{CriuError, Result};
use crate::image_file::encode;
use crate::images::{INVENTORY, INVENTORY_FILE, Images, Magic, VERSION_2};
use crate::inspect::address_space;
use crate::lazy_restore::can_be_lazy;
use crate::pagemap::{LAZY, PAGE, Run};

/// Where CRIU keeps its notes about the kernel, if that is on a tmpfs.
pub const NOTES: &str = "/run/criu.kdat";

/// The beginning of the notes, `struct kerndat_s`, which has been the same since CRIU 3.11: {u32 magic, u32 time of the build, u64
/// device of shared memory, i32 last capability, u64 frame of zeros, bool soft-dirty bits}.
const MAGIC: [u8; 4] = 0x5702_3458_u32.to_ne_bytes();
const LAST_CAPABILITY: usize = 16;
const SOFT_DIRTY: usize = 32;
/// No notes are so long.
const MOST: u64 = 64 << 10;

/// CRIU's notes about this kernel, but for the kernel's soft-dirty bits, which they have. `None` where there are no such notes, or
/// they have them anyway. Whether CRIU believes them is for [`Features`](crate::Features) to say.
pub fn notes_with_tracking() -> Option<Vec<u8>> {
    let file = File::open(NOTES).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return None;
    }
    let mut notes = Vec::new();
    file.take(MOST).read_to_end(&mut notes).ok()?;
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok()?;
    changed(notes, last.trim().parse().ok()?)
}

fn changed(mut notes: Vec<u8>, last_capability: i32) -> Option<Vec<u8>> {
    let is = |at: usize, bytes: [u8; 4]| notes.get(at..at + 4) == Some(&bytes);
    let ours = is(0, MAGIC) && is(LAST_CAPABILITY, last_capability.to_ne_bytes());
    let flag = notes.get_mut(SOFT_DIRTY).filter(|flag| ours && **flag == 0)?;
    *flag = 1;
    Some(notes)
}

/// Makes a directory in which CRIU is to write a dump its own parent: an inventory is there, which the dump replaces, and is older
/// than nothing that runs. The dump wants `parent_img` to be `.`.
///
/// # Errors
/// [`CriuError::Io`].
pub fn prepare_parent(dir: &ImageDirectory) -> Result<()> {
    // Tasks that have begun later than the parent was made are others, to CRIU, than those with the same number in there.
    let always = u64::MAX / 2;
    let inventory =
        InventoryEntry { img_version: Some(VERSION_2), dump_uptime: Some(always), ..Default::default() };
    dir.write(INVENTORY_FILE, &encode(&dir.path().join(INVENTORY_FILE), &[INVENTORY], &[inventory])?)
}

/// Removes the link by which CRIU has noted the parent.
///
/// # Errors
/// [`CriuError::Io`].
pub fn forget_parent(dir: &ImageDirectory) -> Result<()> {
    let failed = |e| CriuError::io(format!("remove {}", dir.path().join(PARENT).display()), e);
    if dir.has(PARENT) { dir.remove(PARENT).map_err(failed) } else { Ok(()) }
}

/// Marks the runs of a task's pages that may be brought over after a restore, as CRIU does with those that it sends (criu/mem.c,
/// `generate_iovs`): private anonymous memory, without the pages at which its threads' stacks end. The runs are in order.
///
/// # Errors
/// [`CriuError::Image`] if an image is missing or malformed.
pub fn mark_lazy(images: &Images, task: u32, runs: &[Run]) -> Result<Vec<Run>> {
    let areas = address_space(images, task)?.map(|mm| mm.vmas).unwrap_or_default();
    let mut stacks = Vec::new();
    for thread in images.tasks()?.into_iter().find(|found| found.pid == task).map_or(vec![], |t| t.threads) {
        let name = format!("core-{thread}.img");
        let core = images.entries::<CoreEntry>(&name, Magic::CORE)?.next().transpose()?;
        stacks.extend(core.and_then(|core| stack_pointer(&core)));
    }
    let areas = areas.iter().filter(|area| can_be_lazy(area));
    let areas: Vec<_> = areas.map(|a| (a.start.unwrap_or_default(), a.end.unwrap_or_default())).collect();
    Ok(divided(runs, &areas, stacks))
}

fn stack_pointer(core: &CoreEntry) -> Option<u64> {
    let x86 = core.thread_info.as_ref().and_then(|info| info.gpregs.as_ref()).and_then(|r| r.sp);
    x86.or_else(|| core.ti_aarch64.as_ref()?.gpregs.as_ref()?.sp)
}

/// The runs, cut where areas that can be lazy, and the pages of stacks in them, begin and end.
fn divided(runs: &[Run], areas: &[(u64, u64)], stacks: Vec<u64>) -> Vec<Run> {
    let mut stacks: Vec<u64> = stacks.into_iter().map(|at| at / PAGE * PAGE).collect();
    stacks.sort_unstable();
    let mut cuts: Vec<u64> = areas.iter().flat_map(|(start, end)| [*start, *end]).collect();
    cuts.extend(stacks.iter().flat_map(|at| [*at, at.saturating_add(PAGE)]));
    cuts.sort_unstable();
    cuts.dedup();
    let is_lazy = |at: u64| {
        let area = areas[..areas.partition_point(|(start, _)| *start <= at)].last();
        area.is_some_and(|(_, end)| at < *end) && stacks.binary_search(&at).is_err()
    };
    let mut all = Vec::<Run>::new();
    for run in runs {
        let mut start = run.start;
        let between = &cuts[cuts.partition_point(|cut| *cut <= run.start)..];
        for end in between.iter().copied().take_while(|cut| *cut < run.end).chain([run.end]) {
            let flags = run.flags | if is_lazy(start) { LAZY } else { 0 };
            match all.last_mut().filter(|last| last.end == start && last.flags == flags) {
                Some(last) => last.end = end,
                None => all.push(Run { start, end, flags }),
            }
            start = end;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pagemap::PRESENT;

    #[test]
    fn only_the_notes_of_a_criu_of_this_kernel_are_changed() {
        let mut notes = vec![0; 912];
        notes[..4].copy_from_slice(&MAGIC);
        notes[LAST_CAPABILITY] = 40;
        notes[SOFT_DIRTY + 1] = 1;
        let mut expected = notes.clone();
        expected[SOFT_DIRTY] = 1;
        assert_eq!(changed(notes.clone(), 40), Some(expected.clone()));
        assert_eq!(changed(notes.clone(), 41), None, "of another kernel");
        assert_eq!(changed(expected, 40), None, "it has them");
        assert_eq!(changed(notes[..SOFT_DIRTY].to_vec(), 40), None, "too short");
        notes[0] ^= 1;
        assert_eq!(changed(notes, 40), None, "something else");
    }

    #[test]
    fn runs_are_lazy_where_areas_are_and_no_stack_ends() {
        let page = |n: u64| n * PAGE;
        let run = |start, end, flags| Run { start: page(start), end: page(end), flags };
        let areas = [(page(2), page(6)), (page(6), page(8)), (page(20), page(30))];
        let stacks = vec![page(4) + 100, page(4) + 8, page(40)];
        let given = [run(0, 10, PRESENT), run(10, 12, PRESENT), run(25, 41, 0)];
        let expected = [
            run(0, 2, PRESENT),
            run(2, 4, PRESENT | LAZY),
            run(4, 5, PRESENT),
            run(5, 8, PRESENT | LAZY),
            run(8, 12, PRESENT),
            run(25, 30, LAZY),
            run(30, 41, 0),
        ];
        assert_eq!(divided(&given, &areas, stacks), expected);
    }
}
