//! This program as its own helper: [`Program`] has the table. Three more helpers have other ways to be asked: a container's init (in
//! hiber-sandbox), and CRIU's tar and ip.

pub(crate) mod guard;
pub(crate) mod ip;
pub(crate) mod lazy;
pub(crate) mod leftovers;
mod program;
pub(crate) mod restore_guard;
pub(crate) mod stand_in;
#[cfg(feature = "archive")]
pub(crate) mod tar;
pub(crate) mod to_guard;
pub(crate) mod unfinished;

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use program::Program;

/// Whether `main` has called [`run_init_if_asked`](crate::run_init_if_asked).
static ASKED: AtomicBool = AtomicBool::new(false);

/// Acts as a helper if the program's name or arguments say so, and then does not return.
pub(crate) fn run_if_asked() {
    // Each look at the arguments copies all of them.
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    match name.as_deref().and_then(OsStr::to_str) {
        #[cfg(feature = "archive")]
        Some(tar::NAME) => tar::run(&arguments.collect::<Vec<_>>()),
        Some(ip::NAME) => ip::run(&arguments.collect::<Vec<_>>()),
        _ => {}
    }
    let program = arguments.next().as_deref().and_then(Program::named);
    if program.is_some_and(|program| run(program, arguments.next()).is_some()) {
        std::process::exit(0);
    }
    ASKED.store(true, Ordering::Relaxed);
}

/// None if the task is none, so that this is no helper.
fn run(program: Program, task: Option<OsString>) -> Option<()> {
    match program {
        Program::CheckpointGuard => {
            let watch = decode(task)?;
            guard::run(program::channel()?, &watch);
        }
        Program::RestoreGuard => {
            let cgroup = decode(task)?;
            restore_guard::run(program::channel()?, cgroup);
        }
        Program::MemoryDeparture => lazy::departure::run(program::channel()?),
        Program::MemoryArrival => lazy::bringer::run(program::channel()?),
    }
    Some(())
}

fn decode<T: DeserializeOwned>(task: Option<OsString>) -> Option<T> {
    serde_json::from_slice(task?.as_encoded_bytes()).ok()
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
