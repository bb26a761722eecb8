//! From arguments to types. Nothing here looks at the machine.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::*;
use super::refusal::Refusal;
use super::scan::{FlagsEnd, Matches, boolean, scan};
use super::table::{self, CommandTable, Count};
use super::{resources, value};
use hiber::id::ContainerId;
use hiber::{CheckpointError, CheckpointName, PreCopy};

/// A command line that cannot be understood.
#[derive(Debug)]
pub(super) struct UsageError {
    /// Why, in one line.
    pub message: String,
    /// The global flags as far as they were read: they say where errors are logged.
    pub global: Box<Global>,
    /// Whose help to show.
    pub help: Help,
    /// The exit status: runc's.
    pub status: u8,
}

/// The help that goes with a usage error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Help {
    /// None: the command line is well-formed, and a value in it is wrong.
    No,
    /// The program's.
    Program,
    /// A command's.
    Command(&'static CommandTable),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UsageError {}

type Result<T, E = Refusal> = std::result::Result<T, E>;

/// Reads a command line; `args` begins with the program's name.
///
/// # Errors
/// Whatever runc refuses before it looks at a container: unknown commands and flags, missing values,
/// the wrong number of arguments, malformed ids, numbers, signals and modes; and combinations of
/// checkpoint flags that contradict each other.
pub(super) fn parse(args: impl Iterator<Item = OsString>) -> std::result::Result<Invocation, UsageError> {
    let mut args = args.peekable();
    let program = args.next().unwrap_or_default();
    let program = Path::new(&program).file_name().and_then(OsStr::to_str).unwrap_or("hiber").to_owned();

    let (matches, scanned) = scan(&mut args, table::GLOBAL, FlagsEnd::BeforeFirst);
    let (global, checked) = global(&matches, program);
    let fail = |message, help, status| UsageError { message, global: Box::new(global.clone()), help, status };

    scanned.map_err(|message| fail(message, Help::Program, 1))?;
    if matches.help {
        return Ok(Invocation { command: Command::Help(None), global });
    }
    if matches.switch("version") {
        return Ok(Invocation { command: Command::Version, global });
    }
    checked.map_err(|message| fail(message, Help::No, 1))?;
    let name = args.next();
    // runc's argument parser leaves with 3 here
    let find = |name: &OsStr| {
        let name = name.to_string_lossy();
        table::command(&name).ok_or_else(|| {
            let hint =
                table::similar(&name).map_or_else(String::new, |c| format!("; did you mean {}?", c.name));
            fail(format!("No help topic for '{name}'{hint}"), Help::No, 3)
        })
    };
    let topic = match name.as_deref() {
        None => return Ok(Invocation { command: Command::Help(None), global }),
        Some(help) if help == "help" || help == "h" => {
            let topic = args.next().map(|name| find(&name)).transpose()?;
            return Ok(Invocation { command: Command::Help(topic), global });
        }
        Some(name) => find(name)?,
    };

    let end = if topic.verbatim { FlagsEnd::AfterFirst } else { FlagsEnd::Never };
    let (matches, scanned) = scan(&mut args, topic.flags, end);
    scanned.map_err(|message| fail(message, Help::Command(topic), 1))?;
    if matches.help {
        return Ok(Invocation { command: Command::Help(Some(topic)), global });
    }
    let parsed = count(topic, &matches, &global.program).and_then(|()| command(topic, &matches));
    match parsed.and_then(|command| heard(&matches).map(|()| command)) {
        Ok(command) => Ok(Invocation { command, global }),
        Err(Refusal::Form(message)) => Err(fail(message, Help::Command(topic), 1)),
        Err(Refusal::Value(message)) if topic.name == "exec" => {
            Err(fail(format!("exec failed: {message}"), Help::No, 255))
        }
        Err(Refusal::Value(message)) => Err(fail(message, Help::No, 1)),
    }
}

/// The global flags, and what is wrong with them; where logs go is known all the same.
fn global(m: &Matches, program: String) -> (Global, std::result::Result<(), String>) {
    let mut wrong = Ok(());
    let log_format = match m.value("log-format").map(OsStr::to_string_lossy).as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            wrong = Err(format!("invalid log-format: {other}: expected text or json"));
            LogFormat::Text
        }
    };
    let rootless = match m.value("rootless") {
        None => None,
        Some(auto) if auto.eq_ignore_ascii_case("auto") => None,
        Some(text) => {
            let value = boolean(text);
            if value.is_none() {
                wrong =
                    Err(format!("invalid value {text:?} for flag -rootless: expected true, false or auto"));
            }
            value
        }
    };
    let global = Global {
        program,
        // an empty --root is no root, not the default one
        root: m.is_given("root").then(|| path(m, "root").unwrap_or_default()),
        log: path(m, "log"),
        log_format,
        debug: m.switch("debug"),
        systemd_cgroup: m.switch("systemd-cgroup"),
        rootless,
        criu: path(m, "criu"),
    };
    (global, wrong)
}

