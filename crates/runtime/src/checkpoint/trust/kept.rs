//! Checks the kept properties of processes: a process may get back no more than it could have asked the kernel for.

use caps::Capability;
use hiber_sandbox::plan::NamespaceKind;
use hiber_sandbox::seccomp::{SockFilter, is_as_strict};
use hiber_sys::scheduling::{CpuScheduler, thread_io_priority};

use super::grant::{Grant, Verdict};
use crate::checkpoint::kept::ipc::Ipc;
use crate::checkpoint::kept::spaces::AddressSpace;
use crate::checkpoint::kept::switches::Switched;
use crate::checkpoint::kept::tasks::{Scheduling, Thread};
use crate::checkpoint::kept::{Cgroups, Kept, MAX_NODES};

/// Classes of I/O priorities (linux/ioprio.h).
const REALTIME: u16 = 1;
const IDLE: u16 = 3;
/// PER_LINUX and PER_LINUX32, and these with UNAME26 (linux/personality.h): the usual filters let them through, too.
const HARMLESS: [u32; 4] = [0, 8, 0x2_0000, 0x2_0008];
/// SCHED_DEADLINE (linux/sched.h).
const DEADLINE: u32 = 6;
/// RLIMIT_MEMLOCK (getrlimit(2)).
const MEMLOCK: u32 = 8;
/// Of a 64-bit program, modify_ldt(2) fails; everything else is let through (linux/filter.h, linux/seccomp.h).
const WITHOUT_SEGMENTS: [SockFilter; 6] = {
    const fn code(code: u16, jt: u8, jf: u8, k: u32) -> SockFilter {
        SockFilter { code, jt, jf, k }
    }
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const X86_64: u32 = 0xc000_003e;
    [
        code(LOAD, 0, 0, 4),
        code(EQUAL, 0, 3, X86_64),
        code(LOAD, 0, 0, 0),
        code(EQUAL, 0, 1, 154),
        code(RETURN, 0, 0, 0x5_0000),
        code(RETURN, 0, 0, 0x7fff_0000),
    ]
};
/// How many bytes a message queue may hold without a privilege, unless kernel.msgmnb is changed (MSGMNB of linux/msg.h).
const QUEUE_BYTES: u64 = 16384;

