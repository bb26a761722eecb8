//! Flags that several commands have.

pub(crate) mod archive;
pub(crate) mod criu;
pub(crate) mod identity;
pub(crate) mod process;
