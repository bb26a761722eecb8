//! `wait-memory`

use std::process::ExitCode;

use hiber::id::ContainerId;

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};

pub(crate) const COMMAND: Command =
    Command::on_container("wait-memory", "wait until the memory of a restored container is all there", |m| {
        Ok(Box::new(WaitMemory { id: m.container()? }))
    })
    .description(
        "Memory follows a container that was restored with --background or from a page server. Returns at once for\n\
         others. The exit status is 1 if memory does not come any more, with the reason; the container was ended then.",
    );

#[derive(Debug)]
struct WaitMemory {
    id: ContainerId,
}

impl Run for WaitMemory {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        Containers::new(cli)?.task(&self.id)?.wait_for_memory()?;
        Ok(ExitCode::SUCCESS)
    }
}
