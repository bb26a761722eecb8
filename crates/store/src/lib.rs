//! A directory of checkpoints that share their pages.
//!
//! ```text
//! DIR/hiber-store.json            the version of all this
//! DIR/lock                        flock(2): shared by writers and readers, and exclusive while garbage is collected
//! DIR/packs/NUMBER.pack           chunks, in frames
//! DIR/packs/NUMBER.index          which chunks those are
//! DIR/checkpoints/OWNER/NAME      a record: files, and the ids of their chunks
//! DIR/unfinished/                 packs and records on their way
//! ```
//!
//! A chunk is a page, or the shorter end of a file, and its id is its BLAKE3 hash. A pack is written by one [`Writer`], which puts
//! into it what no pack had before. First the pack gets its name, then its index, then the record; whoever is killed in between leaves
//! chunks that the next [`Store::gc`] removes.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod chunks;
mod error;
mod index;
mod key;
mod layout;
mod pack;
mod packs;
mod parallel;
mod reader;
mod record;
mod store;
mod sweep;
mod writer;

pub use error::{Error, Result};
pub use key::{Key, KeyId};
pub use layout::CHUNK;
pub use reader::{Cursor, Opened};
pub use record::Head;
pub use store::{Listed, Store};
pub use sweep::{Collected, Problem};
pub use writer::{Compress, Like, Stored, Writer};
