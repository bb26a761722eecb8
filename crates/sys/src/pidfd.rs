//! What a pidfd tells of a process that has ended.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, SysError};

/// `struct pidfd_info` of uapi/linux/pidfd.h in its first version; later ones only grow at the end.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pids_and_users: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(0xff, 11, struct pidfd_info)`; the kernel takes the size from the request.
const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// How a process ended that somebody has reaped, whoever that was: its status as of waitpid(2).
///
/// `None` if the kernel does not know it (before Linux 6.15, "pidfs: provide information after task has been reaped"), or nobody has reaped it yet.
///
/// # Errors
/// The descriptor is no pidfd.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>, SysError> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request reads and writes a live structure of the size that it names.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) } < 0 {
        return match nix::errno::Errno::last_raw() {
            // Of older kernels: no such request, or none once the process is gone.
            libc::EINVAL | libc::ENOTTY | libc::ESRCH => Ok(None),
            errno => Err(SysError::new("ioctl", "PIDFD_GET_INFO", errno)),
        };
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn the_status_of_a_process_that_was_reaped() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert_eq!(exit_status(pidfd.as_fd()).unwrap(), None, "it lives");
        child.kill().unwrap();
        child.wait().unwrap();
        // Kernels before 6.15 do not know it.
        let status = exit_status(pidfd.as_fd()).unwrap();
        assert!(matches!(status, None | Some(libc::SIGKILL)), "{status:?}");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(exit_status(file.as_fd()).unwrap(), None, "what is no pidfd knows no status");
    }
}
