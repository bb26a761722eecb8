//! Checkpoints: written, judged and restored, and what a later restore has to find again.

#[cfg(feature = "archive")]
mod archive;
mod cgroup_yard;
mod criu_options;
pub(crate) mod crun;
mod custody;
pub(crate) mod described;
mod dump;
#[cfg(feature = "archive")]
pub(crate) mod elsewhere;
mod externals;
mod frozen;
mod image_hasher;
pub(crate) mod inspect;
pub(crate) mod kept;
mod kernel_notes;
pub mod manifest;
pub(crate) mod memory;
pub(crate) mod named;
pub(crate) mod network;
mod options;
mod parents;
pub mod preflight;
mod proof;
pub(crate) mod reading;
pub(crate) mod restore;
pub(crate) mod restore_options;
pub(crate) mod retention;
mod rules;
pub(crate) mod shared;
pub(crate) mod signed;
pub(crate) mod staging;
pub(crate) mod trial;
pub(crate) mod trust;
pub(crate) mod unique;
pub(crate) mod verified;
pub(crate) mod view;
pub(crate) mod words;
pub(crate) mod work;

pub(crate) use criu_options::{CRIU_CONFIG, config_file};
pub(crate) use dump::spec_as_created;
pub(crate) use externals::{
    Bind, Direction, Outside, destinations, entered, joined, mounts, named_points, outside, utf8,
};
pub(crate) use network::needs_no_lock;
pub(crate) use options::Leaves;
pub use options::{
    CheckpointOptions, CriuOptions, DumpChoices, PreCopy, PreCopyMode, Resources, RestoreContainerOptions,
};
pub(crate) use rules::{check, check_peers};
