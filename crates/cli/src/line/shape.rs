//! Flags as people see them: their names and help, in tables.

use std::ffi::OsStr;

/// The value after a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing; `--flag=true` and `--flag=false` are understood too.
    Nothing,
    /// One value, of which the last counts; the string stands for it in help.
    One(&'static str),
    /// One value each time, all of which count.
    Many(&'static str),
}

/// A flag as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The name without dashes.
    pub name: &'static str,
    /// The one-letter alias, without dash.
    pub short: Option<&'static str>,
    /// The value after it.
    pub takes: Takes,
    /// The values that it takes, where there are few.
    pub words: &'static [&'static str],
    /// One line for help.
    pub help: &'static str,
    /// Understood, but not shown.
    pub hidden: bool,
}

/// The kind of an argument, for shells to complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Argument {
    /// The id of a container that exists.
    Container,
    /// One of these.
    Words(&'static [&'static str]),
    /// The name of a command.
    Command,
    /// A file.
    File,
    /// A directory.
    Directory,
    /// Something that only the user knows.
    Other,
}

impl Shape {
    pub(super) const fn new(name: &'static str, takes: Takes, help: &'static str) -> Self {
        Self { name, short: None, takes, words: &[], help, hidden: false }
    }

    /// The value after it.
    pub(crate) fn argument(&self) -> Option<Argument> {
        match self.takes {
            Takes::Nothing => None,
            _ if !self.words.is_empty() => Some(Argument::Words(self.words)),
            Takes::One("DIR") => Some(Argument::Directory),
            Takes::One("FILE" | "SOCKET") => Some(Argument::File),
            Takes::One(_) | Takes::Many(_) => Some(Argument::Other),
        }
    }
}

/// Flags in their order in help: single ones, and groups that commands share.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry {
    /// A flag.
    Flag(Shape),
    /// Flags that come together.
    Group(&'static [Entry]),
}

/// All flags of a table.
pub(crate) fn shapes(table: &'static [Entry]) -> Box<dyn Iterator<Item = &'static Shape>> {
    Box::new(table.iter().flat_map(|entry| match entry {
        Entry::Flag(shape) => Box::new(std::iter::once(shape)),
        Entry::Group(table) => shapes(table),
    }))
}

/// The flag of a table that has this name or alias.
pub(super) fn find(table: &'static [Entry], name: &OsStr) -> Option<&'static Shape> {
    table.iter().find_map(|entry| match entry {
        Entry::Flag(shape) => {
            (name == shape.name || shape.short.is_some_and(|short| name == short)).then_some(shape)
        }
        Entry::Group(table) => find(table, name),
    })
}

/// The one flag that every level has; it is shown as the last.
pub(crate) const HELP: &[Entry] =
    &[Entry::Flag(Shape { short: Some("h"), ..Shape::new("help", Takes::Nothing, "show help") })];
