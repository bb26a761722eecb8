//! Schedulers of CPU, I/O and memory, for the calling thread.

use rustix::process::Pid;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::{Result, SysError};

/// The fields of `struct sched_attr` (sched_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuScheduler {
    /// A `SCHED_*` number.
    pub policy: u32,
    /// `SCHED_FLAG_*` bits.
    pub flags: u64,
    /// -20 to 19; of SCHED_OTHER and SCHED_BATCH alone.
    pub nice: i32,
    /// 1 to 99; of SCHED_FIFO and SCHED_RR alone.
    pub priority: u32,
    /// Nanoseconds, as the two that follow; of SCHED_DEADLINE alone.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// set_mempolicy(2)'s arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// An `MPOL_*` number with its `MPOL_F_*` flags.
    pub mode: i32,
    /// Ascending.
    pub nodes: Vec<usize>,
}

/// `struct sched_attr` (sched_setattr(2)). Its first version, which every kernel takes, ends before the clamps of Linux 5.3.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// The size of the first version.
const FIRST_VERSION: u32 = 48;
/// linux/sched.h: SCHED_FLAG_UTIL_CLAMP_MIN and _MAX.
const CLAMPS: u64 = 0x20 | 0x40;

/// sched_setattr(2) of the calling thread.
pub fn set_cpu_scheduler(wanted: &CpuScheduler) -> Result<()> {
    set_thread_scheduler(0, wanted, None)
}

/// sched_setattr(2) of thread `tid`, which is the calling one if 0. `clamps` bound its utilisation, in 1024ths.
pub fn set_thread_scheduler(tid: i32, wanted: &CpuScheduler, clamps: Option<[u32; 2]>) -> Result<()> {
    let CpuScheduler { policy, mut flags, nice, priority, runtime, deadline, period } = *wanted;
    let (mut size, [util_min, util_max]) = (FIRST_VERSION, clamps.unwrap_or_default());
    if clamps.is_some() {
        size = size_of::<SchedAttr>() as u32;
        flags |= CLAMPS;
    }
    let attr =
        SchedAttr { size, policy, flags, nice, priority, runtime, deadline, period, util_min, util_max };
    // SAFETY: a live structure that says its own size, or a smaller one.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) } < 0 {
        return Err(SysError::new("sched_setattr", format!("{wanted:?}"), nix::errno::Errno::last_raw()));
    }
    Ok(())
}

/// sched_getattr(2) of thread `tid`, which is the calling one if 0: its scheduler, and the bounds of its utilisation in
/// 1024ths, which are 0 in kernels without CONFIG_UCLAMP_TASK. Of ordinary policies Linux 6.12 tells the length of its turns in
/// nanoseconds, as `runtime`.
pub fn thread_scheduler(tid: i32) -> Result<(CpuScheduler, [u32; 2])> {
    let mut attr = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: a live structure and its size.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) } < 0 {
        return Err(SysError::new("sched_getattr", tid.to_string(), nix::errno::Errno::last_raw()));
    }
    let SchedAttr { policy, flags, nice, priority, runtime, deadline, period, util_min, util_max, .. } = attr;
    let scheduler =
        CpuScheduler { policy, flags: flags & !CLAMPS, nice, priority, runtime, deadline, period };
    Ok((scheduler, [util_min, util_max]))
}

/// linux/ioprio.h
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// ioprio_set(2) of the calling thread; `value` holds class and level.
pub fn set_io_priority(value: u16) -> Result<()> {
    set_thread_io_priority(0, value)
}

/// ioprio_set(2) of thread `tid`, which is the calling one if 0; `value` holds class, hint and level.
pub fn set_thread_io_priority(tid: i32, value: u16) -> Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, libc::c_int::from(value)) } < 0 {
        let args = format!("class {}, level {}", value >> 13, value & 0x1fff);
        return Err(SysError::new("ioprio_set", args, nix::errno::Errno::last_raw()));
    }
    Ok(())
}

/// ioprio_get(2) of thread `tid`, which is the calling one if 0: class, hint and level; class 0 is none of its own.
pub fn thread_io_priority(tid: i32) -> Result<u16> {
    // SAFETY: integers only.
    let value = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    let failed = || SysError::new("ioprio_get", tid.to_string(), nix::errno::Errno::last_raw());
    u16::try_from(value).map_err(|_| failed())
}

/// set_mempolicy(2).
pub fn set_memory_policy(policy: &MemoryPolicy) -> Result<()> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let words = policy.nodes.last().map_or(0, |n| n / BITS + 1);
    let mut mask: Vec<libc::c_ulong> = vec![0; words];
    for node in &policy.nodes {
        mask[node / BITS] |= 1 << (node % BITS);
    }
    // The kernel takes one bit less than it is told, and no mask for an empty one.
    let (pointer, bits) = if words == 0 { (std::ptr::null(), 0) } else { (mask.as_ptr(), words * BITS + 1) };
    // SAFETY: the pointer is null, or the mask has the number of bits that the kernel reads of it.
    if unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, pointer, bits) } < 0 {
        let args = format!("mode {:#x}, nodes {:?}", policy.mode, policy.nodes);
        return Err(SysError::new("set_mempolicy", args, nix::errno::Errno::last_raw()));
    }
    Ok(())
}

/// sched_setaffinity(2) of a process, or of the calling thread.
pub fn set_affinity(pid: Option<i32>, cpus: &CpuSet) -> Result<()> {
    rustix::thread::sched_setaffinity(pid.and_then(Pid::from_raw), cpus)
        .map_err(|e| SysError::new("sched_setaffinity", format!("{cpus:?}"), e.raw_os_error()))
}

/// The CPUs of a process, or of the calling thread.
pub fn affinity(pid: Option<i32>) -> Result<CpuSet> {
    rustix::thread::sched_getaffinity(pid.and_then(Pid::from_raw))
        .map_err(|e| SysError::new("sched_getaffinity", "", e.raw_os_error()))
}

/// A set of CPUs by their numbers; those past the kernel's structure are left out.
pub fn cpu_set(cpus: impl IntoIterator<Item = usize>) -> CpuSet {
    let mut set = CpuSet::new();
    cpus.into_iter().filter(|cpu| *cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    set
}
