//! hiber: an OCI container runtime as a library.
#![forbid(unsafe_code)]
