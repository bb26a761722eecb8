//! `completion`

use std::ffi::OsStr;
use std::process::ExitCode;

use crate::documents::completion::{Shell, script};
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::Value;
use crate::line::refusal::Refusal;
use crate::line::shape::Argument;
use crate::line::value::word;
use crate::output::out;

pub(crate) const COMMAND: Command =
    Command::new("completion", "bash|zsh|fish", "write a script that completes command lines", |m| {
        Ok(Box::new(Completion(Shell::read("shell", &m.positionals[0])?)))
    })
    .description("Packages keep its output where the shell looks for it.")
    .examples(&[
        ("completion bash >/usr/share/bash-completion/completions/hiber", "for bash"),
        ("completion zsh >/usr/share/zsh/vendor-completions/_hiber", "for zsh"),
        ("completion fish >/usr/share/fish/vendor_completions.d/hiber.fish", "for fish"),
    ])
    .takes(Count::Exactly(1), &[Argument::Words(Shell::WORDS)]);

impl Value for Shell {
    const WORDS: &'static [&'static str] = &["bash", "zsh", "fish"];
    fn read(what: &str, text: &OsStr) -> Result<Self, Refusal> {
        word(what, text, Self::WORDS, &[Self::Bash, Self::Zsh, Self::Fish])
    }
}

#[derive(Debug)]
struct Completion(Shell);

impl Run for Completion {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        out::write(&script(self.0, cli))?;
        Ok(ExitCode::SUCCESS)
    }
}
