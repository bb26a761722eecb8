//! Cgroups on the real kernel: every test makes a cgroup of its own, in whatever hierarchies this
//! host has, and reads the kernel's answer back. They need root.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, clippy::disallowed_methods)] // says why it skips; the host's own files

mod devices;
mod host;
mod life;
mod limits;
