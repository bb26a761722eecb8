//! Moving a running container to another machine, of which exactly one copy survives. docs/migration-protocol.md has the
//! conversation of the two ends.
//!
//! The source stays frozen until the destination has restored everything, and then decides: one file, replaced by rename(2), says
//! whose the container is from then on (`state/migration.rs`). Before that file says so, any failure lets the source run on;
//! afterwards the source's container can only end.

mod addresses;
mod connection;
mod destination;
mod foresight;
mod packing;
mod place;
mod progress;
mod resolve;
mod rootfs;
mod source;
mod stream;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_errors;
mod word;

pub use connection::Connection;
pub use destination::{ReceiveOptions, receive};
pub use packing::Compress;
pub use place::Destination;
pub use progress::{Phase, Progress, Stage};
pub use resolve::{ResolveOptions, resolve};
pub use rootfs::Rootfs;
pub use source::{MigrateOptions, Migrated, OnMiss, RECEIVER};

pub use crate::state::migration::Identity;
