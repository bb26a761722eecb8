//! The files of a container: its directory, its facts, the lock, the recorded events.

pub(crate) mod clones;
pub(crate) mod entry;
pub(crate) mod facts;
pub(crate) mod lifecycle;
pub(crate) mod lock;
pub(crate) mod migration;
pub(crate) mod observe;
pub(crate) mod processes;
pub(crate) mod resources;
pub(crate) mod scratch;
pub(crate) mod store;
