//! `migrate`

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use hiber::id::ContainerId;
use hiber::migrate::{
    self, Compress, Destination, Identity, MigrateOptions, OnMiss, PostCopied, ResolveOptions, Rootfs,
};
use hiber::{CheckpointOptions, Decision, NetworkLock, PreCopyMode};
use serde_json::json;

use super::update::bytes;
use crate::containers::Containers;
use crate::flags::criu::{
    ACCEPT, Contents, LINK_REMAP, MAX_ROUNDS, NETWORK_LOCK, Names, PRE_COPY, PreCopyFlags, Rounds, TCP_CLOSE,
    TCP_SKIP_IN_FLIGHT, names,
};
use crate::flags::identity::IdentityFlags;
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flag, Flags, Value, flags};
use crate::line::refusal::{Refusal, excludes};
use crate::line::scan::Matches;
use crate::line::shape::Argument;
use crate::line::value::Format;
use crate::output::out;
use crate::output::progress::Shown;

/// A time that the other end may be silent, more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stall(pub(super) Duration);

impl Default for Stall {
    fn default() -> Self {
        Self(MigrateOptions::default().stall)
    }
}

impl Value for Stall {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        match Duration::read(flag, text)? {
            Duration::ZERO => Err(Refusal::value(format!("--{flag} 0: expected more than no time"))),
            time => Ok(Self(time)),
        }
    }
}

/// Bytes in a second, more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bandwidth(u64);

impl Value for Bandwidth {
    fn read(flag: &str, value: &OsStr) -> Result<Self, Refusal> {
        let rate = value.to_str().and_then(bytes).and_then(|rate| u64::try_from(rate).ok());
        rate.filter(|rate| *rate > 0).map(Self).ok_or_else(|| {
            Refusal::value(format!(
                "invalid value {value:?} for flag -{flag}: expected bytes in a second, such as 100M"
            ))
        })
    }
}

pub(super) const STALL: Flag<Option<Stall>> =
    Flag::value("stall", "TIME", "how long the other end may neither send nor take anything (default: 10s)");

flags! {
    struct MigrateFlags {
        new_id: Option<ContainerId> =
            Flag::value("id", "NEWID", "what the container is called there (default: as here)"),
        bundle: Option<PathBuf> =
            Flag::value("bundle", "DIR", "the bundle's directory there (default: as here)").short("b"),
        rootfs: Option<Rootfs> = Flag::value(
            "rootfs",
            "HOW",
            "same: the bundle is there, as here; sync: it is sent, with its root filesystem (default: same)",
        ),
        receiver: Option<String> =
            Flag::value("receiver", "COMMAND", "what ssh runs there (default: hiber receive --stdio)"),
        dry_run: bool = Flag::switch("dry-run", "only ask both ends whether it could be done"),
        resolve: bool =
            Flag::switch("resolve", "end the doubt about a migration that was cut off, at either end"),
        identity: IdentityFlags = Flag::group(),
        stall: Option<Stall> = STALL,
        max_downtime: Option<Duration> = Flag::value(
            "max-downtime",
            "TIME",
            "how long the container may stand still: memory is sent in rounds until the rest fits (default: 300ms)",
        ),
        on_miss: Option<OnMiss> = Flag::value(
            "on-miss",
            "WHAT",
            "if the rest does not fit after the last round: abort, so that it runs on here; force; or post-copy (default: abort)",
        ),
        post_copy: bool = Flag::switch(
            "post-copy",
            "let it run there at once: its memory follows, without rounds; until all is there, a failure of either end loses it",
        ),
        bandwidth: Option<Bandwidth> =
            Flag::value("bandwidth", "RATE", "bytes of memory, and of the root filesystem, that are sent in a second at most, such as 100M"),
        compress: Option<Compress> = Flag::value(
            "compress",
            "HOW",
            "zstd, lz4, none, or auto: by zstd if that is quicker, as is measured on the way (default: auto)",
        ),
        contents: Contents = Flag::group(),
        tcp_skip_in_flight: bool = TCP_SKIP_IN_FLIGHT,
        tcp_close: Option<bool> = TCP_CLOSE,
        link_remap: bool = LINK_REMAP,
        network_lock: Option<NetworkLock> = NETWORK_LOCK,
        pre_copy: Option<PreCopyMode> = PRE_COPY,
        max_rounds: Option<Rounds> = MAX_ROUNDS,
        accept: Vec<Names> = ACCEPT,
        format: Option<Format> = Flag::value(
            "format",
            "FORMAT",
            "table (a bar at a terminal, lines elsewhere) or json (a line for each phase, and each second; default: table)",
        )
        .short("f"),
    }
}

