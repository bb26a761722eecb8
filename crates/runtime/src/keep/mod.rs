//! Decisions of a keeper, which takes checkpoints of a container in time and brings it back when it ends otherwise than asked: what an end
//! means ([`Ending`]), from what the container is made again ([`Ladder`]), how long a failure is waited for ([`Pauses`]), and what a keeper
//! that is killed leaves to the next one ([`Keeping`]). Docs/keep.md has the table of all this. The keeper itself is the program's.

mod ending;
mod ladder;
mod pauses;
mod record;

pub use ending::{Ending, Restart};
pub use ladder::{Ladder, Step};
pub use pauses::Pauses;
pub use record::Keeping;

use crate::id::CheckpointName;

/// The beginning of the names of a keeper's checkpoints. Others are not the keeper's: it neither restores nor removes them.
const PREFIX: &str = "keep-";

/// The name of a checkpoint that a keeper makes now.
pub fn name_of_now() -> CheckpointName {
    CheckpointName::of_now().after(PREFIX)
}

/// Whether a keeper has made a checkpoint of this name.
pub fn is_kept(name: &CheckpointName) -> bool {
    name.as_str().starts_with(PREFIX)
}
