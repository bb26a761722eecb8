//! The command line of `hiber`: runc's, so that clients of runc can drive it unchanged.
//!
//! ```text
//! line::scan ── line::parse ── commands ──┬── the library
//!     │             │                     └── output
//! flags: declared once, with type and help; documents (help, man, completion) read the declarations
//! ```
//! Parsing looks at nothing but the arguments; [`root`], [`containers`] and the commands look at the machine.
#![forbid(unsafe_code)]

mod asleep;
mod commands;
mod containers;
mod documents;
mod flags;
mod keeper;
mod line;
mod log;
mod output;
mod process;
mod root;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use commands::COMMANDS;
use documents::help;
use line::parse::{Action, Help, Invocation, UsageError, parse};
use output::out;

#[global_allocator]
static ALLOCATOR: hiber_sys::allocator::Allocator = hiber_sys::allocator::ALLOCATOR;

fn main() -> ExitCode {
    hiber::run_init_if_asked();
    let parsed = parse(std::env::args_os(), COMMANDS);
    let cli = match &parsed {
        Ok(invocation) => &invocation.cli,
        Err(e) => &*e.cli,
    };
    if let Err(message) = log::init(&cli.global) {
        log::fatal(&message);
        return ExitCode::FAILURE;
    }
    match parsed {
        Ok(invocation) => run(&invocation),
        Err(e) => refuse(&e),
    }
}

fn run(invocation: &Invocation) -> ExitCode {
    let cli = &invocation.cli;
    let printed = |text: String| Ok(out::write(&text).map(|()| ExitCode::SUCCESS)?);
    let (result, failure) = match &invocation.action {
        Action::Version => (printed(version(&cli.program)), None),
        Action::Help(topic) => (printed(help::render(cli, *topic)), None),
        Action::Run(command, run) => (run.run(cli), Some(command.failure)),
    };
    result.unwrap_or_else(|mut error: anyhow::Error| {
        if let Some(prefix) = failure.and_then(|failure| failure.prefix) {
            error = error.context(prefix);
        }
        let message = chain(&error);
        if message.starts_with("exec /") && cli.global.log.is_none() {
            // The container's process itself reports errors of execve(2), on its standard error, as runc's does.
            log::plain(&message);
        } else {
            log::fatal(&message);
        }
        failure.map_or(ExitCode::FAILURE, |failure| failure.status.into())
    })
}

/// Logs what is wrong with a command line, after the help that goes with it.
fn refuse(e: &UsageError) -> ExitCode {
    let topic = match e.help {
        Help::No => None,
        Help::Program => Some(None),
        Help::Command(command) => Some(Some(command)),
    };
    if let Some(topic) = topic {
        // the error itself is what matters, and comes last
        let _ = out::write(&format!("Incorrect Usage.\n\n{}\n", help::render(&e.cli, topic)));
    }
    log::fatal(&e.message);
    ExitCode::from(e.status)
}

/// An error and its causes, in the kernel's words and Go's spelling of them: `open /a: no such file or directory`.
fn chain(error: &anyhow::Error) -> String {
    let text = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref() {
        Some(e) => hiber_sandbox::error::plain(e),
        None => cause.to_string(),
    };
    error.chain().map(text).collect::<Vec<_>>().join(": ")
}

/// runc's lines, which clients pick by their first word. The commit is what hack/build, or whoever else builds, says.
fn version(program: &str) -> String {
    let commit = option_env!("HIBER_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    format!(
        "{program} version {}\ncommit: {commit}\nspec: {}\n",
        env!("CARGO_PKG_VERSION"),
        hiber::spec::OCI_VERSION
    )
}