pub(crate) const COMMAND: Command = Command::new(
    "migrate",
    "<container-id> <destination>",
    "move a running container to another machine",
    |m| Ok(Box::new(Migrate::read(m)?)),
)
.description(
    "The destination is ssh://[USER@]HOST[:PORT], where ssh runs `hiber receive --stdio`; tls://HOST:PORT, where a\n\
     `hiber receive --listen` has to run, and both ends show certificates; or exec:COMMAND, any command whose\n\
     standard streams lead to a `receive --stdio`. The bundle must be there already, unless --rootfs sync\n\
     sends it.\n\n\
     Both ends are asked first whether it could be done. Then the container is checkpointed, its images go over, and\n\
     it stays frozen here until the destination has restored it: one copy runs at any time, and one survives. If\n\
     anything fails before that, it runs on here. If the two lose each other at the moment of the decision, the copy\n\
     at the destination stays frozen until `migrate --resolve ID` is run, here (which tells it) or there (with where\n\
     this machine is, which asks). No memory is written to a disk.\n\n\
     A container that writes its memory faster than it can be sent is not moved, unless you choose otherwise.\n\
     By --on-miss force it stands still for longer. By --on-miss post-copy, or from the beginning by --post-copy, it\n\
     runs there before its memory is there. Pages that it touches come first, and meanwhile all others. Until the\n\
     last one has arrived, both ends and the connection are needed: if one of them fails, the container has ended\n\
     there, and does not run on here. It is lost then, and so post-copy is not the default.",
)
.examples(&[
    ("migrate --tcp-established web ssh://other.example.org", "move web, with its connections"),
    (
        "migrate --cert a.pem --key a.key --ca ca.pem web tls://other.example.org:4711",
        "move web to a machine where `receive --listen` runs",
    ),
    ("migrate --rootfs sync --bundle /srv/web web ssh://other.example.org", "move web with its bundle"),
    ("migrate --dry-run web ssh://other.example.org", "ask whether that would work"),
])
.flags(MigrateFlags::TABLE)
.takes(Count::Between(1, 2), &[Argument::Container, Argument::Other]);

#[derive(Debug)]
struct Migrate {
    id: ContainerId,
    /// With `--resolve` where the other end is, if it is not where the container went.
    destination: Option<Destination>,
    flags: MigrateFlags,
}

impl Migrate {
    fn read(m: &Matches) -> Result<Self, Refusal> {
        let (id, flags) = (m.container()?, MigrateFlags::read(m)?);
        let destination =
            m.positionals.get(1).map(|text| Destination::read("destination", text)).transpose()?;
        if destination.is_none() && !flags.resolve {
            let why = "migrate: a destination is missing: ssh://[USER@]HOST[:PORT], tls://HOST:PORT or exec:COMMAND";
            return Err(Refusal::value(why));
        }
        let moves = [
            ("id", flags.new_id.is_some()),
            ("bundle", flags.bundle.is_some()),
            ("rootfs", flags.rootfs.is_some()),
            ("dry-run", flags.dry_run),
            ("post-copy", flags.post_copy),
            ("tcp-established", flags.contents.tcp_established.is_some()),
            ("tcp-close", flags.tcp_close.is_some()),
        ];
        excludes("resolve", flags.resolve, &moves, ": nothing moves")?;
        if flags.post_copy && flags.pre_copy == Some(PreCopyMode::On) {
            return Err(Refusal::value(
                "--post-copy and --pre-copy on exclude each other: nothing is copied before",
            ));
        }
        Ok(Self { id, destination, flags })
    }

    /// Tells people who can still think about it what post-copy may cost.
    fn warn(&self) {
        let when = match (self.flags.post_copy, self.flags.on_miss) {
            (true, _) => "from then on",
            (false, Some(OnMiss::PostCopy)) => "if it comes to post-copy, from then on",
            _ => return,
        };
        if std::io::stderr().is_terminal() && !self.flags.dry_run {
            let id = &self.id;
            let _ = writeln!(
                std::io::stderr(),
                "{id} runs there before all of its memory is there: {when} {id} is lost if either machine or the connection \
                 fails before the last page has arrived"
            );
        }
    }

    /// The files that show who this end is, for TLS. A migration that is resolved may know them itself.
    fn identity(&self) -> anyhow::Result<Option<Identity>> {
        let identity = self.flags.identity.identity()?;
        match &self.destination {
            Some(Destination::Tls { .. }) if identity.is_none() && !self.flags.resolve => {
                bail!("migrate: tls:// needs --cert, --key and --ca")
            }
            Some(Destination::Ssh { .. } | Destination::Command(_)) if identity.is_some() => {
                bail!("migrate: --cert, --key and --ca belong to tls://")
            }
            _ => Ok(identity),
        }
    }

