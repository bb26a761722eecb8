//! Schedulers of CPU, I/O and memory, for the calling thread.

use rustix::process::Pid;
use rustix::thread::CpuSet;

use crate::plan::{CpuScheduler, MemoryPolicy};
use crate::{Result, SysError};

/// `struct sched_attr` in its first version, which every kernel takes (sched_setattr(2)).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// sched_setattr(2).
pub fn set_cpu_scheduler(wanted: &CpuScheduler) -> Result<(), SysError> {
    let CpuScheduler { policy, flags, nice, priority, runtime, deadline, period } = *wanted;
    let size = size_of::<SchedAttr>() as u32;
    let attr = SchedAttr { size, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: a live structure that says its own size.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) } < 0 {
        return Err(SysError::new("sched_setattr", format!("{wanted:?}"), nix::errno::Errno::last_raw()));
    }
    Ok(())
}

/// ioprio_set(2); `value` holds class and level.
pub fn set_io_priority(value: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, libc::c_int::from(value)) } < 0 {
        let args = format!("class {}, level {}", value >> 13, value & 0x1fff);
        return Err(SysError::new("ioprio_set", args, nix::errno::Errno::last_raw()).into());
    }
    Ok(())
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
        return Err(SysError::new("set_mempolicy", args, nix::errno::Errno::last_raw()).into());
    }
    Ok(())
}

/// sched_setaffinity(2) of a process, or of the calling thread.
pub fn set_affinity(pid: Option<i32>, cpus: &CpuSet) -> Result<()> {
    rustix::thread::sched_setaffinity(pid.and_then(Pid::from_raw), cpus)
        .map_err(|e| SysError::new("sched_setaffinity", format!("{cpus:?}"), e.raw_os_error()).into())
}

/// The CPUs of a process, or of the calling thread.
pub fn affinity(pid: Option<i32>) -> Result<CpuSet> {
    rustix::thread::sched_getaffinity(pid.and_then(Pid::from_raw))
        .map_err(|e| SysError::new("sched_getaffinity", "", e.raw_os_error()).into())
}

/// A set of CPUs by their numbers; those past the kernel's structure are left out.
pub fn cpu_set(cpus: impl IntoIterator<Item = usize>) -> CpuSet {
    let mut set = CpuSet::new();
    cpus.into_iter().filter(|cpu| *cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    set
}
