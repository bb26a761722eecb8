//! The commands.

use super::*;

const ID: &str = "<container-id>";

impl CommandTable {
    /// A command that takes nothing but `--help`.
    const fn new(name: &'static str, usage: &'static str, summary: &'static str) -> Self {
        Self {
            name,
            usage,
            summary,
            description: "",
            examples: &[],
            flags: &[HELP],
            count: Count::Exactly(0),
            arguments: &[],
            verbatim: false,
        }
    }
    /// One that takes the id of a container, too.
    const fn on_container(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, ID, summary).takes(Count::Exactly(1), &[Argument::Container])
    }
    /// One whose container is yet to be made.
    const fn on_new_container(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, ID, summary).takes(Count::Exactly(1), &[Argument::Other])
    }
    const fn takes(mut self, count: Count, arguments: &'static [Argument]) -> Self {
        self.count = count;
        self.arguments = arguments;
        self
    }
    /// The rest of the line belongs to another program.
    const fn verbatim(mut self) -> Self {
        self.verbatim = true;
        self
    }
    const fn flags(mut self, flags: &'static [Flag]) -> Self {
        self.flags = flags;
        self
    }
    const fn description(mut self, text: &'static str) -> Self {
        self.description = text;
        self
    }
    const fn examples(mut self, examples: &'static [(&'static str, &'static str)]) -> Self {
        self.examples = examples;
        self
    }
}

