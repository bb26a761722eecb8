//! fish: a `complete` for each command, flag and argument.

use std::fmt::Write;

use super::super::shown;
use super::offered::{HELP_SUMMARY, arguments, names, places};
use crate::line::command::Cli;
use crate::line::flag::Flags;
use crate::line::global::Global;
use crate::line::shape::Argument;

const SCRIPT: &str = r#"# Completion of PROGRAM's command lines for fish, written by `PROGRAM completion fish`.

# The words so far, without global flags and their values.
function __PROGRAM_words
    set -l value no
    set -l words (commandline -opc)[2..]
    while set -q words[1]
        if test $value = yes
            set value no
        else
            switch $words[1]
                case VALUES
                    set value yes
                case '-*'
                case '*'
                    break
            end
        end
        set -e words[1]
    end
    printf '%s\n' $words
end

# Whether the command is $argv[1].
function __PROGRAM_in
    set -l words (__PROGRAM_words)
    test "$words[1]" = "$argv[1]"
end

# Whether the command is $argv[1] and has had $argv[2] arguments; flags' values count as such.
function __PROGRAM_at
    set -l words (__PROGRAM_words)
    test "$words[1]" = "$argv[1]"; and test (count (string match -v -- '-*' $words)) -eq (math $argv[2] + 1)
end

function __PROGRAM_containers
    set -l words (commandline -opc)
    set -l root (string match -r -- '^--root=.*' $words)
    set -l at (contains -i -- --root $words)
    and set root --root $words[(math $at + 1)]
    $words[1] $root list --quiet 2>/dev/null
end

complete -c PROGRAM -f
"#;

pub(super) fn script(cli: &Cli) -> String {
    let with_value = shown(Global::TABLE).filter(|f| f.argument().is_some());
    let values: Vec<_> = with_value.map(|f| format!("--{0} -{0}", f.name)).collect();
    let mut text = SCRIPT.replace("VALUES", &values.join(" "));
    let summaries = cli.commands.iter().map(|c| (c.name, c.summary)).chain([("help", HELP_SUMMARY)]);
    for (name, summary) in summaries {
        let _ = writeln!(text, "complete -c PROGRAM -n \"__PROGRAM_in ''\" -a {name} -d {}", quoted(summary));
    }
    for (place, table) in places(cli) {
        for flag in shown(table) {
            let _ = write!(text, "complete -c PROGRAM -n \"__PROGRAM_in '{place}'\" -l {}", flag.name);
            if let Some(short) = flag.short {
                let _ = write!(text, " -s {short}");
            }
            if let Some(argument) = flag.argument() {
                // required, and no file unless the action says so
                let _ = write!(text, " -r -f{}", action(cli, argument));
            }
            let _ = writeln!(text, " -d {}", quoted(flag.help));
        }
    }
    for (command, all) in arguments(cli) {
        for (at, argument) in all.iter().enumerate() {
            let action = action(cli, *argument);
            let _ = writeln!(text, "complete -c PROGRAM -n \"__PROGRAM_at '{command}' {at}\"{action}");
        }
    }
    text.replace("PROGRAM", &cli.program)
}

fn action(cli: &Cli, argument: Argument) -> String {
    match argument {
        Argument::Container => " -a '(__PROGRAM_containers)'".into(),
        Argument::Words(words) => format!(" -a '{}'", words.join(" ")),
        Argument::Command => format!(" -a '{}'", names(cli).collect::<Vec<_>>().join(" ")),
        Argument::File => " -a '(__fish_complete_path (commandline -ct))'".into(),
        Argument::Directory => " -a '(__fish_complete_directories)'".into(),
        Argument::Other => String::new(),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
