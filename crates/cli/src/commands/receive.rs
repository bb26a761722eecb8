//! `receive`

use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use hiber::migrate::{self, Connection, Identity, ReceiveOptions, Rootfs};

use super::migrate::{STALL, Stall};
use crate::containers::Containers;
use crate::flags::identity::IdentityFlags;
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::process::listener;

flags! {
    struct ReceiveFlags {
        stdio: bool = Flag::switch("stdio", "the source is at standard input and output"),
        listen: Option<String> =
            Flag::value("listen", "ADDRESS:PORT", "sources connect there, by TLS: any number, until SIGTERM"),
        identity: IdentityFlags = Flag::group(),
        rootfs: Option<Rootfs> = Flag::value(
            "rootfs",
            "HOW",
            "sync: sources may bring bundles, which say what runs here as root; same: they are here (default: sync with --stdio, same with --listen)",
        ),
        stall: Option<Stall> = STALL,
        accepted: bool =
            Flag::switch(listener::ACCEPTED, "a source has connected to --listen: to standard input").hidden(),
    }
}

pub(crate) const COMMAND: Command =
    Command::new("receive", "", "receive containers that `migrate` sends", |m| {
        Ok(Box::new(Receive { flags: ReceiveFlags::read(m)? }))
    })
    .description(
        "With --stdio one: `migrate` starts it by itself, over ssh. It ends when the container runs here.\n\n\
         With --listen all that come to this address by `migrate ID tls://HOST:PORT`, each in a process of its own:\n\
         from those that show a certificate of the CA in --ca, which may send any container. The certificate in --cert\n\
         has to be for the HOST by which sources reach this machine. The files are read for each connection. At SIGTERM\n\
         or SIGINT it accepts nothing more, and ends when the migrations under way have ended; a second one ends it at\n\
         once, and the migrations go on without it.\n\n\
         The container's standard streams lead to /dev/null.",
    )
    .examples(&[(
        "receive --listen 0.0.0.0:4711 --cert b.pem --key b.key --ca ca.pem",
        "receive all containers that machines with a certificate of this CA send",
    )])
    .flags(ReceiveFlags::TABLE);

#[derive(Debug)]
struct Receive {
    flags: ReceiveFlags,
}

/// Where sources are.
enum From<'a> {
    Stdio,
    Address(&'a str, Identity),
}

impl Receive {
    fn from(&self) -> anyhow::Result<From<'_>> {
        match (self.flags.stdio, &self.flags.listen, self.flags.identity.identity()?) {
            (true, None, None) => Ok(From::Stdio),
            (false, Some(address), Some(identity)) => Ok(From::Address(address, identity)),
            (false, Some(_), None) => bail!("receive: --listen needs --cert, --key and --ca"),
            (_, None, Some(_)) => bail!("receive: --cert, --key and --ca belong to --listen"),
            _ => bail!("receive: expected either --stdio or --listen ADDRESS:PORT"),
        }
    }

    fn stall(&self) -> Duration {
        self.flags.stall.unwrap_or_default().0
    }

    /// Serves one source.
    fn serve(&self, cli: &Cli, connect: impl FnOnce() -> anyhow::Result<Connection>) -> anyhow::Result<()> {
        let containers = Containers::new(cli)?;
        let usual = if self.flags.stdio { Rootfs::Sync } else { Rootfs::Same };
        let options = ReceiveOptions::default()
            .criu(cli.global.criu.clone())
            .systemd_cgroup(cli.global.systemd_cgroup)
            .rootfs(self.flags.rootfs.unwrap_or(usual));
        migrate::receive(&containers.runtime, connect()?, &options)?;
        Ok(())
    }

    fn over_stdio(&self) -> anyhow::Result<Connection> {
        let copy = |fd: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3).context("duplicate the standard streams")
        };
        let (from, to) = (copy(std::io::stdin().as_fd())?, copy(std::io::stdout().as_fd())?);
        Ok(Connection::over(from, to, self.stall())?)
    }
}

impl Run for Receive {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        match self.from()? {
            From::Stdio => self.serve(cli, || self.over_stdio())?,
            From::Address(_, identity) if self.flags.accepted => {
                let socket = listener::accepted()?;
                let peer = socket.peer_addr().map_or_else(|e| e.to_string(), |peer| peer.to_string());
                self.serve(cli, || Ok(Connection::accept(socket, &identity, self.stall())?))
                    .with_context(|| format!("from {peer}"))?;
            }
            From::Address(address, identity) => {
                identity.check()?;
                listener::listen(address)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
