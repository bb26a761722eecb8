//! What the table of commands offers for completion.

use crate::table::{Argument, COMMANDS, CommandTable, Flag, GLOBAL};

/// Flags at each place, with the place: no command, or one.
pub(super) fn places() -> impl Iterator<Item = (&'static str, &'static [Flag])> {
    [("", GLOBAL)].into_iter().chain(COMMANDS.iter().map(|c| (c.name, c.flags)))
}

pub(super) fn shown(flags: &'static [Flag]) -> impl Iterator<Item = &'static Flag> {
    flags.iter().filter(|f| !f.hidden)
}

/// All commands' names, `help` among them.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|c| c.name).chain(["help"])
}

pub(super) const HELP_SUMMARY: &str = "show help, of a command if it is named";

/// What `help` takes; it is no command of the table.
pub(super) const HELP_ARGUMENTS: &[Argument] = &[Argument::Command];

/// The arguments of each command that has some.
pub(super) fn arguments() -> impl Iterator<Item = (&'static str, &'static [Argument])> {
    let own = |c: &'static CommandTable| (c.name, c.arguments);
    COMMANDS.iter().map(own).filter(|(_, all)| !all.is_empty()).chain([("help", HELP_ARGUMENTS)])
}
