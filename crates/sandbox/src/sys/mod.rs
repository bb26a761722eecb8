//! The only place with `unsafe`: thin wrappers of system calls that neither rustix nor nix has.

pub mod bpf;
pub mod seccomp;
