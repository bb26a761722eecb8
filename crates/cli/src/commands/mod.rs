//! The commands, a file each: its flags with their help, and what it does.

pub(crate) mod checkpoint;
pub(crate) mod checkpoints;
mod clone;
mod completion;
pub(crate) mod create;
mod delete;
mod events;
pub(crate) mod exec;
mod features;
mod inspect;
pub(crate) mod keep;
mod kill;
mod list;
mod man;
mod migrate;
mod pause;
mod ps;
mod receive;
pub(crate) mod restore;
mod resume;
pub(crate) mod run;
mod source;
mod spec;
mod start;
mod state;
mod store;
mod suspend;
mod update;
mod wait_memory;

use crate::line::command::Command;

/// All commands, in the order of help.
pub(crate) static COMMANDS: &[&Command] = &[
    &checkpoint::COMMAND,
    &checkpoints::COMMAND,
    &clone::COMMAND,
    &completion::COMMAND,
    &create::COMMAND,
    &delete::COMMAND,
    &events::COMMAND,
    &exec::COMMAND,
    &features::COMMAND,
    &inspect::COMMAND,
    &keep::COMMAND,
    &kill::COMMAND,
    &list::COMMAND,
    &man::COMMAND,
    &migrate::COMMAND,
    &pause::COMMAND,
    &ps::COMMAND,
    &receive::COMMAND,
    &restore::COMMAND,
    &resume::COMMAND,
    &run::COMMAND,
    &spec::COMMAND,
    &start::COMMAND,
    &state::COMMAND,
    &store::COMMAND,
    &suspend::COMMAND,
    &update::COMMAND,
    &wait_memory::COMMAND,
];
