//! The processes at both ends, which are this program.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use hiber_sys::channel::{Channel, Message};

use crate::error::{Context, Error, Result};

/// Starts this program as one of the two processes; `argument` says which.
pub(super) fn spawn<Says: Message, Hears: Message>(argument: &str) -> Result<(Child, Channel<Says, Hears>)> {
    let (ours, theirs) = Channel::pair()?;
    let theirs: OwnedFd =
        theirs.as_fd().try_clone_to_owned().map_err(|e| Error::host("duplicate a socket", e))?;
    let child = Command::new("/proc/self/exe")
        .arg(argument)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::file("/proc/self/exe".as_ref(), &e))
        .context(format!("start the process for {argument}"))?;
    Ok((child, ours))
}

/// The other end of [`spawn`]'s channel, if this process was started by it with `name`.
pub(super) fn asked(argument: Option<&OsStr>, name: &str) -> Option<OwnedFd> {
    if argument != Some(name.as_ref()) {
        return None;
    }
    // Signals to the runtime's process group are not meant for this process.
    let _ = rustix::process::setsid();
    rustix::stdio::stdin().try_clone_to_owned().ok()
}
