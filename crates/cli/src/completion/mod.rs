//! Completion of command lines in shells, from the table.

mod bash;
mod fish;
mod offered;
mod zsh;

use super::args::Shell;

/// The script for a shell that completes `program`'s command lines.
pub(super) fn script(shell: Shell, program: &str) -> String {
    match shell {
        Shell::Bash => bash::script(program),
        Shell::Zsh => zsh::script(program),
        Shell::Fish => fish::script(program),
    }
}
