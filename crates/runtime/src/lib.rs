//! hiber: an OCI container runtime as a library.
#![forbid(unsafe_code)]

pub mod features;
pub mod id;
pub mod spec;
