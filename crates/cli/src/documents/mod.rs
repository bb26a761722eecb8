//! Documents about the commands, made from their declarations: help, manual pages and shell completion.

pub(crate) mod completion;
pub(crate) mod help;
pub(crate) mod man;

use crate::line::shape::{Entry, HELP, Shape, shapes};

/// The flags of a table that are shown; `--help` is the last.
fn shown(table: &'static [Entry]) -> impl Iterator<Item = &'static Shape> {
    shapes(table).chain(shapes(HELP)).filter(|flag| !flag.hidden)
}
