//! The output of commands.

pub(crate) mod checkpoints;
pub(crate) mod inspection;
pub(crate) mod out;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod state;
pub(crate) mod table;
