//! Flags about a container's process, and what other programs hear of it.

use std::path::{Path, PathBuf};

use crate::line::flag::Flag;
use crate::line::value::Format;

pub(crate) const BUNDLE: Flag<Option<PathBuf>> =
    Flag::value("bundle", "DIR", "the bundle's directory (default: the working directory)").short("b");
pub(crate) const CONSOLE_SOCKET: Flag<Option<PathBuf>> = Flag::value(
    "console-socket",
    "SOCKET",
    "unix socket that receives the master end of the container's terminal",
);
pub(crate) const PIDFD_SOCKET: Flag<Option<PathBuf>> =
    Flag::value("pidfd-socket", "SOCKET", "unix socket that receives a pidfd of the process");
pub(crate) const PID_FILE: Flag<Option<PathBuf>> =
    Flag::value("pid-file", "FILE", "write the process id to FILE");
pub(crate) const DETACH: Flag<bool> = Flag::switch("detach", "return as soon as the process runs").short("d");
pub(crate) const NO_SUBREAPER: Flag<bool> =
    Flag::switch("no-subreaper", "do not become the parent of processes that lose theirs");
/// File descriptors 3 to 2+N are passed on.
pub(crate) const PRESERVE_FDS: Flag<Option<u32>> =
    Flag::value("preserve-fds", "N", "pass N more file descriptors on, beside stdio and $LISTEN_FDS");
pub(crate) const FORMAT: Flag<Option<Format>> =
    Flag::value("format", "FORMAT", "table or json (default: table)").short("f");

/// The bundle that a flag names, or the working directory.
pub(crate) fn or_here(bundle: Option<&PathBuf>) -> PathBuf {
    bundle.cloned().unwrap_or_else(|| Path::new(".").to_owned())
}
