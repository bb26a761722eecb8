//! Checkpoints and restores with the built binary, as root on the running kernel.
#![forbid(unsafe_code)]
