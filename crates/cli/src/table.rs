//! The table of commands and flags, from which parsing, help, manual pages and shell completion come.
//!
//! Names, aliases and argument counts are runc's; `--tcp-close` and `--network-lock` are crun's;
//! `--criu` (runc had it until 1.1), `--page-server-any-peer`, `--no-hash`, `--no-sync`, `--pre-copy`, `--max-frozen`, `--max-rounds`, `--prove`, `--accept`, `--trust-images`, `--check`, `checkpoints`,
//! `--checkpoint` and `inspect` are our own.

mod commands;

pub(super) use commands::COMMANDS;

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
    /// The values that it takes, where there are few.
    pub words: &'static [&'static str],
    /// One line for help.
    pub help: &'static str,
    /// Understood, but not shown.
    pub hidden: bool,
}

impl Flag {
    const fn new(name: &'static str, takes: Takes, help: &'static str) -> Self {
        Self { name, short: None, takes, words: &[], help, hidden: false }
    }
    const fn switch(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Nothing, help)
    }
    const fn value(name: &'static str, metavar: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::One(metavar), help)
    }
    const fn list(name: &'static str, metavar: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Many(metavar), help)
    }
    const fn of(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }
    const fn short(mut self, letter: &'static str) -> Self {
        self.short = Some(letter);
        self
    }
    const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// What follows it, for shells to complete.
    pub(super) fn argument(&self) -> Option<Argument> {
        match self.takes {
            Takes::Nothing => None,
            _ if !self.words.is_empty() => Some(Argument::Words(self.words)),
            Takes::One("DIR") => Some(Argument::Directory),
            Takes::One("FILE" | "SOCKET") => Some(Argument::File),
            Takes::One(_) | Takes::Many(_) => Some(Argument::Other),
        }
    }
}

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Argument {
    /// The id of a container that exists.
    Container,
    /// One of these.
    Words(&'static [&'static str]),
    /// The name of a command.
    Command,
    /// A file.
    File,
    /// A directory.
    Directory,
    /// Something that only the user knows.
    Other,
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
    /// Command lines without the program's name, each with what it does.
    pub examples: &'static [(&'static str, &'static str)],
    /// Its flags.
    pub flags: &'static [Flag],
    /// How many positional arguments it takes.
    pub count: Count,
    /// What the first of them are.
    pub arguments: &'static [Argument],
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
    Flag::value("log-format", "FORMAT", "text or json (default: text)").of(&["text", "json"]),
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
    )
    .of(&["auto", "true", "false"]),
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
const FORMATS: &[&str] = &["table", "json"];
const FORMAT: Flag = Flag::value("format", "FORMAT", "table or json (default: table)").short("f").of(FORMATS);

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
)
.of(&["soft", "full", "strict", "ignore"]);
const NETWORK_LOCK: Flag = Flag::value(
    "network-lock",
    "METHOD",
    "how packets are held back meanwhile: iptables, nftables or skip (default: CRIU's)",
)
.of(&["iptables", "nftables", "skip"]);
const EMPTY_NS: Flag =
    Flag::list("empty-ns", "NAMESPACE", "keep the namespace, not its contents; only network is supported")
        .of(&["network"]);

const CHECK: Flag = Flag::switch(
    "check",
    "only list what would make it fail or cost much; the exit status is 0 if nothing is in the way, else 1",
);
const ACCEPT: Flag = Flag::list(
    "accept",
    "LIST",
    "do without what a restore would not bring back: names of checks that are a loss, separated by commas",
);
const PROVE: &str =
    "restore the images on trial first; if that fails the container runs on and there is no checkpoint";
const CHECK_FORMAT: Flag =
    Flag::value("format", "FORMAT", "with --check: table or json (default: table)").short("f").of(FORMATS);
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

