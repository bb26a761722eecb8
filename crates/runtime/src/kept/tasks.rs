//! What each thread has for itself: the processors that it may run on.

use std::collections::BTreeMap;

use rustix::process::Pid;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::procfs::Numbered;

/// By the thread's number in the container.
pub(crate) type Threads = BTreeMap<i32, Thread>;

/// What a thread has that CRIU forgets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Thread {
    /// The processors that it may run on (sched_setaffinity(2)); none if all of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) affinity: Option<Vec<usize>>,
}

pub(super) fn of(processes: &[Numbered]) -> Result<Threads> {
    let mut threads = Threads::new();
    for thread in processes.iter().flat_map(|process| &process.threads) {
        let kept = Thread { affinity: affinity(thread.outer)? };
        if kept != Thread::default() {
            threads.insert(thread.inner, kept);
        }
    }
    Ok(threads)
}

pub(super) fn put_back(kept: &Threads, processes: &[Numbered]) -> Result<()> {
    for thread in processes.iter().flat_map(|process| &process.threads) {
        let Some(kept) = kept.get(&thread.inner) else { continue };
        if let Some(processors) = &kept.affinity {
            set_affinity(thread.outer, thread.inner, processors)?;
        }
    }
    Ok(())
}

/// None if the thread may run on every processor that there is.
fn affinity(tid: i32) -> Result<Option<Vec<usize>>> {
    let set = rustix::thread::sched_getaffinity(Pid::from_raw(tid))
        .map_err(|e| Error::sys("sched_getaffinity", tid.to_string(), e))?;
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    let all = std::thread::available_parallelism().map_or(0, usize::from);
    Ok((processors.len() < all).then_some(processors))
}

/// A machine that has none of these processors runs the thread where it can.
fn set_affinity(tid: i32, inner: i32, processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    processors.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(*cpu));
    match rustix::thread::sched_setaffinity(Pid::from_raw(tid), &set) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL) => {
            tracing::warn!("thread {inner} ran on processors {processors:?}, of which there are none here");
            Ok(())
        }
        Err(e) => Err(Error::sys("sched_setaffinity", format!("thread {inner}"), e)),
    }
}
