//! Flags before the command.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::flag::{Flag, Value, flags};
use super::refusal::Refusal;
use super::scan::boolean;
use super::value::word;

/// The two forms of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

impl Value for LogFormat {
    const WORDS: &'static [&'static str] = &["text", "json"];
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        word(flag, text, Self::WORDS, &[Self::Text, Self::Json])
    }
}

/// `--rootless`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rootless {
    /// Where the caller is not the machine's root.
    Auto,
    /// Always or never.
    Chosen(bool),
}

impl Value for Rootless {
    const WORDS: &'static [&'static str] = &["auto", "true", "false"];
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        let wrong = || {
            Refusal::value(format!("invalid value {text:?} for flag -{flag}: expected true, false or auto"))
        };
        match text {
            auto if auto.eq_ignore_ascii_case("auto") => Ok(Self::Auto),
            text => boolean(text).map(Self::Chosen).ok_or_else(wrong),
        }
    }
}

flags! {
    /// Flags before the command. A mistake in one of them is kept: the others say where it is logged.
    #[derive(Default)]
    pub(crate) struct Global {
        debug: bool = Flag::switch("debug", "log what happens in detail"),
        log: Option<PathBuf> = Flag::value("log", "FILE", "append log lines to FILE (default: standard error)"),
        format: Option<Result<LogFormat, Refusal>> =
            Flag::value("log-format", "FORMAT", "text or json (default: text)"),
        root: Option<PathBuf> = Flag::value(
            "root",
            "DIR",
            "where the state of containers is kept, best on a tmpfs (default: /run/hiber, or \
             $XDG_RUNTIME_DIR/hiber when not root)",
        )
        .with_empty(),
        systemd_cgroup: bool =
            Flag::switch("systemd-cgroup", "let systemd make the cgroups; cgroupsPath is then slice:prefix:name"),
        rootless: Option<Result<Rootless, Refusal>> = Flag::value(
            "rootless",
            "WHEN",
            "go on where permission for cgroups is missing: true, false or auto (default: auto)",
        ),
        criu: Option<PathBuf> =
            Flag::value("criu", "FILE", "the criu program (default: $HIBER_CRIU, else criu in PATH)"),
        version: bool = Flag::switch("version", "show the version").short("v"),
    }
}

impl Global {
    /// The form of log lines; text if the one that was asked for is unknown.
    pub(crate) fn log_format(&self) -> LogFormat {
        self.format.as_ref().and_then(|format| format.as_ref().ok()).copied().unwrap_or_default()
    }

    /// `--rootless`; `None` is auto.
    pub(crate) fn rootless(&self) -> Option<bool> {
        match &self.rootless {
            Some(Ok(Rootless::Chosen(choice))) => Some(*choice),
            _ => None,
        }
    }

    /// Fails if one of the flags has a value that cannot be.
    pub(crate) fn check(&self) -> Result<(), &Refusal> {
        if let Some(Err(refusal)) = &self.format {
            return Err(refusal);
        }
        if let Some(Err(refusal)) = &self.rootless {
            return Err(refusal);
        }
        Ok(())
    }
}
