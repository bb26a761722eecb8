//! zsh: the arguments of `_arguments`, for the program and for each command.

use std::fmt::Write;

use super::super::shown;
use super::offered::{HELP_ARGUMENTS, HELP_SUMMARY};
use crate::line::command::{Cli, Command};
use crate::line::flag::Flags;
use crate::line::global::Global;
use crate::line::shape::{Argument, Shape, Takes};

const SCRIPT: &str = r#"#compdef PROGRAM
# Completion of PROGRAM's command lines for zsh, written by `PROGRAM completion zsh`.

_PROGRAM_commands() {
    local -a commands=(
COMMANDS    )
    _describe -t commands command commands
}

_PROGRAM_containers() {
    local -a containers root
    [[ -n $_PROGRAM_root ]] && root=(--root ${(Q)_PROGRAM_root})
    containers=(${(f)"$(_call_program containers PROGRAM $root list --quiet 2>/dev/null)"})
    compadd -a containers
}

_PROGRAM() {
    local curcontext=$curcontext state line _PROGRAM_root
    local -A opt_args
    _arguments -C \
GLOBAL        '1:command:_PROGRAM_commands' \
        '*::argument:->argument' && return
    [[ $state == argument ]] || return
    _PROGRAM_root=${opt_args[--root]:-}
    case $words[1] in
CASES    esac
}

_PROGRAM "$@"
"#;

pub(super) fn script(cli: &Cli) -> String {
    let mut commands = String::new();
    let mut cases = String::new();
    for command in cli.commands {
        let _ = writeln!(commands, "        '{}:{}'", command.name, quoted(command.summary));
        let _ = writeln!(cases, "    {})\n        _arguments \\", command.name);
        for spec in specs(command) {
            let _ = writeln!(cases, "            '{spec}' \\");
        }
        cases.truncate(cases.len() - 3);
        cases.push_str("\n        ;;\n");
    }
    let _ = writeln!(commands, "        'help:{HELP_SUMMARY}'");
    let _ = writeln!(cases, "    help) _arguments '1:argument{}' ;;", action(HELP_ARGUMENTS[0]));
    let mut global = String::new();
    for spec in shown(Global::TABLE).flat_map(flag_specs) {
        let _ = writeln!(global, "        '{spec}' \\");
    }
    SCRIPT
        .replace("COMMANDS", &commands)
        .replace("GLOBAL", &global)
        .replace("CASES", &cases)
        .replace("PROGRAM", &cli.program)
}

/// Flags and positional arguments of a command, as `_arguments` wants them.
fn specs(command: &Command) -> Vec<String> {
    let mut specs: Vec<_> = shown(command.flags).flat_map(flag_specs).collect();
    let positional = |(at, argument): (usize, &Argument)| format!("{}:argument{}", at + 1, action(*argument));
    specs.extend(command.arguments.iter().enumerate().map(positional));
    if command.verbatim {
        specs.push("*::command:_normal".into());
    }
    specs
}

fn flag_specs(flag: &'static Shape) -> Vec<String> {
    let long = format!("--{}", flag.name);
    let short = flag.short.map(|s| format!("-{s}"));
    let repeated = matches!(flag.takes, Takes::Many(_));
    let exclude = match (&short, repeated) {
        (_, true) => "*".to_owned(),
        (Some(short), false) => format!("({short} {long})"),
        (None, false) => String::new(),
    };
    let (value, equals) = match (flag.takes, flag.argument()) {
        (Takes::One(name) | Takes::Many(name), Some(argument)) => {
            (format!(":{}{}", quoted(name), action(argument)), "=")
        }
        _ => (String::new(), ""),
    };
    let text = quoted(flag.help);
    let spelled = [Some((long, equals)), short.map(|s| (s, ""))];
    let spec = |(name, equals)| format!("{exclude}{name}{equals}[{text}]{value}");
    spelled.into_iter().flatten().map(spec).collect()
}

fn action(argument: Argument) -> String {
    match argument {
        Argument::Container => ":_PROGRAM_containers".into(),
        Argument::Words(words) => format!(":({})", words.join(" ")),
        Argument::Command => ":_PROGRAM_commands".into(),
        Argument::File => ":_files".into(),
        Argument::Directory => ":_files -/".into(),
        Argument::Other => ": ".into(),
    }
}

/// Text within a specification, within single quotes.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars() {
        match c {
            '\'' => quoted.push_str("'\\''"),
            '[' | ']' | ':' | '\\' => quoted.extend(['\\', c]),
            c => quoted.push(c),
        }
    }
    quoted
}
