//! Namespaces, cgroups, rootfs and identity of a container, by direct system calls.
//!
//! The crate knows nothing of CRIU; crate `hiber` translates between the two.
#![forbid(unsafe_code)]

pub mod cgroup;
mod child;
pub mod config;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod hooks;
pub mod idmap;
pub mod ids;
pub mod init;
mod inside;
pub mod loopback;
pub mod mountinfo;
mod netdevices;
pub mod network;
pub mod parent;
pub mod plan;
pub mod resctrl;
pub mod rootfs;
mod rtnetlink;
pub mod seccomp;
pub mod seccomp_agent;
mod sources;
pub mod wire;

pub use error::{Error, Result};
pub use hiber_sys::SysError;
pub use idmap::in_user_namespace;
pub use inside::inside;
