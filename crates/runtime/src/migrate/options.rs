//! How to migrate, and what that has cost.

use std::path::PathBuf;
use std::time::Duration;

use derive_setters::Setters;

use super::packing::Compress;
use super::rootfs::Rootfs;
use crate::checkpoint::words::Word;
use crate::checkpoint::{CheckpointOptions, Leaves, PreCopyMode};
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::state::migration::Identity;

/// The program that ssh runs at the other end.
pub const RECEIVER: &str = "hiber receive --stdio";

/// How to migrate. Each choice has a setter.
#[derive(Debug, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct MigrateOptions {
    /// The container's id there; as here if absent.
    pub id: Option<ContainerId>,
    /// The bundle's directory there; as here if absent.
    pub bundle: Option<PathBuf>,
    /// The bundle there.
    pub rootfs: Rootfs,
    /// The command that receives, at the other end of ssh.
    pub receiver: String,
    /// For TLS: `tls://` needs it.
    pub identity: Option<Identity>,
    /// How long the other end may neither send nor take anything.
    pub stall: Duration,
    /// Only ask whether it could be done.
    pub dry_run: bool,
    /// How long the container may stand still. Its memory is sent in rounds until the rest takes half of that: saving and restoring all
    /// else needs time, too.
    pub max_downtime: Duration,
    /// The choice if the rest of its memory takes longer than that after the last round.
    pub on_miss: OnMiss,
    /// Let it run at the destination at once, without rounds over its memory: that follows when it is wanted there, and meanwhile all
    /// the rest. Until all has arrived both ends and the connection are needed: if one of them fails, the container is lost. It has
    /// ended there then, with that reason, and does not run on here.
    pub post_copy: bool,
    /// Bytes of memory that are sent in a second, at most: compressed, where it is.
    pub bandwidth: Option<u64>,
    /// The frames that are compressed.
    pub compress: Compress,
    /// How the container is checkpointed. Where the images go, the migration says.
    pub checkpoint: CheckpointOptions,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        Self {
            id: None,
            bundle: None,
            rootfs: Rootfs::Same,
            receiver: RECEIVER.into(),
            identity: None,
            stall: Duration::from_secs(10),
            dry_run: false,
            max_downtime: Duration::from_millis(300),
            on_miss: OnMiss::Abort,
            post_copy: false,
            bandwidth: None,
            compress: Compress::Auto,
            checkpoint: CheckpointOptions::default(),
        }
    }
}

/// The choice where the container writes its memory faster than it can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnMiss {
    /// It runs on here.
    #[default]
    Abort,
    /// It is moved nevertheless, and stands still for as long as that takes.
    Force,
    /// It runs at the destination at once, and the rest of its memory follows, as with [`MigrateOptions::post_copy`].
    PostCopy,
}

impl Word for OnMiss {
    const CHOICE: &'static str = "on-miss";
    const WORDS: &'static [&'static str] = &["abort", "force", "post-copy"];
    const MEANINGS: &'static [Self] = &[Self::Abort, Self::Force, Self::PostCopy];
}

/// The cost of a migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// Bytes that were sent, compressed or not: files, and memory as often as it was written.
    pub bytes: u64,
    /// Rounds over its memory while it ran.
    pub rounds: u32,
    /// Memory that went over after it had been stopped, and when it ran there; none if all was there before.
    pub post_copy: Option<PostCopied>,
    /// From the moment at which the container was stopped to the decision: it was the destination's afterwards.
    pub downtime: Duration,
    /// Of the whole.
    pub total: Duration,
    /// Whether the destination has said that the container runs there. If not, it has not heard the decision, or could not say:
    /// [`resolve`](super::resolve) tells it again.
    pub confirmed: bool,
}

/// The cost of memory that follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostCopied {
    /// Bytes that were sent, compressed or not.
    pub bytes: u64,
    /// From the decision until all had arrived.
    pub time: Duration,
}

impl MigrateOptions {
    /// When memory stays here until it is wanted there.
    pub(super) fn leaves(&self) -> Leaves {
        match (self.post_copy, self.on_miss) {
            (true, _) => Leaves::Always,
            (false, OnMiss::PostCopy) => Leaves::OnMiss,
            _ => Leaves::Never,
        }
    }
}

pub(super) fn check(options: &MigrateOptions) -> Result<()> {
    let with = &options.checkpoint;
    let found = [
        ("--pre-dump", with.pre_dump),
        ("--parent-path", with.dump.parent_path.is_some()),
        ("--leave-running", with.dump.leave_running),
        ("--lazy-pages", with.criu.lazy_pages),
        ("--page-server", with.dump.page_server.is_some()),
        ("--prove", with.prove),
        ("--pre-copy on with --post-copy", options.post_copy && with.pre_copy.mode == PreCopyMode::On),
    ];
    let found = found.iter().find(|(_, given)| *given);
    found.map_or(Ok(()), |(flag, _)| Err(Error::Invalid(format!("{flag} cannot be used for a migration"))))
}