impl Grant<'_> {
    /// Checks the kept properties of threads and processes. A property that only restricts a process passes.
    pub(super) fn kept(&self, kept: &Kept) -> Verdict {
        let Kept { threads, processes, switches, memory, sockets, cgroups, ipc, .. } = kept;
        for (tid, Switched { personality, memory_policy, .. }) in switches {
            let verdict = personality.map_or(Ok(()), |persona| self.personality(persona));
            let verdict = verdict.and_then(|()| nodes(memory_policy.as_ref()));
            verdict.map_err(|e| format!("gives thread {tid} what it may not have: it {e}"))?;
        }
        for (pid, space) in memory {
            self.memory(space)
                .map_err(|e| format!("gives process {pid} what it may not have: it {e} (kept.json)"))?;
        }
        for (tid, thread) in threads {
            self.thread(thread).map_err(|e| format!("gives thread {tid} what it may not have: it {e}"))?;
        }
        for (pid, process) in processes {
            let nice = process.autogroup_nice.unwrap_or(0);
            self.nice(nice)
                .map_err(|e| format!("gives the session of process {pid} what it may not have: it {e}"))?;
        }
        self.sockets(sockets)?;
        self.attributes_of(cgroups)?;
        self.ipc(ipc)
    }

    /// An attribute of a cgroup may speak to those who manage the machine.
    fn attributes_of(&self, cgroups: &Cgroups) -> Verdict {
        let privileged = !self.plan.init.in_user_namespace && self.can(Capability::CAP_SYS_ADMIN);
        match cgroups.trusted().filter(|_| !privileged) {
            None => Ok(()),
            Some(name) => Err(format!(
                "gives the cgroup {name} trusted attributes, and config.json does not grant CAP_SYS_ADMIN (kept.json)"
            )),
        }
    }

    /// System V objects are those of a namespace of the container's own, and take no more of the machine than processes could.
    fn ipc(&self, kept: &Ipc) -> Verdict {
        if !kept.is_empty() && !self.plan.namespaces.is_new(NamespaceKind::Ipc) {
            return Err("changes System V objects of an IPC namespace that is not its own (kept.json)".into());
        }
        let (locked, queue) = (kept.locked_bytes(), kept.largest_queue());
        let limit = self.plan.init.process.rlimits.iter().find(|limit| limit.resource == MEMLOCK);
        let more = limit.is_some_and(|limit| limit.hard < locked);
        if more && !self.can(Capability::CAP_IPC_LOCK) {
            return Err(format!(
                "locks {locked} bytes of System V memory, and config.json grants less (kept.json)"
            ));
        }
        let on_host =
            !self.plan.namespaces.has(NamespaceKind::User) && self.can(Capability::CAP_SYS_RESOURCE);
        if queue > QUEUE_BYTES && !on_host {
            return Err(format!(
                "has a message queue of {queue} bytes, and config.json does not grant CAP_SYS_RESOURCE (kept.json)"
            ));
        }
        Ok(())
    }

    /// A thread may change its other switches freely, and the kernel checks its privileges. But a filter may forbid it to choose
    /// what it executes, and how the kernel reads its files.
    fn personality(&self, persona: u32) -> Verdict {
        let init = &self.plan.init;
        let granted = init.personality == Some(persona.into()) || HARMLESS.contains(&persona);
        match granted || init.seccomp.is_none() {
            true => Ok(()),
            false => {
                Err(format!("has the personality {persona:#x}, and config.json filters its system calls"))
            }
        }
    }

    /// A process may treat its own memory freely, and the kernel checks limits and privileges. But segments of its own give it
    /// ways into the kernel that a filter may close.
    fn memory(&self, space: &AddressSpace) -> Verdict {
        let filter = self.plan.init.seccomp.as_ref().map(|program| &program.filter);
        if !space.descriptors.is_empty()
            && filter.is_some_and(|filter| is_as_strict(filter, &WITHOUT_SEGMENTS))
        {
            return Err("has a local descriptor table, and config.json's filter forbids modify_ldt(2)".into());
        }
        space.areas.iter().try_for_each(|area| nodes(area.policy.as_ref()))
    }

    fn thread(&self, thread: &Thread) -> Verdict {
        // Processors are those of the cpuset at most, and anybody may choose among them, and how late timers may be.
        let Thread { affinity: _, timer_slack: _, io_priority, scheduling } = thread;
        io_priority.map_or(Ok(()), |value| self.io_priority(value))?;
        scheduling.as_ref().map_or(Ok(()), |scheduling| self.attributes(scheduling))
    }

    /// The class that is served before others takes a privilege (ioprio_set(2)), or is the runtime's own, which it gives to
    /// what it creates, too.
    fn io_priority(&self, value: u16) -> Verdict {
        let class = value >> 13;
        if class > IDLE {
            return Err(format!("has an I/O priority of class {class}, and there are {REALTIME} to {IDLE}"));
        }
        let privileged = [Capability::CAP_SYS_NICE, Capability::CAP_SYS_ADMIN].iter().any(|c| self.can(*c));
        let level = |value: u16| value & 7;
        let covers = |granted: u16| granted >> 13 == REALTIME && level(granted) <= level(value);
        let granted = self.plan.init.scheduling.io_priority;
        let granted = granted.map_or_else(|| thread_io_priority(0).is_ok_and(covers), covers);
        match class == REALTIME && !privileged && !granted {
            true => Err(format!(
                "has an I/O priority of class {REALTIME} and level {}, which config.json does not grant",
                level(value)
            )),
            false => Ok(()),
        }
    }

    fn attributes(&self, wanted: &Scheduling) -> Verdict {
        self.scheduled(wanted.policy, wanted.nice, wanted.priority)?;
        let granted = self.plan.init.scheduling.cpu.as_ref().filter(|cpu| cpu.policy == DEADLINE);
        let Some(granted) =
            granted.filter(|_| wanted.policy == DEADLINE && !self.can(Capability::CAP_SYS_NICE))
        else {
            return Ok(());
        };
        let own = CpuScheduler {
            runtime: wanted.runtime,
            deadline: wanted.deadline,
            period: wanted.period,
            ..*granted
        };
        match share(&own) > share(granted) {
            true => Err(format!(
                "asks for {} ns in each {} ns, and config.json grants {} in {}",
                own.runtime,
                period(&own),
                granted.runtime,
                period(granted)
            )),
            false => Ok(()),
        }
    }
}

/// A policy takes memory from nodes that a kernel can have.
fn nodes(policy: Option<&(i32, Vec<usize>)>) -> Verdict {
    let wrong = policy.and_then(|(_, nodes)| nodes.iter().find(|node| **node >= MAX_NODES));
    wrong.map_or(Ok(()), |node| {
        Err(format!("takes memory from node {node}, and there are at most {MAX_NODES}"))
    })
}

/// No period is the deadline's (sched(7)).
fn period(scheduler: &CpuScheduler) -> u64 {
    if scheduler.period == 0 { scheduler.deadline } else { scheduler.period }
}

/// How much of a processor, in 2^20ths as the kernel counts it.
fn share(scheduler: &CpuScheduler) -> u128 {
    (u128::from(scheduler.runtime) << 20) / u128::from(period(scheduler).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_the_period_or_else_of_the_deadline() {
        let of = |runtime, deadline, period| {
            share(&CpuScheduler {
                policy: DEADLINE,
                flags: 0,
                nice: 0,
                priority: 0,
                runtime,
                deadline,
                period,
            })
        };
        assert_eq!(of(1, 2, 0), of(2, 3, 4));
        assert!(of(1, 1, 3) < of(1, 1, 2));
        assert_eq!(of(u64::MAX, 0, 0), u128::from(u64::MAX) << 20);
    }
}
