//! This program as its own helper: a container's init (in hiber-sandbox), a checkpoint's guard, CRIU's tar, and the two
//! processes between which memory follows a container.

pub(crate) mod guard;
pub(crate) mod lazy;
pub(crate) mod leftovers;
#[cfg(feature = "archive")]
pub(crate) mod tar;
pub(crate) mod unfinished;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Whether `main` has called [`run_init_if_asked`](crate::run_init_if_asked).
static ASKED: AtomicBool = AtomicBool::new(false);

/// Records the call, in a process that is no helper.
pub(crate) fn asked() {
    ASKED.store(true, Ordering::Relaxed);
}

/// Refuses operations that need helpers in a program that would not act as one: its `main` would run again, as process 1 of the
/// container.
pub(crate) fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let why = "its main does not begin with hiber::run_init_if_asked()";
    Err(Error::internal("this program cannot act as its containers' init", why))
}
