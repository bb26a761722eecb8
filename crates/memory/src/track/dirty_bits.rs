//! Tracking by soft-dirty bits, on older kernels that have them (CONFIG_MEM_SOFT_DIRTY, proc_pid_pagemap(5)).
//!
//! Looking and clearing are two steps: a write in between would go by unseen, so the process must not run meanwhile. The process is
//! not touched, and nothing is left of the tracking but bits that are clear, for which somebody else may look, too.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use hiber_criu::pagemap::PAGE;
use hiber_sys::zero_pages::ZeroPages;

use super::areas::{Areas, pagemap};
use super::written::Written;
use crate::error::{Error, Result, memory};
use crate::images::Ranges;

/// Bytes of an entry of `/proc/PID/pagemap`.
const ENTRY: usize = 8;
/// So many entries are read at once.
const ENTRIES: usize = 16 << 10;

/// A process whose bits are cleared now and then.
#[derive(Debug)]
pub(super) struct DirtyBits {
    pid: i32,
    zeros: Arc<ZeroPages>,
    /// Whether its bits have been cleared.
    cleared: bool,
}

/// An entry of `/proc/PID/pagemap`.
#[derive(Debug, Clone, Copy)]
struct Entry(u64);

impl Entry {
    fn has_content(self, zeros: &ZeroPages) -> bool {
        let (present, swapped) = (self.0 >> 63 & 1 == 1, self.0 >> 62 & 1 == 1);
        swapped || present && !zeros.has_frame(self.0 & ((1 << 55) - 1))
    }

    fn is_of_file(self) -> bool {
        self.0 >> 61 & 1 == 1
    }

    fn is_dirty(self) -> bool {
        self.0 >> 55 & 1 == 1
    }
}

/// Whether this kernel has such bits: then the pages that it must not take for unchanged, though they are not dirty.
///
/// # Errors
/// Why it cannot.
pub(super) fn available() -> Result<Arc<ZeroPages>, String> {
    let zeros = ZeroPages::find().map_err(|e| format!("soft-dirty bits: the kernel's page of zeros: {e}"))?;
    // Memory that has just been mapped counts as written.
    let entry = zeros.entry();
    match Entry(entry).is_dirty() {
        true => Ok(Arc::new(zeros)),
        false => Err("soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)".into()),
    }
}

impl DirtyBits {
    pub(super) fn new(pid: i32, zeros: Arc<ZeroPages>) -> Self {
        Self { pid, zeros, cleared: false }
    }

    pub(super) fn written(&mut self) -> Result<Written> {
        let all = !std::mem::replace(&mut self.cleared, true);
        let pages = self.find(|entry| all || entry.is_dirty())?;
        clear(self.pid)?;
        // A process that was executed anew has other memory, all of which counts as written.
        Ok(Written { pages, unknown: Vec::new() })
    }

    pub(super) fn rest(&self) -> Result<u64> {
        Ok(self.find(Entry::is_dirty)?.total())
    }

    pub(super) fn clean(&self) -> Result<Ranges> {
        if merges(self.pid) {
            return Err(Error::Untracked(self.pid, "the kernel merges its pages with others (KSM)".into()));
        }
        self.find(|entry| !entry.is_dirty())
    }

    pub(super) fn of_files(&self) -> Result<Ranges> {
        let (areas, pagemap) = (Areas::of(self.pid)?, pagemap(self.pid)?);
        Ok(areas.pages_of_files(|area, to| self.look(&pagemap, area, |entry| !entry.is_of_file(), to)))
    }

    /// The pages of its own that have content, and are such.
    fn find(&self, such: impl Fn(Entry) -> bool) -> Result<Ranges> {
        let (pagemap, mut found) = (pagemap(self.pid)?, Ranges::default());
        for area in Areas::of(self.pid)?.own {
            self.look(&pagemap, &area, &such, &mut found).map_err(memory(self.pid, area.start))?;
        }
        Ok(found)
    }

    fn look(
        &self,
        pagemap: &File,
        area: &Range<u64>,
        such: impl Fn(Entry) -> bool,
        to: &mut Ranges,
    ) -> std::io::Result<()> {
        let mut entries = vec![0; ENTRIES * ENTRY];
        let (mut at, mut run) = (area.start, area.start..area.start);
        while at < area.end {
            let wanted = ENTRIES.min(((area.end - at) / PAGE) as usize) * ENTRY;
            let read = pagemap.read_at(&mut entries[..wanted], at / PAGE * ENTRY as u64)?;
            if read < ENTRY {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            for entry in entries[..read].as_chunks::<ENTRY>().0 {
                let entry = Entry(u64::from_ne_bytes(*entry));
                if entry.has_content(&self.zeros) && such(entry) {
                    run.end = at + PAGE;
                } else {
                    to.add(run);
                    run = at + PAGE..at + PAGE;
                }
                at += PAGE;
            }
        }
        to.add(run);
        Ok(())
    }
}

/// As [`super::clear_dirty_bits`].
pub(super) fn clear(pid: i32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "4").map_err(memory(pid, 0))
}

/// Whether the kernel has replaced pages of a process by others of equal content: the new ones are not dirty, even if the old ones
/// were (`replace_page` in Linux' mm/ksm.c). Pages that are the process's own again are.
fn merges(pid: i32) -> bool {
    // Since Linux 5.19; before, that is only known of all processes together.
    let merged = fs::read_to_string(format!("/proc/{pid}/ksm_merging_pages"))
        .or_else(|_| fs::read_to_string("/sys/kernel/mm/ksm/pages_sharing"));
    merged.is_ok_and(|pages| pages.trim() != "0")
}
