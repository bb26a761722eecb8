//! Calls that change the calling process: namespaces, descriptors, keys, exec.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::signal::SIGNALS;
use crate::{Result, SysError, ids};

fn last(call: &str, args: impl Into<String>) -> SysError {
    SysError::new(call, args, nix::errno::Errno::last_raw())
}

/// Joins namespaces: `fd` is a namespace and `flags` its kind or 0, or a pidfd and any set of kinds (setns(2)).
pub fn setns(fd: BorrowedFd<'_>, flags: u64, what: &str) -> Result<()> {
    // SAFETY: setns takes two integers.
    if unsafe { libc::setns(fd.as_raw_fd(), flags as libc::c_int) } < 0 {
        return Err(last("setns", what));
    }
    Ok(())
}

/// Leaves for new namespaces (unshare(2)). Never with CLONE_FILES: descriptors stay shared.
pub fn unshare(flags: u64, what: &str) -> Result<()> {
    let flags = flags & !(libc::CLONE_FILES as u64);
    // SAFETY: without CLONE_FILES no Rust object loses its descriptor.
    if unsafe { libc::unshare(flags as libc::c_int) } < 0 {
        return Err(last("unshare", what));
    }
    Ok(())
}

/// Takes the descriptor that this process's parent names in its arguments, if these are `word` and a number. Only the first call
/// returns it.
///
/// No caller chooses the number, and only a descriptor that was inherited is taken: it is no standard stream, and it lacks
/// close-on-exec, which nothing can have that has been through execve(2), and which everything has that is opened in Rust.
pub fn take_channel(word: &str) -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut args = std::env::args_os().skip(1);
    if args.next()? != word || args.len() != 1 || TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    let fd: RawFd = args.next()?.to_str()?.parse().ok().filter(|fd| *fd > libc::STDERR_FILENO)?;
    // SAFETY: F_GETFD on any integer is harmless; what is not open has no flags.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } != 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and its flags are none.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: it was inherited, so no object of this process owns it, and this function gives it away once.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets close-on-exec on every descriptor from `first` on (close_range(2), Linux 5.11).
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: only flags change, no descriptor is closed before exec.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if r < 0 { Err(last("close_range", format!("from {first}"))) } else { Ok(()) }
}

/// Gives the calling thread the session keyring of its user that is called `name`, a new one where there is none (keyctl(2)):
/// so a container's further processes have that of its first. Without keyrings in the kernel (ENOSYS) it is `false`.
pub fn join_session_keyring(name: &str) -> Result<bool> {
    let name = CString::new(name).map_err(|_| SysError::new("keyctl", name, libc::EINVAL))?;
    // SAFETY: the name is a C string; the other arguments are integers.
    let ring = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if ring < 0 {
        return match nix::errno::Errno::last_raw() {
            libc::ENOSYS => Ok(false),
            errno => Err(SysError::new("keyctl", "KEYCTL_JOIN_SESSION_KEYRING", errno)),
        };
    }
    // The possessor may do all; the user may view, read, link and search: without the last no other process could join it.
    const PERMISSIONS: libc::c_ulong = 0x3f1b_0000;
    // Without effect on a keyring whose owners have changed what may be done with it.
    // SAFETY: integers only.
    unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, ring, PERMISSIONS) };
    Ok(true)
}

/// Resets every signal's disposition to the default and unblocks all, as a program expects to find them.
/// Rust itself ignores SIGPIPE at start, and an ignored signal stays so over execve(2).
pub fn reset_signals() -> Result<()> {
    // The kernel's own structure, all zeroes: SIG_DFL, no flags, no restorer, an empty mask.
    let default = [0u64; 4];
    for signal in 1..=SIGNALS {
        // The raw call: libc's refuses 32 and 33, which it keeps for its threads.
        // SAFETY: a live structure of the kernel's size, and a mask of 8 bytes; numbers that cannot be changed are
        // refused without effect. No thread of libc's is left to miss its signals: the process is about to exec.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), 8usize);
        }
    }
    nix::sys::signal::SigSet::empty()
        .thread_set_mask()
        .map_err(|e| SysError::new("sigprocmask", "to unblock all signals", e as i32))
}

