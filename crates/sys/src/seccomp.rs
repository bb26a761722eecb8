//! seccomp(2).

use std::os::fd::{FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::{Result, SysError};

/// One instruction of classic BPF: `struct sock_filter` (linux/filter.h). Stored as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// The operation's constant.
    pub k: u32,
}

impl From<u64> for SockFilter {
    fn from(n: u64) -> Self {
        Self { code: (n >> 48) as u16, jt: (n >> 40) as u8, jf: (n >> 32) as u8, k: n as u32 }
    }
}

impl From<SockFilter> for u64 {
    fn from(i: SockFilter) -> Self {
        Self::from(i.code) << 48 | Self::from(i.jt) << 40 | Self::from(i.jf) << 32 | Self::from(i.k)
    }
}

/// Installs a filter on the calling thread. The thread must have set no_new_privs or have
/// CAP_SYS_ADMIN in its user namespace, else EACCES.
///
/// `flags` are `SECCOMP_FILTER_FLAG_*`; with `NEW_LISTENER`, the listener is returned,
/// close-on-exec (kernel 5.0).
pub fn install(filter: &[SockFilter], flags: u32) -> Result<Option<OwnedFd>, SysError> {
    let error = |errno| {
        SysError::new(
            "seccomp",
            format!("SECCOMP_SET_MODE_FILTER, flags {flags:#x}, {} instructions", filter.len()),
            errno,
        )
    };
    let len = u16::try_from(filter.len()).map_err(|_| error(libc::EINVAL))?;
    let mut code: Vec<libc::sock_filter> =
        filter.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let program = libc::sock_fprog { len, filter: code.as_mut_ptr() };
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel copies
    // and checks them.
    let ret =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if ret < 0 {
        return Err(error(last_errno()));
    }
    if u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        // TSYNC would report a thread that could not follow as a positive number
        return if ret == 0 { Ok(None) } else { Err(error(libc::ESRCH)) };
    }
    let fd = i32::try_from(ret).map_err(|_| error(libc::EBADF))?;
    // SAFETY: with NEW_LISTENER, success returns a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether the kernel knows an action, given as `SECCOMP_RET_*` without data (kernel 4.14).
pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads one u32 from the pointer, which lives until the call returns.
    let ret =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    ret == 0
}

/// Whether the kernel knows a set of `SECCOMP_FILTER_FLAG_*`. Nothing is installed: flags are
/// checked before the program, and a null program is refused with EFAULT.
pub fn flags_available(flags: u32) -> bool {
    // SAFETY: a null program is never read beyond the failing copy from user space.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    ret == -1 && last_errno() == libc::EFAULT
}

fn last_errno() -> i32 {
    nix::errno::Errno::last_raw()
}
