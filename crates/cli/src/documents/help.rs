//! Help, from the declarations of commands and flags.

use std::fmt::Write;

use super::shown;
use crate::line::command::{Cli, Command};
use crate::line::flag::Flags;
use crate::line::global::Global;
use crate::line::shape::{Entry, Shape, Takes};

pub(super) const OVERVIEW: &str = "\
Containers are made from bundles: a bundle is a directory with a config.json (see `spec`) and a root
filesystem. A container made from it has an id, which must be unique below --root.

   $PROGRAM run --bundle DIR ID           create a container and start it
   $PROGRAM checkpoint --image-path I ID  put it to sleep, in the directory I
   $PROGRAM restore --image-path I ID     wake it

$PROGRAM COMMAND --help tells more about a command.";

/// Help of one command, or of the program.
pub(crate) fn render(cli: &Cli, topic: Option<&Command>) -> String {
    match topic {
        Some(command) => command_help(&cli.program, command),
        None => program_help(cli),
    }
}

fn program_help(cli: &Cli) -> String {
    let program = &cli.program;
    let commands: Vec<_> = cli
        .commands
        .iter()
        .map(|c| (c.name.to_owned(), c.summary))
        .chain([("help".to_owned(), "show help, of a command if it is named")])
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    let overview = indent(&OVERVIEW.replace("$PROGRAM", program));
    format!(
        "NAME:\n   {program} - Open Container Initiative runtime with checkpoint and restore\n\n\
         USAGE:\n   {program} [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {version}\n\n\
         DESCRIPTION:\n{overview}\n\
         COMMANDS:\n{}\n\
         GLOBAL OPTIONS:\n{}",
        columns(&commands),
        flags(Global::TABLE)
    )
}

fn command_help(program: &str, command: &Command) -> String {
    let Command { name, usage, summary, description, examples, flags: table, .. } = command;
    let mut text = format!(
        "NAME:\n   {program} {name} - {summary}\n\nUSAGE:\n   {}\n",
        format!("{program} {name} [options] {usage}").trim_end()
    );
    if !description.is_empty() {
        let _ = write!(text, "\nDESCRIPTION:\n{}", indent(description));
    }
    let _ = write!(text, "\nOPTIONS:\n{}", flags(table));
    if !examples.is_empty() {
        text.push_str("\nEXAMPLES:\n");
        for (line, what) in *examples {
            let _ = writeln!(text, "   # {what}\n   {program} {line}");
        }
    }
    text
}

fn flags(table: &'static [Entry]) -> String {
    let rows: Vec<_> = shown(table).map(|f| (spelled(f), f.help)).collect();
    columns(&rows)
}

/// `--bundle DIR, -b DIR`
pub(super) fn spelled(flag: &Shape) -> String {
    let value = match flag.takes {
        Takes::Nothing => String::new(),
        Takes::One(metavar) | Takes::Many(metavar) => format!(" {metavar}"),
    };
    let again = if matches!(flag.takes, Takes::Many(_)) { "..." } else { "" };
    match flag.short {
        Some(short) => format!("--{}{value}, -{short}{value}{again}", flag.name),
        None => format!("--{}{value}{again}", flag.name),
    }
}

/// Where lines of the right column end.
const WIDTH: usize = 100;

fn columns(rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (left, right) in rows {
        let mut left = left.as_str();
        for line in wrap(right, WIDTH.saturating_sub(width + 5)) {
            let _ = writeln!(text, "   {left:width$}  {line}");
            left = "";
        }
    }
    text
}

/// The text in lines of at most `width`, but for longer words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{}", format!("   {line}").trim_end());
        all
    })
}
