#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests look at scratch directories of their own")
)]

pub mod amend;
pub mod amend_network;
mod causes;
pub mod cores;
pub mod descriptors;
mod diagnose;
mod directory;
mod error;
pub mod eventfds;
#[cfg(test)]
mod fixtures;
mod image_file;
pub mod images;
pub mod inspect;
mod launch;
mod lazy_memory;
mod lazy_restore;
mod locate;
mod locks;
mod macvlans;
mod modes;
mod notify;
mod null_pipes;
mod options;
mod own_cgroups;
pub mod own_tracking;
mod packet;
pub mod page_protocol;
pub mod page_relay;
pub mod pagemap;
mod patience;
mod session;
mod swrk;
mod version;
mod wiped;

pub use causes::{Cause, causes};
/// The messages of CRIU's images, which some types here hold.
pub use criu_proto;
pub use descriptors::Descriptors;
pub use diagnose::{Diagnosis, diagnose, diagnose_text};
pub use directory::{ImageDirectory, PARENT};
pub use error::{CriuError, Failure, HandlerError, Operation, Result};
pub use images::Images;
pub use launch::{CriuInfo, Launch, Loading};
pub use lazy_memory::LazyMemory;
pub use lazy_restore::{LazyFile, LazyRestore, LazyRun};
pub use locate::{Criu, ENV_VAR, find_program};
pub use macvlans::{Macvlan, network_of};
pub use modes::{CgroupMode, NetworkLock, UnknownWord};
pub use notify::{Answer, DumpNotify, RestoreNotify};
pub use options::{
    CgroupRoot, Common, DumpOptions, External, InheritFd, PageServer, PreDumpOptions, RestoreOptions, SwrkFd,
};
pub use own_cgroups::{CGROUP_IMAGE, InheritedCgroups, OwnCgroups};
pub use patience::work_of;
pub use session::Session;
pub use swrk::Ending;
pub use version::{Features, Version};
pub use wiped::wiped_on_fork;