/// The strings as execve(2) takes them; as long as they live.
pub(crate) fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// execve(2); returns only on failure.
pub fn execve(path: &CStr, argv: &[CString], env: &[CString]) -> Result<Infallible> {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: null-terminated arrays of live C strings.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    Err(SysError::new("exec", path.to_string_lossy(), nix::errno::Errno::last_raw()))
}

/// setgroups(2) of the calling, single-threaded process.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    if groups.iter().any(|group| *group > ids::MAX) {
        return Err(SysError::new("setgroups", format!("{groups:?}"), libc::EINVAL));
    }
    // SAFETY: the pointer and the length belong to one slice.
    if unsafe { libc::setgroups(groups.len(), groups.as_ptr()) } < 0 {
        return Err(last("setgroups", format!("{groups:?}")));
    }
    Ok(())
}

/// setresgid(2), setresuid(2) of the calling, single-threaded process.
pub fn become_user(uid: u32, gid: u32) -> Result<()> {
    for (call, id) in [("setresgid", gid), ("setresuid", uid)] {
        if id > ids::MAX {
            return Err(SysError::new(call, id.to_string(), libc::EINVAL));
        }
    }
    // SAFETY: integers only.
    if unsafe { libc::setresgid(gid, gid, gid) } < 0 {
        return Err(last("setresgid", gid.to_string()));
    }
    // SAFETY: integers only.
    if unsafe { libc::setresuid(uid, uid, uid) } < 0 {
        return Err(last("setresuid", uid.to_string()));
    }
    Ok(())
}

/// prlimit(2) of this process (`None`) or of `pid`; `u64::MAX` is RLIM_INFINITY.
pub fn set_rlimit(pid: Option<i32>, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit is a live structure and the old one is not asked for.
    let r = unsafe { libc::prlimit64(pid.unwrap_or(0), resource as _, &raw const limit, ptr::null_mut()) };
    if r < 0 {
        return Err(last("prlimit", format!("to {soft} (hard {hard})")));
    }
    Ok(())
}

/// Drops a capability from the bounding set; `false` past the kernel's last one.
pub fn drop_from_bounding_set(capability: u8) -> Result<bool> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) } == 0 {
        return Ok(true);
    }
    match nix::errno::Errno::last_raw() {
        libc::EINVAL => Ok(false),
        errno => Err(SysError::new("prctl", format!("PR_CAPBSET_DROP {capability}"), errno)),
    }
}

/// Raises a capability in the ambient set.
pub fn raise_ambient(capability: u8) -> Result<()> {
    // SAFETY: integers only.
    let r = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            libc::c_ulong::from(capability),
            0,
            0,
        )
    };
    if r < 0 { Err(last("prctl", format!("PR_CAP_AMBIENT_RAISE {capability}"))) } else { Ok(()) }
}

/// A property that processes or threads may share (linux/kcmp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shareable {
    /// Their memory (CLONE_VM).
    Memory = 1,
    /// Their table of descriptors (CLONE_FILES).
    Descriptors = 2,
    /// Their root and working directories and umask (CLONE_FS).
    Directories = 3,
    /// Their list of what is undone at their end (semop(2), SEM_UNDO); having none is the same.
    UndoList = 6,
}

/// Whether two processes or threads, by their numbers, share something (kcmp(2)).
///
/// # Errors
/// The kernel compares nothing (CONFIG_KCMP), or the caller may not look at the processes.
pub fn share(one: i32, other: i32, what: Shareable) -> Result<bool> {
    // SAFETY: kcmp(2) takes numbers alone.
    match unsafe { libc::syscall(libc::SYS_kcmp, one, other, what as i32, 0, 0) } {
        -1 => Err(SysError::new("kcmp", format!("{what:?}"), nix::errno::Errno::last_raw())),
        order => Ok(order == 0),
    }
}
