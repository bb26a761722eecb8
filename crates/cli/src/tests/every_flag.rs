//! Every flag of the tables has a meaning.

use std::collections::BTreeSet;

use hiber::{Start, Stdio};
use oci_spec::runtime::Spec;

use super::{arguments, shown, words};
use crate::commands::COMMANDS;
use crate::commands::checkpoint::Checkpoint;
use crate::commands::create::CreateFlags;
use crate::commands::exec::Exec;
use crate::commands::restore::Restore;
use crate::commands::run::RunFlags;
use crate::line::command::Count;
use crate::line::flag::Flags;
use crate::line::global::Global;
use crate::line::parse;
use crate::line::shape::{Entry, Shape, Takes, shapes};

/// A value that is not the default.
fn sample(flag: &Shape) -> &'static str {
    if let Some(word) = flag.words.last() {
        return word;
    }
    match flag.takes {
        Takes::Nothing => "true",
        Takes::One(metavar) | Takes::Many(metavar) => match metavar {
            "N" | "GID" | "UID[:GID]" | "USEC" | "SHARES" | "WEIGHT" | "BYTES" | "COUNT" | "RATE" => "7",
            "TIME" => "3s",
            "FD" => "-1",
            "ADDRESS:PORT" => "h:1",
            "TYPE:NAME" => "a:b",
            "NAME" => "c1",
            "NAME=VALUE" => "A=b",
            _ => "x",
        },
    }
}

/// A flag of which no command gets a value would be lost without a word.
#[test]
fn every_flag_of_the_tables_reaches_a_command() {
    let show = |line: &[&str]| {
        format!("{:?}", words(line.iter().copied()).map(|ok| ok.action).map_err(|e| e.message))
    };
    for command in COMMANDS {
        // No checkpoint that needs --of can be asked for without it.
        for flag in shapes(command.flags).filter(|flag| (command.name, flag.name) != ("clone", "of")) {
            let arguments: &[&str] = match (command.name, command.count) {
                ("suspend", _) => &["--all"],
                ("resume", _) => &[],
                (_, Count::Exactly(0)) => &[],
                ("exec", _) => &["box", "sh"],
                ("checkpoints", _) if ["format", "store", "store-key"].contains(&flag.name) => &["ls", "box"],
                // It takes the place of names: `checkpoints_by_name` has it.
                ("checkpoints", _) if flag.name == "all" => continue,
                ("checkpoints", _) if ["compress", "encrypt-to"].contains(&flag.name) => {
                    &["export", "box", "c1", "x"]
                }
                ("checkpoints", _) if ["identity", "verify-key"].contains(&flag.name) => {
                    &["import", "box", "c1", "x"]
                }
                ("checkpoints", _) => &["create", "box", "c1"],
                ("completion", _) => &["bash"],
                ("migrate", _) => &["box", "exec:x"],
                ("store", _) => &["ls", "x"],
                _ => &["box"],
            };
            // It takes the place of a container: `all_containers` has it.
            if flag.name == "all" && ["suspend", "resume"].contains(&command.name) {
                continue;
            }
            let value = sample(flag);
            // -1 means "none" to --status-fd; any other needs lazy pages
            let (value, more) = match (command.name, flag.name) {
                (_, "status-fd") => ("5", "--lazy-pages"),
                ("restore", "page-server") => (value, "--lazy-pages"),
                ("checkpoint", "compress" | "encrypt-to" | "with-rootfs" | "base") => (value, "--export=x"),
                ("checkpoint", "checkpoint" | "store-key") => (value, "--store=x"),
                ("restore", "store-key" | "of") | ("checkpoints", "store-key") => (value, "--store=x"),
                ("clone", "store-key" | "checkpoint") => (value, "--store=x --of=a"),
                ("clone", "store") => (value, "--checkpoint=c2 --of=a"),
                ("clone", "checkpoint-dir") => (value, "--checkpoint=c1 --of=a"),
                // More than one would need %d in the name.
                ("clone", "count") => ("1", "--"),
                ("clone", "identity") => (value, "--import=x"),
                ("restore", "identity" | "with-rootfs" | "base" | "trust-spec") => (value, "--import=x"),
                ("inspect", "verify-key") => (value, "--verify"),
                ("keep", "store-key") => (value, "--store=x"),
                ("suspend", "store-key") => (value, "--store=x"),
                ("suspend" | "resume", _) => (value, "--all"),
                // There is no terminal that it could be given.
                ("keep", "shell-job") => ("false", "--"),
                ("restore", "checkpoint-dir") => (value, "--checkpoint=c1"),
                ("checkpoint" | "restore", "format") => (value, "--check"),
                _ => (value, "--"),
            };
            let more: Vec<_> = more.split(' ').collect();
            let plain = show(&[&[command.name], &more[..], arguments].concat());
            assert!(plain.starts_with("Ok"), "{plain}");
            for name in [Some(flag.name), flag.short].into_iter().flatten() {
                let given = format!("--{name}={value}");
                let with = show(&[&[command.name, &given], &more[..], arguments].concat());
                assert!(with.starts_with("Ok") && with != plain, "{} {given}: {with}", command.name);
            }
        }
    }
}

