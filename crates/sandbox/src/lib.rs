//! Namespaces, cgroups, rootfs and identity of a container, by direct system calls.
//!
//! A [`plan::Plan`] describes a container, or a process that joins one; [`launch`] clones the process, which sets itself up by its
//! plan and waits until the [`Starter`] lets it execute its program. Each program that calls [`launch`] must call
//! [`run_init_if_asked`] first in its `main`, because the new process is the same program, executed again.
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
mod init;
mod inside;
mod launch;
pub mod loopback;
mod messages;
pub mod mountinfo;
mod netdevices;
pub mod network;
pub mod plan;
pub mod resctrl;
pub mod rootfs;
mod rtnetlink;
pub mod seccomp;
pub mod seccomp_agent;
mod sources;

pub use error::{Error, Result};
pub use hiber_sys::SysError;
pub use idmap::in_user_namespace;
pub use init::run_if_asked as run_init_if_asked;
pub use inside::inside;
pub use launch::{Launch, Launched, Starter, Steps, launch};
pub use messages::FdRole;
