//! System calls that neither rustix nor nix has, as thin, safe functions: the only crate of the workspace with `unsafe`.
//!
//! Each function makes one call and reports its failure as a [`SysError`], which names the call and its arguments. The crate
//! knows the kernel's terms and nothing of containers.

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
pub mod scheduling;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod tracking;
pub mod userfault;
pub mod writeback;

pub use error::{Result, SysError};
pub use namespace::NamespaceKind;
