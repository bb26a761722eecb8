#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

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
pub use launch::{Launch, Launched, Starter, Steps, birthplace, launch};
pub use messages::FdRole;
