//! bpf(2), for the device filter of cgroup v2.
//!
//! Only the fields of `union bpf_attr` (linux/bpf.h) that are used here; the kernel takes the rest
//! as zero.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, SysError};

/// Commands of bpf(2).
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 1 << 1;
/// Since Linux 5.6 (kernel commit 7dd68b3279f1).
const F_REPLACE: u32 = 1 << 2;
/// How many programs of one type a cgroup can have (BPF_CGROUP_MAX_PROGS).
const MAX_PROGRAMS: usize = 64;

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reg {
    /// The answer.
    R0,
    /// The context, at the start.
    R1,
    /// A scratch register.
    R2,
    /// A scratch register.
    R3,
    /// A scratch register.
    R4,
    /// A scratch register.
    R5,
}

/// One instruction: `struct bpf_insn`. Jump offsets count from the next instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Class, operation and source.
    pub code: u8,
    /// Destination register in the low half, source in the high half.
    pub regs: u8,
    /// Offset of a jump or a load.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

impl Insn {
    const fn new(code: u8, dst: Reg, src: Reg, off: i16, imm: i32) -> Self {
        // Bitfields of `struct bpf_insn` are laid out from the low end on little-endian machines.
        let (dst, src) = (dst as u8, src as u8);
        let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        Self { code, regs, off, imm }
    }
    /// `dst = *(u32 *)(src + off)`
    pub const fn load32(dst: Reg, src: Reg, off: i16) -> Self {
        Self::new(0x61, dst, src, off, 0)
    }
    /// `dst = (u32)src`
    pub const fn mov32(dst: Reg, src: Reg) -> Self {
        Self::new(0xbc, dst, src, 0, 0)
    }
    /// `dst = (u32)imm`
    pub const fn mov32_imm(dst: Reg, imm: i32) -> Self {
        Self::new(0xb4, dst, Reg::R0, 0, imm)
    }
    /// `dst = (s64)imm`
    pub const fn mov64_imm(dst: Reg, imm: i32) -> Self {
        Self::new(0xb7, dst, Reg::R0, 0, imm)
    }
    /// `dst = (u32)dst & imm`
    pub const fn and32_imm(dst: Reg, imm: i32) -> Self {
        Self::new(0x54, dst, Reg::R0, 0, imm)
    }
    /// `dst = (u32)dst >> imm`
    pub const fn shift_right32_imm(dst: Reg, imm: i32) -> Self {
        Self::new(0x74, dst, Reg::R0, 0, imm)
    }
    /// Jumps if `dst != (s64)imm`, to where `off` is set later.
    pub const fn jump_if_not_imm(dst: Reg, imm: i32) -> Self {
        Self::new(0x55, dst, Reg::R0, 0, imm)
    }
    /// Jumps if `dst == (s64)imm`, to where `off` is set later.
    pub const fn jump_if_imm(dst: Reg, imm: i32) -> Self {
        Self::new(0x15, dst, Reg::R0, 0, imm)
    }
    /// Jumps if `dst != src`, to where `off` is set later.
    pub const fn jump_if_not(dst: Reg, src: Reg) -> Self {
        Self::new(0x5d, dst, src, 0, 0)
    }
    /// Returns r0.
    pub const fn exit() -> Self {
        Self::new(0x95, Reg::R0, Reg::R0, 0, 0)
    }
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    /// bpf_attr's alignment is 8; named so that no padding is uninitialised.
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
}

/// The call itself; `what` is for the error.
///
/// # Safety
/// Every pointer in `attr` must be valid for what `command` does with it, and `T` must be laid out
/// as the part of `union bpf_attr` that `command` uses.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T, what: &str) -> Result<libc::c_int> {
    let size = size_of::<T>();
    // SAFETY: `attr` is a live, exclusive reference of `size` bytes; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    match libc::c_int::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(SysError::io("bpf", what, &std::io::Error::last_os_error())),
    }
}

/// The kernel's view of a descriptor.
fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program, and with it has the kernel verify it.
///
/// # Errors
/// EPERM without CAP_BPF or CAP_SYS_ADMIN, or before Linux 5.11 with a too small RLIMIT_MEMLOCK;
/// for a program that the verifier refuses, its log is in the error.
pub fn load_cgroup_device(program: &[Insn]) -> Result<OwnedFd> {
    match load(program, &mut []) {
        // A second try, for the verifier's reasons alone: the log costs it time.
        Err(e) if e.errno == libc::EINVAL || e.errno == libc::EACCES => {
            let mut log = vec![0u8; 64 * 1024];
            load(program, &mut log).map_err(|mut e| {
                let text = String::from_utf8_lossy(&log);
                e.args = format!("{}: {}", e.args, text.trim_matches(['\0', '\n']).replace('\n', "; "));
                e
            })
        }
        other => other,
    }
}

