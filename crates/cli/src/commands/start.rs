//! `start`

use std::process::ExitCode;

use hiber::id::ContainerId;

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};
use crate::process::notify;

pub(crate) const COMMAND: Command =
    Command::on_container("start", "start the process of a created container", |m| {
        Ok(Box::new(Start { id: m.container()? }))
    });

#[derive(Debug)]
struct Start {
    id: ContainerId,
}

impl Run for Start {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        notify::start(&Containers::new(cli)?.task(&self.id)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
