//! The seccomp compiler.
