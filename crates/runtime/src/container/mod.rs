//! Containers and their processes: made, started, watched, changed, ended.

pub(crate) mod create;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod exit;
pub(crate) mod fifos;
pub(crate) mod handle;
pub(crate) mod info;
pub(crate) mod making;
pub(crate) mod monitor;
pub(crate) mod notify;
pub(crate) mod prepared;
pub(crate) mod process;
pub(crate) mod processes;
mod removal;
pub(crate) mod stdio;
pub(crate) mod summary;
pub(crate) mod task;
pub(crate) mod update;
pub(crate) mod wait;
