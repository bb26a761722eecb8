//! `containerd-shim-hiber-v2`: containerd's task service (versions 2 and 3 of it) on the library.
//!
//! containerd runs it as `start`, in a container's bundle. That starts the program again as the shim of the container,
//! or finds the shim of its pod, and prints the address of a ttrpc socket. The shim is the parent of its containers'
//! processes and carries their streams; it outlives containerd, which finds it again by the address in the bundle.
#![forbid(unsafe_code)]

mod args;
mod bootstrap;
mod checkpoint;
mod error;
mod info;
mod io;
mod log;
mod mapped;
mod metrics;
mod mount;
mod options;
mod process;
mod publish;
mod requests;
mod rpc;
mod serve;
mod service;
mod task;
mod waiter;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use args::{Action, Args};
use error::{Context, Result, chain};

fn main() -> ExitCode {
    hiber::run_init_if_asked();
    let mut all = std::env::args_os();
    let name = all.next().unwrap_or_default();
    let result =
        Args::parse(all).map_err(|e| e.to_string()).and_then(|args| run(&args).map_err(|e| chain(&e)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e}");
            // containerd shows what `start` and `delete` say; of a shim nobody sees it.
            let _ = writeln!(std::io::stderr(), "{}: {e}", std::path::Path::new(&name).display());
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    match args.action {
        Action::Start => bootstrap::start(args),
        Action::Delete => bootstrap::delete(args),
        Action::Serve => serve::serve(args),
        Action::Version => print(&format!("containerd-shim-hiber-v2 {}\n", env!("CARGO_PKG_VERSION"))),
        Action::Info => info::print(),
        Action::Help => print(&args::help()),
    }
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}
