//! Checkpoints: written, judged and restored, and what a later restore has to find again.

#[cfg(feature = "archive")]
mod archive;
pub(crate) mod crun;
mod custody;
mod dump;
mod externals;
mod follower;
mod frozen;
mod guard;
pub(crate) mod inspect;
pub(crate) mod kept;
pub(crate) mod lazy;
pub(crate) mod leftovers;
mod links;
pub mod manifest;
mod memory;
pub(crate) mod named;
mod network;
mod options;
mod parents;
pub mod preflight;
mod proof;
pub(crate) mod restore;
pub(crate) mod shared;
mod staging;
#[cfg(feature = "archive")]
pub(crate) mod tmpfs;
pub(crate) mod trial;
pub(crate) mod trust;
mod unfinished;
pub(crate) mod view;
pub(crate) mod work;
mod yard;

pub(crate) use dump::{absolute, make_dir, open_dir};
pub(crate) use externals::{
    Bind, Direction, Outside, destinations, entered, joined, mounts, named_points, outside, utf8,
};
pub(crate) use guard::{
    PUBLISHING, forget, has_left_frozen, run_if_asked as run_guard_if_asked, settle, sweep_after,
};
pub(crate) use memory::check_peers;
pub(crate) use network::needs_no_lock;
pub(crate) use options::{CRIU_CONFIG, check, config_file};
pub use options::{CheckpointOptions, CriuOptions, PreCopy, PreCopyMode};
