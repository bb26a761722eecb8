#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(feature = "allocator")]
pub mod allocator;
pub mod apart;
pub mod bpf;
pub mod channel;
pub mod clone;
pub mod error;
pub mod file;
pub mod ids;
pub mod ioctl;
pub mod ipc;
pub mod mount;
pub mod namespace;
pub mod pidfd;
pub mod poll;
pub mod process;
pub mod procfs;
pub mod ptrace;
pub mod resident;
pub mod scheduling;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod tracking;
pub mod userfault;
pub mod writeback;
pub mod zero_pages;

pub use apart::apart;
pub use error::{Result, SysError};
pub use namespace::NamespaceKind;
