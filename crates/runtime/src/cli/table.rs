//! The table of commands and flags, from which parsing and help both come.
//!
//! Names, aliases and argument counts are runc's; `--tcp-close` and `--network-lock` are crun's;
//! `--criu` (runc had it until 1.1), `--no-hash`, `--no-sync`, `--trust-images`, `--check`, `checkpoints`,
//! `--checkpoint` and `inspect` are our own.

/// What follows a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing; `--flag=true` and `--flag=false` are understood too.
    Nothing,
    /// One value, of which the last counts; the string stands for it in help.
    One(&'static str),
    /// One value each time, all of which count.
    Many(&'static str),
}

/// One flag of a command, or a global one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flag {
    /// The name without dashes.
    pub name: &'static str,
    /// The one-letter alias, without dash.
    pub short: Option<&'static str>,
    /// What follows it.
    pub takes: Takes,
    /// One line for help.
    pub help: &'static str,
    /// Understood, but not shown.
    pub hidden: bool,
}

impl Flag {
    const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, short: None, takes: Takes::Nothing, help, hidden: false }
    }
    const fn value(name: &'static str, metavar: &'static str, help: &'static str) -> Self {
        Self { name, short: None, takes: Takes::One(metavar), help, hidden: false }
    }
    const fn list(name: &'static str, metavar: &'static str, help: &'static str) -> Self {
        Self { name, short: None, takes: Takes::Many(metavar), help, hidden: false }
    }
    const fn short(mut self, letter: &'static str) -> Self {
        self.short = Some(letter);
        self
    }
    const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }
}

/// How many positional arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// This many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
    /// From the first to the second number.
    Between(usize, usize),
}

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandTable {
    /// Its name.
    pub name: &'static str,
    /// Its positional arguments, for help.
    pub usage: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Paragraphs for help; may be empty.
    pub description: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
    /// Its positional arguments.
    pub count: Count,
    /// Whether everything after the first positional argument (the container's id) belongs to
    /// another program, flags included.
    pub verbatim: bool,
}

/// The one flag that every level has.
pub(super) const HELP: Flag = Flag::switch("help", "show help").short("h");

/// Flags before the command.
pub(super) const GLOBAL: &[Flag] = &[
    Flag::switch("debug", "log what happens in detail"),
    Flag::value("log", "FILE", "append log lines to FILE (default: standard error)"),
    Flag::value("log-format", "FORMAT", "text or json (default: text)"),
    Flag::value(
        "root",
        "DIR",
        "where the state of containers is kept, best on a tmpfs (default: /run/hiber, or \
         $XDG_RUNTIME_DIR/hiber when not root)",
    ),
    Flag::switch("systemd-cgroup", "let systemd make the cgroups; cgroupsPath is then slice:prefix:name"),
    Flag::value(
        "rootless",
        "WHEN",
        "go on where permission for cgroups is missing: true, false or auto (default: auto)",
    ),
    Flag::value("criu", "FILE", "the criu program (default: criu, looked up in PATH)"),
    HELP,
    Flag::switch("version", "show the version").short("v"),
];

const BUNDLE: Flag =
    Flag::value("bundle", "DIR", "the bundle's directory (default: the working directory)").short("b");
const CONSOLE_SOCKET: Flag = Flag::value(
    "console-socket",
    "SOCKET",
    "unix socket that receives the master end of the container's terminal",
);
const PID_FILE: Flag = Flag::value("pid-file", "FILE", "write the process id to FILE");
const DETACH: Flag = Flag::switch("detach", "return as soon as the process runs").short("d");
const NO_PIVOT: Flag =
    Flag::switch("no-pivot", "change the root without pivot_root; for a rootfs on a ramdisk, less safe");
const NO_NEW_KEYRING: Flag =
    Flag::switch("no-new-keyring", "keep the caller's session keyring instead of making one");
const NO_SUBREAPER: Flag =
    Flag::switch("no-subreaper", "do not become the parent of processes that lose theirs");
const PIDFD_SOCKET: Flag =
    Flag::value("pidfd-socket", "SOCKET", "unix socket that receives a pidfd of the process");
