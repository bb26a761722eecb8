//! Splits arguments into flags and positionals by the rules of Go's flag package, which clients of
//! runc rely on: one dash or two before any name (`-no-subreaper`), `--flag value`, `--flag=value`,
//! switches as `--flag`, `--flag=false`, flags before and after positionals, `--` ends the flags.
//! (Getopt-like libraries, lexopt included, read `-no-subreaper` as thirteen switches.)

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use hiber::id::ContainerId;

use super::refusal::Refusal;
use super::shape::{Entry, HELP, Shape, Takes, find, shapes};
use super::similar;

/// Where flags end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlagsEnd {
    /// Only at `--`.
    Never,
    /// At the first positional, which is left unread together with all that follows (the command
    /// after the global flags).
    BeforeFirst,
    /// After the first positional (a container's id before another program's command line).
    AfterFirst,
}

/// The flags that were given, in order.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    given: Vec<(&'static Shape, OsString)>,
    /// Arguments that are no flags.
    pub(crate) positionals: Vec<OsString>,
    /// `--help` was seen; reading stopped there.
    pub(super) help: bool,
}

impl Matches {
    /// All values of a flag.
    pub(super) fn values<'a>(
        &'a self,
        name: &'static str,
    ) -> impl DoubleEndedIterator<Item = &'a OsStr> + use<'a> {
        self.given.iter().filter(move |(flag, _)| flag.name == name).map(|(_, value)| value.as_os_str())
    }

    /// Whether a switch is on; the last one counts.
    pub(super) fn switch(&self, name: &'static str) -> bool {
        self.values(name).next_back().is_some_and(|value| value == "true")
    }

    /// Whether the flag was given at all.
    pub(super) fn is_given(&self, name: &'static str) -> bool {
        self.values(name).next().is_some()
    }

    /// The last value of a flag. An empty one counts as not given, as with runc.
    pub(super) fn value(&self, name: &'static str) -> Option<&OsStr> {
        self.values(name).next_back().filter(|value| !value.is_empty())
    }

    /// The flags of these tables as they were given, for another command that takes them, too.
    pub(crate) fn passed(&self, tables: &[&'static [Entry]]) -> Vec<OsString> {
        let known = |flag: &Shape| tables.iter().any(|table| find(table, flag.name.as_ref()).is_some());
        let given = self.given.iter().filter(|(flag, _)| known(flag));
        given
            .map(|(flag, value)| {
                let mut whole = OsString::from(format!("--{}=", flag.name));
                whole.push(value);
                whole
            })
            .collect()
    }

    /// A flag that is in none of these tables would be lost without a word.
    pub(crate) fn only(&self, tables: &[&'static [Entry]]) -> Result<(), Refusal> {
        let known = |flag: &Shape| tables.iter().any(|table| find(table, flag.name.as_ref()).is_some());
        match self.given.iter().find(|(flag, _)| !known(flag)) {
            Some((flag, _)) => Err(Refusal::form(format!("--{} has no effect here", flag.name))),
            None => Ok(()),
        }
    }

    /// The first argument: a container.
    pub(crate) fn container(&self) -> Result<ContainerId, Refusal> {
        Ok(self.positionals.first().map(|id| id.to_string_lossy()).unwrap_or_default().parse()?)
    }
}

/// Reads `args` by `table`; the flags of `earlier` belong before these arguments. On an error, what was understood before it is in the
/// `Matches`.
pub(super) fn scan(
    args: &mut std::iter::Peekable<impl Iterator<Item = OsString>>,
    [table, earlier]: [&'static [Entry]; 2],
    end: FlagsEnd,
) -> (Matches, Result<(), String>) {
    let mut matches = Matches::default();
    let result = fill(&mut matches, args, [table, earlier], end);
    (matches, result)
}

fn fill(
    matches: &mut Matches,
    args: &mut std::iter::Peekable<impl Iterator<Item = OsString>>,
    [table, earlier]: [&'static [Entry]; 2],
    end: FlagsEnd,
) -> Result<(), String> {
    while let Some(arg) = args.next_if(|arg| end != FlagsEnd::BeforeFirst || is_flag(arg)) {
        if arg == "--" {
            if end != FlagsEnd::BeforeFirst {
                matches.positionals.extend(args.by_ref());
            }
            break;
        }
        if !is_flag(&arg) {
            matches.positionals.push(arg);
            if end == FlagsEnd::AfterFirst {
                // `exec ID -- CMD` is `exec ID CMD`
                args.next_if(|next| next == "--");
                matches.positionals.extend(args.by_ref());
                break;
            }
            continue;
        }
        let (name, inline) = split(&arg);
        let shown = name.to_string_lossy();
        let flag = find(table, name).or_else(|| find(HELP, name));
        let flag = flag.ok_or_else(|| undefined(table, find(earlier, name), &shown))?;
        let value = match (flag.takes, inline) {
            (Takes::Nothing, None) => "true".into(),
            (Takes::Nothing, Some(value)) => {
                boolean(&value).map(|b| b.to_string().into()).ok_or_else(|| {
                    format!("invalid boolean value {value:?} for -{shown}: expected true or false")
                })?
            }
            (_, Some(value)) => value,
            (_, None) => {
                args.next().ok_or_else(|| format!("flag needs an argument: {}", arg.to_string_lossy()))?
            }
        };
        if flag.name == "help" && value == "true" {
            matches.help = true;
            break;
        }
        matches.given.push((flag, value));
    }
    Ok(())
}

/// runc's words for an unknown flag, and the one that was meant, or the place of the one that is global.
fn undefined(table: &'static [Entry], global: Option<&Shape>, shown: &str) -> String {
    let names = shapes(table).filter(|flag| !flag.hidden).map(|flag| flag.name);
    let hint = match global {
        Some(flag) => format!("; give the global option --{} before the command", flag.name),
        None => similar::hint(names, shown, "--"),
    };
    format!("flag provided but not defined: -{shown}{hint}")
}

/// A lone `-` and negative numbers are arguments.
fn is_flag(arg: &OsStr) -> bool {
    matches!(arg.as_bytes(), [b'-', b'-', ..])
        || matches!(arg.as_bytes(), [b'-', c, ..] if c.is_ascii_alphabetic())
}

/// `--name=value` without its dashes, as name and value.
fn split(arg: &OsStr) -> (&OsStr, Option<OsString>) {
    let bytes = arg.as_bytes();
    let bytes = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")).unwrap_or(bytes);
    match bytes.iter().position(|&b| b == b'=') {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
        None => (OsStr::from_bytes(bytes), None),
    }
}

/// The words of Go's strconv.ParseBool.
pub(super) fn boolean(text: &OsStr) -> Option<bool> {
    match text.to_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
