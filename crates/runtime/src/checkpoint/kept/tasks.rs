//! The scheduling attributes of threads and processes, and the filter of their core dumps.

use std::collections::BTreeMap;
use std::path::Path;

use hiber_sandbox::SysError;
use hiber_sandbox::cgroup::Cpusets;
use hiber_sys::procfs::read;
use hiber_sys::scheduling::{
    CpuScheduler, affinity, cpu_set, set_affinity, set_thread_io_priority, set_thread_scheduler,
    thread_io_priority, thread_scheduler,
};
use rustix::io::Errno;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::host::procfs::{Number, Numbered};

/// By the thread's number in the container.
pub(crate) type Threads = BTreeMap<i32, Thread>;
/// By the process's number in the container.
pub(crate) type Processes = BTreeMap<i32, Process>;

/// The properties of a thread that CRIU forgets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Thread {
    /// The processors that it may run on (sched_setaffinity(2)); none if all that its cpuset leaves to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) affinity: Option<Vec<usize>>,
    /// Class, hint and level (ioprio_set(2)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) io_priority: Option<u16>,
    /// In nanoseconds (proc_pid_timerslack_ns(5)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timer_slack: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduling: Option<Scheduling>,
}

/// The result of sched_getattr(2) for a thread, without the parts that CRIU's image has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Scheduling {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    /// Nanoseconds, as the two that follow. Of an ordinary policy the length of a turn.
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    /// The least and the most utilisation that the thread counts with, in 1024ths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) clamps: Option<[u32; 2]>,
}

/// The properties of a process that CRIU forgets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Process {
    /// The filter of core dumps: bits, in hexadecimal (core(5)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) coredump_filter: Option<String>,
    /// Of its session's group of processes (sched(7), "The autogroup feature").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) autogroup_nice: Option<i32>,
}

/// SCHED_OTHER, SCHED_BATCH and SCHED_IDLE (linux/sched.h).
const ORDINARY: [u32; 3] = [0, 3, 5];
/// SCHED_FIFO and SCHED_RR.
const REALTIME: [u32; 2] = [1, 2];
/// The default timer slack in nanoseconds, which processes inherit.
const TIMER_SLACK: u64 = 50_000;
/// The kernel's default (linux/mm_types.h), unless it is told otherwise at boot.
const COREDUMP_FILTER: &str = "00000033";

impl Thread {
    fn of(tid: i32, seen: &mut Seen) -> Result<Self> {
        let io_priority = thread_io_priority(tid)?;
        Ok(Self {
            affinity: seen.affinity(tid)?,
            // Class 0 is no priority of its own.
            io_priority: (io_priority >> 13 != 0).then_some(io_priority),
            // Of real-time threads it is 0, whatever is written.
            timer_slack: timer_slack(tid).filter(|slack| ![0, TIMER_SLACK].contains(slack)),
            scheduling: Scheduling::of(tid, seen.turn)?,
        })
    }

    fn put_back(&self, thread: Number) -> Result<()> {
        if let Some(processors) = &self.affinity {
            put_affinity(thread, processors)?;
        }
        if let Some(value) = self.io_priority {
            set_thread_io_priority(thread.outer, value)?;
        }
        if let Some(slack) = self.timer_slack {
            write(thread.outer, "timerslack_ns", &slack.to_string())?;
        }
        self.scheduling.as_ref().map_or(Ok(()), |scheduling| scheduling.put_back(thread))
    }
}

impl Scheduling {
    /// None if CRIU keeps all that there is. `turn` is how long one is if a thread asks for no other.
    fn of(tid: i32, turn: u64) -> Result<Option<Self>> {
        let (scheduler, clamps) = thread_scheduler(tid)?;
        let CpuScheduler { policy, flags, nice, priority, runtime, deadline, period } = scheduler;
        let free = [[0, 0], [0, 1024]].contains(&clamps);
        let (clamped, kept) = match policy {
            policy if ORDINARY.contains(&policy) => (!free, runtime == turn),
            // The kernel's own least one is the most.
            policy if REALTIME.contains(&policy) => (!free && clamps != [1024; 2], true),
            _ => (!free, false),
        };
        let clamps = clamped.then_some(clamps);
        let all = Self { policy, flags, nice, priority, runtime, deadline, period, clamps };
        Ok((clamped || !kept).then_some(all))
    }

    /// CRIU writes these down, and refuses to restore them.
    pub(super) fn is_beyond_criu(&self) -> bool {
        !ORDINARY.contains(&self.policy) && !REALTIME.contains(&self.policy)
    }

    /// The kernel without bounds of utilisation does without them, as a machine with another processor would.
    fn put_back(&self, thread: Number) -> Result<()> {
        let Self { policy, flags, nice, priority, runtime, deadline, period, clamps } = *self;
        let wanted = CpuScheduler { policy, flags, nice, priority, runtime, deadline, period };
        let set = |clamps| set_thread_scheduler(thread.outer, &wanted, clamps);
        let set = set(clamps).or_else(|e| match e.errno {
            errno if errno == Errno::OPNOTSUPP.raw_os_error() && clamps.is_some() => {
                tracing::warn!(
                    "thread {} bounds its utilisation, for which this kernel has nothing",
                    thread.inner
                );
                set(None)
            }
            _ => Err(e),
        });
        set.map_err(hiber_sandbox::Error::from).context(format!("schedule thread {}", thread.inner))
    }
}

