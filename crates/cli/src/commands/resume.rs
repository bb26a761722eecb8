//! `resume`

use std::process::ExitCode;

use hiber::id::ContainerId;

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};

pub(crate) const COMMAND: Command =
    Command::on_container("resume", "let the processes of a paused container run on", |m| {
        Ok(Box::new(Resume { id: m.container()? }))
    });

#[derive(Debug)]
struct Resume {
    id: ContainerId,
}

impl Run for Resume {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        Containers::new(cli)?.task(&self.id)?.resume()?;
        Ok(ExitCode::SUCCESS)
    }
}
