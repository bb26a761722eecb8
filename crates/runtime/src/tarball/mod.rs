//! Tar in a stream, compressed and encrypted or not: what archives of checkpoints are made of.
//!
//! Both ways go once from end to end. Archives come from elsewhere: what must be read whole (long names) is read with a limit, and
//! the library's own iterator has none.

mod compression;
mod read;
mod write;

pub use compression::Compression;
pub(crate) use read::{Entry, Tar, decompress, unreadable};
pub(crate) use write::TarWriter;
