//! The images of memory that this crate writes: maps of pages and files of pages, as CRIU has them.

mod page_file;
mod ranges;
mod receiver;

pub use page_file::PageFile;
pub use ranges::Ranges;
pub use receiver::{Receiver, Source};
