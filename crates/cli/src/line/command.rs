//! A command: how people see it, how its arguments are read, and what it does.
//!
//! Names, aliases and argument counts are runc's; `--tcp-close` and `--network-lock` are crun's;
//! `--criu` (runc had it until 1.1), `--page-server-any-peer`, `--no-hash`, `--no-sync`, `--pre-copy`, `--max-frozen`,
//! `--max-rounds`, `--prove`, `--accept`, `--trust-images`, `--check`, `--background`, `checkpoints`, `--checkpoint`,
//! `wait-memory`, `inspect`, `--export`, `--import`, `--compress`, `--store`, `store`, `keep`, `migrate`, `receive`, `clone` and
//! `--unique` are our own.

use std::fmt::Debug;
use std::process::ExitCode;

use super::global::Global;
use super::refusal::Refusal;
use super::scan::Matches;
use super::shape::{Argument, Entry};

/// The part of the line before the command, for the command.
#[derive(Debug)]
pub(crate) struct Cli {
    /// The name that the program was called by, without directories: `hiber`.
    pub program: String,
    /// The flags before the command.
    pub global: Global,
    /// All commands, for documents about them.
    pub commands: &'static [&'static Command],
}

/// A command with its arguments.
pub(crate) trait Run: Debug {
    /// Does it; the result is the program's exit status.
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode>;
}

/// How many positional arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// This many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
    /// From the first to the second number.
    Between(usize, usize),
}

/// How a command fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The text before the reason.
    pub prefix: Option<&'static str>,
    /// The exit status.
    pub status: u8,
}

/// From arguments to the command.
pub(crate) type Read = fn(&Matches) -> Result<Box<dyn Run>, Refusal>;

/// One command.
#[derive(Debug)]
pub(crate) struct Command {
    /// Its name.
    pub name: &'static str,
    /// Its positional arguments, for help.
    pub usage: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Paragraphs for help; may be empty.
    pub description: &'static str,
    /// Command lines without the program's name, each with what it does.
    pub examples: &'static [(&'static str, &'static str)],
    /// Its flags.
    pub flags: &'static [Entry],
    /// How many positional arguments it takes.
    pub count: Count,
    /// The kinds of the first ones.
    pub arguments: &'static [Argument],
    /// Whether everything after the first positional argument (the container's id) belongs to
    /// another program, flags included.
    pub verbatim: bool,
    /// How it fails.
    pub failure: Failure,
    /// How its arguments are read.
    pub read: Read,
}

impl Command {
    /// A command that takes nothing but `--help`.
    pub(crate) const fn new(
        name: &'static str,
        usage: &'static str,
        summary: &'static str,
        read: Read,
    ) -> Self {
        Self {
            name,
            usage,
            summary,
            description: "",
            examples: &[],
            flags: &[],
            count: Count::Exactly(0),
            arguments: &[],
            verbatim: false,
            failure: Failure { prefix: None, status: 1 },
            read,
        }
    }

    /// One that takes the id of a container, too.
    pub(crate) const fn on_container(name: &'static str, summary: &'static str, read: Read) -> Self {
        Self::new(name, "<container-id>", summary, read).takes(Count::Exactly(1), &[Argument::Container])
    }

    /// One whose container is yet to be made.
    pub(crate) const fn on_new_container(name: &'static str, summary: &'static str, read: Read) -> Self {
        Self::on_container(name, summary, read).takes(Count::Exactly(1), &[Argument::Other])
    }

    pub(crate) const fn takes(mut self, count: Count, arguments: &'static [Argument]) -> Self {
        self.count = count;
        self.arguments = arguments;
        self
    }

    /// The rest of the line belongs to another program.
    pub(crate) const fn verbatim(mut self) -> Self {
        self.verbatim = true;
        self
    }

    pub(crate) const fn flags(mut self, flags: &'static [Entry]) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) const fn description(mut self, text: &'static str) -> Self {
        self.description = text;
        self
    }

    pub(crate) const fn examples(mut self, examples: &'static [(&'static str, &'static str)]) -> Self {
        self.examples = examples;
        self
    }

    /// Its failures have another exit status than 1, and a word before them.
    pub(crate) const fn fails_with(mut self, status: u8, prefix: &'static str) -> Self {
        self.failure = Failure { prefix: Some(prefix), status };
        self
    }
}