/// Checks the number of arguments; the messages are runc's.
fn count(topic: &CommandTable, m: &Matches, program: &str) -> Result<()> {
    let given = m.positionals.len();
    let name = topic.name;
    let wrong = match topic.count {
        Count::Exactly(n) if given != n => format!("exactly {n}"),
        Count::AtLeast(n) | Count::Between(n, _) if given < n => format!("a minimum of {n}"),
        Count::Between(_, n) if given > n => format!("a maximum of {n}"),
        _ => return Ok(()),
    };
    Err(Refusal::Form(format!("{program}: {name:?} requires {wrong} argument(s)")))
}

/// A flag that the command has not looked at would be lost without a word.
fn heard(m: &Matches) -> Result<()> {
    m.unheard().map_or(Ok(()), |flag| Err(Refusal::Form(format!("--{flag} has no effect here"))))
}

/// How often `events` tells what a container uses, unless told otherwise.
const STATS_INTERVAL: Duration = Duration::from_secs(5);

fn command(topic: &'static CommandTable, m: &Matches) -> Result<Command> {
    let id = || container_id(m);
    Ok(match topic.name {
        "checkpoint" => Command::Checkpoint(checkpoint(m)?),
        "checkpoints" => Command::Checkpoints(checkpoints(m)?),
        "completion" => Command::Completion(value::shell(&m.positionals[0])?),
        "create" => Command::Create(create(m)?),
        "delete" => Command::Delete { id: id()?, force: m.switch("force") },
        "events" => Command::Events(EventsArgs {
            id: id()?,
            interval: match m.value("interval") {
                Some(interval) => Some(value::interval(interval)?),
                None => (!m.switch("lifecycle")).then_some(STATS_INTERVAL),
            },
            stats: m.switch("stats"),
            lifecycle: m.switch("lifecycle"),
        }),
        "exec" => Command::Exec(exec(m)?),
        "features" => Command::Features,
        "inspect" => Command::Inspect(InspectArgs {
            path: m.positionals.first().map(PathBuf::from).unwrap_or_default(),
            format: format(m)?,
            verify: m.switch("verify"),
        }),
        "kill" => Command::Kill(KillArgs {
            id: id()?,
            signal: value::signal(m.positionals.get(1).map(OsString::as_os_str))?,
            all: m.switch("all"),
        }),
        "list" => Command::List(ListArgs { format: format(m)?, quiet: m.switch("quiet") }),
        "man" => Command::Man(m.positionals.first().map(PathBuf::from).unwrap_or_default()),
        "pause" => Command::Pause { id: id()? },
        "ps" => Command::Ps(PsArgs { id: id()?, format: format(m)?, args: m.positionals[1..].to_vec() }),
        "restore" => Command::Restore(restore(m)?),
        "wait-memory" => Command::WaitMemory { id: id()? },
        "resume" => Command::Resume { id: id()? },
        "run" => Command::Run(RunArgs {
            create: create(m)?,
            detach: m.switch("detach"),
            keep: m.switch("keep"),
            no_subreaper: m.switch("no-subreaper"),
        }),
        "spec" => Command::Spec(SpecArgs { bundle: path(m, "bundle"), rootless: m.switch("rootless") }),
        "start" => Command::Start { id: id()? },
        "state" => Command::State { id: id()? },
        "update" => Command::Update(resources::update(id()?, m)?),
        other => return Err(Refusal::Form(format!("{other:?} is in the table of commands only"))),
    })
}

