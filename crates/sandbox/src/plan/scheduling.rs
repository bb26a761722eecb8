//! Scheduling of a process: CPU and I/O schedulers, CPUs, memory nodes.

use hiber_sys::scheduling::{CpuScheduler, MemoryPolicy};
use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, Linux, LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The scheduling attributes of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// `process.scheduler`.
    pub cpu: Option<CpuScheduler>,
    /// ioprio_set(2)'s class and level.
    pub io_priority: Option<u16>,
    /// `linux.memoryPolicy`.
    pub memory: Option<MemoryPolicy>,
    /// Whether `linux.resources.cpu.cpus` keeps the process from some CPUs.
    pub has_cpuset: bool,
}

/// The CPUs of a process that joins a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity {
    /// The CPUs until the process enters the container's cgroup.
    pub initial: Option<Vec<usize>>,
    /// The CPUs from then on; all that the cgroup allows if absent.
    pub last: Option<Vec<usize>>,
}

/// The largest number of a CPU or memory node that is understood: the size of glibc's cpu_set_t.
const MAX_NUMBER: usize = 1023;

impl Scheduling {
    pub(super) fn new(process: &Process, linux: &Linux) -> Result<Self> {
        let cpus =
            linux.resources().as_ref().and_then(|r| r.cpu().as_ref()).and_then(|c| c.cpus().as_deref());
        Ok(Self {
            cpu: process.scheduler().as_ref().map(cpu_scheduler).transpose()?,
            io_priority: io_priority(process)?,
            memory: linux.memory_policy().as_ref().map(memory_policy).transpose()?,
            has_cpuset: cpus.is_some_and(|c| !c.is_empty()),
        })
    }
}

fn cpu_scheduler(scheduler: &Scheduler) -> Result<CpuScheduler> {
    use LinuxSchedulerPolicy::{SchedBatch, SchedDeadline, SchedFifo, SchedOther, SchedRr};
    let policy = *scheduler.policy();
    let nice = scheduler.nice().unwrap_or(0);
    if matches!(policy, SchedOther | SchedBatch) && !(-20..=19).contains(&nice) {
        let problem = format!("{nice} is not between -20 and 19, as {policy} needs it");
        return Err(Error::invalid("process.scheduler.nice", problem));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if priority != 0 && !matches!(policy, SchedFifo | SchedRr) {
        let problem = "scheduler.priority can only be specified for SchedFIFO or SchedRR policy";
        return Err(Error::invalid("process.scheduler.priority", problem));
    }
    let priority = u32::try_from(priority)
        .map_err(|_| Error::invalid("process.scheduler.priority", format!("{priority} is less than 0")))?;
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|t| t.unwrap_or(0));
    if policy != SchedDeadline && times != [0; 3] {
        let problem = "runtime, deadline and period can only be specified for SCHED_DEADLINE";
        return Err(Error::invalid("process.scheduler", problem));
    }
    let [runtime, deadline, period] = times;
    // sched(7); no period is the deadline's
    if runtime > deadline {
        let problem = format!("{runtime} is more than deadline, {deadline}");
        return Err(Error::invalid("process.scheduler.runtime", problem));
    }
    if period != 0 && deadline > period {
        let problem = format!("{deadline} is more than period, {period}");
        return Err(Error::invalid("process.scheduler.deadline", problem));
    }
    let flags = scheduler.flags().iter().flatten().fold(0, |bits, flag| bits | scheduler_flag(*flag));
    Ok(CpuScheduler { policy: policy_number(policy), flags, nice, priority, runtime, deadline, period })
}

/// linux/sched.h
fn policy_number(policy: LinuxSchedulerPolicy) -> u32 {
    match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    }
}

/// linux/sched.h
fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// linux/ioprio.h: the class above 13 bits of level.
fn io_priority(process: &Process) -> Result<Option<u16>> {
    let Some(priority) = process.io_priority() else { return Ok(None) };
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1u16,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok(Some(class << 13 | level)),
        _ => {
            let problem =
                format!("invalid ioPriority.Priority: {} is not between 0 and 7", priority.priority());
            Err(Error::invalid("process.ioPriority.priority", problem))
        }
    }
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    use MemoryPolicyModeType as Mode;
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(text) => numbers(text).map_err(|why| {
            Error::invalid("linux.memoryPolicy.nodes", format!("invalid memory policy nodes {text:?}: {why}"))
        })?,
    };
    let count = nodes.len();
    let problem = match policy.mode() {
        Mode::MpolDefault | Mode::MpolLocal if count != 0 => {
            format!("memory policy mode requires 0 nodes but got {count}")
        }
        Mode::MpolBind | Mode::MpolInterleave | Mode::MpolPreferredMany | Mode::MpolWeightedInterleave
            if count == 0 =>
        {
            "memory policy mode requires at least one node but got 0".into()
        }
        _ => String::new(),
    };
    if !problem.is_empty() {
        return Err(Error::invalid("linux.memoryPolicy.nodes", problem));
    }
    let flags = policy.flags().iter().flatten().fold(0, |bits, flag| bits | memory_flag(*flag));
    Ok(MemoryPolicy { mode: mode_number(policy.mode()) | flags, nodes })
}

