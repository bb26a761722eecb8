//! `run`

use std::process::ExitCode;

use anyhow::{Context, bail};
use hiber::id::ContainerId;
use hiber::{Stdio, Task};

use super::create::CreateFlags;
use crate::containers::Containers;
use crate::flags::process::{DETACH, NO_SUBREAPER};
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::process::foreground::{self, Console, Signals};
use crate::process::notify;
use crate::process::tell::Tell;

flags! {
    pub(crate) struct RunFlags {
        create: CreateFlags = Flag::group(),
        detach: bool = DETACH,
        keep: bool = Flag::switch("keep", "do not delete the container when it has ended"),
        no_subreaper: bool = NO_SUBREAPER,
    }
}

pub(crate) const COMMAND: Command =
    Command::on_new_container("run", "create a container and start it", |m| {
        Ok(Box::new(RunCommand { id: m.container()?, flags: RunFlags::read(m)? }))
    })
    .description(
        "Without --detach it stays in the foreground, passes signals on, and exits with the status of the\n\
         container's first process. process.args of config.json names the program; `spec` writes a config.json\n\
         to start from. With --detach the configuration's process.terminal must be false, or --console-socket\n\
         be given.",
    )
    .examples(&[("run --bundle /srv/web --detach web", "make web and let it run")])
    .flags(RunFlags::TABLE);

#[derive(Debug)]
struct RunCommand {
    id: ContainerId,
    flags: RunFlags,
}

impl Run for RunCommand {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let (id, create) = (&self.id, &self.flags.create);
        let containers = Containers::creating(cli, create.preserved())?;
        if self.flags.detach {
            let task = create.create(cli, &containers, id, create.start_of_run())?;
            containers.or_undo(id, notify::start(&task))?;
            return Ok(ExitCode::SUCCESS);
        }
        if !self.flags.no_subreaper {
            foreground::become_subreaper();
        }
        let signals = Signals::block()?;
        if create.console_socket.is_some() {
            bail!("cannot use console socket if hiber will not detach or allocate tty");
        }
        let tell = create.tell()?;
        let options = create.options(cli, containers.listen_fds, create.start_of_run(), Stdio::Attended);
        let task = containers.runtime.create(id, &options)?;
        let attended = attend(tell, &task, &signals);
        if attended.is_err() || !self.flags.keep {
            match task.force_delete() {
                // A checkpoint may have taken it down meanwhile.
                Ok(_) | Err(hiber::Error::NotFound) => {}
                Err(e) if attended.is_ok() => return Err(e.into()),
                Err(_) => {}
            }
        }
        attended.map(ExitCode::from)
    }
}

/// Starts a new container and stays until its first process ends.
fn attend(tell: Tell, task: &Task, signals: &Signals) -> anyhow::Result<u8> {
    let init = task.init().context("the container has no process")?;
    let console = Console::of(init)?;
    tell.tell(init)?;
    notify::start_attended(task)?;
    foreground::attend(init, signals, console, &|signal| drop(task.kill(signal)))
}
