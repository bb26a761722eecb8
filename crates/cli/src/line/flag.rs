//! Flags with types: a declaration says how people see a flag, and what its values become.

use std::ffi::OsStr;

use super::refusal::Refusal;
use super::scan::Matches;
use super::shape::{Entry, Shape, Takes};

/// Text of the command line that has a meaning.
pub(crate) trait Value: Sized {
    /// The words that it may be, where there are few.
    const WORDS: &'static [&'static str] = &[];
    /// The meaning; `flag` is the name of the flag, for errors.
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal>;
}

/// A mistake that is looked at later.
impl<T: Value> Value for Result<T, Refusal> {
    const WORDS: &'static [&'static str] = T::WORDS;
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        Ok(T::read(flag, text))
    }
}

/// A flag, or a group of flags, of which a command gets a `T`.
#[derive(Clone, Copy)]
pub(crate) struct Flag<T> {
    entry: Entry,
    read: fn(name: &'static str, &Matches) -> Result<T, Refusal>,
}

impl Flag<bool> {
    /// On where it is given.
    pub(crate) const fn switch(name: &'static str, help: &'static str) -> Self {
        Self::new(Shape::new(name, Takes::Nothing, help), |name, m| Ok(m.switch(name)))
    }
}

impl Flag<Option<bool>> {
    /// On, off, or not given.
    pub(crate) const fn choice(name: &'static str, help: &'static str) -> Self {
        let read = |name, m: &Matches| Ok(m.is_given(name).then(|| m.switch(name)));
        Self::new(Shape::new(name, Takes::Nothing, help), read)
    }
}

impl<T: Value> Flag<Option<T>> {
    /// The last value; an empty one counts as not given, as with runc.
    pub(crate) const fn value(name: &'static str, metavar: &'static str, help: &'static str) -> Self {
        let mut shape = Shape::new(name, Takes::One(metavar), help);
        shape.words = T::WORDS;
        Self::new(shape, |name, m| m.value(name).map(|text| T::read(name, text)).transpose())
    }

    /// An empty value counts, too.
    pub(crate) const fn with_empty(mut self) -> Self {
        self.read = |name, m| m.values(name).next_back().map(|text| T::read(name, text)).transpose();
        self
    }
}

impl<T: Value> Flag<Vec<T>> {
    /// All values.
    pub(crate) const fn list(name: &'static str, metavar: &'static str, help: &'static str) -> Self {
        let mut shape = Shape::new(name, Takes::Many(metavar), help);
        shape.words = T::WORDS;
        Self::new(shape, |name, m| m.values(name).map(|text| T::read(name, text)).collect())
    }
}

impl<T: Flags> Flag<T> {
    /// The flags of a struct that [`flags!`] declares.
    pub(crate) const fn group() -> Self {
        Self { entry: Entry::Group(T::TABLE), read: |_, m| T::read(m) }
    }
}

impl<T> Flag<T> {
    const fn new(shape: Shape, read: fn(&'static str, &Matches) -> Result<T, Refusal>) -> Self {
        Self { entry: Entry::Flag(shape), read }
    }

    pub(crate) const fn short(mut self, letter: &'static str) -> Self {
        if let Entry::Flag(shape) = &mut self.entry {
            shape.short = Some(letter);
        }
        self
    }

    pub(crate) const fn hidden(mut self) -> Self {
        if let Entry::Flag(shape) = &mut self.entry {
            shape.hidden = true;
        }
        self
    }

    /// The line of the table.
    pub(crate) const fn entry(&self) -> Entry {
        self.entry
    }

    pub(crate) fn read(&self, m: &Matches) -> Result<T, Refusal> {
        let name = match self.entry {
            Entry::Flag(shape) => shape.name,
            Entry::Group(_) => "",
        };
        (self.read)(name, m)
    }
}

/// Flags that make up one value, declared by [`flags!`].
pub(crate) trait Flags: Sized {
    /// The flags.
    const TABLE: &'static [Entry];
    /// Those that were given.
    fn read(m: &Matches) -> Result<Self, Refusal>;
}

/// Declares a struct whose fields are flags: each line has the field, its type, and the [`Flag`] that fills it.
macro_rules! flags {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident { $($field:ident: $type:ty = $flag:expr),* $(,)? }) => {
        $(#[$attribute])*
        #[derive(Debug)]
        #[cfg_attr(test, derive(PartialEq))]
        $visibility struct $name { $(pub(crate) $field: $type),* }

        impl $crate::line::flag::Flags for $name {
            const TABLE: &'static [$crate::line::shape::Entry] = &[$({
                const FLAG: $crate::line::flag::Flag<$type> = $flag;
                FLAG.entry()
            }),*];

            fn read(m: &$crate::line::scan::Matches) -> Result<Self, $crate::line::refusal::Refusal> {
                Ok(Self { $($field: {
                    const FLAG: $crate::line::flag::Flag<$type> = $flag;
                    FLAG.read(m)?
                }),* })
            }
        }
    };
}
pub(crate) use flags;
