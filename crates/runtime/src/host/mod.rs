//! The host, as every part of the library sees it: processes, files' owners, threads.

pub(crate) mod in_memory;
pub(crate) mod links;
pub(crate) mod overlay;
pub(crate) mod owned;
pub(crate) mod paths;
pub(crate) mod procfs;
pub(crate) mod random;
pub(crate) mod threads;
pub(crate) mod xattrs;