const PRESERVE_FDS: Flag =
    Flag::value("preserve-fds", "N", "pass N more file descriptors on, beside stdio and $LISTEN_FDS");
const FORMAT: Flag = Flag::value("format", "FORMAT", "table or json (default: table)").short("f");

const IMAGE_PATH: Flag =
    Flag::value("image-path", "DIR", "directory of CRIU's images (default: ./checkpoint)");
const WORK_PATH: Flag = Flag::value("work-path", "DIR", "directory of CRIU's logs and statistics");
const TCP_ESTABLISHED: Flag =
    Flag::switch("tcp-established", "allow established TCP connections and keep them");
const TCP_CLOSE: Flag = Flag::switch("tcp-close", "allow established TCP connections and close them");
const EXT_UNIX_SK: Flag = Flag::switch("ext-unix-sk", "allow unix sockets whose peer is outside");
const SHELL_JOB: Flag = Flag::switch("shell-job", "allow a session or terminal that comes from outside");
const FILE_LOCKS: Flag = Flag::switch("file-locks", "allow file locks and keep them");
const LAZY_PAGES: Flag = Flag::switch("lazy-pages", "bring memory in when it is used (userfaultfd)");
const AUTO_DEDUP: Flag =
    Flag::switch("auto-dedup", "free a parent image's memory pages once they are superseded");
const MANAGE_CGROUPS: Flag = Flag::value(
    "manage-cgroups-mode",
    "MODE",
    "what CRIU does to cgroups: soft, full, strict or ignore (default: soft)",
);
const NETWORK_LOCK: Flag = Flag::value(
    "network-lock",
    "METHOD",
    "how packets are held back meanwhile: iptables, nftables or skip (default: CRIU's)",
);
const EMPTY_NS: Flag =
    Flag::list("empty-ns", "NAMESPACE", "keep the namespace, not its contents; only network is supported");

const CHECK: Flag = Flag::switch(
    "check",
    "only list what would make it fail or cost much; the exit status is 0 if nothing is in the way, else 1",
);
const CHECK_FORMAT: Flag =
    Flag::value("format", "FORMAT", "with --check: table or json (default: table)").short("f");
const CHECKPOINT_DIR: Flag = Flag::value(
    "checkpoint-dir",
    "DIR",
    "directory of named checkpoints (default: checkpoints below the bundle)",
);

const CREATE_FLAGS: &[Flag] =
    &[BUNDLE, CONSOLE_SOCKET, PIDFD_SOCKET, PID_FILE, NO_PIVOT, NO_NEW_KEYRING, PRESERVE_FDS, HELP];

const RUN_FLAGS: &[Flag] = &[
    BUNDLE,
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    DETACH,
    Flag::switch("keep", "do not delete the container when it has ended"),
    PID_FILE,
    NO_SUBREAPER,
    NO_PIVOT,
    NO_NEW_KEYRING,
    PRESERVE_FDS,
    HELP,
];

const EXEC_FLAGS: &[Flag] = &[
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    Flag::value("cwd", "DIR", "working directory, in the container"),
    Flag::list("env", "NAME=VALUE", "add to the environment").short("e"),
    Flag::switch("tty", "give it a terminal").short("t"),
    Flag::value("user", "UID[:GID]", "user and group, as numbers").short("u"),
    Flag::list("additional-gids", "GID", "add a supplementary group").short("g"),
    Flag::value("process", "FILE", "take the whole process from FILE, a process object in JSON").short("p"),
    DETACH,
    PID_FILE,
    Flag::value("process-label", "LABEL", "SELinux label"),
    Flag::value("apparmor", "PROFILE", "AppArmor profile"),
    Flag::switch("no-new-privs", "set no_new_privs"),
    Flag::list("cap", "CAP", "add a capability").short("c"),
    PRESERVE_FDS,
    Flag::list("cgroup", "[CONTROLLER:]PATH", "run in a cgroup below the container's, which must exist"),
    Flag::switch("ignore-paused", "also in a paused container; the process waits for resume"),
    HELP,
];

