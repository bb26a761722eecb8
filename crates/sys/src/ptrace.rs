//! Requests of ptrace(2) that nix leaves out. The calling thread traces the thread they are about, which is stopped.

use crate::{Result, SysError};

/// linux/ptrace.h
const GETSIGMASK: libc::c_long = 0x420a;
const SETSIGMASK: libc::c_long = 0x420b;
const GET_RSEQ_CONFIGURATION: libc::c_long = 0x420f;
const SET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_long = 0x4210;
const GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_long = 0x4211;

/// NT_X86_XSTATE, or what comes nearest to it elsewhere (linux/elf.h): NT_PRFPREG.
#[cfg(target_arch = "x86_64")]
const EXTENDED: libc::c_long = 0x202;
#[cfg(not(target_arch = "x86_64"))]
const EXTENDED: libc::c_long = 2;
/// PTRACE_GETREGSET and PTRACE_SETREGSET
const GETREGSET: libc::c_long = 0x4204;
const SETREGSET: libc::c_long = 0x4205;
/// More than any processor keeps for a thread, in bytes: AMX's tiles are 8 KiB of it.
const MAX_EXTENDED: usize = 64 << 10;

/// The ways in which a stopped thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoOn {
    /// Up to the next stop of any kind.
    Freely,
    /// Up to the beginning or the end of a system call at most.
    ToCall,
    /// Without being traced any more.
    Detached,
}

/// PTRACE_CONT, PTRACE_SYSCALL or PTRACE_DETACH, with this signal delivered first; none if it is 0. nix knows no real-time
/// signals.
pub fn go_on(tid: i32, how: GoOn, signal: i32) -> Result<()> {
    let request = match how {
        GoOn::Freely => 7,
        GoOn::ToCall => 24,
        GoOn::Detached => 17,
    };
    // SAFETY: integers only.
    let r = unsafe {
        libc::syscall(libc::SYS_ptrace, request as libc::c_long, tid, 0, libc::c_long::from(signal))
    };
    if r < 0 { Err(failed(&format!("{how:?}"), tid)) } else { Ok(()) }
}

/// The setting of PR_SET_SYSCALL_USER_DISPATCH (prctl(2)): system calls outside of an area become signals, unless the selector
/// says otherwise (`struct ptrace_sud_config`, Linux 6.4).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dispatch {
    /// 0 if it is off.
    pub mode: u64,
    /// The selector's address; 0 if there is none.
    pub selector: u64,
    /// The area's start.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// `struct ptrace_rseq_configuration` (Linux 5.13).
#[repr(C)]
#[derive(Default)]
struct RseqConfiguration {
    pointer: u64,
    size: u32,
    signature: u32,
    flags: u32,
    padding: u32,
}

fn failed(request: &str, tid: i32) -> SysError {
    SysError::new("ptrace", format!("{request} of thread {tid}"), nix::errno::Errno::last_raw())
}

/// The signals that the thread blocks. During a call that blocks others (sigsuspend(2)), the signals that the thread blocks
/// afterwards.
pub fn signal_mask(tid: i32) -> Result<u64> {
    let mut mask = 0u64;
    // SAFETY: the kernel writes as many bytes as it is told that there are.
    let r = unsafe { libc::syscall(libc::SYS_ptrace, GETSIGMASK, tid, size_of::<u64>(), &raw mut mask) };
    if r < 0 { Err(failed("PTRACE_GETSIGMASK", tid)) } else { Ok(mask) }
}

/// Makes the thread block these signals; SIGKILL and SIGSTOP are left out.
pub fn set_signal_mask(tid: i32, mask: u64) -> Result<()> {
    // SAFETY: a live mask of the size that the kernel is told.
    let r = unsafe { libc::syscall(libc::SYS_ptrace, SETSIGMASK, tid, size_of::<u64>(), &raw const mask) };
    if r < 0 { Err(failed("PTRACE_SETSIGMASK", tid)) } else { Ok(()) }
}

/// The thread's area for restartable sequences (rseq(2)); `None` if the thread has registered none, or the kernel does not tell.
pub fn rseq_area(tid: i32) -> Option<u64> {
    let mut of = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    // SAFETY: the kernel writes as many bytes as it is told that there are.
    let r = unsafe { libc::syscall(libc::SYS_ptrace, GET_RSEQ_CONFIGURATION, tid, size, &raw mut of) };
    (r >= 0 && of.pointer != 0).then_some(of.pointer)
}

/// The thread's dispatch of system calls; `None` if it has none, or the kernel does not say.
pub fn dispatch(tid: i32) -> Option<Dispatch> {
    let mut of = Dispatch::default();
    let size = size_of::<Dispatch>();
    // SAFETY: the kernel writes as many bytes as it is told that there are.
    let r =
        unsafe { libc::syscall(libc::SYS_ptrace, GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, &raw mut of) };
    (r >= 0 && of.mode != 0).then_some(of)
}

/// Gives the thread this dispatch of system calls.
pub fn set_dispatch(tid: i32, to: &Dispatch) -> Result<()> {
    let (request, size) = (SET_SYSCALL_USER_DISPATCH_CONFIG, size_of::<Dispatch>());
    // SAFETY: a live structure of the size that the kernel is told.
    let r = unsafe { libc::syscall(libc::SYS_ptrace, request, tid, size, &raw const *to) };
    if r < 0 { Err(failed("PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG", tid)) } else { Ok(()) }
}

/// The thread's registers apart from the general ones, in the kernel's layout (xsave): vectors, and the rights of its protection
/// keys.
pub fn extended_state(tid: i32) -> Result<Vec<u8>, SysError> {
    let mut state = vec![0u8; MAX_EXTENDED];
    let mut area = libc::iovec { iov_base: state.as_mut_ptr().cast(), iov_len: state.len() };
    // SAFETY: the kernel writes at most as many bytes as the area says, and then says how many.
    let r = unsafe { libc::syscall(libc::SYS_ptrace, GETREGSET, tid, EXTENDED, &raw mut area) };
    if r < 0 {
        return Err(failed("PTRACE_GETREGSET", tid));
    }
    state.truncate(area.iov_len);
    Ok(state)
}

/// Sets the registers that [`extended_state`] has read.
pub fn set_extended_state(tid: i32, state: &mut [u8]) -> Result<(), SysError> {
    let area = libc::iovec { iov_base: state.as_mut_ptr().cast(), iov_len: state.len() };
    // SAFETY: a live area of the size that it says.
    let r = unsafe { libc::syscall(libc::SYS_ptrace, SETREGSET, tid, EXTENDED, &raw const area) };
    if r < 0 { Err(failed("PTRACE_SETREGSET", tid)) } else { Ok(()) }
}
