//! Memory that follows a container later (`--lazy-pages`), between a dump that serves it and a restore that fetches it.
//!
//! ```text
//!   hiber checkpoint                                          hiber restore
//!     criu swrk <--socket--> departure <--- TCP ---> arrival <--socket--> criu lazy-pages
//! ```
//!
//! CRIU alone would lose containers here (see [`hiber_criu::page_relay`]): so the connection is made by us, and each end
//! has a process of its own, which outlives a runtime that is killed. Only when the destination has everything, the
//! source's container ends; in every other case it runs on, its checkpoint is withdrawn, and the restored half of it is
//! killed, since memory that does not come any more would read as zeros.
//!
//! Anybody may connect to the source. Only who shows the token of the checkpoint's manifest, and so has its images, is
//! heard ([`admission`]).

mod admission;
pub(crate) mod arrival;
pub(crate) mod departure;
mod peer;
mod process;
mod token;

use std::ffi::OsStr;

pub use peer::Address;
pub(crate) use peer::{bound, connect};
pub use token::Token;

use process::asked;

/// Acts as one of the processes if the first argument says so, and then does not return.
pub(crate) fn run_if_asked(argument: Option<&OsStr>) {
    if let Some(socket) = asked(argument, departure::ARGUMENT) {
        departure::run(socket);
        std::process::exit(0);
    }
    if let Some(socket) = asked(argument, arrival::ARGUMENT) {
        arrival::run(socket);
        std::process::exit(0);
    }
}
