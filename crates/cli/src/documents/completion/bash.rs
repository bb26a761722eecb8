//! bash: one function; what it knows is in the `case`s of three others.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::shown;
use super::offered::{arguments, names, places};
use crate::line::command::Cli;
use crate::line::shape::Argument;

const SCRIPT: &str = r#"# Completion of PROGRAM's command lines for bash, written by `PROGRAM completion bash`.

# Sets $kind to what follows the flag $2 of the command $1.
_PROGRAM_flag() {
    case "$1 ${2/#--/-}" in
FLAGS    *) kind= ;;
    esac
}

# Sets $kind to what the argument number $2 (from 0) of the command $1 is.
_PROGRAM_argument() {
    case "$1 $2" in
ARGUMENTS    *) kind=other ;;
    esac
}

# Sets $kind to the flags of the command $1.
_PROGRAM_flags() {
    case $1 in
NAMES    *) kind=other ;;
    esac
}

_PROGRAM() {
    local word flag kind='' command='' count=0 current=${COMP_WORDS[COMP_CWORD]} verbatim='' root=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        # bash makes a word of each =, too
        if [[ $kind ]]; then
            [[ $word == = ]] && continue
            [[ $flag == -root || $flag == --root ]] && root=(--root "$word")
            kind=
        elif [[ $word == -?* && ! $verbatim ]]; then
            flag=$word
            _PROGRAM_flag "$command" "$word"
        elif [[ ! $command ]]; then
            command=$word
        else
            ((count += 1))
            case $command in VERBATIM) verbatim=1 ;; esac
        fi
    done
    [[ $kind && $current == = ]] && current=
    if [[ ! $kind ]]; then
        if [[ $current == -* && ! $verbatim ]]; then
            _PROGRAM_flags "$command"
        elif [[ ! $command ]]; then
            kind=commands
        else
            _PROGRAM_argument "$command" "$count"
        fi
    fi
    [[ $kind == commands ]] && kind='words COMMANDS'
    [[ $kind == containers ]] && kind="words $("${COMP_WORDS[0]}" "${root[@]}" list --quiet 2>/dev/null)"
    COMPREPLY=()
    case $kind in
    files) mapfile -t COMPREPLY < <(compgen -f -- "$current") && compopt -o filenames 2>/dev/null ;;
    directories) mapfile -t COMPREPLY < <(compgen -d -- "$current") && compopt -o filenames 2>/dev/null ;;
    words*) mapfile -t COMPREPLY < <(compgen -W "${kind#words}" -- "$current") ;;
    esac
}

complete -F _PROGRAM PROGRAM
"#;

pub(super) fn script(cli: &Cli) -> String {
    let mut flags = Cases::default();
    let mut names_at = Cases::default();
    for (place, table) in places(cli) {
        let mut all = Vec::new();
        for flag in shown(table) {
            all.push(format!("--{}", flag.name));
            let Some(argument) = flag.argument() else { continue };
            for name in [Some(flag.name), flag.short].into_iter().flatten() {
                flags.add(kind(argument), format!("'{place} -{name}'"));
            }
        }
        names_at.add(format!("'words {}'", all.join(" ")), format!("'{place}'"));
    }
    let mut positions = Cases::default();
    for (command, all) in arguments(cli) {
        for (at, argument) in all.iter().enumerate() {
            positions.add(kind(*argument), format!("'{command} {at}'"));
        }
    }
    let verbatim: Vec<_> = cli.commands.iter().filter(|c| c.verbatim).map(|c| c.name).collect();
    SCRIPT
        .replace("FLAGS", &flags.text())
        .replace("ARGUMENTS", &positions.text())
        .replace("NAMES", &names_at.text())
        .replace("VERBATIM", &verbatim.join(" | "))
        .replace("COMMANDS", &names(cli).collect::<Vec<_>>().join(" "))
        .replace("PROGRAM", &cli.program)
}

fn kind(argument: Argument) -> String {
    match argument {
        Argument::Container => "containers".into(),
        Argument::Words(words) => format!("'words {}'", words.join(" ")),
        Argument::Command => "commands".into(),
        Argument::File => "files".into(),
        Argument::Directory => "directories".into(),
        Argument::Other => "other".into(),
    }
}

/// Arms of a `case`: patterns by what they set `kind` to.
#[derive(Default)]
struct Cases(BTreeMap<String, Vec<String>>);

impl Cases {
    fn add(&mut self, kind: String, pattern: String) {
        self.0.entry(kind).or_default().push(pattern);
    }

    fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (kind, patterns)| {
            let _ = writeln!(text, "    {}) kind={kind} ;;", patterns.join(" | "));
            text
        })
    }
}