/// All commands, in the order of help.
pub(crate) static COMMANDS: &[CommandTable] = &[
    CommandTable::on_container("checkpoint", "put a running container to sleep")
        .description(
            "Writes the container's processes and memory to a directory with CRIU. The container is gone\n\
             afterwards, unless it is left running. --check and docs/limits.md tell what CRIU cannot save.",
        )
        .examples(&[
            ("checkpoint --image-path /var/tmp/web.ckpt web", "put the container web to sleep"),
            ("checkpoint --check web", "ask whether that would work"),
        ])
        .flags(CHECKPOINT_FLAGS),
    CommandTable::new(
        "checkpoints",
        "create <container-id> <name>  or  ls <container-id>  or  inspect|verify|rm <container-id> <name>",
        "keep checkpoints of a container by name",
    )
    .description(
        "`checkpoint` (without s) is runc's command: it writes to any directory. This one keeps checkpoints\n\
         by name in a directory of the container's, as Docker and containerd do: create makes one, ls\n\
         shows them, inspect shows how one was made, verify compares its files with its manifest (and with --prove\n\
         restores it on trial), rm removes it. `restore --checkpoint NAME` starts the container from one.\n\n\
         A name is [a-zA-Z0-9][a-zA-Z0-9_.-]+ and is given once. config.json beside the images says when and\n\
         with which options a checkpoint was made. A failed create leaves nothing.",
    )
    .examples(&[
        ("checkpoints create --leave-running web monday", "keep the present state of web"),
        ("checkpoints ls web", "list the checkpoints of web"),
    ])
    .flags(CHECKPOINTS_FLAGS)
    .takes(
        Count::Between(2, 3),
        &[Argument::Words(&["create", "ls", "inspect", "verify", "rm"]), Argument::Container],
    ),
    CommandTable::new("completion", "bash|zsh|fish", "write a script that completes command lines")
        .description("Packages keep its output where the shell looks for it.")
        .examples(&[
            ("completion bash >/usr/share/bash-completion/completions/hiber", "for bash"),
            ("completion zsh >/usr/share/zsh/vendor-completions/_hiber", "for zsh"),
            ("completion fish >/usr/share/fish/vendor_completions.d/hiber.fish", "for fish"),
        ])
        .takes(Count::Exactly(1), &[Argument::Words(&["bash", "zsh", "fish"])]),
    CommandTable::on_new_container("create", "create a container")
        .description(
            "Sets a container up from a bundle: a directory with a config.json and a root filesystem. Its\n\
             process waits until `start`. The id must be new below --root.",
        )
        .examples(&[("create --bundle /srv/web web", "make the container web from the bundle /srv/web")])
        .flags(CREATE_FLAGS),
    CommandTable::on_container("delete", "delete a container and all that it holds")
        .description("A running container is refused without --force.")
        .examples(&[("delete web", "remove web, which has stopped")])
        .flags(&[
            Flag::switch("force", "kill it first if it runs; no error if it does not exist").short("f"),
            HELP,
        ]),
    CommandTable::on_container("events", "show what happens in a container and what it uses, as JSON")
        .description(
            "A line of statistics every --interval, a line each time the kernel runs out of memory for the container,\n\
             and a line when it is started, paused, resumed, checkpointed, when a process is executed in it (exec-added,\n\
             exec-started) and when one ends (exit), whoever does it; until the container has stopped. Lines of type\n\
             stats and oom are runc's.\n\n\
             With --lifecycle the events since the container's creation come first, and the lines go on until the\n\
             container is deleted; statistics come only with --interval.",
        )
        .examples(&[("events --stats web", "show what web uses now")])
        .flags(&[
            Flag::value("interval", "TIME", "time between statistics, such as 1s or 100ms (default: 5s)"),
            Flag::switch("lifecycle", "from its creation to its deletion, without statistics"),
            Flag::switch("stats", "show statistics once, and leave"),
            HELP,
        ]),
    CommandTable::new(
        "exec",
        "<container-id> <command> [argument...]  or  --process FILE <container-id>",
        "run another process in a container",
    )
    .description(
        "Everything after the container's id is the command, flags included.\n\n\
         The exit status is the command's; 255 if it could not be run.",
    )
    .examples(&[
        ("exec web ps", "list the processes that the container sees"),
        ("exec --tty --env TERM=xterm web sh", "open a shell in it"),
    ])
    .flags(EXEC_FLAGS)
    .takes(Count::AtLeast(1), &[Argument::Container])
    .verbatim(),
    CommandTable::new("features", "", "show what this runtime supports, as JSON")
        .description("The document is defined by the OCI runtime specification (features.md)."),
    CommandTable::new("inspect", "<directory or archive>", "show what a checkpoint holds")
        .description(
            "Shows the manifest, processes, memory, open files, sockets, mounts and cgroups of a checkpoint of\n\
             hiber, runc, crun or podman (an archive: tar, also with gzip or zstd).\n\n\
             With --verify its files are compared with the manifest, hashes included; the exit status is 1\n\
             if anything is wrong, or if there are no hashes to compare.",
        )
        .examples(&[("inspect /var/tmp/web.ckpt", "show the checkpoint in that directory")])
        .flags(&[
            Flag::value("format", "FORMAT", "table (a tree, for people) or json (default: table)")
                .short("f")
                .of(FORMATS),
            Flag::switch("verify", "compare the files with the manifest"),
            HELP,
        ])
        .takes(Count::Exactly(1), &[Argument::File]),
    CommandTable::new(
        "kill",
        "<container-id> [signal]",
        "send a signal to a container's first process (default: SIGTERM)",
    )
    .description("The signal is a name, with or without SIG, or a number.")
    .examples(&[("kill web KILL", "end web at once")])
    .flags(&[
        Flag::switch("all", "no error if the container is not running (obsolete)").short("a").hidden(),
        HELP,
    ])
    .takes(
        Count::Between(1, 2),
        &[Argument::Container, Argument::Words(&["TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2"])],
    ),
    CommandTable::new("list", "", "list the containers below --root")
        .examples(&[
            ("list", "list the containers below the default --root"),
            ("--root /run/other list --quiet", "list the ids of those below another"),
        ])
        .flags(&[FORMAT, Flag::switch("quiet", "ids only").short("q"), HELP]),
    CommandTable::new("man", "<directory>", "write the manual pages")
        .description(
            "One page for the program and one for each command, of section 8, into a directory, which is made.\n\
             With SOURCE_DATE_EPOCH in the environment that is their date.",
        )
        .examples(&[("man /usr/share/man/man8", "write them where man(1) looks for them")])
        .takes(Count::Exactly(1), &[Argument::Directory]),
    CommandTable::on_container("pause", "freeze all processes of a container")
        .description("They stay frozen until `resume`. A container that is not running is refused."),
    CommandTable::new("ps", "<container-id> [ps option...]", "show the processes of a container")
        .description(
            "Options after the container's id are given to ps(1) (default: -ef); its output must have a\n\
             PID column. With --format json only the process ids are printed.",
        )
        .examples(&[("ps web -o pid,ppid,args", "show the processes of web in these columns")])
        .flags(&[FORMAT, HELP])
        .takes(Count::AtLeast(1), &[Argument::Container])
        .verbatim(),
    CommandTable::on_new_container("restore", "wake a container from a checkpoint")
        .description(
            "The bundle must be the one that the container was created from, or its like. A restore repeats the options\n\
             of the checkpoint (TCP connections, file locks and so on), which hiber.json records, unless a flag says\n\
             otherwise: --tcp-established=false.",
        )
        .examples(&[(
            "restore --image-path /var/tmp/web.ckpt --bundle /srv/web --detach web",
            "wake web, and return as soon as it runs",
        )])
        .flags(RESTORE_FLAGS),
    CommandTable::on_container("resume", "let the processes of a paused container run on"),
    CommandTable::on_new_container("run", "create a container and start it")
        .description(
            "Without --detach it stays in the foreground, passes signals on, and exits with the status of the\n\
             container's first process. process.args of config.json names the program; `spec` writes a config.json\n\
             to start from. With --detach the configuration's process.terminal must be false, or --console-socket\n\
             be given.",
        )
        .examples(&[("run --bundle /srv/web --detach web", "make web and let it run")])
        .flags(RUN_FLAGS),
    CommandTable::new("spec", "", "write a config.json to start from")
        .description(
            "The configuration runs `sh` at a terminal, on a read-only root filesystem in the directory rootfs. To run\n\
             something else, change process.args; to run it detached, set process.terminal to false. An existing\n\
             config.json is not overwritten.\n\n\
             A plain user needs --rootless: a user namespace in which root is the calling user. Root of a user\n\
             namespace does not need it.",
        )
        .examples(&[("spec --bundle /srv/web", "write /srv/web/config.json")])
        .flags(&[
            BUNDLE,
            Flag::switch("rootless", "for the calling user, in a user namespace without network"),
            HELP,
        ]),
    CommandTable::on_container("start", "start the process of a created container"),
    CommandTable::on_container("state", "show the state of a container, as JSON"),
    CommandTable::on_container("update", "change the limits of a container")
        .description(
            "Limits that are not given stay as they are. With --resources all other flags are ignored; the\n\
             format is that of linux.resources in config.json, in which members may be left out:\n\n\
             {\n  \
               \"memory\": {\"limit\": 0, \"reservation\": 0, \"swap\": 0, \"checkBeforeUpdate\": true},\n  \
               \"cpu\": {\"shares\": 0, \"quota\": 0, \"burst\": 0, \"period\": 0, \"realtimeRuntime\": 0,\n          \
                       \"realtimePeriod\": 0, \"cpus\": \"\", \"mems\": \"\", \"idle\": 0},\n  \
               \"blockIO\": {\"weight\": 0},\n  \
               \"pids\": {\"limit\": 0}\n\
             }",
        )
        .examples(&[
            ("update --memory 512M --pids-limit 100 web", "set two limits"),
            ("update --resources - web", "set the limits that standard input gives"),
        ])
        .flags(UPDATE_FLAGS),
    CommandTable::on_container("wait-memory", "wait until the memory of a restored container is all there")
        .description(
            "Memory follows a container that was restored with --background or from a page server. Returns at once for\n\
             others. The exit status is 1 if memory does not come any more, with the reason; the container was ended then.",
        ),
];
