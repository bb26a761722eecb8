//! Processes as they are from outside: stopped, asked, and made to do what only they can do for themselves.
//!
//! It knows processes, not containers. [`call`] has a stopped thread make a system call.
#![forbid(unsafe_code)]

pub mod call;
mod error;
mod registers;
mod stop;

pub use call::Stopped;
pub use error::{Error, Result};
pub use stop::Seized;
