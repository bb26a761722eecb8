//! Commands of this program, each in a process of its own.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::fs::MemfdFlags;
use serde_json::Value;

use crate::line::command::Cli;

/// How much of a command's output is looked at, in bytes.
const MOST: u64 = 1 << 20;

/// Runs commands on the same containers.
#[derive(Debug)]
pub(crate) struct Children {
    program: OsString,
    global: Vec<OsString>,
}

/// How a command has ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    /// With its reason.
    Failed(String),
    /// By this signal: it could not clear up after itself.
    Killed(i32),
}

impl Outcome {
    /// The reason of a failure.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::Done => None,
            Self::Failed(why) => Some(why.clone()),
            Self::Killed(signal) => Some(format!("the command was killed by signal {signal}")),
        }
    }
}

impl Children {
    /// With the global flags of this command line.
    pub(crate) fn new(cli: &Cli) -> Self {
        Self::of(cli, cli.global.systemd_cgroup)
    }

    /// With these, whether or not systemd makes cgroups.
    pub(crate) fn of(cli: &Cli, systemd_cgroup: bool) -> Self {
        let mut global: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: &OsStr| {
            let mut whole = OsString::from(format!("--{name}="));
            whole.push(value);
            global.push(whole);
        };
        let given = &cli.global;
        given.root.iter().for_each(|root| flag("root", root.as_os_str()));
        given.criu.iter().for_each(|criu| flag("criu", criu.as_os_str()));
        given.rootless().iter().for_each(|choice| flag("rootless", choice.to_string().as_ref()));
        for (name, on) in [("systemd-cgroup", systemd_cgroup), ("debug", given.debug)] {
            if on {
                flag(name, "true".as_ref());
            }
        }
        Self { program: cli.program.clone().into(), global }
    }

    /// Runs a command to its end, without standard streams.
    pub(crate) fn run(&self, line: &[OsString]) -> anyhow::Result<Outcome> {
        self.run_with(line, [Stdio::null(), Stdio::null(), Stdio::null()])
    }

    /// Runs a command that prints JSON, whatever its exit status.
    pub(crate) fn ask(&self, line: &[OsString]) -> anyhow::Result<Option<Value>> {
        let output = memory("output")?;
        let copy = output.try_clone().context("copy a descriptor")?;
        self.run_with(line, [Stdio::null(), copy.into(), Stdio::null()])?;
        Ok(serde_json::from_str(&text(output)?).ok())
    }

    /// Runs a command to its end. These are its standard streams, which a container that it makes has, too.
    pub(crate) fn run_with(
        &self,
        line: &[OsString],
        [stdin, stdout, stderr]: [Stdio; 3],
    ) -> anyhow::Result<Outcome> {
        let log = memory("log")?;
        // The command opens it by this name, and so need not get the descriptor.
        let path = format!("/proc/{}/fd/{}", std::process::id(), log.as_raw_fd());
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(&self.program)
            .args(&self.global)
            .args(["--log-format=json", "--log"])
            .arg(path)
            .args(line);
        command.stdin(stdin).stdout(stdout).stderr(stderr).env_remove("NOTIFY_SOCKET");
        // A terminal's signals are for the keeper.
        command.process_group(0);
        // The keeper has blocked SIGTERM and SIGINT, and so has the command: what it has begun it finishes. It gives none of that to a
        // container.
        let status = command.status().context("run /proc/self/exe")?;
        if status.success() {
            return Ok(Outcome::Done);
        }
        if let Some(signal) = status.signal() {
            return Ok(Outcome::Killed(signal));
        }
        Ok(Outcome::Failed(error(&text(log)?).unwrap_or_else(|| format!("{status}"))))
    }
}

/// A file in memory.
fn memory(name: &str) -> anyhow::Result<File> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).context("memfd_create")?;
    Ok(fd.into())
}

fn text(mut file: File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.take(MOST).read_to_end(&mut bytes))
        .context("read a command's output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last error in a log.
fn error(log: &str) -> Option<String> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = lines.filter(|line| line["level"] == "error" || line["level"] == "fatal");
    Some(errors.next()?["msg"].as_str()?.to_owned())
}

/// Words of a command line.
pub(crate) fn words(all: &[&str]) -> Vec<OsString> {
    all.iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_the_reason() {
        let log = "{\"level\":\"warning\",\"msg\":\"a\"}\nnoise\n{\"level\":\"error\",\"msg\":\"b\"}\n{\"level\":\"debug\",\"msg\":\"c\"}\n";
        assert_eq!(error(log).as_deref(), Some("b"));
        assert_eq!(error(""), None);
    }
}
