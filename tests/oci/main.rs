//! The built binary as an OCI runtime, as root on the running kernel.
#![forbid(unsafe_code)]

mod lifecycle;
