//! What a checkpoint holds, for people and programs: read from its images alone.

mod threads;

pub use threads::{CapabilitySet, Credentials, Seccomp, State, Thread};