fn create(m: &Matches) -> Result<CreateArgs> {
    Ok(CreateArgs {
        id: container_id(m)?,
        bundle: path(m, "bundle"),
        console_socket: path(m, "console-socket"),
        pidfd_socket: path(m, "pidfd-socket"),
        pid_file: path(m, "pid-file"),
        no_pivot: m.switch("no-pivot"),
        no_new_keyring: m.switch("no-new-keyring"),
        preserve_fds: preserve_fds(m)?,
    })
}

fn exec(m: &Matches) -> Result<ExecArgs> {
    let args = m.positionals[1..].iter().map(|a| value::text("argument", a)).collect::<Result<Vec<_>>>()?;
    let process = path(m, "process");
    let id = container_id(m)?;
    if args.is_empty() && process.is_none() {
        return Err(Refusal::Value("exec args cannot be empty".into()));
    }
    Ok(ExecArgs {
        id,
        args,
        process,
        cwd: path(m, "cwd"),
        env: texts(m, "env")?,
        tty: m.switch("tty"),
        user: m.value("user").map(value::user).transpose()?,
        additional_gids: m.values("additional-gids").map(value::gid).collect::<Result<_>>()?,
        selinux_label: text(m, "process-label")?,
        apparmor: text(m, "apparmor")?,
        no_new_privs: choice(m, "no-new-privs"),
        caps: texts(m, "cap")?,
        detach: m.switch("detach"),
        pid_file: path(m, "pid-file"),
        console_socket: path(m, "console-socket"),
        preserve_fds: preserve_fds(m)?,
        ignore_paused: m.switch("ignore-paused"),
        pidfd_socket: path(m, "pidfd-socket"),
        cgroups: m.is_given("cgroup").then(|| value::sub_cgroups(m.values("cgroup"))).transpose()?,
    })
}

/// Flags of `checkpoint`, `checkpoints create` and `restore`.
fn common(m: &Matches) -> Result<CriuFlags> {
    if let Some(namespace) = m.values("empty-ns").find(|n| *n != "network") {
        return Err(Refusal::Value(format!(
            "namespace {namespace:?} is not supported by --empty-ns: expected network"
        )));
    }
    Ok(CriuFlags {
        work_path: path(m, "work-path"),
        tcp_established: choice(m, "tcp-established"),
        ext_unix_sk: choice(m, "ext-unix-sk"),
        shell_job: choice(m, "shell-job"),
        file_locks: choice(m, "file-locks"),
        empty_network: m.is_given("empty-ns").then_some(true),
        ..CriuFlags::default()
    })
}

/// Flags of both `checkpoint` and `restore`.
fn criu(m: &Matches) -> Result<CriuFlags> {
    Ok(CriuFlags {
        image_path: path(m, "image-path"),
        tcp_close: choice(m, "tcp-close"),
        lazy_pages: m.switch("lazy-pages"),
        auto_dedup: m.switch("auto-dedup"),
        cgroups: m.value("manage-cgroups-mode").map(value::cgroups_mode).transpose()?,
        network_lock: m.value("network-lock").map(value::network_lock).transpose()?,
        ..common(m)?
    })
}

