//! `kill`

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use hiber::Status;
use hiber::id::ContainerId;
use hiber_sys::signal::Signal;
use nix::libc;

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::line::refusal::Refusal;
use crate::line::shape::Argument;

flags! {
    struct KillFlags {
        all: bool = Flag::switch("all", "no error if the container is not running (obsolete)").short("a").hidden(),
    }
}

pub(crate) const COMMAND: Command = Command::new(
    "kill",
    "<container-id> [signal]",
    "send a signal to a container's first process (default: SIGTERM)",
    |m| {
        let signal = signal(m.positionals.get(1).map(|signal| &**signal))?;
        Ok(Box::new(Kill { id: m.container()?, signal, flags: KillFlags::read(m)? }))
    },
)
.description("The signal is a name, with or without SIG, or a number.")
.examples(&[("kill web KILL", "end web at once")])
.flags(KillFlags::TABLE)
.takes(
    Count::Between(1, 2),
    &[Argument::Container, Argument::Words(&["TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2"])],
);

#[derive(Debug)]
struct Kill {
    id: ContainerId,
    /// 0 to 64; 0 only asks.
    signal: i32,
    flags: KillFlags,
}

impl Run for Kill {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let task = Containers::asking(cli, false)?.task(&self.id)?;
        if self.signal == 0 {
            if !self.flags.all && task.status()? == Status::Stopped {
                bail!(hiber::Error::NotRunning);
            }
            return Ok(ExitCode::SUCCESS);
        }
        let signal = Signal::new(self.signal).with_context(|| format!("unknown signal {}", self.signal))?;
        if self.flags.all {
            task.kill_all(signal)?;
        } else {
            task.kill(signal)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A signal by number or name; SIGTERM where none is given, and 0, which is none.
fn signal(value: Option<&OsStr>) -> Result<i32, Refusal> {
    let Some(value) = value.filter(|v| !v.is_empty()) else { return Ok(libc::SIGTERM) };
    let known = value.to_str().and_then(|text| match text {
        "0" => Some(0),
        text => Signal::named(text).map(Signal::number),
    });
    known.ok_or_else(|| Refusal::value(format!("unknown signal {value:?}")))
}
