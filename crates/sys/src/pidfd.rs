//! Processes by their pidfds (pidfd_open(2)): copies of their descriptors, and how one has ended.

use std::cell::OnceCell;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

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

/// The status (waitpid(2)) of a process that this or another process has reaped.
///
/// `None` if the kernel does not keep the status (before Linux 6.15, "pidfs: provide information after task has been reaped"), or
/// nobody has reaped the process yet.
///
/// # Errors
/// The descriptor is no pidfd.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>, SysError> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request reads and writes a live structure of the size that it names.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) } < 0 {
        return match nix::errno::Errno::last_raw() {
            // Older kernels lack the request, or refuse it once the process is gone.
            libc::EINVAL | libc::ENOTTY | libc::ESRCH => Ok(None),
            errno => Err(SysError::new("ioctl", "PIDFD_GET_INFO", errno)),
        };
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

/// A process whose descriptors can be copied. Its pidfd is opened once, for the first copy.
#[derive(Debug)]
pub struct DescriptorOwner {
    pid: i32,
    pidfd: OnceCell<OwnedFd>,
}

impl DescriptorOwner {
    /// The process `pid`, which need not exist.
    pub fn new(pid: i32) -> Self {
        Self { pid, pidfd: OnceCell::new() }
    }

    /// A descriptor of the caller's for the file of the process's descriptor `fd`, close-on-exec (pidfd_getfd(2), Linux 5.6).
    ///
    /// # Errors
    /// ESRCH if the process is gone, EBADF if it has no such descriptor, EPERM if the caller may not trace it.
    pub fn copy(&self, fd: i32) -> Result<OwnedFd> {
        let pidfd = match self.pidfd.get() {
            Some(pidfd) => pidfd,
            None => {
                let pid = Pid::from_raw(self.pid).ok_or(Errno::SRCH);
                let opened = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
                let failed = |e: Errno| SysError::new("pidfd_open", self.pid.to_string(), e.raw_os_error());
                let opened = opened.map_err(failed)?;
                self.pidfd.get_or_init(|| opened)
            }
        };
        rustix::process::pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty()).map_err(|e| {
            let args = format!("descriptor {fd} of process {}", self.pid);
            SysError::new("pidfd_getfd", args, e.raw_os_error())
        })
    }
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

    #[test]
    fn a_copy_is_the_same_file() {
        let owner = DescriptorOwner::new(std::process::id() as i32);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let copy = owner.copy(writer.as_raw_fd()).unwrap();
        rustix::io::write(&copy, b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 2]), Ok(1));
        drop((writer, copy));
        assert_eq!(owner.copy(i32::MAX).unwrap_err().errno, libc::EBADF);
        let gone = DescriptorOwner::new(0).copy(0).unwrap_err();
        assert_eq!((gone.call.as_str(), gone.errno), ("pidfd_open", libc::ESRCH));
    }
}
