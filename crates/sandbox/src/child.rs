//! Children of this process: why there is none, how one ended, and their files in /proc.

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::{Error, Result, SysError};

/// Why the kernel does not make a process, or gives it no new namespaces.
pub(crate) fn explain(error: SysError, new_user: bool) -> Error {
    let what = match error.errno {
        libc::EAGAIN => {
            "a limit of processes is reached: pids.max of a cgroup, RLIMIT_NPROC or kernel.threads-max"
        }
        libc::ENOSPC => {
            "a limit in /proc/sys/user/max_*_namespaces is reached, or one of 32 nested user namespaces"
        }
        libc::EPERM if new_user => {
            "this host, its kernel.unprivileged_userns_clone or its security module, allows the caller no user namespaces"
        }
        _ => return error.into(),
    };
    Error::While { what: what.into(), source: Box::new(error.into()) }
}

/// Waits for the end of a child.
pub(crate) fn reap(pid: i32) -> Option<WaitStatus> {
    let pid = Pid::from_raw(pid)?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(found) => return found.map(|(_, status)| status),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Writes a file of /proc.
pub(crate) fn write_file(path: &str, value: &str) -> Result<()> {
    let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("open", path, e.raw_os_error()))?;
    rustix::io::write(&fd, value.as_bytes())
        .map_err(|e| SysError::new("write", format!("{value:?} to {path}"), e.raw_os_error()))?;
    Ok(())
}