const PRE_COPY: Flag = Flag::value(
    "pre-copy",
    "WHEN",
    "copy memory while the container runs, so that it is frozen for less long: where there is much of it (auto, the \
     default), always (on, an error where that is not possible), or never (off)",
)
.of(&["auto", "on", "off"]);
const MAX_FROZEN: Flag = Flag::value(
    "max-frozen",
    "TIME",
    "with --pre-copy: freeze the container as soon as the rest can be copied in TIME (default: 50ms)",
);
const MAX_ROUNDS: Flag = Flag::value(
    "max-rounds",
    "N",
    "with --pre-copy: freeze the container after N rounds at the latest (default: 8)",
);

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
    Flag::value(
        "page-server",
        "ADDRESS:PORT",
        "send memory to a page server, or with --lazy-pages serve it there; IPv6 as [ADDRESS]:PORT",
    ),
    Flag::switch(
        "page-server-any-peer",
        "serve lazy pages to whoever asks, as a criu lazy-pages of your own does: it does not know the checkpoint's token",
    ),
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
    PRE_COPY,
    MAX_FROZEN,
    MAX_ROUNDS,
    Flag::switch("prove", PROVE),
    ACCEPT,
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
    PRE_COPY,
    MAX_FROZEN,
    MAX_ROUNDS,
    Flag::switch(
        "prove",
        "create: restore the images on trial first, and fail if that fails; verify: do that now, without effect",
    ),
    ACCEPT,
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
    Flag::switch("no-pivot", "without effect here: CRIU changes the root, by pivot_root alone"),
    EMPTY_NS,
    AUTO_DEDUP,
    Flag::switch(
        "background",
        "let it run at once: memory comes from the images when it is touched, and all the rest meanwhile (wait-memory waits)",
    ),
    LAZY_PAGES,
    Flag::value(
        "page-server",
        "ADDRESS:PORT",
        "fetch memory from there, where `checkpoint --lazy-pages --page-server` serves it; IPv6 as [ADDRESS]:PORT",
    ),
    Flag::value("lsm-profile", "TYPE:NAME", "security profile to restore under instead of the dumped one"),
    Flag::value("lsm-mount-context", "CONTEXT", "SELinux context for mounts instead of the dumped one"),
    Flag::value(
        "resources",
        "WORD",
        "the limits: those that were in force at the checkpoint, as `update` had changed them, or config.json's \
         (default: checkpoint, and more than config.json grants is refused)",
    )
    .of(&["checkpoint", "config"]),
    Flag::switch(
        "trust-images",
        "restore images that were changed, that others can write to, or whose processes have more privilege \
         than config.json grants",
    ),
    Flag::switch(
        "prove",
        "restore on trial only: up to the first instruction, without effect on anything; the exit status tells the result",
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
    Flag::value("cpu-idle", "0|1", "1 to run only when no one else wants to (SCHED_IDLE)").of(&["0", "1"]),
    Flag::value("memory-reservation", "BYTES", "memory that is kept when memory is short"),
    Flag::value("memory-swap", "BYTES", "limit of memory and swap together; -1 for none"),
    Flag::value("pids-limit", "COUNT", "most processes and threads; -1 for no limit"),
    Flag::value("l3-cache-schema", "SCHEMA", "Intel RDT: share of the L3 cache"),
    Flag::value("mem-bw-schema", "SCHEMA", "Intel RDT: share of the memory bandwidth"),
    HELP,
];

/// The command of that name.
pub(super) fn command(name: &str) -> Option<&'static CommandTable> {
    COMMANDS.iter().find(|c| c.name == name)
}

/// The command that somebody may have meant: of those with at most two letters more, less, other or exchanged, and fewer
/// than half of them, the nearest.
pub(super) fn similar(name: &str) -> Option<&'static CommandTable> {
    let near = |c: &'static CommandTable| (distance(name, c.name), c);
    let close = |(distance, c): &(usize, &CommandTable)| *distance <= 2 && distance * 2 < c.name.len();
    COMMANDS.iter().map(near).filter(close).min_by_key(|(distance, _)| *distance).map(|(_, c)| c)
}

/// How many bytes must be inserted, removed, replaced, or exchanged with their neighbour to make one name the other
/// (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_command_is_guessed() {
        for (typed, meant) in [
            ("chekpoint", "checkpoint"),
            ("checkpiont", "checkpoint"),
            ("checkponts", "checkpoints"),
            ("retsore", "restore"),
            ("resum", "resume"),
            ("lst", "list"),
            ("delte", "delete"),
            ("exce", "exec"),
        ] {
            assert_eq!(similar(typed).map(|c| c.name), Some(meant), "{typed}");
        }
        for typed in ["", "foo", "init", "x", "docker", "container"] {
            assert_eq!(similar(typed), None, "{typed}");
        }
        for long in ["x".repeat(10_000), "é".repeat(7)] {
            assert_eq!(similar(&long), None);
        }
    }

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
