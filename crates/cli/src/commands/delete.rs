//! `delete`

use std::process::ExitCode;

use hiber::id::ContainerId;

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};

flags! {
    struct DeleteFlags {
        force: bool =
            Flag::switch("force", "kill it first if it runs; no error if it does not exist").short("f"),
    }
}

pub(crate) const COMMAND: Command =
    Command::on_container("delete", "delete a container and all that it holds", |m| {
        Ok(Box::new(Delete { id: m.container()?, flags: DeleteFlags::read(m)? }))
    })
    .description("A running container is refused without --force.")
    .examples(&[("delete web", "remove web, which has stopped")])
    .flags(DeleteFlags::TABLE);

#[derive(Debug)]
struct Delete {
    id: ContainerId,
    flags: DeleteFlags,
}

impl Run for Delete {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
        if self.flags.force {
            containers.runtime.force_delete(&self.id)?;
        } else {
            containers.task(&self.id)?.delete()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
