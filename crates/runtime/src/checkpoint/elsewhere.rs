//! Options of a checkpoint that goes into an archive or a store, and passes through memory alone.

use std::path::PathBuf;
use std::time::Duration;

use hiber_criu::images::DumpStats;

use super::manifest::Manifest;
use super::options::{CheckpointOptions, PreCopyMode};
use crate::error::{Error, Result};

/// CRIU's statistics of a dump.
pub(crate) const STATISTICS: &str = "stats-dump";

/// Refuses options that `flag` excludes, by which the checkpoint goes to `place`.
pub(crate) fn check(options: &CheckpointOptions, flag: &str, place: &str) -> Result<()> {
    let found = [
        ("--pre-dump", options.pre_dump, "has checkpoints that can be restored"),
        ("--parent-path", options.dump.parent_path.is_some(), "has all that a checkpoint needs"),
        ("--auto-dedup", options.criu.auto_dedup, "has all that a checkpoint needs"),
        ("--lazy-pages", options.criu.lazy_pages, "has the memory, too"),
        ("--page-server", options.dump.page_server.is_some(), "has the memory, too"),
    ];
    let found = found.iter().find(|(_, given, _)| *given);
    found.map_or(Ok(()), |(other, _, why)| {
        Err(Error::Invalid(format!("{flag} and {other} exclude each other: {place} {why}")))
    })
}

/// The images go there, in memory; whether the place waits for the disk.
pub(crate) fn pass_through(options: &mut CheckpointOptions, images: PathBuf) -> bool {
    options.criu.image_path = images;
    if options.pre_copy.mode == PreCopyMode::Auto && !options.dump.leave_running {
        // It stands still until all is compressed and written; copies would take as much memory again, and save little.
        options.pre_copy.mode = PreCopyMode::Off;
    }
    // Memory is no disk.
    !std::mem::replace(&mut options.no_sync, true)
}

/// The statistics of a dump whose CRIU has written none when the checkpoint is given away, for it goes on then: for how long the container
/// has stood still, how much of that writing memory took, and how many pages there are.
pub(crate) fn statistics(manifest: &Manifest, frozen: Duration, memwrite: Duration) -> Result<Vec<u8>> {
    let pages = manifest.files.iter().filter(|(name, _)| name.starts_with("pages-"));
    let bytes = pages.fold(0, |sum: u64, (_, file)| sum.saturating_add(file.size));
    let mut statistics = DumpStats::default();
    (statistics.frozen_time, statistics.memwrite_time) = (frozen, memwrite);
    statistics.pages_written = bytes / rustix::param::page_size() as u64;
    statistics.pages_scanned = statistics.pages_written;
    Ok(statistics.to_file()?)
}