/// The options that the library gets from a command line.
fn told(command: &str, line: &[&str]) -> String {
    let (cli, m) = parse::matches(arguments(line.iter().copied()), COMMANDS);
    let create =
        |flags: CreateFlags| format!("{:?}", flags.options(&cli, 0, Start::ByAnybody, Stdio::Inherit));
    match command {
        "create" => create(CreateFlags::read(&m).unwrap()),
        "run" => create(RunFlags::read(&m).unwrap().create),
        "restore" => format!("{:?}", Restore::read(&m).unwrap().options(&cli, Stdio::Inherit)),
        "checkpoint" => format!("{:?}", Checkpoint::read(&m).unwrap().options(&cli).unwrap()),
        "exec" => {
            let exec = Exec::read(&m).unwrap();
            let mut process = exec.flags.process_of(&Spec::default(), &exec.args).unwrap();
            // Sets are shown in any order.
            let capabilities = process.capabilities().as_ref().and_then(|all| all.bounding().clone());
            let capabilities: BTreeSet<_> =
                capabilities.into_iter().flatten().map(|c| c.to_string()).collect();
            process.set_capabilities(None);
            format!("{:?} {process:?} {capabilities:?}", exec.options(Stdio::Inherit))
        }
        other => panic!("{other}: tells the library nothing"),
    }
}

/// Flags that the command itself acts on stand here; the compiler knows that they are read at all.
#[test]
fn every_other_flag_reaches_the_library() {
    let own = |command: &str, flag: &str| match flag {
        "help" | "console-socket" | "pidfd-socket" | "pid-file" | "detach" | "check" | "format" => true,
        "keep" | "no-subreaper" => ["run", "restore"].contains(&command),
        "no-pivot" | "checkpoint" | "checkpoint-dir" | "import" | "identity" | "verify-key" | "prove"
            if command == "restore" =>
        {
            true
        }
        "with-rootfs" | "base" | "trust-spec" | "of" if command == "restore" => true,
        "store" | "store-key" => ["checkpoint", "restore"].contains(&command),
        "checkpoint" => command == "checkpoint",
        "export" | "compress" | "encrypt-to" | "sign-key" | "with-rootfs" | "base" => command == "checkpoint",
        "process" | "tty" => command == "exec",
        _ => false,
    };
    for name in ["create", "run", "exec", "checkpoint", "restore"] {
        let command = COMMANDS.iter().find(|command| command.name == name).unwrap();
        let arguments: &[&str] = if name == "exec" { &["box", "sh"] } else { &["box"] };
        for flag in shapes(command.flags).filter(|flag| !own(name, flag.name)) {
            let value = sample(flag);
            let (value, more) = match flag.name {
                "status-fd" => ("1", "--lazy-pages"),
                "page-server" => (value, "--lazy-pages"),
                "cap" => ("CAP_CHOWN", "--"),
                // The configuration has it on.
                "no-new-privs" => ("false", "--"),
                _ => (value, "--"),
            };
            let given = format!("--{}={value}", flag.name);
            let plain = told(name, &[&[name, more], arguments].concat());
            assert_ne!(told(name, &[&[name, &given, more], arguments].concat()), plain, "{name} {given}");
        }
        for (global, commands) in [
            ("--rootless=true", &["create", "run", "restore"][..]),
            ("--systemd-cgroup", &["create", "run", "restore"]),
            ("--criu=/c", &["checkpoint", "restore"]),
        ] {
            let with = told(name, &[&[global, name], arguments].concat());
            let differs = with != told(name, &[&[name], arguments].concat());
            assert_eq!(differs, commands.contains(&name), "{global} {name}");
        }
    }
}

#[test]
fn the_values_that_shells_offer_are_taken() {
    let try_each = |table: &'static [Entry], line: &dyn Fn(String) -> Vec<String>| {
        for (flag, word) in shapes(table).flat_map(|flag| flag.words.iter().map(move |word| (flag, word))) {
            let given = line(format!("--{}={word}", flag.name));
            words(given.iter().map(String::as_str)).unwrap_or_else(|e| panic!("{given:?}: {e}"));
        }
    };
    try_each(Global::TABLE, &|flag| vec![flag, "list".into()]);
    for command in COMMANDS {
        let check = shapes(command.flags).any(|f| f.name == "check");
        let line = |flag: String| {
            let first: &[&str] = match (command.name, command.count) {
                ("suspend" | "resume", _) => &["--all"],
                (_, Count::Exactly(0)) => &[],
                ("checkpoints", _) if flag.starts_with("--format") => &["ls", "box"],
                ("checkpoints", _) if flag.starts_with("--compress") => &["export", "box", "c1", "x"],
                ("checkpoint", _) if flag.starts_with("--compress") => &["--export=x", "box"],
                ("checkpoints", _) => &["create", "box", "c1"],
                ("migrate", _) => &["box", "exec:x"],
                ("store", _) => &["ls", "x"],
                _ if check => &["--check", "box"],
                _ => &["box"],
            };
            [command.name].iter().chain(first).map(|&w| w.to_owned()).chain([flag]).collect()
        };
        try_each(command.flags, &line);
    }
    for shell in ["bash", "zsh", "fish"] {
        shown(&format!("completion {shell}"));
    }
}

/// A line of source that was not continued shows as a margin of 13 columns; examples of JSON have 10.
#[test]
fn descriptions_begin_at_the_margin() {
    for command in COMMANDS {
        let indented = command.description.lines().find(|line| line.starts_with(&" ".repeat(12)));
        assert_eq!(indented, None, "{}", command.name);
    }
}
