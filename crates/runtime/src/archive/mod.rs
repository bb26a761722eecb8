//! Checkpoints in archives: one file, or a stream, as podman, CRI-O and checkpointctl read it. docs/archives.md has the layout.
//!
//! On both ways images pass through memory alone. A checkpoint that is exported is the container as soon as its archive is complete,
//! and for a file on the disk and under its name; not before.

mod bundle;
mod export;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod grant;
mod import;
mod inspect;
mod layout;
mod named;
mod oci;
mod output;
mod rootfs;
mod unpack;

pub use crate::age::{Identities, Recipients};
pub use crate::tarball::Compression;
pub use bundle::{MadeBundle, NewBundle};
pub use export::Export;
pub use import::{Import, Imported, Source};
pub use oci::OciImage;
pub use output::Place;
pub use rootfs::RootChanges;