/// The modes of `linux.memoryPolicy`, for `features`.
pub const MEMORY_MODES: [MemoryPolicyModeType; 7] = [
    MemoryPolicyModeType::MpolBind,
    MemoryPolicyModeType::MpolDefault,
    MemoryPolicyModeType::MpolInterleave,
    MemoryPolicyModeType::MpolLocal,
    MemoryPolicyModeType::MpolPreferred,
    MemoryPolicyModeType::MpolPreferredMany,
    MemoryPolicyModeType::MpolWeightedInterleave,
];

/// The flags of `linux.memoryPolicy`, for `features`.
pub const MEMORY_FLAGS: [MemoryPolicyFlagType; 3] = [
    MemoryPolicyFlagType::MpolFNumaBalancing,
    MemoryPolicyFlagType::MpolFRelativeNodes,
    MemoryPolicyFlagType::MpolFStaticNodes,
];

/// linux/mempolicy.h
fn mode_number(mode: MemoryPolicyModeType) -> i32 {
    match mode {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    }
}

/// linux/mempolicy.h
fn memory_flag(flag: MemoryPolicyFlagType) -> i32 {
    match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    }
}

impl Affinity {
    pub(super) fn new(given: &Option<ExecCPUAffinity>) -> Result<Self> {
        let Some(given) = given else { return Ok(Self::default()) };
        let list = |field: &str, text: &Option<String>| {
            let text = text.as_deref().filter(|t| !t.is_empty());
            text.map(numbers).transpose().map_err(|why| {
                Error::invalid(
                    format!("process.execCPUAffinity.{field}"),
                    format!("{}: {why}", text.unwrap_or("")),
                )
            })
        };
        Ok(Self {
            initial: list("initial", given.initial())?,
            last: list("final", given.cpu_affinity_final())?,
        })
    }
}

/// `0-3,7` as ascending numbers; spaces and empty elements are let pass, as by runc.
pub(crate) fn numbers(text: &str) -> std::result::Result<Vec<usize>, String> {
    let number = |text: &str| match text.trim().parse::<usize>() {
        Ok(n) if n <= MAX_NUMBER => Ok(n),
        Ok(n) => Err(format!("{n} is larger than {MAX_NUMBER}")),
        Err(_) => Err(format!("{text:?} is no number")),
    };
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        if from > to {
            return Err(format!("{part} runs backwards"));
        }
        all.extend(from..=to);
    }
    if all.is_empty() {
        return Err("expected numbers and ranges, such as 0-3,7".into());
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(numbers("0-2, 7,").unwrap(), [0, 1, 2, 7]);
        assert_eq!(numbers("3,1-3").unwrap(), [1, 2, 3]);
        for wrong in ["", ",", "a", "2-1", "0-9876543210", "1024", "-1"] {
            assert!(numbers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_with_its_field() {
        let check = |json: serde_json::Value| cpu_scheduler(&serde_json::from_value(json).unwrap());
        use serde_json::json;
        let deadline =
            json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3, "nice": 30});
        let attr = check(deadline).unwrap();
        assert_eq!((attr.policy, attr.runtime, attr.deadline, attr.period), (6, 1, 2, 3));
        let words = |json| check(json).unwrap_err().to_string();
        assert!(
            words(json!({"policy": "SCHED_OTHER", "nice": 20})).starts_with("process.scheduler.nice: 20")
        );
        assert!(
            words(json!({"policy": "SCHED_IDLE", "priority": 1})).starts_with("process.scheduler.priority")
        );
        assert!(words(json!({"policy": "SCHED_FIFO", "priority": -1})).contains("-1 is less than 0"));
        assert!(words(json!({"policy": "SCHED_RR", "period": 1})).contains("SCHED_DEADLINE"));
    }

    #[test]
    fn memory_policies_want_the_right_number_of_nodes() {
        let check = |mode: &str, nodes: &str| {
            let json = serde_json::json!({"mode": mode, "nodes": nodes, "flags": ["MPOL_F_STATIC_NODES"]});
            memory_policy(&serde_json::from_value(json).unwrap())
        };
        assert_eq!(check("MPOL_BIND", "0").unwrap(), MemoryPolicy { mode: 2 | 1 << 15, nodes: vec![0] });
        assert!(check("MPOL_BIND", "").is_err());
        assert!(check("MPOL_DEFAULT", "0-7").unwrap_err().to_string().contains("requires 0 nodes but got 8"));
        check("MPOL_PREFERRED", "").unwrap();
    }
}
