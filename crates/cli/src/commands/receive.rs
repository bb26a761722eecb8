//! `receive`

use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use anyhow::{Context, bail};
use hiber::migrate::{self, Connection, ReceiveOptions};

use super::migrate::{STALL, Stall};
use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};

flags! {
    struct ReceiveFlags {
        stdio: bool = Flag::switch("stdio", "the source is at standard input and output"),
        stall: Option<Stall> = STALL,
    }
}

pub(crate) const COMMAND: Command =
    Command::new("receive", "", "receive a container that `migrate` sends", |m| {
        Ok(Box::new(Receive { flags: ReceiveFlags::read(m)? }))
    })
    .description(
        "With --stdio, which is all that there is so far, `migrate` starts it by itself, over ssh. It ends when the\n\
         container runs here; the container's standard streams lead to /dev/null.",
    )
    .flags(ReceiveFlags::TABLE);

#[derive(Debug)]
struct Receive {
    flags: ReceiveFlags,
}

impl Run for Receive {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        if !self.flags.stdio {
            bail!("receive: expected --stdio: the source is at standard input and output");
        }
        let containers = Containers::new(cli)?;
        let copy = |fd: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3).context("duplicate the standard streams")
        };
        let (from, to) = (copy(std::io::stdin().as_fd())?, copy(std::io::stdout().as_fd())?);
        let connection = Connection::over(from, to, self.flags.stall.unwrap_or_default().0)?;
        let options =
            ReceiveOptions::default().criu(cli.global.criu.clone()).systemd_cgroup(cli.global.systemd_cgroup);
        migrate::receive(&containers.runtime, connection, &options)?;
        Ok(ExitCode::SUCCESS)
    }
}
