//! The lifecycle commands.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use hiber::{Child, Container, CreateOptions, ExecOptions, Runtime, Status};
use hiber_sandbox::config;
use hiber_sandbox::sys::signal::Signal;
use hiber_sandbox::wire::Channel;
use oci_spec::runtime::Process;

use super::args::{CreateArgs, ExecArgs, KillArgs, ListArgs, PsArgs, RunArgs};
use super::foreground::{self, Console, Signals};
use super::output::{self, ContainerState};
use super::{exec_process, out};
use hiber::id::ContainerId;

/// Where the containers are, and under which name they are shown.
pub(crate) struct Session {
    pub runtime: Runtime,
    /// `--criu`
    pub criu: Option<PathBuf>,
    /// `--systemd-cgroup`
    pub systemd_cgroup: bool,
    /// `--rootless`
    pub rootless: Option<bool>,
    /// Sockets of a service manager that a new container gets.
    pub listen_fds: u32,
}

impl Session {
    fn open(&self, id: &ContainerId) -> anyhow::Result<Container> {
        Ok(self.runtime.open(id)?)
    }

    /// `create`
    pub(crate) fn create(&self, args: &CreateArgs) -> anyhow::Result<()> {
        check_preserved(self.listen_fds.saturating_add(args.preserve_fds))?;
        let socket = args.console_socket.as_deref().map(connect_console).transpose()?;
        let container = self.runtime.create(&args.id, &self.create_options(args, socket.as_ref()))?;
        let told = self.tell_of(&container, args);
        self.or_undo(&container, told)
    }

