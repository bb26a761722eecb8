//! `start`

use std::process::ExitCode;

use hiber::id::ContainerId;

use crate::line::command::{Cli, Command, Run};
use crate::process::notify;
use crate::session::Session;

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
        notify::start(&Session::new(cli)?.task(&self.id)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
