//! `features`

use std::process::ExitCode;

use hiber::features;

use crate::line::command::{Cli, Command, Run};
use crate::output::out;

pub(crate) const COMMAND: Command =
    Command::new("features", "", "show what this runtime supports, as JSON", |_| Ok(Box::new(Features)))
        .description("The document is defined by the OCI runtime specification (features.md).");

#[derive(Debug)]
struct Features;

impl Run for Features {
    fn run(&self, _: &Cli) -> anyhow::Result<ExitCode> {
        out::write(&features::document(&features::built())?)?;
        Ok(ExitCode::SUCCESS)
    }
}
