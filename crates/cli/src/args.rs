//! The command line as types.
//!
//! Only tests compare them: so the compiler knows a field that no command reads, and refuses the build.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use super::table::CommandTable;
use hiber::id::ContainerId;
use hiber::{CheckpointName, PreCopy, Resources};

/// A whole command line.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// What stood before the command.
    pub global: Global,
    /// The command.
    pub command: Command,
}

/// Flags before the command.
#[derive(Debug, Clone, Default)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct Global {
    /// The name that the program was called by, without directories: `hiber`.
    pub program: String,
    /// `--root`, as given; see [`super::root::resolve`].
    pub root: Option<PathBuf>,
    /// `--log`; `None` is standard error.
    pub log: Option<PathBuf>,
    /// `--log-format`.
    pub log_format: LogFormat,
    /// `--debug`.
    pub debug: bool,
    /// `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// `--rootless`; `None` is auto.
    pub rootless: Option<bool>,
    /// `--criu`: the program to use, or `None` for `criu` in PATH.
    pub criu: Option<PathBuf>,
}

/// The two forms of log lines.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum LogFormat {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// The command and its arguments.
#[derive(Debug)]
pub(crate) enum Command {
    /// `create`
    Create(CreateArgs),
    /// `start`
    Start {
        /// The container.
        id: ContainerId,
    },
    /// `run`
    Run(RunArgs),
    /// `exec`
    Exec(ExecArgs),
    /// `state`
    State {
        /// The container.
        id: ContainerId,
    },
    /// `list`
    List(ListArgs),
    /// `kill`
    Kill(KillArgs),
    /// `delete`
    Delete {
        /// The container.
        id: ContainerId,
        /// `--force`: kill it first; a container that does not exist is no error.
        force: bool,
    },
    /// `ps`
    Ps(PsArgs),
    /// `pause`
    Pause {
        /// The container.
        id: ContainerId,
    },
    /// `wait-memory`
    WaitMemory {
        /// The container.
        id: ContainerId,
    },
    /// `resume`
    Resume {
        /// The container.
        id: ContainerId,
    },
    /// `events`
    Events(EventsArgs),
    /// `update`
    Update(UpdateArgs),
    /// `checkpoint`
    Checkpoint(CheckpointArgs),
    /// `checkpoints`
    Checkpoints(CheckpointsArgs),
    /// `restore`
    Restore(RestoreArgs),
    /// `inspect`
    Inspect(InspectArgs),
    /// `spec`
    Spec(SpecArgs),
    /// `features`
    Features,
    /// `completion`
    Completion(Shell),
    /// `man`, with the directory
    Man(PathBuf),
    /// `--version`
    Version,
    /// `--help`, `help`, or no command at all; of one command or of the program.
    Help(Option<&'static CommandTable>),
}

/// `create`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct CreateArgs {
    /// The new container.
    pub id: ContainerId,
    /// `--bundle`; `None` is the working directory.
    pub bundle: Option<PathBuf>,
    /// `--console-socket`
    pub console_socket: Option<PathBuf>,
    /// `--pidfd-socket`
    pub pidfd_socket: Option<PathBuf>,
    /// `--pid-file`
    pub pid_file: Option<PathBuf>,
    /// `--no-pivot`
    pub no_pivot: bool,
    /// `--no-new-keyring`
    pub no_new_keyring: bool,
    /// `--preserve-fds`: file descriptors 3 to 2+N are passed on.
    pub preserve_fds: u32,
}

/// `run`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct RunArgs {
    /// What it shares with `create`.
    pub create: CreateArgs,
    /// `--detach`
    pub detach: bool,
    /// `--keep`
    pub keep: bool,
    /// `--no-subreaper`
    pub no_subreaper: bool,
}

