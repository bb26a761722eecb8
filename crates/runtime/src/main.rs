//! The `hiber` command.
#![forbid(unsafe_code)]

fn main() {}
