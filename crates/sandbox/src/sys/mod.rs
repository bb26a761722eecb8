//! The only place with `unsafe`: thin wrappers of system calls that neither rustix nor nix has.
//!
//! Each function does one call and reports it as a [`SysError`](crate::SysError) that names the call.

pub mod bpf;
pub mod clone;
pub mod ioctl;
pub mod ipc;
pub mod mount;
pub mod pidfd;
pub mod poll;
pub mod process;
pub mod ptrace;
pub mod scheduling;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod writeback;