    fn create_options<'a>(&self, args: &CreateArgs, console: Option<&'a OwnedFd>) -> CreateOptions<'a> {
        CreateOptions {
            notify: notify_host().is_some(),
            bundle: args.bundle.clone().unwrap_or_else(|| PathBuf::from(".")),
            systemd_cgroup: self.systemd_cgroup,
            rootless: self.rootless,
            no_pivot: args.no_pivot,
            no_new_keyring: args.no_new_keyring,
            listen_fds: self.listen_fds,
            preserve_fds: args.preserve_fds,
            console_socket: console.map(AsFd::as_fd),
            stdio: None,
        }
    }

    /// Gives the caller the pid and the pidfd that it asked for.
    fn tell_of(&self, container: &Container, args: &CreateArgs) -> anyhow::Result<()> {
        let pid = container.facts()?.pid;
        if let Some(socket) = &args.pidfd_socket {
            send_pidfd(socket, open_pidfd(pid)?.as_fd())?;
        }
        write_pid_file(args.pid_file.as_deref(), pid)
    }

    /// A container whose caller cannot be told of it must not stay.
    pub(crate) fn or_undo<T>(&self, container: &Container, result: anyhow::Result<T>) -> anyhow::Result<T> {
        if result.is_err() {
            let _ = self.runtime.open(container.id()).map(|c| c.delete(true));
        }
        result
    }

    /// `start`
    pub(crate) fn start(&self, id: &ContainerId) -> anyhow::Result<()> {
        start_and_notify(&self.open(id)?)
    }

    /// `run`
    pub(crate) fn run(&self, args: &RunArgs) -> anyhow::Result<ExitCode> {
        check_preserved(self.listen_fds.saturating_add(args.create.preserve_fds))?;
        if args.detach {
            self.create(&args.create)?;
            let container = self.open(&args.create.id)?;
            self.or_undo(&container, start_and_notify(&container))?;
            return Ok(ExitCode::SUCCESS);
        }
        if !args.no_subreaper {
            let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        }
        let signals = Signals::block()?;
        let terminal = wants_terminal(args.create.bundle.as_deref())?;
        if args.create.console_socket.is_some() {
            bail!("cannot use console socket if hiber will not detach or allocate tty");
        }
        let pair = terminal.then(foreground::console_pair).transpose()?;
        let options = self.create_options(&args.create, pair.as_ref().map(|(_, theirs)| theirs));
        let container = self.runtime.create(&args.create.id, &options)?;
        let attended = self.attend_new(args, &container, &signals, pair.map(|(ours, _)| ours));
        if attended.is_err() || !args.keep {
            // A checkpoint may have taken it down meanwhile.
            let deleted = self.runtime.force_delete(&args.create.id);
            if attended.is_ok() {
                deleted?;
            }
        }
        attended.map(ExitCode::from)
    }

    fn attend_new(
        &self,
        args: &RunArgs,
        container: &Container,
        signals: &Signals,
        console: Option<OwnedFd>,
    ) -> anyhow::Result<u8> {
        let console = console.as_ref().map(Console::receive).transpose()?;
        let pid = container.facts()?.pid;
        let pidfd = open_pidfd(pid)?;
        self.tell_of(container, &args.create)?;
        let notify = notify_host().map(|host| container.notify(&host)).transpose()?.flatten();
        container.start()?;
        if let Some(notify) = notify {
            let watched = open_pidfd(pid)?;
            // The runtime stays, so it is the service's process.
            std::thread::spawn(move || notify.forward(&watched, std::process::id() as i32));
        }
        foreground::attend(pid, &pidfd, signals, console)
    }

    /// `exec`
    pub(crate) fn exec(&self, args: &ExecArgs) -> anyhow::Result<ExitCode> {
        check_preserved(args.preserve_fds)?;
        let container = self.open(&args.id)?;
        let spec = container.spec()?;
        let process = match &args.process {
            Some(path) => {
                let (process, warnings) = config::load_process(path)?;
                warnings.iter().for_each(|w| tracing::warn!("{w}"));
                process
            }
            None => exec_process::from_flags(spec, args)?,
        };
        let process = exec_process::with_defaults(process, spec);
        if args.detach {
            let socket = args.console_socket.as_deref().map(connect_console).transpose()?;
            let child = container.exec(&process, &exec_options(args, socket.as_ref()))?;
            tell_of_exec(args, &child)?;
            return Ok(ExitCode::SUCCESS);
        }
        self.exec_attended(&container, &process, args)
    }

    fn exec_attended(
        &self,
        container: &Container,
        process: &Process,
        args: &ExecArgs,
    ) -> anyhow::Result<ExitCode> {
        let terminal = process.terminal().unwrap_or(false);
        let signals = Signals::block()?;
        if let Some(path) = &args.console_socket {
            if !terminal {
                bail!("cannot use console socket if hiber will not detach or allocate tty");
            }
            let socket = connect_console(path)?;
            let child = container.exec(process, &exec_options(args, Some(&socket)))?;
            tell_of_exec(args, &child)?;
            return Ok(foreground::attend(child.pid, &child.pidfd, &signals, None)?.into());
        }
        let pair = terminal.then(foreground::console_pair).transpose()?;
        let child = container.exec(process, &exec_options(args, pair.as_ref().map(|(_, theirs)| theirs)))?;
        let console = pair.map(|(ours, _)| Console::receive(&ours)).transpose()?;
        tell_of_exec(args, &child)?;
        Ok(foreground::attend(child.pid, &child.pidfd, &signals, console)?.into())
    }

    /// `state`
    pub(crate) fn state(&self, id: &ContainerId) -> anyhow::Result<()> {
        let container = self.open(id)?;
        Ok(out::write(&output::state(&describe(&container)?)?)?)
    }

    /// `list`
    pub(crate) fn list(&self, args: ListArgs) -> anyhow::Result<()> {
        let mut containers = Vec::new();
        let mut names = BTreeMap::new();
        for id in self.runtime.ids()? {
            let described = self.runtime.open(&id).map_err(anyhow::Error::from).and_then(|container| {
                let uid = container.owner()?;
                let owner = names.entry(uid).or_insert_with(|| user_name(uid)).clone();
                Ok(ContainerState { owner, ..describe(&container)? })
            });
            match described {
                Ok(state) => containers.push(state),
                // Deleted meanwhile, or its creation was interrupted: not what was asked for.
                Err(e) => tracing::debug!("load container {id}: {e:#}"),
            }
        }
        Ok(out::write(&output::list(&containers, args)?)?)
    }

    /// `kill`
    pub(crate) fn kill(&self, args: &KillArgs) -> anyhow::Result<()> {
        let container = self.open(&args.id)?;
        if args.signal == 0 {
            return if !args.all && container.status()? == Status::Stopped {
                bail!(hiber::Error::NotRunning)
            } else {
                Ok(())
            };
        }
        let signal = Signal::new(args.signal).with_context(|| format!("unknown signal {}", args.signal))?;
        if args.all {
            return Ok(container.kill_all(signal)?);
        }
        Ok(container.kill(signal)?)
    }

    /// `delete`
    pub(crate) fn delete(&self, id: &ContainerId, force: bool) -> anyhow::Result<()> {
        if force {
            return Ok(self.runtime.force_delete(id)?);
        }
        Ok(self.open(id)?.delete(false)?)
    }

    /// `ps`
    pub(crate) fn ps(&self, args: &PsArgs) -> anyhow::Result<()> {
        let container = self.open(&args.id)?;
        Ok(out::write(&output::ps(&container.processes()?, args)?)?)
    }

    /// `pause`
    pub(crate) fn pause(&self, id: &ContainerId) -> anyhow::Result<()> {
        Ok(self.open(id)?.pause()?)
    }

    /// `resume`
    pub(crate) fn resume(&self, id: &ContainerId) -> anyhow::Result<()> {
        Ok(self.open(id)?.resume()?)
    }
}

