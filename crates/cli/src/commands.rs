//! The lifecycle commands.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use hiber::{CreateOptions, ExecOptions, Glance, Runtime, Start, Status, Stdio, Task};
use hiber_sandbox::config;
use hiber_sys::signal::Signal;
use oci_spec::runtime::Process;

use super::args::{CreateArgs, ExecArgs, Format, Global, KillArgs, ListArgs, PsArgs, RunArgs};
use super::foreground::{self, Console, Signals};
use super::output::{self, ContainerState, List};
use super::tell::Tell;
use super::{exec_process, out};
use hiber::id::ContainerId;

/// From how many containers on two threads list them: starting one takes as long as asking for a few.
const MANY: usize = 32;

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
    pub(crate) fn new(runtime: Runtime, global: &Global, listen_fds: u32) -> Self {
        Self {
            runtime,
            criu: global.criu.clone(),
            systemd_cgroup: global.systemd_cgroup,
            rootless: global.rootless,
            listen_fds,
        }
    }

    pub(crate) fn task(&self, id: &ContainerId) -> anyhow::Result<Task> {
        Ok(self.runtime.open(id)?.task()?)
    }

    /// `create`
    pub(crate) fn create(&self, args: &CreateArgs) -> anyhow::Result<()> {
        self.make(args, Start::ByAnybody).map(drop)
    }

    fn make(&self, args: &CreateArgs, start: Start) -> anyhow::Result<Task> {
        check_preserved(self.listen_fds.saturating_add(args.preserve_fds))?;
        let socket = args.console_socket.as_deref().map(connect_console).transpose()?;
        let tell = tell_of(args)?;
        let options = self.create_options(args, start, stdio(socket.as_ref()));
        let task = self.runtime.create(&args.id, &options)?;
        self.or_undo(&args.id, tell_of_container(&task, tell))?;
        Ok(task)
    }

    pub(super) fn create_options<'a>(
        &self,
        args: &CreateArgs,
        start: Start,
        stdio: Stdio<'a>,
    ) -> CreateOptions<'a> {
        CreateOptions {
            start,
            notify: notify_host().is_some(),
            bundle: args.bundle.clone().unwrap_or_else(|| PathBuf::from(".")),
            systemd_cgroup: self.systemd_cgroup,
            rootless: self.rootless,
            no_pivot: args.no_pivot,
            no_new_keyring: args.no_new_keyring,
            listen_fds: self.listen_fds,
            preserve_fds: args.preserve_fds,
            stdio,
        }
    }

    /// A container whose caller cannot be told of it must not stay.
    pub(crate) fn or_undo<T>(&self, id: &ContainerId, result: anyhow::Result<T>) -> anyhow::Result<T> {
        if result.is_err() {
            let _ = self.runtime.force_delete(id);
        }
        result
    }

    /// `start`
    pub(crate) fn start(&self, id: &ContainerId) -> anyhow::Result<()> {
        start_and_notify(&self.task(id)?)
    }

    /// `run`
    pub(crate) fn run(&self, args: &RunArgs) -> anyhow::Result<ExitCode> {
        check_preserved(self.listen_fds.saturating_add(args.create.preserve_fds))?;
        if args.detach {
            let task = self.make(&args.create, start_of_run(&args.create))?;
            self.or_undo(&args.create.id, start_and_notify(&task))?;
            return Ok(ExitCode::SUCCESS);
        }
        if !args.no_subreaper {
            let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        }
        let signals = Signals::block()?;
        if args.create.console_socket.is_some() {
            bail!("cannot use console socket if hiber will not detach or allocate tty");
        }
        let tell = tell_of(&args.create)?;
        let task = self.runtime.create(
            &args.create.id,
            &self.create_options(&args.create, start_of_run(&args.create), Stdio::Attended),
        )?;
        let attended = attend_new(tell, &task, &signals);
        if attended.is_err() || !args.keep {
            match task.force_delete() {
                // A checkpoint may have taken it down meanwhile.
                Ok(_) | Err(hiber::Error::NotFound) => {}
                Err(e) if attended.is_ok() => return Err(e.into()),
                Err(_) => {}
            }
        }
        attended.map(ExitCode::from)
    }

    /// `exec`
    pub(crate) fn exec(&self, args: &ExecArgs) -> anyhow::Result<ExitCode> {
        check_preserved(args.preserve_fds)?;
        let task = self.task(&args.id)?;
        let spec = task.container().spec()?;
        let process = match &args.process {
            Some(path) => {
                let (process, warnings) = config::load_process(path)?;
                warnings.iter().for_each(|w| tracing::warn!("{w}"));
                process
            }
            None => exec_process::from_flags(&spec, args)?,
        };
        if args.detach {
            let socket = args.console_socket.as_deref().map(connect_console).transpose()?;
            let tell = Tell::prepare(args.pidfd_socket.as_deref(), args.pid_file.as_deref())?;
            tell.tell(&task.exec(&process, &exec_options(args, stdio(socket.as_ref())))?)?;
            return Ok(ExitCode::SUCCESS);
        }
        exec_attended(&task, &process, args)
    }

    /// `state`
    pub(crate) fn state(&self, id: &ContainerId) -> anyhow::Result<()> {
        Ok(out::write(&output::state(&describe(&self.runtime.glance(id)?, String::new())?)?)?)
    }

    /// `list`
    pub(crate) fn list(&self, args: ListArgs) -> anyhow::Result<()> {
        let ids = self.runtime.ids()?;
        // Asking the kernel is what takes time, and many can be asked for at once.
        let alone = args.quiet || ids.len() < MANY;
        let (first, second) = ids.split_at(if alone { ids.len() } else { ids.len() / 2 });
        let list = std::thread::scope(|scope| {
            let list = || self.list_of(second, args);
            let thread = match second {
                [] => None,
                _ => std::thread::Builder::new().spawn_scoped(scope, list).ok(),
            };
            let mut all = self.list_of(first, args);
            match thread {
                Some(thread) => {
                    all.append(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                }
                None if second.is_empty() => {}
                // There may be no more threads: then one does it all.
                None => all.append(list()),
            }
            all
        });
        Ok(out::write(&list.finish()?)?)
    }

    fn list_of(&self, ids: &[ContainerId], args: ListArgs) -> List {
        let mut list = List::new(args);
        let mut names = BTreeMap::new();
        for (id, glance) in self.runtime.glances(ids) {
            let added = glance.map_err(anyhow::Error::from).and_then(|glance| {
                let mut owner = || {
                    let uid = glance.owner();
                    names.entry(uid).or_insert_with(|| user_name(uid)).clone()
                };
                match &mut list {
                    List::Ids(ids) => ids.push(glance.facts().id.clone()),
                    List::Table(rows) => {
                        let (status, owner) = (glance.status()?, owner());
                        rows.push((glance.into_facts(), status, owner));
                    }
                    List::Json(all) => all.push(describe(&glance, owner())?),
                }
                Ok(())
            });
            match added {
                Ok(()) => {}
                // Deleted meanwhile, or its creation was interrupted: not what was asked for.
                Err(e) if matches!(e.downcast_ref(), Some(hiber::Error::NotFound)) => {
                    tracing::debug!("load container {id}: {e:#}");
                }
                Err(e) => tracing::warn!("load container {id}: {e:#} (delete --force removes it)"),
            }
        }
        list
    }

    /// `kill`
    pub(crate) fn kill(&self, args: &KillArgs) -> anyhow::Result<()> {
        let task = self.task(&args.id)?;
        if args.signal == 0 {
            return if !args.all && task.status()? == Status::Stopped {
                bail!(hiber::Error::NotRunning)
            } else {
                Ok(())
            };
        }
        let signal = Signal::new(args.signal).with_context(|| format!("unknown signal {}", args.signal))?;
        if args.all {
            return Ok(task.kill_all(signal)?);
        }
        Ok(task.kill(signal)?)
    }

    /// `delete`
    pub(crate) fn delete(&self, id: &ContainerId, force: bool) -> anyhow::Result<()> {
        if force {
            return Ok(self.runtime.force_delete(id)?);
        }
        self.task(id)?.delete()?;
        Ok(())
    }

    /// `ps`
    pub(crate) fn ps(&self, args: &PsArgs) -> anyhow::Result<()> {
        let task = self.task(&args.id)?;
        let text = output::ps(&task.pids()?, args)?;
        // Programs that call hiber get runc's columns.
        let for_people = matches!(args.format, Format::Table) && std::io::stdout().is_terminal();
        Ok(out::write(&if for_people {
            output::with_pids_inside(&text, |pid| task.pid_inside(pid))
        } else {
            text
        })?)
    }

    /// `pause`
    pub(crate) fn pause(&self, id: &ContainerId) -> anyhow::Result<()> {
        Ok(self.task(id)?.pause()?)
    }

    /// `wait-memory`
    pub(crate) fn wait_memory(&self, id: &ContainerId) -> anyhow::Result<()> {
        Ok(self.task(id)?.wait_for_memory()?)
    }

    /// `resume`
    pub(crate) fn resume(&self, id: &ContainerId) -> anyhow::Result<()> {
        Ok(self.task(id)?.resume()?)
    }
}