fn load(program: &[Insn], log: &mut [u8]) -> Result<OwnedFd> {
    let what = format!("BPF_PROG_LOAD of a device filter, {} instructions", program.len());
    let too_long = |_| SysError::new("bpf", what.clone(), libc::E2BIG);
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len().try_into().map_err(too_long)?,
        insns: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..LoadAttr::default()
    };
    if !log.is_empty() {
        attr.log_level = 1;
        attr.log_size = log.len().try_into().map_err(too_long)?;
        attr.log_buf = log.as_mut_ptr() as u64;
    }
    // SAFETY: `program` and the license outlive the call and are only read; `log` is exclusive and
    // as long as `log_size` says; LoadAttr is the start of bpf_attr's BPF_PROG_LOAD member.
    let fd = unsafe { bpf(PROG_LOAD, &mut attr, &what) }?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to a cgroup2 directory, beside the programs that are there, or in
/// the place of `replace`, atomically (Linux 5.6; EINVAL before).
///
/// # Errors
/// EBADF: not a cgroup2 directory; EPERM: an ancestor's program forbids more.
pub fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI | if replace.is_some() { F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, raw),
    };
    // SAFETY: no pointers; AttachAttr is the start of bpf_attr's BPF_PROG_ATTACH member.
    unsafe { bpf(PROG_ATTACH, &mut attr, "BPF_PROG_ATTACH of a device filter") }.map(drop)
}

/// Detaches a device program from a cgroup2 directory.
pub fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: raw(cgroup),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    // SAFETY: no pointers; AttachAttr is the start of bpf_attr's BPF_PROG_DETACH member.
    unsafe { bpf(PROG_DETACH, &mut attr, "BPF_PROG_DETACH of a device filter") }.map(drop)
}

/// The ids of the device programs that are attached to a cgroup2 directory itself.
pub fn query(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = vec![0u32; MAX_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: raw(cgroup),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    // SAFETY: `ids` is exclusive and has the `prog_cnt` elements that the kernel may write;
    // QueryAttr is the start of bpf_attr's BPF_PROG_QUERY member.
    unsafe { bpf(PROG_QUERY, &mut attr, "BPF_PROG_QUERY of device filters") }?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// Whether a program of any kind is attached to a cgroup2 directory itself. False for who may not ask (CAP_NET_ADMIN).
pub fn has_programs(cgroup: BorrowedFd<'_>) -> bool {
    /// More than Linux 6.18 has (`enum bpf_attach_type`). A kind that the kernel does not know, or that no cgroup has, is an error.
    const KINDS: u32 = 64;
    (0..KINDS).any(|attach_type| {
        let mut attr = QueryAttr { target_fd: raw(cgroup), attach_type, ..QueryAttr::default() };
        // SAFETY: no pointers; QueryAttr is the start of bpf_attr's BPF_PROG_QUERY member.
        let asked = unsafe { bpf(PROG_QUERY, &mut attr, "BPF_PROG_QUERY") };
        asked.is_ok() && attr.prog_cnt > 0
    })
}

/// A loaded program by its id.
///
/// # Errors
/// ENOENT: it has gone; EPERM or EACCES: it is another's.
pub fn program_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = IdAttr { id };
    // SAFETY: no pointers; IdAttr is the start of bpf_attr's BPF_PROG_GET_FD_BY_ID member.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr, &format!("BPF_PROG_GET_FD_BY_ID {id}")) }?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `program` the one device filter of a cgroup2 directory. There is no moment without a
/// filter: the new one is there before an old one goes.
///
/// # Errors
/// Those of [`load_cgroup_device`] and [`attach`]. Programs that this process may not touch stay:
/// they can only forbid more.
pub fn set_device_filter(cgroup: BorrowedFd<'_>, program: &[Insn]) -> Result<()> {
    let mut old = Vec::new();
    for id in query(cgroup)? {
        match program_by_id(id) {
            Ok(fd) => old.push(fd),
            Err(e) if matches!(e.errno, libc::EPERM | libc::EACCES | libc::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    let new = load_cgroup_device(program)?;
    if let [only] = old.as_slice() {
        match attach(cgroup, new.as_fd(), Some(only.as_fd())) {
            Err(e) if e.errno == libc::EINVAL => {}
            other => return other,
        }
    }
    attach(cgroup, new.as_fd(), None)?;
    old.iter().try_for_each(|program| detach(cgroup, program.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<Insn>(), 8);
        assert_eq!(size_of::<LoadAttr>(), 40);
        assert_eq!(size_of::<QueryAttr>(), 32);
        assert_eq!(size_of::<AttachAttr>(), 20);
        assert_eq!(std::mem::offset_of!(LoadAttr, log_buf), 32);
        assert_eq!(std::mem::offset_of!(QueryAttr, prog_ids), 16);
    }
}
