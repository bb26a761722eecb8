//! The meanings of text on the command line.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use hiber::clones::{CloneMemory, CloneRootfs};
use hiber::id::ContainerId;
use hiber::keep::Restart;
use hiber::migrate::{Compress, Destination, OnMiss, Rootfs};
use hiber::{Address, CgroupMode, CheckpointName, InvalidAddress, NetworkLock, PreCopyMode, Resources, Word};

use super::flag::Value;
use super::refusal::Refusal;

type Result<T> = std::result::Result<T, Refusal>;

/// Text where the OCI specification has a JSON string.
pub(crate) fn text(what: &str, value: &OsStr) -> Result<String> {
    let text =
        value.to_str().ok_or_else(|| Refusal::value(format!("{what} {value:?} is not valid UTF-8")))?;
    Ok(text.to_owned())
}

/// One of a few words, whose meanings stand at the same places.
pub(crate) fn word<T: Copy>(what: &str, value: &OsStr, words: &[&str], meanings: &[T]) -> Result<T> {
    let found = words.iter().zip(meanings).find(|(word, _)| value == **word);
    found
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| Refusal::value(format!("invalid {what} {value:?}: expected {}", words.join(" or "))))
}

impl Value for PathBuf {
    fn read(_: &str, text: &OsStr) -> Result<Self> {
        Ok(text.into())
    }
}

impl Value for String {
    fn read(flag: &str, value: &OsStr) -> Result<Self> {
        text(flag, value)
    }
}

/// Numbers; the range of the type is that of the flag.
macro_rules! number {
    ($($type:ty)*) => {$(
        impl Value for $type {
            fn read(flag: &str, text: &OsStr) -> Result<Self> {
                text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
                    Refusal::form(format!("invalid value {text:?} for flag -{flag}: expected a number"))
                })
            }
        }
    )*};
}
number!(u32 i32);

/// A span of time as Go writes it: `1s`, `100ms` or `1m30s`.
impl Value for Duration {
    fn read(flag: &str, text: &OsStr) -> Result<Self> {
        let text = text.to_string_lossy();
        humantime::parse_duration(&text)
            .map_err(|e| Refusal::form(format!("invalid value {text:?} for flag -{flag}: {e}")))
    }
}

/// Words of the library's.
macro_rules! words {
    ($($type:ty)*) => {$(
        impl Value for $type {
            const WORDS: &'static [&'static str] = <$type as Word>::WORDS;
            fn read(_: &str, text: &OsStr) -> Result<Self> {
                Ok(Self::of_word(&text.to_string_lossy())?)
            }
        }
    )*};
}
words!(CgroupMode CloneMemory CloneRootfs Compress NetworkLock OnMiss PreCopyMode Resources Restart Rootfs);

impl Value for CheckpointName {
    fn read(_: &str, text: &OsStr) -> Result<Self> {
        Ok(text.to_string_lossy().parse()?)
    }
}

impl Value for ContainerId {
    fn read(_: &str, text: &OsStr) -> Result<Self> {
        Ok(text.to_string_lossy().parse()?)
    }
}

impl Value for Destination {
    fn read(what: &str, value: &OsStr) -> Result<Self> {
        text(what, value)?.parse().map_err(|e: hiber::Error| Refusal::value(e.to_string()))
    }
}

/// `ADDRESS:PORT`, with IPv6 addresses in brackets.
impl Value for Address {
    fn read(flag: &str, value: &OsStr) -> Result<Self> {
        let wrong = |why: &str| Refusal::value(format!("invalid {flag} {value:?}: {why}"));
        let text = value.to_str().ok_or_else(|| wrong("not valid UTF-8; expected ADDRESS:PORT"))?;
        text.parse().map_err(|why: InvalidAddress| wrong(&why.to_string()))
    }
}

/// How a document is written: `--format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

impl Value for Format {
    const WORDS: &'static [&'static str] = &["table", "json"];
    fn read(_: &str, text: &OsStr) -> Result<Self> {
        word("format option", text, Self::WORDS, &[Self::Table, Self::Json])
    }
}
