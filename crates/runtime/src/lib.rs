#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "archive")]
mod age;
#[cfg(feature = "archive")]
pub mod archive;
pub mod bundle;
mod checkpoint;
pub mod clones;
mod container;
pub mod docker;
mod error;
pub mod features;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod helpers;
mod host;
pub mod id;
pub mod keep;
mod key_file;
pub mod migrate;
mod openssh;
mod runtime;
mod signature;
pub mod spec;
mod state;
mod status;
#[cfg(feature = "archive")]
pub mod store;
#[cfg(feature = "archive")]
mod tarball;

pub use checkpoint::described::Description;
pub use checkpoint::inspect::{Inspection, Verification, inspect, verify};
pub use checkpoint::manifest::{self, Manifest};
pub use checkpoint::named::{Checkpoint, CheckpointConfig, Checkpoints};
pub use checkpoint::preflight;
pub use checkpoint::restore_options::RESOURCES;
pub use checkpoint::retention::{Retained, Retention};
pub use checkpoint::verified::Verified;
pub use checkpoint::words::{UnknownWord, Word};
pub use checkpoint::{
    CheckpointOptions, CriuOptions, DumpChoices, PreCopy, PreCopyMode, Resources, RestoreContainerOptions,
};
pub use container::events::{Event, Events, EventsOptions, Exec};
pub use container::exec::ExecOptions;
pub use container::exit::{Ended, ExitStatus};
pub use container::fifos::{DirectIo, Fifos, FifosOptions};
pub use container::handle::Container;
pub use container::info::ContainerInfo;
pub use container::notify::Notify;
pub use container::prepared::{CreateOptions, Start};
pub use container::process::Process;
pub use container::stdio::Stdio;
pub use container::summary::{ProcessDetails, ProcessSummary};
pub use container::task::Task;
pub use container::wait::{Condition, Wait};
pub use error::{Cause, Error, Kind, Result};
pub use helpers::lazy::{Address, FollowingMemory, InvalidAddress, Token};
pub use hiber_criu::images::{DumpStats, dump_stats};
pub use hiber_criu::inspect as contents;
pub use hiber_criu::{CgroupMode, CriuError, NetworkLock};
pub use hiber_sandbox::{Error as SandboxError, cgroup, resctrl};
pub use hiber_sys::signal::Signal;
pub use hiber_sys::{NamespaceKind, SysError};
pub use id::{CheckpointError, CheckpointName};
/// The types of config.json, in the version that this crate speaks.
pub use oci_spec;
pub use runtime::Runtime;
pub use signature::{SigningKey, VerifyingKey};
pub use state::facts::{ConfigSummary, Facts};
pub use state::lifecycle::Lifecycle;
pub use state::migration::Decision;
pub use state::processes::{INIT_ID, ProcessId};
pub use status::Status;

/// Acts as one of the library's helpers (a container's init, a checkpoint's guard, CRIU's tar, the page daemon) and does not
/// return, if the program's arguments say so. Otherwise does nothing. The helpers are the calling program, executed again.
pub fn run_init_if_asked() {
    hiber_sandbox::run_init_if_asked();
    helpers::run_if_asked();
}

/// The program in docs/embedding.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/embedding.md")]
struct Embedding;
