//! The words that commands offer for completion.

use crate::line::command::{Cli, Command};
use crate::line::flag::Flags;
use crate::line::global::Global;
use crate::line::shape::{Argument, Entry};

/// Flags at each place, with the place: no command, or one.
pub(super) fn places(cli: &Cli) -> impl Iterator<Item = (&'static str, &'static [Entry])> {
    [("", Global::TABLE)].into_iter().chain(cli.commands.iter().map(|c| (c.name, c.flags)))
}

/// All commands' names, `help` among them.
pub(super) fn names(cli: &Cli) -> impl Iterator<Item = &'static str> {
    cli.commands.iter().map(|c| c.name).chain(["help"])
}

pub(super) const HELP_SUMMARY: &str = "show help, of a command if it is named";

/// The arguments of `help`, which is no command of the table.
pub(super) const HELP_ARGUMENTS: &[Argument] = &[Argument::Command];

/// The arguments of each command that has some.
pub(super) fn arguments(cli: &Cli) -> impl Iterator<Item = (&'static str, &'static [Argument])> {
    let own = |c: &&'static Command| (c.name, c.arguments);
    cli.commands.iter().map(own).filter(|(_, all)| !all.is_empty()).chain([("help", HELP_ARGUMENTS)])
}
