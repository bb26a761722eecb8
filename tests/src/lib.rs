//! The harness of the tests that drive the built binary as root on the real kernel.
//!
//! A test makes a [`Bundle`], gives it to a [`Runtime`] and gets a [`Container`], a guard that runs the
//! runtime's commands on it and leaves nothing behind when it is dropped:
//!
//! ```no_run
//! use hiber_tests::prelude::*;
//!
//! fn exit_code() {
//!     require!(Root);
//!     let container = Runtime::hiber().container(Bundle::busybox().args(["sh", "-c", "exit 7"]));
//!     container.run(&[]).exited(7);
//!     container.assert_clean();
//! }
//! ```
//!
//! Every container has a unique name, which is its id, the name of its cgroup and part of its bundle's
//! path, so that tests run side by side and [`leaks`] are found by name.
#![forbid(unsafe_code)]

pub mod agent;
pub mod apparmor;
pub mod bundle;
pub mod cgroup;
pub mod command;
pub mod container;
pub mod documents;
pub mod leaks;
pub mod pipes;
pub mod programs;
pub mod pty;
pub mod require;
pub mod runtime;
pub mod tmpfs;
pub mod tools;
pub mod user;

/// The imports of nearly every test.
pub mod prelude {
    pub use crate::bundle::Bundle;
    pub use crate::command::{Output, Spawned};
    pub use crate::container::Container;
    pub use crate::require;
    pub use crate::runtime::Runtime;
    pub use crate::user::PlainUser;
    pub use crate::wait_for;
    pub use serde_json::{Value, json};
}

use std::time::{Duration, Instant};

/// How long anything that a test waits for may take. Generous: it is reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long something may take here that takes no longer than `limit` on an idle machine: `HIBER_PATIENCE` says how many times as
/// long, as of an emulated machine on a busy one.
pub fn patience(limit: Duration) -> Duration {
    let times = std::env::var("HIBER_PATIENCE").ok().and_then(|times| times.parse().ok());
    limit * times.unwrap_or(1)
}

/// Asks `condition` until it holds.
///
/// # Panics
/// With `what` if it does not hold within [`PATIENCE`].
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = patience(PATIENCE);
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "waited {limit:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
