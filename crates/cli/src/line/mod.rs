//! The language of command lines, whatever the commands are: flags with types, and from arguments to a command.

pub(crate) mod command;
pub(crate) mod flag;
pub(crate) mod global;
pub(crate) mod parse;
pub(crate) mod refusal;
pub(crate) mod scan;
pub(crate) mod shape;
mod similar;
pub(crate) mod value;
