//! `create`, and what `run` shares with it.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use hiber::id::ContainerId;
use hiber::{CreateOptions, Start, Stdio, Task};

use crate::containers::Containers;
use crate::flags::process::{BUNDLE, CONSOLE_SOCKET, PID_FILE, PIDFD_SOCKET, PRESERVE_FDS, or_here};
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::process::foreground::connect_console;
use crate::process::notify;
use crate::process::tell::Tell;

flags! {
    /// Flags of `create`, which are some of `run`'s, too.
    pub(crate) struct CreateFlags {
        bundle: Option<PathBuf> = BUNDLE,
        console_socket: Option<PathBuf> = CONSOLE_SOCKET,
        pidfd_socket: Option<PathBuf> = PIDFD_SOCKET,
        pid_file: Option<PathBuf> = PID_FILE,
        no_pivot: bool =
            Flag::switch("no-pivot", "change the root without pivot_root; for a rootfs on a ramdisk, less safe"),
        no_new_keyring: bool =
            Flag::switch("no-new-keyring", "keep the caller's session keyring instead of making one"),
        preserve_fds: Option<u32> = PRESERVE_FDS,
    }
}

pub(crate) const COMMAND: Command = Command::on_new_container("create", "create a container", |m| {
    Ok(Box::new(Create { id: m.container()?, flags: CreateFlags::read(m)? }))
})
.description(
    "Sets a container up from a bundle: a directory with a config.json and a root filesystem. Its\n\
     process waits until `start`. The id must be new below --root.",
)
.examples(&[("create --bundle /srv/web web", "make the container web from the bundle /srv/web")])
.flags(CreateFlags::TABLE);

#[derive(Debug)]
struct Create {
    id: ContainerId,
    flags: CreateFlags,
}

impl Run for Create {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::creating(cli, self.flags.preserved())?;
        self.flags.create(cli, &containers, &self.id, Start::ByAnybody)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl CreateFlags {
    /// How many descriptors the container gets, beside those of a service manager.
    pub(super) fn preserved(&self) -> u32 {
        self.preserve_fds.unwrap_or(0)
    }

    /// Makes a container that runs without this process.
    pub(super) fn create(
        &self,
        cli: &Cli,
        containers: &Containers,
        id: &ContainerId,
        start: Start,
    ) -> anyhow::Result<Task> {
        let socket = self.console_socket.as_deref().map(connect_console).transpose()?;
        let stdio = socket.as_ref().map_or(Stdio::Inherit, |socket| Stdio::Console(socket.as_fd()));
        let tell = self.tell()?;
        let options = self.options(cli, containers.listen_fds, start, stdio);
        let task = containers.runtime.create(id, &options)?;
        let init = || task.init().context("the container has no process");
        containers.or_undo(id, init().and_then(|init| tell.tell(init)))?;
        Ok(task)
    }

    pub(crate) fn options<'a>(
        &self,
        cli: &Cli,
        listen_fds: u32,
        start: Start,
        stdio: Stdio<'a>,
    ) -> CreateOptions<'a> {
        CreateOptions::new(or_here(self.bundle.as_ref()))
            .start(start)
            .notify(notify::host().is_some())
            .systemd_cgroup(cli.global.systemd_cgroup)
            .rootless(cli.global.rootless())
            .no_pivot(self.no_pivot)
            .no_new_keyring(self.no_new_keyring)
            .listen_fds(listen_fds)
            .preserve_fds(self.preserved())
            .stdio(stdio)
    }

    /// Where the caller wants to hear of the container's process.
    pub(super) fn tell(&self) -> anyhow::Result<Tell> {
        Tell::prepare(self.pidfd_socket.as_deref(), self.pid_file.as_deref())
    }

    /// When a container of `run` starts: at once, unless somebody is to be told of it before.
    pub(super) fn start_of_run(&self) -> Start {
        let told = self.pid_file.is_some() || self.pidfd_socket.is_some() || notify::host().is_some();
        if told { Start::ByMaker } else { Start::AtOnce }
    }
}
