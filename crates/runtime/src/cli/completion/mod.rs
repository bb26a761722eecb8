//! Completion of command lines in shells, from the table.

mod bash;
mod fish;
mod zsh;

use super::args::Shell;
use super::table::{Argument, COMMANDS, CommandTable, Flag, GLOBAL};

/// The script for a shell that completes `program`'s command lines.
pub(super) fn script(shell: Shell, program: &str) -> String {
    match shell {
        Shell::Bash => bash::script(program),
        Shell::Zsh => zsh::script(program),
        Shell::Fish => fish::script(program),
    }
}

/// Flags at each place, with the place: no command, or one.
fn places() -> impl Iterator<Item = (&'static str, &'static [Flag])> {
    [("", GLOBAL)].into_iter().chain(COMMANDS.iter().map(|c| (c.name, c.flags)))
}

fn shown(flags: &'static [Flag]) -> impl Iterator<Item = &'static Flag> {
    flags.iter().filter(|f| !f.hidden)
}

/// All commands' names, `help` among them.
fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|c| c.name).chain(["help"])
}

const HELP_SUMMARY: &str = "show help, of a command if it is named";

/// What `help` takes; it is no command of the table.
const HELP_ARGUMENTS: &[Argument] = &[Argument::Command];

/// The arguments of each command that has some.
fn arguments() -> impl Iterator<Item = (&'static str, &'static [Argument])> {
    let own = |c: &'static CommandTable| (c.name, c.arguments);
    COMMANDS.iter().map(own).filter(|(_, all)| !all.is_empty()).chain([("help", HELP_ARGUMENTS)])
}