/// The names that `--accept` has, of all the times that it is given.
fn accept(m: &Matches) -> Vec<String> {
    let lists = m.values("accept").map(|list| list.to_string_lossy().into_owned());
    lists.flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn pre_copy(m: &Matches) -> Result<PreCopy> {
    let standard = PreCopy::default();
    let mode = m.value("pre-copy").map(value::pre_copy).transpose()?.unwrap_or(standard.mode);
    let max_frozen = m.value("max-frozen").map(|span| value::span("max-frozen", span)).transpose()?;
    let max_rounds = value::number(m.value("max-rounds"), "max-rounds", standard.max_rounds)?;
    if max_rounds == 0 {
        return Err(Refusal::Value("--max-rounds 0: expected 1 or more".into()));
    }
    Ok(PreCopy { mode, max_frozen: max_frozen.unwrap_or(standard.max_frozen), max_rounds })
}

fn checkpoint(m: &Matches) -> Result<CheckpointArgs> {
    let args = CheckpointArgs {
        id: container_id(m)?,
        criu: criu(m)?,
        parent_path: path(m, "parent-path"),
        leave_running: m.switch("leave-running"),
        pre_dump: m.switch("pre-dump"),
        tcp_skip_in_flight: m.switch("tcp-skip-in-flight"),
        link_remap: m.switch("link-remap"),
        status_fd: match value::number(m.value("status-fd"), "status-fd", -1)? {
            -1 => None,
            fd => Some(fd),
        },
        page_server: m.value("page-server").map(value::page_server).transpose()?,
        any_peer: m.switch("page-server-any-peer"),
        no_hash: m.switch("no-hash"),
        no_sync: m.switch("no-sync"),
        pre_copy: pre_copy(m)?,
        prove: m.switch("prove"),
        accept: accept(m),
        check: check(m)?,
    };
    let refuse = |message: &str| Err(Refusal::Value(message.into()));
    if let Some(parent) = args.parent_path.as_deref().filter(|p| p.is_absolute()) {
        return refuse(&format!(
            "--parent-path must be relative to the image path, not {}",
            parent.display()
        ));
    }
    let elsewhere = [
        ("--pre-dump", args.pre_dump),
        ("--lazy-pages", args.criu.lazy_pages),
        ("--page-server", args.page_server.is_some()),
    ];
    if let Some((flag, _)) = elsewhere.iter().find(|(_, given)| args.prove && *given) {
        return refuse(&format!(
            "--prove and {flag} exclude each other: there is no whole checkpoint to be restored"
        ));
    }
    if args.pre_dump && args.criu.lazy_pages {
        return refuse(
            "--pre-dump and --lazy-pages exclude each other: a pre-dump writes memory, lazy pages leave it",
        );
    }
    // A restore may be given both: podman does.
    if args.criu.tcp_established == Some(true) && args.criu.tcp_close == Some(true) {
        return refuse(
            "--tcp-established and --tcp-close exclude each other: connections are kept or closed",
        );
    }
    if args.status_fd.is_some() && !args.criu.lazy_pages {
        return refuse("--status-fd needs --lazy-pages: it tells when lazy pages can be fetched");
    }
    Ok(args)
}

fn checkpoints(m: &Matches) -> Result<CheckpointsArgs> {
    let word = |n: usize| m.positionals.get(n).map(|word| word.to_string_lossy());
    let action = word(0).unwrap_or_default();
    let name = || -> Result<CheckpointName> {
        let name =
            word(2).ok_or_else(|| Refusal::Form(format!("checkpoints {action}: the name is missing")))?;
        name.parse().map_err(|e: CheckpointError| Refusal::Value(e.to_string()))
    };
    let action = match &*action {
        "create" => CheckpointsAction::Create {
            name: name()?,
            leave_running: m.switch("leave-running"),
            pre_copy: pre_copy(m)?,
            prove: m.switch("prove"),
            accept: accept(m),
            criu: common(m)?,
        },
        "ls" | "list" if word(2).is_some() => {
            return Err(Refusal::Form(format!(
                "checkpoints {action}: takes a container's id and nothing else"
            )));
        }
        "ls" | "list" => CheckpointsAction::List { format: format(m)? },
        "inspect" => CheckpointsAction::Inspect(name()?),
        "verify" => CheckpointsAction::Verify {
            name: name()?,
            format: format(m)?,
            prove: m.switch("prove").then(|| common(m)).transpose()?,
        },
        "rm" | "delete" => CheckpointsAction::Remove(name()?),
        other => {
            return Err(Refusal::Form(format!(
                "checkpoints {other:?}: expected create, ls, inspect, verify or rm"
            )));
        }
    };
    Ok(CheckpointsArgs {
        action,
        id: word(1).unwrap_or_default().parse()?,
        dir: path(m, "checkpoint-dir"),
        bundle: path(m, "bundle"),
    })
}

fn restore(m: &Matches) -> Result<RestoreArgs> {
    let checkpoint = m.value("checkpoint").map(|name| name.to_string_lossy().parse()).transpose();
    let checkpoint = checkpoint.map_err(|e: CheckpointError| Refusal::Value(e.to_string()))?;
    if checkpoint.is_some() && m.value("image-path").is_some() {
        return Err(Refusal::Value("--checkpoint and --image-path exclude each other".into()));
    }
    if checkpoint.is_none() && m.value("checkpoint-dir").is_some() {
        return Err(Refusal::Value("--checkpoint-dir needs --checkpoint".into()));
    }
    for flag in ["lazy-pages", "background", "detach", "console-socket", "pid-file", "check"] {
        if m.switch("prove") && m.is_given(flag) {
            return Err(Refusal::Value(format!(
                "--prove and --{flag} exclude each other: nothing is left running"
            )));
        }
    }
    if m.is_given("page-server") && !m.switch("lazy-pages") {
        return Err(Refusal::Value(
            "--page-server needs --lazy-pages: it is where memory is fetched from".into(),
        ));
    }
    for flag in ["lazy-pages", "auto-dedup"] {
        if m.switch("background") && m.switch(flag) {
            return Err(Refusal::Value(format!(
                "--background and --{flag} exclude each other: memory comes from the images while the container runs"
            )));
        }
    }
    Ok(RestoreArgs {
        background: m.switch("background"),
        page_server: m.value("page-server").map(value::page_server).transpose()?,
        checkpoint,
        checkpoint_dir: path(m, "checkpoint-dir"),
        id: container_id(m)?,
        criu: criu(m)?,
        bundle: path(m, "bundle"),
        console_socket: path(m, "console-socket"),
        pid_file: path(m, "pid-file"),
        detach: m.switch("detach"),
        no_subreaper: m.switch("no-subreaper"),
        no_pivot: m.switch("no-pivot"),
        lsm_profile: m.value("lsm-profile").map(value::lsm_profile).transpose()?,
        lsm_mount_context: text(m, "lsm-mount-context")?,
        trust_images: m.switch("trust-images"),
        resources: m.value("resources").map(value::resources).transpose()?,
        prove: m.switch("prove"),
        check: check(m)?,
    })
}

/// `--check` and its form.
fn check(m: &Matches) -> Result<Option<Format>> {
    let format = format(m)?;
    if m.is_given("format") && !m.switch("check") {
        return Err(Refusal::Value("--format needs --check: it is the form of its report".into()));
    }
    Ok(m.switch("check").then_some(format))
}

fn container_id(m: &Matches) -> Result<ContainerId> {
    Ok(m.positionals.first().map(|id| id.to_string_lossy()).unwrap_or_default().parse()?)
}

fn path(m: &Matches, flag: &str) -> Option<PathBuf> {
    m.value(flag).map(PathBuf::from)
}

fn text(m: &Matches, flag: &str) -> Result<Option<String>> {
    m.value(flag).map(|value| value::text(flag, value)).transpose()
}

/// A switch that is on, off, or not given.
fn choice(m: &Matches, flag: &str) -> Option<bool> {
    m.is_given(flag).then(|| m.switch(flag))
}

fn texts(m: &Matches, flag: &str) -> Result<Vec<String>> {
    m.values(flag).map(|value| value::text(flag, value)).collect()
}

fn preserve_fds(m: &Matches) -> Result<u32> {
    value::number(m.value("preserve-fds"), "preserve-fds", 0)
}

fn format(m: &Matches) -> Result<Format> {
    m.value("format").map_or(Ok(Format::Table), value::format)
}
