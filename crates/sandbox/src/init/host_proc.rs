//! The host's /proc, as init has it open.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use crate::{Result, SysError};

/// The host's procfs, open only where it is needed: as soon as init joins the container, a process there that may trace init
/// could reach the host through it.
pub(super) struct HostProc(pub(super) Option<OwnedFd>);

impl HostProc {
    pub(super) fn fd(&self) -> Result<&OwnedFd> {
        self.0.as_ref().ok_or_else(|| SysError::new("openat", "/proc, which was let go", libc::EBADF).into())
    }
}

/// Writes a file below the host's /proc.
pub(super) fn write_proc(host_proc: &HostProc, path: &str, value: &str) -> Result<()> {
    let fd = rustix::fs::openat(host_proc.fd()?, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("openat", format!("/proc/{path}"), e.raw_os_error()))?;
    rustix::io::write(&fd, value.as_bytes())
        .map_err(|e| SysError::new("write", format!("{value:?} to /proc/{path}"), e.raw_os_error()))?;
    Ok(())
}