/// `exec` in the foreground.
fn exec_attended(task: &Task, process: &Process, args: &ExecArgs) -> anyhow::Result<ExitCode> {
    let terminal = process.terminal().unwrap_or(false);
    let signals = Signals::block()?;
    if args.console_socket.is_some() && !terminal {
        bail!("cannot use console socket if hiber will not detach or allocate tty");
    }
    let socket = args.console_socket.as_deref().map(connect_console).transpose()?;
    let stdio = match &socket {
        Some(socket) => Stdio::Console(socket.as_fd()),
        None if terminal => Stdio::Terminal,
        None => Stdio::Inherit,
    };
    let tell = Tell::prepare(args.pidfd_socket.as_deref(), args.pid_file.as_deref())?;
    let process = task.exec(process, &exec_options(args, stdio))?;
    let console = Console::of(&process)?;
    tell.tell(&process)?;
    Ok(foreground::attend(&process, &signals, console)?.into())
}

/// Starts a new container and stays until its first process ends.
fn attend_new(tell: Tell, task: &Task, signals: &Signals) -> anyhow::Result<u8> {
    let init = task.init().context("the container has no process")?;
    let console = Console::of(init)?;
    tell.tell(init)?;
    let notify = notify_host().map(|host| task.notify(&host)).transpose()?.flatten();
    task.start()?;
    if let Some(notify) = notify {
        let watched = init.clone();
        // The runtime stays, so it is the service's process.
        std::thread::spawn(move || notify.forward(watched.pidfd(), std::process::id() as i32));
    }
    foreground::attend(init, signals, console)
}

