//! Messages of image files.

pub mod cgroup;
pub mod core;
pub mod files;
pub mod fs;
pub mod inventory;
pub mod mm;
pub mod mnt;
pub mod net;
pub mod ns;
pub mod pagemap;
pub mod pstree;
pub mod seccomp;
pub mod stats;
