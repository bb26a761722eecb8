//! The command line of `hiber`: runc's, so that clients of runc can drive it unchanged.
//!
//! ```text
//! table ─┬─ scan ── parse ── Invocation ── dispatch ── the library
//!        └─ help, man, completion             └─ output ── out
//! ```
//! Parsing looks at nothing but the arguments; [`root`] and [`dispatch`] look at the machine.
#![forbid(unsafe_code)]

mod args;
mod checkpoint;
mod checkpoints;
mod commands;
mod completion;
mod dispatch;
mod events;
mod exec_process;
mod foreground;
mod help;
mod inspect;
mod log;
mod man;
mod out;
mod output;
mod parse;
mod preflight;
mod refusal;
mod resources;
mod root;
mod scan;
mod table;
mod tell;
#[cfg(test)]
mod tests;
mod value;

use std::ffi::OsString;
use std::process::ExitCode;

use parse::Help;

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    hiber::run_init_if_asked();
    run(std::env::args_os())
}

/// An error and its causes, in the kernel's words and Go's spelling of them: `open /a: no such file or directory`.
fn chain(error: &anyhow::Error) -> String {
    let text = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref() {
        Some(e) => hiber_sandbox::error::plain(e),
        None => cause.to_string(),
    };
    error.chain().map(text).collect::<Vec<_>>().join(": ")
}

/// The whole program but for the process's end.
fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let parsed = parse::parse(args);
    let global = match &parsed {
        Ok(invocation) => &invocation.global,
        Err(e) => &e.global,
    };
    if let Err(message) = log::init(global) {
        log::fatal(&message);
        return ExitCode::FAILURE;
    }
    let global_log_is_stderr = global.log.is_none();
    match parsed {
        Ok(invocation) => dispatch::run(invocation).unwrap_or_else(|failure| {
            let message = chain(&failure.error);
            if message.starts_with("exec /") && global_log_is_stderr {
                // What execve(2) refuses the container's process says itself, on its standard error, as runc's does.
                log::plain(&message);
            } else {
                log::fatal(&message);
            }
            ExitCode::from(failure.status)
        }),
        Err(e) => {
            let topic = match e.help {
                Help::No => None,
                Help::Program => Some(None),
                Help::Command(command) => Some(Some(command)),
            };
            if let Some(topic) = topic {
                // the error itself is what matters, and comes last
                let _ =
                    out::write(&format!("Incorrect Usage.\n\n{}\n", help::render(&e.global.program, topic)));
            }
            log::fatal(&e.message);
            ExitCode::from(e.status)
        }
    }
}
