//! From arguments to types. Nothing here looks at the machine.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;

use super::command::{Cli, Command, Count, Run};
use super::flag::Flags;
use super::global::Global;
use super::refusal::Refusal;
use super::scan::{FlagsEnd, Matches, scan};
use super::similar;

/// A command line that is understood.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The flags before the command.
    pub cli: Cli,
    /// The thing to do.
    pub action: Action,
}

/// The request of a command line.
#[derive(Debug)]
pub(crate) enum Action {
    /// A command.
    Run(&'static Command, Box<dyn Run>),
    /// `--version`
    Version,
    /// `--help`, `help`, or no command at all; of one command or of the program.
    Help(Option<&'static Command>),
}

/// A command line that cannot be understood.
#[derive(Debug)]
pub(crate) struct UsageError {
    /// Why, in one line.
    pub message: String,
    /// The flags before the command, as far as they were read: they say where errors are logged.
    pub cli: Box<Cli>,
    /// Whose help to show.
    pub help: Help,
    /// The exit status: runc's.
    pub status: u8,
}

/// The help that goes with a usage error.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Help {
    /// None: the command line is well-formed, and a value in it is wrong.
    No,
    /// The program's.
    Program,
    /// A command's.
    Command(&'static Command),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UsageError {}

/// Reads a command line of one of `commands`; `args` begins with the program's name.
///
/// # Errors
/// Whatever runc refuses before it looks at a container: unknown commands and flags, missing values,
/// the wrong number of arguments, malformed ids, numbers, signals and modes; and combinations of
/// checkpoint flags that contradict each other.
pub(crate) fn parse(
    args: impl Iterator<Item = OsString>,
    commands: &'static [&'static Command],
) -> Result<Invocation, UsageError> {
    let mut args = args.peekable();
    let program = args.next().unwrap_or_default();
    let program = Path::new(&program).file_name().and_then(OsStr::to_str).unwrap_or("hiber").to_owned();

    let (matches, scanned) = scan(&mut args, [Global::TABLE, &[]], FlagsEnd::BeforeFirst);
    // A mistake in a value is kept in the flags.
    let global = Global::read(&matches).unwrap_or_default();
    let cli = Cli { program, global, commands };
    if let Err(message) = scanned {
        return Err(UsageError { message, cli: Box::new(cli), help: Help::Program, status: 1 });
    }
    let action = split(&cli, matches.help, &mut args).and_then(|split| match split {
        Split::Version => Ok(Action::Version),
        Split::Help(topic) => Ok(Action::Help(topic)),
        Split::Command(command, matches) => read(&cli, command, &matches),
    });
    match action {
        Ok(action) => Ok(Invocation { cli, action }),
        Err((message, help, status)) => Err(UsageError { message, cli: Box::new(cli), help, status }),
    }
}

/// A message, the help that goes with it, and the exit status.
type Wrong = (String, Help, u8);

/// A line, of which the command's arguments are not yet read.
enum Split {
    Version,
    Help(Option<&'static Command>),
    Command(&'static Command, Matches),
}

/// The request of the line, from the command on.
fn split(
    cli: &Cli,
    help: bool,
    args: &mut std::iter::Peekable<impl Iterator<Item = OsString>>,
) -> Result<Split, Wrong> {
    if help {
        return Ok(Split::Help(None));
    }
    if cli.global.version {
        return Ok(Split::Version);
    }
    cli.global.check().map_err(|refusal| (refusal.to_string(), Help::No, 1))?;
    let command = match args.next() {
        None => return Ok(Split::Help(None)),
        Some(help) if help == "help" || help == "h" => {
            return Ok(Split::Help(args.next().map(|name| command(cli, &name)).transpose()?));
        }
        Some(name) => command(cli, &name)?,
    };
    let end = if command.verbatim { FlagsEnd::AfterFirst } else { FlagsEnd::Never };
    let (matches, scanned) = scan(args, [command.flags, Global::TABLE], end);
    scanned.map_err(|message| (message, Help::Command(command), 1))?;
    Ok(if matches.help { Split::Help(Some(command)) } else { Split::Command(command, matches) })
}

fn read(cli: &Cli, command: &'static Command, matches: &Matches) -> Result<Action, Wrong> {
    count(command, matches, &cli.program)
        .and_then(|()| (command.read)(matches))
        .map(|run| Action::Run(command, run))
        .map_err(|refusal| match (refusal, command.failure.prefix) {
            (Refusal::Form(message), _) => (message, Help::Command(command), 1),
            (Refusal::Value(message), None) => (message, Help::No, 1),
            (Refusal::Value(message), Some(prefix)) => {
                (format!("{prefix}: {message}"), Help::No, command.failure.status)
            }
        })
}

/// The command of that name; runc's argument parser leaves with 3 where there is none.
fn command(cli: &Cli, name: &OsStr) -> Result<&'static Command, Wrong> {
    let name = name.to_string_lossy();
    cli.commands.iter().copied().find(|command| command.name == name).ok_or_else(|| {
        let hint = similar::hint(cli.commands.iter().map(|command| command.name), &name, "");
        (format!("No help topic for '{name}'{hint}"), Help::No, 3)
    })
}

/// Checks the number of arguments; the messages are runc's.
fn count(command: &Command, m: &Matches, program: &str) -> Result<(), Refusal> {
    let given = m.positionals.len();
    let name = command.name;
    let wrong = match command.count {
        Count::Exactly(n) if given != n => format!("exactly {n}"),
        Count::AtLeast(n) | Count::Between(n, _) if given < n => format!("a minimum of {n}"),
        Count::Between(_, n) if given > n => format!("a maximum of {n}"),
        _ => return Ok(()),
    };
    Err(Refusal::Form(format!("{program}: {name:?} requires {wrong} argument(s)")))
}

/// The arguments of the command of a line that is right so far.
#[cfg(test)]
pub(crate) fn matches(
    args: impl Iterator<Item = OsString>,
    commands: &'static [&'static Command],
) -> (Cli, Matches) {
    let mut args = args.peekable();
    let program = args.next().unwrap_or_default().to_string_lossy().into_owned();
    let (matches, _) = scan(&mut args, [Global::TABLE, &[]], FlagsEnd::BeforeFirst);
    let cli = Cli { program, global: Global::read(&matches).unwrap(), commands };
    match split(&cli, matches.help, &mut args) {
        Ok(Split::Command(_, matches)) => (cli, matches),
        _ => panic!("the line names no command, or is wrong"),
    }
}
