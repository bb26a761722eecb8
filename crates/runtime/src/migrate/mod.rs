//! Moving a running container to another machine, of which exactly one copy survives. docs/migration-protocol.md has the
//! conversation of the two ends.
//!
//! The source stays frozen until the destination has restored everything, and then decides: one file, replaced by rename(2), says
//! whose the container is from then on (`state/migration.rs`). Before that file says so, any failure lets the source run on;
//! afterwards the source's container can only end.

mod addresses;
mod behind;
mod connection;
mod destination;
mod following;
mod foresight;
mod options;
mod outgoing;
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
pub use options::{MigrateOptions, Migrated, OnMiss, PostCopied, RECEIVER};
pub use packing::Compress;
pub use place::Destination;
pub use progress::{Phase, Progress, Stage};
pub use resolve::{ResolveOptions, resolve};
pub use rootfs::Rootfs;
pub(crate) use rootfs::{Change, Content, Make, Meta, NodeKind, Raw, Target, copy as copy_root, has_users};

pub use crate::state::migration::Identity;

/// Hears a conversation to its end, as a destination does that takes all there is; steps of a root file system are taken in `root`.
#[cfg(fuzzing)]
pub(crate) fn fuzz(mut from: &[u8], root: std::os::fd::OwnedFd) {
    let (mut target, mut steps) = (rootfs::Target::new(root), Vec::new());
    while let Ok(Some(frame)) = word::read_frame(&mut from) {
        let bytes = match frame {
            word::Frame::Word(word::Word::Changes(changes)) => {
                steps = changes;
                continue;
            }
            word::Frame::Data(bytes) => bytes,
            _ => Vec::new(),
        };
        let mut rest = &bytes[..];
        for step in std::mem::take(&mut steps) {
            let _ = (step.bytes(), target.apply(&step, &mut rest));
        }
    }
}
