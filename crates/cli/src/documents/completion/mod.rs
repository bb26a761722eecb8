//! Completion of command lines in shells, from the declarations of commands and flags.

mod bash;
mod fish;
mod offered;
mod zsh;

use crate::line::command::Cli;

/// A shell whose command lines can be completed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The script for a shell that completes the program's command lines.
pub(crate) fn script(shell: Shell, cli: &Cli) -> String {
    match shell {
        Shell::Bash => bash::script(cli),
        Shell::Zsh => zsh::script(cli),
        Shell::Fish => fish::script(cli),
    }
}