const CHECKPOINT_FLAGS: &[Flag] = &[
    IMAGE_PATH,
    WORK_PATH,
    Flag::value("parent-path", "DIR", "earlier pre-dump to build on, relative to the image path"),
    Flag::switch("leave-running", "let the container run on afterwards"),
    TCP_ESTABLISHED,
    Flag::switch("tcp-skip-in-flight", "leave TCP connections out that are still being made"),
    TCP_CLOSE,
    Flag::switch("link-remap", "give a deleted file that is still open a temporary name"),
    EXT_UNIX_SK,
    SHELL_JOB,
    LAZY_PAGES,
    Flag::value("status-fd", "FD", "CRIU writes a NUL byte to FD when lazy pages can be fetched"),
    Flag::value("page-server", "ADDRESS:PORT", "send memory to a page server; IPv6 as [ADDRESS]:PORT"),
    FILE_LOCKS,
    Flag::switch("pre-dump", "write memory only, and let the container run on"),
    MANAGE_CGROUPS,
    NETWORK_LOCK,
    EMPTY_NS,
    AUTO_DEDUP,
    Flag::switch(
        "no-hash",
        "leave the files' hashes out of hiber.json: less time frozen, but `inspect --verify` cannot verify it",
    ),
    Flag::switch(
        "no-sync",
        "do not wait for the disk: less time frozen, but a power failure soon after may lose the checkpoint",
    ),
    CHECK,
    CHECK_FORMAT,
    HELP,
];

/// Those of `create` are those of containerd's first runtime, but for `--leave-running`, which it calls not to exit.
const CHECKPOINTS_FLAGS: &[Flag] = &[
    CHECKPOINT_DIR,
    Flag::value(
        "bundle",
        "DIR",
        "the bundle of a container that does not exist any more (default: the working directory)",
    )
    .short("b"),
    FORMAT,
    Flag::switch("leave-running", "create: let the container run on afterwards"),
    TCP_ESTABLISHED,
    EXT_UNIX_SK,
    SHELL_JOB,
    FILE_LOCKS,
    EMPTY_NS,
    WORK_PATH,
    HELP,
];

const RESTORE_FLAGS: &[Flag] = &[
    CONSOLE_SOCKET,
    IMAGE_PATH,
    Flag::value("checkpoint", "NAME", "the named checkpoint to restore, instead of --image-path"),
    CHECKPOINT_DIR,
    WORK_PATH,
    TCP_ESTABLISHED,
    TCP_CLOSE,
    EXT_UNIX_SK,
    SHELL_JOB,
    FILE_LOCKS,
    MANAGE_CGROUPS,
    NETWORK_LOCK,
    BUNDLE,
    DETACH,
    PID_FILE,
    NO_SUBREAPER,
    NO_PIVOT,
    EMPTY_NS,
    AUTO_DEDUP,
    LAZY_PAGES,
    Flag::value("lsm-profile", "TYPE:NAME", "security profile to restore under instead of the dumped one"),
    Flag::value("lsm-mount-context", "CONTEXT", "SELinux context for mounts instead of the dumped one"),
    Flag::switch(
        "trust-images",
        "restore images that were changed, that others can write to, or whose processes have more privilege \
         than config.json grants",
    ),
    CHECK,
    CHECK_FORMAT,
    HELP,
];

const UPDATE_FLAGS: &[Flag] = &[
    Flag::value("resources", "FILE", "take the limits from FILE, or from standard input if it is -")
        .short("r"),
    Flag::value("blkio-weight", "WEIGHT", "weight of block I/O, 10 to 1000"),
    Flag::value("cpu-period", "USEC", "period of the CPU quota, microseconds"),
    Flag::value("cpu-quota", "USEC", "CPU time in each period, microseconds; -1 for no limit"),
    Flag::value("cpu-burst", "USEC", "CPU time that may be saved up beyond the quota, microseconds"),
    Flag::value("cpu-share", "SHARES", "weight of CPU time against other containers"),
    Flag::value("cpu-rt-period", "USEC", "period of the realtime limit, microseconds"),
    Flag::value("cpu-rt-runtime", "USEC", "realtime CPU time in each period, microseconds"),
    Flag::value("cpuset-cpus", "LIST", "CPUs to use, such as 0-3,7"),
    Flag::value("cpuset-mems", "LIST", "memory nodes to use"),
    Flag::value("kernel-memory", "BYTES", "ignored: kernels have dropped it").hidden(),
    Flag::value("kernel-memory-tcp", "BYTES", "ignored: kernels have dropped it").hidden(),
    Flag::value("memory", "BYTES", "memory limit, such as 64M; -1 for none"),
    Flag::value("cpu-idle", "0|1", "1 to run only when no one else wants to (SCHED_IDLE)"),
    Flag::value("memory-reservation", "BYTES", "memory that is kept when memory is short"),
    Flag::value("memory-swap", "BYTES", "limit of memory and swap together; -1 for none"),
    Flag::value("pids-limit", "COUNT", "most processes and threads; -1 for no limit"),
    Flag::value("l3-cache-schema", "SCHEMA", "Intel RDT: share of the L3 cache"),
    Flag::value("mem-bw-schema", "SCHEMA", "Intel RDT: share of the memory bandwidth"),
    HELP,
];

