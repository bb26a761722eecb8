//! Processes as they are from outside: stopped, asked, and made to do what only they can do for themselves.
//!
//! It knows processes and CRIU's images of their memory, not containers. [`call`] has a stopped thread make a system call;
//! [`track`] tells what a running process writes, [`copy`] copies memory while it is written, and [`images`] takes the rest from a
//! dump and writes the images.
//! [`page_daemon`] brings the memory of restored processes while they run.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod call;
pub mod copy;
mod error;
pub mod images;
pub mod page_daemon;
mod registers;
mod remote;
mod stop;
pub mod track;

pub use call::{Stopped, StoppedProcess};
pub use error::{Error, Result};
pub use stop::Seized;
