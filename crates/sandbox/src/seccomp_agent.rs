//! The agent that answers for system calls (SCMP_ACT_NOTIFY), outside of the container.

use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Serialize;

use crate::error::Context;
use crate::plan::HookState;
use crate::{Result, SysError};

/// "Container Process State" of the runtime specification (config-linux.md).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a HookState,
}

/// Connects to the agent that listens at `path`. A connection carries one listener.
///
/// # Errors
/// If nobody listens there.
pub fn connect(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path)
        .map_err(|e| SysError::io("connect", path.display().to_string(), &e))
        .context("failed to connect with seccomp agent specified in the seccomp profile")
}

/// The message that accompanies the listener of process `pid`, a number of the runtime's pid namespace.
///
/// # Errors
/// If the state cannot be written as JSON.
pub fn message(pid: i32, metadata: Option<&str>, state: HookState) -> Result<Vec<u8>> {
    let told =
        ProcessState { oci_version: &state.oci_version, fds: ["seccompFd"], pid, metadata, state: &state };
    serde_json::to_vec(&told).map_err(|e| {
        SysError::new("write", format!("the state for the seccomp agent ({e})"), libc::EINVAL).into()
    })
}