const ID: &str = "<container-id>";

const fn on_container(
    name: &'static str,
    summary: &'static str,
    description: &'static str,
    flags: &'static [Flag],
) -> CommandTable {
    CommandTable { name, usage: ID, summary, description, flags, count: Count::Exactly(1), verbatim: false }
}

/// All commands, in the order of help.
pub(super) static COMMANDS: &[CommandTable] = &[
    on_container(
        "checkpoint",
        "put a running container to sleep",
        "Writes the container's processes and memory to a directory with CRIU. The container is gone\n\
         afterwards, unless it is left running. What CRIU cannot save: --check, and docs/limits.md.",
        CHECKPOINT_FLAGS,
    ),
    CommandTable {
        name: "checkpoints",
        usage: "create <container-id> <name>  or  ls <container-id>  or  inspect|rm <container-id> <name>",
        summary: "keep checkpoints of a container by name",
        description: "`checkpoint` (without s) is runc's command: it writes to any directory. This one keeps checkpoints\n\
                      by name in a directory of the container's, as Docker and containerd do: create makes one, ls\n\
                      shows them, inspect shows how one was made, rm removes it. `restore --checkpoint NAME` starts\n\
                      the container from one.\n\n\
                      A name is [a-zA-Z0-9][a-zA-Z0-9_.-]+ and is given once. When and with which options a checkpoint\n\
                      was made stands in config.json beside its images. A failed create leaves nothing.",
        flags: CHECKPOINTS_FLAGS,
        count: Count::Between(2, 3),
        verbatim: false,
    },
    on_container(
        "create",
        "create a container",
        "Sets a container up from a bundle: a directory with a config.json and a root filesystem. Its\n\
         process waits until `start`. The id must be new below --root.",
        CREATE_FLAGS,
    ),
    on_container(
        "delete",
        "delete a container and all that it holds",
        "A running container is refused without --force.",
        &[Flag::switch("force", "kill it first if it runs; no error if it does not exist").short("f"), HELP],
    ),
    on_container(
        "events",
        "show what happens in a container and what it uses, as JSON",
        "A line of statistics every --interval, a line each time the kernel runs out of memory for the container,\n\
         and a line when it is started, paused, resumed, checkpointed, when a process is executed in it (exec-added,\n\
         exec-started) and when one ends (exit), whoever does it; until the container has stopped. Lines of type\n\
         stats and oom are runc's.\n\n\
         With --lifecycle all that was done to it since its creation comes first, and the lines go on until it is\n\
         deleted; statistics come only with --interval.",
        &[
            Flag::value("interval", "TIME", "time between statistics, such as 1s or 100ms (default: 5s)"),
            Flag::switch("lifecycle", "from its creation to its deletion, without statistics"),
            Flag::switch("stats", "show statistics once, and leave"),
            HELP,
        ],
    ),
    CommandTable {
        name: "exec",
        usage: "<container-id> <command> [argument...]  or  --process FILE <container-id>",
        summary: "run another process in a container",
        description: "All that follows the container's id is the command, flags included.\n\n\
                      The exit status is the command's; 255 if it could not be run.",
        flags: EXEC_FLAGS,
        count: Count::AtLeast(1),
        verbatim: true,
    },
    CommandTable {
        name: "features",
        usage: "",
        summary: "show what this runtime supports, as JSON",
        description: "The document is defined by the OCI runtime specification (features.md).",
        flags: &[HELP],
        count: Count::Exactly(0),
        verbatim: false,
    },
    CommandTable {
        name: "inspect",
        usage: "<directory or archive>",
        summary: "show what a checkpoint holds",
        description: "Shows the manifest, processes, memory, open files, sockets, mounts and cgroups of a checkpoint of\n\
                      hiber, runc, crun or podman (an archive: tar, also with gzip or zstd).\n\n\
                      With --verify its files are compared with the manifest, hashes included; the exit status is 1\n\
                      if anything is wrong, or if there are no hashes to compare.",
        flags: &[
            Flag::value("format", "FORMAT", "table (a tree, for people) or json (default: table)").short("f"),
            Flag::switch("verify", "compare the files with the manifest"),
            HELP,
        ],
        count: Count::Exactly(1),
        verbatim: false,
    },
    CommandTable {
        name: "kill",
        usage: "<container-id> [signal]",
        summary: "send a signal to a container's first process (default: SIGTERM)",
        description: "The signal is a name, with or without SIG, or a number.",
        flags: &[
            Flag::switch("all", "no error if the container is not running (obsolete)").short("a").hidden(),
            HELP,
        ],
        count: Count::Between(1, 2),
        verbatim: false,
    },
    CommandTable {
        name: "list",
        usage: "",
        summary: "list the containers below --root",
        description: "",
        flags: &[FORMAT, Flag::switch("quiet", "ids only").short("q"), HELP],
        count: Count::Exactly(0),
        verbatim: false,
    },
    on_container("pause", "freeze all processes of a container", "", &[HELP]),
    CommandTable {
        name: "ps",
        usage: "<container-id> [ps option...]",
        summary: "show the processes of a container",
        description: "Options after the container's id are given to ps(1) (default: -ef); its output must have a\n\
                      PID column. With --format json only the process ids are printed.",
        flags: &[FORMAT, HELP],
        count: Count::AtLeast(1),
        verbatim: true,
    },
    on_container(
        "restore",
        "wake a container from a checkpoint",
        "The bundle must be the one that the container was created from, or its like. What the checkpoint was\n\
         told (TCP connections, file locks, cgroups and so on) is read from its hiber.json and holds here, too,\n\
         unless a flag says otherwise: --tcp-established=false.",
        RESTORE_FLAGS,
    ),
    on_container("resume", "let the processes of a paused container run on", "", &[HELP]),
    on_container(
        "run",
        "create a container and start it",
        "Without --detach it stays in the foreground, passes signals on, and exits with the status of the\n\
         container's first process.",
        RUN_FLAGS,
    ),
    CommandTable {
        name: "spec",
        usage: "",
        summary: "write a config.json to start from",
        description: "It runs `sh` on a read-only root filesystem in the directory rootfs. An existing config.json is\n\
                      not overwritten.",
        flags: &[
            BUNDLE,
            Flag::switch("rootless", "for the calling user, in a user namespace without network"),
            HELP,
        ],
        count: Count::Exactly(0),
        verbatim: false,
    },
    on_container("start", "start the process of a created container", "", &[HELP]),
    on_container("state", "show the state of a container, as JSON", "", &[HELP]),
    on_container(
        "update",
        "change the limits of a container",
        "Limits that are not given stay as they are. With --resources all other flags are ignored; the\n\
         format is that of linux.resources in config.json, in which members may be left out.",
        UPDATE_FLAGS,
    ),
];

/// The command of that name.
pub(super) fn command(name: &str) -> Option<&'static CommandTable> {
    COMMANDS.iter().find(|c| c.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_has_a_name_twice() {
        for flags in COMMANDS.iter().map(|c| c.flags).chain([GLOBAL]) {
            let mut names: Vec<_> = flags.iter().flat_map(|f| [Some(f.name), f.short]).flatten().collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{names:?}");
        }
        assert!(COMMANDS.is_sorted_by_key(|c| c.name), "help lists commands in this order");
    }
}
