//! Whose streams they are, and pipes that belong to that user.

use std::os::fd::OwnedFd;

use hiber_sandbox::ids;
use rustix::pipe::PipeFlags;

use crate::error::{Context, Result};

/// Whose streams they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// Id of the container or of the exec, for logging programs.
    pub(crate) id: &'a str,
    pub(crate) namespace: &'a str,
    /// Owner of the pipes.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A pipe, reading end first, which the container's user may open again through /proc/self/fd.
pub(super) fn pipe(owner: Owner<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("pipe2")?;
    if (owner.uid, owner.gid) != (0, 0) {
        let owned = || rustix::fs::fchown(&reader, Some(ids::uid(owner.uid)?), Some(ids::gid(owner.gid)?));
        owned().context("fchown a pipe")?;
    }
    Ok((reader, writer))
}
