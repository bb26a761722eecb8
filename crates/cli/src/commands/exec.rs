//! `exec`

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use hiber::id::ContainerId;
use hiber::{ExecOptions, Stdio, Task};
use hiber_sandbox::{config, ids};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, Spec};

use crate::containers::Containers;
use crate::flags::process::{CONSOLE_SOCKET, DETACH, PID_FILE, PIDFD_SOCKET, PRESERVE_FDS};
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flag, Flags, Value, flags};
use crate::line::refusal::Refusal;
use crate::line::scan::Matches;
use crate::line::shape::Argument;
use crate::line::value::text;
use crate::process::foreground::{self, Console, Signals, connect_console};
use crate::process::tell::Tell;

/// `UID[:GID]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserIds(pub u32, pub Option<u32>);

impl Value for UserIds {
    fn read(_: &str, text: &OsStr) -> Result<Self, Refusal> {
        let text = text.to_string_lossy();
        match text.split_once(':') {
            None => Ok(Self(id_number(&text, "uid")?, None)),
            Some((uid, gid)) => Ok(Self(id_number(uid, "uid")?, Some(id_number(gid, "gid")?))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupId(pub u32);

impl Value for GroupId {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        id_number(&text.to_string_lossy(), &format!("gid for --{flag}")).map(Self)
    }
}

fn id_number(value: &str, what: &str) -> Result<u32, Refusal> {
    let id = value.parse().ok().filter(|id| *id <= ids::MAX);
    id.ok_or_else(|| Refusal::value(format!("bad {what}: {value:?} is no number from 0 to {}", ids::MAX)))
}

flags! {
    pub(crate) struct ExecFlags {
        console_socket: Option<PathBuf> = CONSOLE_SOCKET,
        pidfd_socket: Option<PathBuf> = PIDFD_SOCKET,
        cwd: Option<PathBuf> = Flag::value("cwd", "DIR", "working directory, in the container"),
        env: Vec<String> = Flag::list("env", "NAME=VALUE", "add to the environment").short("e"),
        tty: bool = Flag::switch("tty", "give it a terminal").short("t"),
        user: Option<UserIds> = Flag::value("user", "UID[:GID]", "user and group, as numbers").short("u"),
        additional_gids: Vec<GroupId> =
            Flag::list("additional-gids", "GID", "add a supplementary group").short("g"),
        process: Option<PathBuf> =
            Flag::value("process", "FILE", "take the whole process from FILE, a process object in JSON").short("p"),
        detach: bool = DETACH,
        pid_file: Option<PathBuf> = PID_FILE,
        process_label: Option<String> = Flag::value("process-label", "LABEL", "SELinux label"),
        apparmor: Option<String> = Flag::value("apparmor", "PROFILE", "AppArmor profile"),
        no_new_privs: Option<bool> = Flag::choice("no-new-privs", "set no_new_privs"),
        cap: Vec<String> = Flag::list("cap", "CAP", "add a capability").short("c"),
        preserve_fds: Option<u32> = PRESERVE_FDS,
        cgroup: Vec<String> = Flag::list(
            "cgroup",
            "[CONTROLLER:]PATH",
            "run in a cgroup below the container's, which must exist",
        ),
        ignore_paused: bool =
            Flag::switch("ignore-paused", "also in a paused container; the process waits for resume"),
    }
}

pub(crate) const COMMAND: Command = Command::new(
    "exec",
    "<container-id> <command> [argument...]  or  --process FILE <container-id>",
    "run another process in a container",
    |m| Ok(Box::new(Exec::read(m)?)),
)
.description(
    "Everything after the container's id is the command, flags included.\n\n\
     The exit status is the command's; 255 if it could not be run.",
)
.examples(&[
    ("exec web ps", "list the processes that the container sees"),
    ("exec --tty --env TERM=xterm web sh", "open a shell in it"),
])
.flags(ExecFlags::TABLE)
.takes(Count::AtLeast(1), &[Argument::Container])
.verbatim()
.fails_with(255, "exec failed");

#[derive(Debug)]
pub(crate) struct Exec {
    id: ContainerId,
    /// The command with its arguments; empty only with `--process`.
    pub(crate) args: Vec<String>,
    /// Paths by controller, or one for all under "".
    cgroups: Option<BTreeMap<String, String>>,
    pub(crate) flags: ExecFlags,
}

impl Exec {
    pub(crate) fn read(m: &Matches) -> Result<Self, Refusal> {
        let args = m.positionals[1..].iter().map(|a| text("argument", a)).collect::<Result<Vec<_>, _>>()?;
        let flags = ExecFlags::read(m)?;
        let id = m.container()?;
        if args.is_empty() && flags.process.is_none() {
            return Err(Refusal::value("exec args cannot be empty"));
        }
        let cgroups = (!flags.cgroup.is_empty()).then(|| sub_cgroups(&flags.cgroup)).transpose()?;
        Ok(Self { id, args, cgroups, flags })
    }

    pub(crate) fn options<'a>(&'a self, stdio: Stdio<'a>) -> ExecOptions<'a> {
        ExecOptions::default()
            .ignore_paused(self.flags.ignore_paused)
            .cgroups(self.cgroups.as_ref())
            .preserve_fds(self.flags.preserve_fds.unwrap_or(0))
            .stdio(stdio)
    }

    fn process(&self, task: &Task) -> anyhow::Result<Process> {
        let spec = task.container().spec()?;
        let Some(path) = &self.flags.process else {
            return self.flags.process_of(&spec, &self.args);
        };
        let (process, warnings) = config::load_process(path)?;
        warnings.iter().for_each(|w| tracing::warn!("{w}"));
        Ok(process)
    }

    /// In the foreground.
    fn attended(&self, task: &Task, process: &Process) -> anyhow::Result<ExitCode> {
        let terminal = process.terminal().unwrap_or(false);
        let signals = Signals::block()?;
        if self.flags.console_socket.is_some() && !terminal {
            bail!("cannot use console socket if hiber will not detach or allocate tty");
        }
        let socket = self.flags.console_socket.as_deref().map(connect_console).transpose()?;
        let stdio = match &socket {
            Some(socket) => Stdio::Console(socket.as_fd()),
            None if terminal => Stdio::Terminal,
            None => Stdio::Inherit,
        };
        let tell = self.flags.tell()?;
        let process = task.exec(process, &self.options(stdio))?;
        let console = Console::of(&process)?;
        tell.tell(&process)?;
        Ok(foreground::attend(&process, &signals, console, &|signal| drop(process.kill(signal)))?.into())
    }
}

impl Run for Exec {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::passing(cli, self.flags.preserve_fds.unwrap_or(0))?;
        let task = containers.task(&self.id)?;
        let process = self.process(&task)?;
        if !self.flags.detach {
            return self.attended(&task, &process);
        }
        let socket = self.flags.console_socket.as_deref().map(connect_console).transpose()?;
        let stdio = socket.as_ref().map_or(Stdio::Inherit, |socket| Stdio::Console(socket.as_fd()));
        let tell = self.flags.tell()?;
        tell.tell(&task.exec(&process, &self.options(stdio))?)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl ExecFlags {
    fn tell(&self) -> anyhow::Result<Tell> {
        Tell::prepare(self.pidfd_socket.as_deref(), self.pid_file.as_deref())
    }

    /// config.json's process, changed by flags.
    pub(crate) fn process_of(&self, spec: &Spec, args: &[String]) -> anyhow::Result<Process> {
        let mut process = spec.process().clone().context("config.json has no process")?;
        process.set_args(Some(args.to_vec()));
        process.set_terminal(Some(self.tty));
        process.set_console_size(None);
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(label) = &self.process_label {
            process.set_selinux_label(Some(label.clone()));
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        if let Some(no_new_privs) = self.no_new_privs {
            process.set_no_new_privileges(Some(no_new_privs));
        }
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(self.env.iter().cloned());
        process.set_env(Some(env));
        let mut user = process.user().clone();
        if let Some(UserIds(uid, gid)) = self.user {
            user.set_uid(uid);
            if let Some(gid) = gid {
                user.set_gid(gid);
            }
        }
        if !self.additional_gids.is_empty() {
            let mut gids = user.additional_gids().clone().unwrap_or_default();
            gids.extend(self.additional_gids.iter().map(|GroupId(gid)| *gid));
            user.set_additional_gids(Some(gids));
        }
        process.set_user(user);
        if !self.cap.is_empty() {
            let caps = process.capabilities().clone().unwrap_or_default();
            process.set_capabilities(Some(add_capabilities(caps, &self.cap)?));
        }
        Ok(process)
    }
}

/// `[CONTROLLER[,CONTROLLER…]:]PATH`, each; without controllers there can be only one.
fn sub_cgroups(values: &[String]) -> Result<BTreeMap<String, String>, Refusal> {
    let refuse = |why: String| Err(Refusal::value(format!("invalid --cgroup argument: {why}")));
    let mut paths = BTreeMap::new();
    for value in values {
        let Some((controllers, path)) = value.split_once(':') else {
            if values.len() != 1 {
                return refuse(format!("{value} (missing <controller>: prefix)"));
            }
            paths.insert(String::new(), value.clone());
            continue;
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return refuse(format!("{value} (empty <controller> prefix)"));
            }
            if paths.insert(controller.to_owned(), path.to_owned()).is_some() {
                return refuse(format!("controller {controller} specified multiple times"));
            }
        }
    }
    Ok(paths)
}

/// `--cap` adds to all sets but the ambient one, which it enters only where it is inheritable already (runc
/// since CVE-2022-29162).
fn add_capabilities(caps: LinuxCapabilities, names: &[String]) -> anyhow::Result<LinuxCapabilities> {
    let mut added = Capabilities::new();
    for name in names {
        let value = serde_json::Value::String(name.to_uppercase());
        let capability: Capability = serde_json::from_value(value)
            .map_err(|_| anyhow!("--cap {name}: no such capability; expected one such as CAP_NET_ADMIN"))?;
        added.insert(capability);
    }
    let union = |set: &Option<Capabilities>| Some(set.iter().flatten().chain(&added).copied().collect());
    let mut all = caps.clone();
    all.set_bounding(union(caps.bounding()));
    all.set_effective(union(caps.effective()));
    all.set_permitted(union(caps.permitted()));
    let inheritable = caps.inheritable().clone().unwrap_or_default();
    let ambient = caps.ambient().iter().flatten().copied();
    let more = added.iter().copied().filter(|c| inheritable.contains(c));
    all.set_ambient(Some(ambient.chain(more).collect()));
    Ok(all)
}
