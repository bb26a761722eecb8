//! Resource limits of processes, their scheduling and who is killed first for want of memory.

use criu_proto::images::core::CoreEntry;
use hiber_criu::images::RESET_ON_FORK;

use super::grant::{Grant, Verdict};

/// RLIMIT_NICE and RLIMIT_RTPRIO (getrlimit(2)).
const NICE: u32 = 13;
const RTPRIO: u32 = 14;

/// SCHED_* (sched(7)) without priorities: other, batch, idle.
const ORDINARY: [u32; 3] = [0, 3, 5];
/// SCHED_FIFO and SCHED_RR.
const REALTIME: [u32; 2] = [1, 2];

impl Grant<'_> {
    /// Limits that config.json names are no higher, and the process is no less likely to be killed. Those that it does
    /// not name are as free as at `create`, where they are the caller's.
    pub(super) fn limits(&self, core: &CoreEntry) -> Verdict {
        if self.can(caps::Capability::CAP_SYS_RESOURCE) {
            return Ok(());
        }
        let process = &self.plan.init.process;
        for limit in &process.rlimits {
            let (name, at) = (limit.name(), usize::try_from(limit.resource).unwrap_or(usize::MAX));
            let has = core.tc.rlimits.rlimits.get(at);
            let hard = has.and_then(|limit| limit.max);
            match hard {
                None => return Err(format!("has no resource limit {name}, which config.json sets")),
                Some(hard) if hard > limit.hard => {
                    return Err(format!(
                        "has {hard} for the resource limit {name}, of which config.json says {}",
                        limit.hard
                    ));
                }
                Some(_) => {}
            }
        }
        let has = core.tc.oom_score_adj.unwrap_or(0);
        let least = process.oom_score_adj.unwrap_or_else(|| own_oom_score_adj().min(0));
        match has < least.min(0) {
            true => Err(format!("has oom_score_adj {has}, and config.json says {least}")),
            false => Ok(()),
        }
    }

    /// A thread gets the processor before others only if config.json gives that.
    pub(super) fn scheduling(&self, core: &CoreEntry) -> Verdict {
        let Some(thread) = core.thread_core.as_ref() else { return Ok(()) };
        let Some(policy) = thread.sched_policy else { return Ok(()) };
        self.scheduled(
            policy & !RESET_ON_FORK,
            thread.sched_nice.unwrap_or(0),
            thread.sched_prio.unwrap_or(0),
        )
    }

    /// As [`Grant::scheduling`], of what sched_setattr(2) is to be asked for.
    pub(super) fn scheduled(&self, policy: u32, nice: i32, priority: u32) -> Verdict {
        if self.can(caps::Capability::CAP_SYS_NICE) {
            return Ok(());
        }
        let granted = self.plan.init.scheduling.cpu.as_ref();
        if ORDINARY.contains(&policy) {
            return self.nice(nice);
        }
        let as_granted = granted.is_some_and(|cpu| cpu.policy == policy && priority <= cpu.priority);
        let by_limit = REALTIME.contains(&policy) && u64::from(priority) <= self.hard_limit(RTPRIO);
        match as_granted || by_limit {
            true => Ok(()),
            false => Err(format!(
                "has the scheduling policy {policy} with priority {priority}, which config.json does not grant"
            )),
        }
    }

    /// Of an ordinary thread, or of a session.
    pub(super) fn nice(&self, nice: i32) -> Verdict {
        let granted = self.plan.init.scheduling.cpu.as_ref();
        let own = rustix::process::getpriority_process(None).unwrap_or(0);
        let by_limit = 20 - i32::try_from(self.hard_limit(NICE).min(40)).unwrap_or(40);
        let least = granted.map_or(own.min(0), |cpu| cpu.nice.min(0)).min(by_limit);
        match nice < least && !self.can(caps::Capability::CAP_SYS_NICE) {
            true => Err(format!("has a nice value of {nice}; config.json grants {least}")),
            false => Ok(()),
        }
    }

    fn hard_limit(&self, resource: u32) -> u64 {
        let limit = self.plan.init.process.rlimits.iter().find(|limit| limit.resource == resource);
        limit.map_or(0, |limit| limit.hard)
    }
}

fn own_oom_score_adj() -> i32 {
    let text = hiber_sys::file::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