/// Where the caller wants to hear that the service is ready (sd_notify(3)).
fn notify_host() -> Option<String> {
    std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty())
}

/// Starts a container; where the caller waits for its service, until it is ready.
fn start_and_notify(container: &Container) -> anyhow::Result<()> {
    let notify = notify_host().map(|host| container.notify(&host)).transpose()?.flatten();
    container.start()?;
    if let Some(notify) = notify {
        let pid = container.facts()?.pid;
        // One that has already ended has nothing to say.
        if let Ok(pidfd) = open_pidfd(pid) {
            notify.forward(&pidfd, pid)?;
        }
    }
    Ok(())
}

/// What `state` and `list` show; only `list` shows an owner.
fn describe(container: &Container) -> anyhow::Result<ContainerState> {
    let brief = container.brief()?;
    // Its creator has not come to them yet: as without a configuration.
    let facts = container.facts().map_err(|_| hiber::Error::NotFound)?;
    let status = container.status()?;
    Ok(ContainerState {
        oci_version: brief.oci_version,
        id: facts.id.clone(),
        pid: if status == Status::Stopped { 0 } else { facts.pid },
        status: status.to_string(),
        bundle: facts.bundle.clone(),
        rootfs: facts.rootfs.clone(),
        created: facts.created,
        annotations: brief.annotations,
        owner: String::new(),
        // not worth to be the reason of a failure
        oom_killed: container.oom_killed().unwrap_or(false),
    })
}

fn user_name(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("#{uid}"), |user| user.name)
}

fn exec_options<'a>(args: &'a ExecArgs, console: Option<&'a OwnedFd>) -> ExecOptions<'a> {
    ExecOptions {
        ignore_paused: args.ignore_paused,
        cgroups: args.cgroups.as_ref(),
        preserve_fds: args.preserve_fds,
        console_socket: console.map(AsFd::as_fd),
        stdio: None,
    }
}

pub(crate) fn wants_terminal(bundle: Option<&Path>) -> anyhow::Result<bool> {
    let loaded = config::load(&bundle.unwrap_or(Path::new(".")).join("config.json"))?;
    Ok(loaded.spec.process().as_ref().is_some_and(|p| p.terminal().unwrap_or(false)))
}

/// Sends a pidfd over a unix stream socket, as a console is sent.
fn send_pidfd(path: &Path, pidfd: BorrowedFd<'_>) -> anyhow::Result<()> {
    let sent = UnixStream::connect(path)
        .map_err(anyhow::Error::from)
        .and_then(|socket| Ok(Channel::from(OwnedFd::from(socket)).send_bytes(b"pidfd", &[pidfd])?));
    sent.with_context(|| format!("send a pidfd to --pidfd-socket {}", path.display()))
}

/// Tells the caller of an exec'd process.
fn tell_of_exec(args: &ExecArgs, child: &Child) -> anyhow::Result<()> {
    if let Some(socket) = &args.pidfd_socket {
        send_pidfd(socket, child.pidfd.as_fd())?;
    }
    write_pid_file(args.pid_file.as_deref(), child.pid)
}

pub(crate) fn connect_console(path: &Path) -> anyhow::Result<OwnedFd> {
    let socket = UnixStream::connect(path)
        .with_context(|| format!("connect to the console socket {}", path.display()))?;
    Ok(socket.into())
}

/// How many sockets a service manager has passed to this process, as descriptors from 3 on (sd_listen_fds(3)).
pub(crate) fn listen_fds() -> anyhow::Result<u32> {
    let Some(count) = std::env::var_os("LISTEN_FDS") else { return Ok(0) };
    // Another LISTEN_PID: they were for a process that we descend from.
    if std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(0);
    }
    let parsed = count.to_str().and_then(|text| text.parse().ok());
    parsed.with_context(|| format!("environment variable LISTEN_FDS={count:?}: expected a number"))
}

/// A missing descriptor is told before anything is made.
fn check_preserved(count: u32) -> anyhow::Result<()> {
    for i in 0..count {
        let fd = 3 + i;
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            bail!("unable to stat preserved-fd {i} (of {count}): descriptor {fd} is not open");
        }
    }
    Ok(())
}

pub(crate) fn open_pidfd(pid: i32) -> anyhow::Result<OwnedFd> {
    let process = rustix::process::Pid::from_raw(pid).context("the container has no process")?;
    rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).context("pidfd_open")
}

/// Written whole or not at all: whoever waits for it reads a number.
pub(crate) fn write_pid_file(path: Option<&Path>, pid: i32) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let name = path.file_name().with_context(|| format!("--pid-file {}: is no file name", path.display()))?;
    let temporary = path.with_file_name(format!(".{}", name.to_string_lossy()));
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(pid.to_string().as_bytes())?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write --pid-file {}", path.display()))
}
