//! From a command line to the library's calls, and from their results to output and exit status.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use hiber::{Runtime, features, spec};

use super::args::{Command, Global, Invocation, SpecArgs};
use super::commands::{self, Session};
use super::root::{self, Origin, Surroundings};
use super::{completion, help, inspect, man, out};

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Why.
    pub error: anyhow::Error,
    /// The exit status.
    pub status: u8,
}

/// Carries a command out.
///
/// # Errors
/// With the exit status 1; `exec` with 255, which a command in the container is unlikely to use.
pub(crate) fn run(invocation: Invocation) -> Result<ExitCode, Failure> {
    let exec = matches!(invocation.command, Command::Exec(_));
    command(invocation).map_err(|error| match exec {
        true => Failure { error: error.context("exec failed"), status: 255 },
        false => Failure { error, status: 1 },
    })
}

fn command(Invocation { global, command }: Invocation) -> anyhow::Result<ExitCode> {
    match command {
        Command::Version => out::write(&version(&global.program))?,
        Command::Help(topic) => out::write(&help::render(&global.program, topic))?,
        Command::Features => out::write(&features::document(&features::built())?)?,
        Command::Spec(args) => write_spec(&args)?,
        Command::Completion(shell) => out::write(&completion::script(shell, &global.program))?,
        Command::Man(directory) => write_pages(&directory, &global.program)?,
        Command::Inspect(args) => return inspect::run(&args),
        command => return lifecycle(&global, command),
    }
    Ok(ExitCode::SUCCESS)
}

/// Commands on containers.
fn lifecycle(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    let root =
        root::resolve(global.root.as_deref(), &Surroundings::of_this_process()).map_err(|e| anyhow!(e))?;
    if let Command::List(_) = command
        && root.origin == Origin::Flag
    {
        std::fs::metadata(&root.path).with_context(|| format!("--root {}", root.path.display()))?;
    }
    root.prepare().with_context(|| format!("--root {}", root.path.display()))?;
    let listen_fds = match command {
        Command::Create(_) | Command::Run(_) => commands::listen_fds()?,
        _ => 0,
    };
    let inherited = preserved(&command).saturating_add(listen_fds);
    // What the caller left open is not for CRIU, hooks or ps(1); these start none.
    if !matches!(command, Command::State { .. } | Command::List(_) | Command::Kill(_)) {
        hiber_sys::process::close_on_exec_from(inherited.saturating_add(3))?;
    }
    let session = Session::new(Runtime::new(&root.path), global, listen_fds);
    match command {
        Command::Create(args) => session.create(&args)?,
        Command::Start { id } => session.start(&id)?,
        Command::Run(args) => return session.run(&args),
        Command::Exec(args) => return session.exec(&args),
        Command::State { id } => session.state(&id)?,
        Command::List(args) => session.list(args)?,
        Command::Kill(args) => session.kill(&args)?,
        Command::Delete { id, force } => session.delete(&id, force)?,
        Command::Ps(args) => session.ps(&args)?,
        Command::Pause { id } => session.pause(&id)?,
        Command::WaitMemory { id } => session.wait_memory(&id)?,
        Command::Resume { id } => session.resume(&id)?,
        Command::Events(args) => session.events(&args)?,
        Command::Update(args) => session.update(&args)?,
        Command::Checkpoint(args) => return session.checkpoint(&args),
        Command::Checkpoints(args) => return session.checkpoints(&args),
        Command::Restore(args) => return session.restore(&args),
        Command::Version
        | Command::Help(_)
        | Command::Features
        | Command::Spec(_)
        | Command::Inspect(_)
        | Command::Completion(_)
        | Command::Man(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// How many descriptors a container is to inherit beside those of a service manager.
fn preserved(command: &Command) -> u32 {
    match command {
        Command::Create(args) => args.preserve_fds,
        Command::Run(args) => args.create.preserve_fds,
        Command::Exec(args) => args.preserve_fds,
        _ => 0,
    }
}

/// runc's lines, which clients pick by their first word. The commit is what hack/build, or whoever else builds, says.
fn version(program: &str) -> String {
    let commit = option_env!("HIBER_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    format!(
        "{program} version {}\ncommit: {commit}\nspec: {}\n",
        env!("CARGO_PKG_VERSION"),
        spec::OCI_VERSION
    )
}

fn write_spec(args: &SpecArgs) -> anyhow::Result<()> {
    let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
    let kind = if args.rootless {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        spec::Kind::Rootless { uid: uid.as_raw(), gid: gid.as_raw() }
    } else {
        spec::Kind::Root
    };
    // only there is a cgroup namespace of use to a container
    let cgroup2 = rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC);
    Ok(spec::write(bundle, &spec::default_config(kind, cgroup2))?)
}

/// Writes the manual pages, dated by `$SOURCE_DATE_EPOCH` (seconds; reproducible-builds.org) or today.
fn write_pages(directory: &Path, program: &str) -> anyhow::Result<()> {
    let date = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let seconds = text.parse().ok().filter(|seconds| *seconds < YEAR_10000);
            let seconds = seconds.with_context(|| format!("SOURCE_DATE_EPOCH {text:?}: expected seconds"))?;
            UNIX_EPOCH + Duration::from_secs(seconds)
        }
        Err(_) => SystemTime::now(),
    };
    let date = humantime::format_rfc3339_seconds(date).to_string();
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    for (name, text) in man::pages(program, date.split('T').next().unwrap_or_default()) {
        let file = directory.join(name);
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// In seconds since 1970: what RFC 3339 cannot write any more.
const YEAR_10000: u64 = 253_402_300_800;

/// linux/magic.h
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