/// Where the caller wants to hear of the container's process.
fn tell_of(args: &CreateArgs) -> anyhow::Result<Tell> {
    Tell::prepare(args.pidfd_socket.as_deref(), args.pid_file.as_deref())
}

fn tell_of_container(task: &Task, tell: Tell) -> anyhow::Result<()> {
    tell.tell(task.init().context("the container has no process")?)
}

/// A container of `run` starts at once, unless somebody is to be told of it before.
fn start_of_run(args: &CreateArgs) -> Start {
    let told = args.pid_file.is_some() || args.pidfd_socket.is_some() || notify_host().is_some();
    if told { Start::ByMaker } else { Start::AtOnce }
}

/// Where the caller wants to hear that the service is ready (sd_notify(3)).
fn notify_host() -> Option<String> {
    std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty())
}

/// Starts a container; where the caller waits for its service, until it is ready.
fn start_and_notify(task: &Task) -> anyhow::Result<()> {
    let notify = notify_host().map(|host| task.notify(&host)).transpose()?.flatten();
    task.start()?;
    if let (Some(notify), Some(init)) = (notify, task.init()) {
        notify.forward(init.pidfd(), init.pid())?;
    }
    Ok(())
}

/// What `state` and `list --format json` show; only `list` shows an owner.
fn describe(glance: &Glance, owner: String) -> anyhow::Result<ContainerState> {
    let (facts, brief) = (glance.facts(), glance.brief()?);
    let status = glance.status()?;
    Ok(ContainerState {
        oci_version: brief.oci_version,
        id: facts.id.clone(),
        pid: output::shown_pid(facts, status),
        status: status.to_string(),
        bundle: facts.bundle.clone(),
        rootfs: facts.rootfs.clone(),
        created: facts.created,
        annotations: brief.annotations,
        owner,
        oom_killed: glance.oom_killed(),
        memory: glance.following_memory(),
        left_paused: status == Status::Paused && glance.is_left_paused(),
    })
}

fn user_name(uid: u32) -> String {
    let local = std::fs::read("/etc/passwd").ok().and_then(|text| {
        String::from_utf8_lossy(&text).lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    });
    // Whom that does not know a directory service may.
    let remote = || nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    local.or_else(|| Some(remote()?.name)).unwrap_or_else(|| format!("#{uid}"))
}

/// The streams of a detached process.
fn stdio(console: Option<&OwnedFd>) -> Stdio<'_> {
    console.map_or(Stdio::Inherit, |socket| Stdio::Console(socket.as_fd()))
}

pub(super) fn exec_options<'a>(args: &'a ExecArgs, stdio: Stdio<'a>) -> ExecOptions<'a> {
    ExecOptions {
        id: None,
        ignore_paused: args.ignore_paused,
        cgroups: args.cgroups.as_ref(),
        preserve_fds: args.preserve_fds,
        stdio,
    }
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
