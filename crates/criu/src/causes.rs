//! The usual causes of failed dumps and restores, as CRIU words them, and what to do about each.
//!
//! Words are those of CRIU 3.17 to 4.2; an entry matches a line that has all of its words. The first matching entry wins, so
//! special ones stand above general ones. Advice names the options of this crate. A caller with terms of its own, such as the
//! flags of a command, gives its own for a cause's [`id`](Cause::id), by [`Failure::meaning`](crate::Failure::meaning).

mod cause;
mod machine;
mod objects;
mod tree;

pub use cause::Cause;

/// All causes, in the order in which they are tried.
pub fn causes() -> impl Iterator<Item = &'static Cause> {
    [tree::CAUSES, objects::CAUSES, machine::CAUSES].into_iter().flatten()
}

/// The first cause whose words a line of CRIU's has.
pub(crate) fn of(line: &str) -> Option<&'static Cause> {
    causes().find(|cause| cause.matches(line))
}

#[cfg(test)]
#[path = "causes_tests.rs"]
mod tests;
