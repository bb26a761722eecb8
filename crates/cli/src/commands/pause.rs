//! `pause`

use std::process::ExitCode;

use hiber::id::ContainerId;

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};

pub(crate) const COMMAND: Command =
    Command::on_container("pause", "freeze all processes of a container", |m| {
        Ok(Box::new(Pause { id: m.container()? }))
    })
    .description("They stay frozen until `resume`. A container that is not running is refused.");

#[derive(Debug)]
struct Pause {
    id: ContainerId,
}

impl Run for Pause {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        Containers::new(cli)?.task(&self.id)?.pause()?;
        Ok(ExitCode::SUCCESS)
    }
}