    fn options(&self, cli: &Cli) -> anyhow::Result<MigrateOptions> {
        let flags = &self.flags;
        let mut criu = flags.contents.options(&cli.global);
        (criu.tcp_close, criu.network_lock) = (flags.tcp_close, flags.network_lock);
        let pre_copy = PreCopyFlags { mode: flags.pre_copy, max_rounds: flags.max_rounds, max_frozen: None };
        let checkpoint = CheckpointOptions::default()
            .criu(criu)
            .tcp_skip_in_flight(flags.tcp_skip_in_flight)
            .link_remap(flags.link_remap)
            .pre_copy(pre_copy.options())
            .accept(names(&flags.accept));
        let mut options = MigrateOptions::default()
            .id(flags.new_id.clone())
            .bundle(flags.bundle.clone())
            .rootfs(flags.rootfs.unwrap_or_default())
            .identity(self.identity()?)
            .stall(flags.stall.unwrap_or_default().0)
            .dry_run(flags.dry_run)
            .on_miss(flags.on_miss.unwrap_or_default())
            .post_copy(flags.post_copy)
            .bandwidth(flags.bandwidth.map(|Bandwidth(rate)| rate))
            .compress(flags.compress.unwrap_or_default())
            .checkpoint(checkpoint);
        if let Some(max_downtime) = flags.max_downtime {
            options.max_downtime = max_downtime;
        }
        if let Some(receiver) = &flags.receiver {
            options.receiver.clone_from(receiver);
        }
        Ok(options)
    }

    fn resolve(&self, containers: &Containers) -> anyhow::Result<ExitCode> {
        let (id, flags) = (&self.id, &self.flags);
        let options = ResolveOptions::default()
            .other(self.destination.clone())
            .receiver(flags.receiver.clone())
            .identity(self.identity()?)
            .stall(flags.stall.unwrap_or_default().0);
        match migrate::resolve(&containers.runtime, id, &options)? {
            Decision::Committed => self.say(&format!("{id} is the destination's")),
            Decision::Aborted => self.say(&format!("{id} is the source's")),
            Decision::Open => bail!("the migration of {id} is not decided yet: somebody is still at it"),
            Decision::Unknown => bail!(
                "the source knows nothing of the migration of {id}: look whether the container runs there; if not, \
                 `delete --force {id}` removes the copy"
            ),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// To people.
    fn say(&self, text: &str) {
        if self.flags.format.unwrap_or_default() == Format::Table {
            let _ = out::write(&format!("{text}\n"));
        }
    }
}

impl Run for Migrate {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
        if self.flags.resolve {
            return self.resolve(&containers);
        }
        let destination = self.destination.as_ref().context("migrate: a destination is missing")?;
        let task = containers.task(&self.id)?;
        self.warn();
        let mut shown = Shown::new(self.flags.format.unwrap_or_default());
        let migrated = task.migrate(destination, self.options(cli)?, move |phase| shown.show(phase))?;
        if self.flags.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        let (downtime, total) = (migrated.downtime.as_millis(), migrated.total.as_millis());
        if self.flags.format == Some(Format::Json) {
            let mut done = json!({
                "phase": "done", "bytes": migrated.bytes, "rounds": migrated.rounds, "confirmed": migrated.confirmed,
                "downtimeMilliseconds": downtime, "totalMilliseconds": total,
            });
            if let Some(PostCopied { bytes, time, .. }) = migrated.post_copy {
                done["postCopyBytes"] = bytes.into();
                done["postCopyMilliseconds"] = (time.as_millis() as u64).into();
            }
            out::write(&format!("{done}\n"))?;
        }
        let (id, rounds) = (&self.id, migrated.rounds);
        let (mib, s) = (migrated.bytes >> 20, if rounds == 1 { "" } else { "s" });
        let followed = migrated.post_copy.map_or(String::new(), |PostCopied { bytes, time, .. }| {
            format!(", {} MiB of them when it ran there, within {} ms", bytes >> 20, time.as_millis())
        });
        self.say(&format!(
            "{id} runs at {destination}: {mib} MiB in {total} ms, {rounds} round{s} over its memory, stopped for {downtime} ms\
             {followed}"
        ));
        if !migrated.confirmed {
            bail!(
                "{id} is {destination}'s now, but that has not said that it runs: `migrate --resolve {id}` tells it again"
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