/// `exec`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct ExecArgs {
    /// The container.
    pub id: ContainerId,
    /// The command with its arguments; empty only with `process`.
    pub args: Vec<String>,
    /// `--process`: a file with a whole process object; the flags from `cwd` to `caps` then do not
    /// count.
    pub process: Option<PathBuf>,
    /// `--cwd`
    pub cwd: Option<PathBuf>,
    /// `--env`, each as `NAME=VALUE`
    pub env: Vec<String>,
    /// `--tty`
    pub tty: bool,
    /// `--user`: uid, and gid if given
    pub user: Option<(u32, Option<u32>)>,
    /// `--additional-gids`
    pub additional_gids: Vec<u32>,
    /// `--process-label`
    pub selinux_label: Option<String>,
    /// `--apparmor`
    pub apparmor: Option<String>,
    /// `--no-new-privs`; `None` keeps what config.json says.
    pub no_new_privs: Option<bool>,
    /// `--cap`, as written
    pub caps: Vec<String>,
    /// `--detach`
    pub detach: bool,
    /// `--pid-file`
    pub pid_file: Option<PathBuf>,
    /// `--console-socket`
    pub console_socket: Option<PathBuf>,
    /// `--preserve-fds`: file descriptors 3 to 2+N are passed on.
    pub preserve_fds: u32,
    /// `--ignore-paused`
    pub ignore_paused: bool,
    /// `--pidfd-socket`
    pub pidfd_socket: Option<PathBuf>,
    /// `--cgroup`: paths by controller, or one for all under "".
    pub cgroups: Option<BTreeMap<String, String>>,
}

/// A shell whose command lines can be completed.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// `--format`
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// `list`
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct ListArgs {
    /// `--format`
    pub format: Format,
    /// `--quiet`
    pub quiet: bool,
}

/// `kill`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct KillArgs {
    /// The container.
    pub id: ContainerId,
    /// The signal's number, 0 to 64.
    pub signal: i32,
    /// `--all`: a container that is not running is no error.
    pub all: bool,
}

/// `ps`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct PsArgs {
    /// The container.
    pub id: ContainerId,
    /// `--format`
    pub format: Format,
    /// Options for ps(1); empty for its default here, `-ef`.
    pub args: Vec<std::ffi::OsString>,
}

/// `spec`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct SpecArgs {
    /// `--bundle`; `None` is the working directory.
    pub bundle: Option<PathBuf>,
    /// `--rootless`
    pub rootless: bool,
}

/// `events`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct EventsArgs {
    /// The container.
    pub id: ContainerId,
    /// `--interval`, more than zero; `None` for no statistics
    pub interval: Option<Duration>,
    /// `--stats`: once, and no more.
    pub stats: bool,
    /// `--lifecycle`: from the container's creation to its deletion.
    pub lifecycle: bool,
}

/// `update`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) struct UpdateArgs {
    /// The container.
    pub id: ContainerId,
    /// Where the new limits come from.
    pub source: UpdateSource,
    /// `--l3-cache-schema` and `--mem-bw-schema`.
    pub intel_rdt: Vec<String>,
}

/// Where `update` has its limits from; a file wins over flags.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) enum UpdateSource {
    /// From flags.
    Flags(Box<LinuxResources>),
    /// `--resources -`
    Stdin,
    /// `--resources FILE`
    File(PathBuf),
}

/// What `checkpoint` and `restore` both tell CRIU.
#[derive(Debug, Clone, Default)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct CriuFlags {
    /// `--image-path`; `None` is `checkpoint` below the working directory.
    pub image_path: Option<PathBuf>,
    /// `--work-path`; `None` leaves the choice to the runtime.
    pub work_path: Option<PathBuf>,
    /// `--tcp-established`; `None` where not given, for off or what the dump used.
    pub tcp_established: Option<bool>,
    /// `--tcp-close`; `None` where not given, for off or what the dump used.
    pub tcp_close: Option<bool>,
    /// `--ext-unix-sk`; `None` where not given, for off or what the dump used.
    pub ext_unix_sk: Option<bool>,
    /// `--shell-job`; `None` where not given, for off or what the dump used.
    pub shell_job: Option<bool>,
    /// `--file-locks`; `None` where not given, for off or what the dump used.
    pub file_locks: Option<bool>,
    /// `--lazy-pages`
    pub lazy_pages: bool,
    /// `--auto-dedup`
    pub auto_dedup: bool,
    /// `--manage-cgroups-mode`; `None` where not given, for the default.
    pub cgroups: Option<CgroupsMode>,
    /// `--network-lock`; `None` where not given.
    pub network_lock: Option<NetworkLock>,
    /// `--empty-ns network`, the only namespace that it may name; `None` where not given.
    pub empty_network: Option<bool>,
}

