//! The images of memory that this crate writes: maps of pages and files of pages, as CRIU has them.

mod batch;
mod behind;
mod collector;
mod digest;
mod finisher;
mod page_file;
mod pages;
mod ranges;
mod receiver;
mod unwritten;

pub(crate) use batch::Batch;
pub use behind::Behind;
pub use collector::Collector;
pub(crate) use finisher::Blocks;
pub use finisher::{Finisher, Work};
pub use page_file::PageFile;
pub use pages::{Away, Pages, PagesAway, Place, REST};
pub use ranges::Ranges;
pub use receiver::{Image, Receiver, Source};
pub use unwritten::Unwritten;
