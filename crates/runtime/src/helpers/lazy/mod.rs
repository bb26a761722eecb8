//! Memory that follows a container when that runs already: from the images of its checkpoint (`restore --background`), or
//! (`--lazy-pages`) from a dump that serves it to a restore that fetches it.
//!
//! ```text
//!   hiber checkpoint                                          hiber restore
//!     criu swrk <--socket--> departure <--- TCP ---> bringer <--userfaultfd--> the container
//!                                                       ^
//!                                                     images
//! ```
//!
//! The restore's side is a [page daemon](hiber_memory::page_daemon) in a process that outlives the runtime ([`bringer`]).
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
pub(super) mod bringer;
pub(crate) mod departure;
pub(crate) mod link;
pub(crate) mod on_demand;
mod peer;
pub(crate) mod record;
pub(crate) mod stored;
mod token;
mod working_set;

pub use peer::{Address, InvalidAddress};
pub(crate) use peer::{bound, connect};
pub use record::FollowingMemory;
pub use token::Token;
pub(crate) use working_set::FILE as WORKING_SET;