/// `checkpoint`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct CheckpointArgs {
    /// The container.
    pub id: ContainerId,
    /// What it shares with `restore`.
    pub criu: CriuFlags,
    /// `--parent-path`, relative to the image path
    pub parent_path: Option<PathBuf>,
    /// `--leave-running`
    pub leave_running: bool,
    /// `--pre-dump`
    pub pre_dump: bool,
    /// `--tcp-skip-in-flight`
    pub tcp_skip_in_flight: bool,
    /// `--link-remap`
    pub link_remap: bool,
    /// `--status-fd`; only with lazy pages
    pub status_fd: Option<i32>,
    /// `--page-server`
    pub page_server: Option<PageServer>,
    /// `--page-server-any-peer`
    pub any_peer: bool,
    /// `--no-hash`
    pub no_hash: bool,
    /// `--no-sync`
    pub no_sync: bool,
    /// `--pre-copy`, `--max-frozen`, `--max-rounds`
    pub pre_copy: PreCopy,
    /// `--prove`
    pub prove: bool,
    /// `--accept`: names of checks.
    pub accept: Vec<String>,
    /// `--check`, with `--format`
    pub check: Option<Format>,
}

/// `checkpoints`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct CheckpointsArgs {
    /// What to do.
    pub action: CheckpointsAction,
    /// The container, which need not exist any more but for `create`.
    pub id: ContainerId,
    /// `--checkpoint-dir`; `None` is the container's own.
    pub dir: Option<PathBuf>,
    /// `--bundle`; `None` is the container's, or the working directory.
    pub bundle: Option<PathBuf>,
}

/// What `checkpoints` does.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum CheckpointsAction {
    /// `create`
    Create {
        /// The new checkpoint.
        name: CheckpointName,
        /// `--leave-running`
        leave_running: bool,
        /// `--pre-copy`, `--max-frozen`, `--max-rounds`
        pre_copy: PreCopy,
        /// `--prove`
        prove: bool,
        /// `--accept`: names of checks.
        accept: Vec<String>,
        /// What it shares with `checkpoint`.
        criu: CriuFlags,
    },
    /// `ls`
    List {
        /// `--format`
        format: Format,
    },
    /// `inspect`
    Inspect(CheckpointName),
    /// `verify`
    Verify {
        /// The checkpoint.
        name: CheckpointName,
        /// `--format`
        format: Format,
        /// `--prove`, with the flags of the restore.
        prove: Option<CriuFlags>,
    },
    /// `rm`
    Remove(CheckpointName),
}

/// `restore`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct RestoreArgs {
    /// The new container.
    pub id: ContainerId,
    /// What it shares with `checkpoint`.
    pub criu: CriuFlags,
    /// `--bundle`; `None` is the working directory.
    pub bundle: Option<PathBuf>,
    /// `--console-socket`
    pub console_socket: Option<PathBuf>,
    /// `--pid-file`
    pub pid_file: Option<PathBuf>,
    /// `--detach`
    pub detach: bool,
    /// `--no-subreaper`
    pub no_subreaper: bool,
    /// `--no-pivot`
    pub no_pivot: bool,
    /// `--page-server`; only with lazy pages
    pub page_server: Option<PageServer>,
    /// `--background`
    pub background: bool,
    /// `--lsm-profile`, as `TYPE:NAME`
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context`
    pub lsm_mount_context: Option<String>,
    /// `--checkpoint`, instead of an image path.
    pub checkpoint: Option<CheckpointName>,
    /// `--checkpoint-dir`; `None` is the one below the bundle.
    pub checkpoint_dir: Option<PathBuf>,
    /// `--trust-images`
    pub trust_images: bool,
    /// `--resources`; `None` where not given.
    pub resources: Option<Resources>,
    /// `--prove`
    pub prove: bool,
    /// `--check`, with `--format`
    pub check: Option<Format>,
}

/// `inspect`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct InspectArgs {
    /// The checkpoint: a directory or an archive.
    pub path: PathBuf,
    /// `--format`
    pub format: Format,
    /// `--verify`
    pub verify: bool,
}

/// `--manage-cgroups-mode`
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum CgroupsMode {
    /// Restore the properties of cgroups that CRIU made.
    Soft,
    /// Restore those of existing ones, too.
    Full,
    /// Refuse existing ones.
    Strict,
    /// Leave cgroups alone.
    Ignore,
}

/// `--network-lock`
#[derive(Debug, Clone, Copy)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum NetworkLock {
    /// By iptables-restore.
    Iptables,
    /// By nftables.
    Nftables,
    /// Not at all.
    Skip,
}

/// `--page-server`
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct PageServer {
    /// Host name or address; IPv6 without its brackets.
    pub address: String,
    /// TCP port.
    pub port: u16,
}