pub(super) fn of(processes: &[Numbered]) -> Result<(Threads, Processes)> {
    let mut seen = Seen::new()?;
    let (mut threads, mut kept) = (Threads::new(), Processes::new());
    for process in processes {
        for number in &process.threads {
            let thread = Thread::of(number.outer, &mut seen)?;
            if thread != Thread::default() {
                threads.insert(number.inner, thread);
            }
        }
        let number = process.process;
        let of_process = Process::of(number.outer);
        if of_process != Process::default() {
            kept.insert(number.inner, of_process);
        }
    }
    Ok((threads, kept))
}

pub(super) fn put_back(threads: &Threads, kept: &Processes, processes: &[Numbered]) -> Result<()> {
    for process in processes {
        for number in &process.threads {
            threads.get(&number.inner).map_or(Ok(()), |thread| thread.put_back(*number))?;
        }
        let number = process.process;
        kept.get(&number.inner).map_or(Ok(()), |process| process.put_back(number))?;
    }
    Ok(())
}

/// Frees the calling thread, which starts CRIU, of what the restored processes would inherit from it and have not had before.
pub(super) fn shed() -> Result<()> {
    set_affinity(None, &cpu_set(0..CpuSet::MAX_CPU))?;
    set_thread_io_priority(0, 0)?;
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(TIMER_SLACK))
        .map_err(|e| Error::sys("prctl", "PR_SET_TIMERSLACK", e))
}

/// As [`shed`], of what a process has from the whole one that started it. A kernel without core dumps has no such file.
pub(super) fn shed_by(criu: u32) {
    let _ = std::fs::write(format!("/proc/{criu}/coredump_filter"), format!("0x{COREDUMP_FILTER}"));
}

impl Process {
    fn of(pid: i32) -> Self {
        let filter = read(pid, "coredump_filter").map(|text| text.trim().to_owned());
        // "/autogroup-25 nice 0"; without the feature the file is not there, or empty.
        let nice = read(pid, "autogroup").and_then(|text| text.trim().rsplit_once(' ')?.1.parse().ok());
        Self {
            coredump_filter: filter.filter(|filter| !filter.is_empty() && filter != COREDUMP_FILTER),
            autogroup_nice: nice.filter(|nice| *nice != 0),
        }
    }

    fn put_back(&self, process: Number) -> Result<()> {
        if let Some(filter) = &self.coredump_filter {
            write(process.outer, "coredump_filter", &format!("0x{filter}"))?;
        }
        self.autogroup_nice.map_or(Ok(()), |nice| write(process.outer, "autogroup", &nice.to_string()))
    }
}

/// Properties that all threads share.
struct Seen {
    /// How many processors there are.
    online: usize,
    /// How long a turn is if a thread asks for no other; what this one has.
    turn: u64,
    cpusets: Option<Cpusets>,
}

impl Seen {
    fn new() -> Result<Self> {
        let path = Path::new("/sys/devices/system/cpu/online");
        let online = hiber_sys::file::read_to_string(path).map_err(|e| Error::file(path, &e))?;
        let (own, _) = thread_scheduler(0)?;
        Ok(Self { online: count(online.trim()), turn: own.runtime, cpusets: None })
    }

    /// None if the thread may run on every processor that its cpuset has.
    fn affinity(&mut self, tid: i32) -> Result<Option<Vec<usize>>> {
        let set = affinity(Some(tid))?;
        let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
        if processors.len() >= self.online {
            return Ok(None);
        }
        let cpusets = match &mut self.cpusets {
            Some(cpusets) => cpusets,
            none => none.insert(Cpusets::detect()?),
        };
        let all = cpusets.processors_of(tid)?;
        Ok((all != Some(&*processors)).then_some(processors))
    }
}

/// How many numbers a list such as `0-3,7` has.
fn count(list: &str) -> usize {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        Some((to + 1).saturating_sub(from))
    };
    list.split(',').filter_map(range).sum()
}

/// A machine that has none of these processors runs the thread where it can.
fn put_affinity(thread: Number, processors: &[usize]) -> Result<()> {
    match set_affinity(Some(thread.outer), &cpu_set(processors.iter().copied())) {
        Err(e) if e.errno == Errno::INVAL.raw_os_error() => {
            let inner = thread.inner;
            tracing::warn!("thread {inner} ran on processors {processors:?}, of which there are none here");
            Ok(())
        }
        other => Ok(other?),
    }
}

fn timer_slack(tid: i32) -> Option<u64> {
    read(tid, "timerslack_ns")?.trim().parse().ok()
}

fn write(pid: i32, file: &str, value: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, value).map_err(|e| {
        let errno = e.raw_os_error().unwrap_or_default();
        Error::from(hiber_sandbox::Error::from(SysError::new("write", format!("{value} to {path}"), errno)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        for (list, number) in [("0", 1), ("0-3", 4), ("0-1,4,6-7", 5)] {
            assert_eq!(count(list), number, "{list}");
        }
    }
}
