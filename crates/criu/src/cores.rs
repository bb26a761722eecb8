//! The images of tasks' cores as a restore can take them.

use criu_proto::images::core::CoreEntry;

#[cfg(doc)]
use crate::error::CriuError;
use crate::error::Result;
use crate::images::{ChangedFiles, Images, Magic, RESET_ON_FORK};

/// RLIMIT_FSIZE (getrlimit(2)), and no limit.
const FILE_SIZE: usize = 1;
const UNLIMITED: u64 = u64::MAX;

/// How large the files are that a task may write (RLIMIT_FSIZE), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSizeLimit {
    /// The task's number in its own pid namespace.
    pub pid: u32,
    /// The value in force.
    pub soft: u64,
    /// How far the task may raise it; [`u64::MAX`] if there is no limit.
    pub hard: u64,
}

/// Changes of the cores for a restore, and the values that its caller must set instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cores {
    /// The changed images.
    pub changed: ChangedFiles,
    /// The signal that the first task had asked for at its parent's death (prctl(2), PR_SET_PDEATHSIG), which is left out:
    /// its parent is whoever restores it.
    pub parent_death: Option<u32>,
    /// The limits that are left out: the caller has to set them. CRIU's code in a task that is limited goes on writing to the
    /// log of the restore, and the task ends with SIGXFSZ where that is longer.
    pub file_sizes: Vec<FileSizeLimit>,
}

/// The treatment of scheduling policies that CRIU refuses (`SCHED_DEADLINE`, `SCHED_EXT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    /// None: no task has such a policy, as the caller knows.
    Kept,
    /// They become the ordinary one, and the caller has to set them.
    Ordinary,
}

impl Images {
    /// The signal that one of the first task's threads has asked for at its parent's death (prctl(2), PR_SET_PDEATHSIG).
    ///
    /// # Errors
    /// As [`Images::tasks`]; [`CriuError::Image`] if a core is malformed.
    pub fn parent_death_signal(&self) -> Result<Option<u32>> {
        let Some(first) = self.tasks()?.into_iter().find(|task| task.ppid == 0) else { return Ok(None) };
        for tid in first.threads {
            let name = format!("core-{tid}.img");
            let core = self.entries::<CoreEntry>(&name, Magic::CORE)?.next().transpose()?;
            if let Some(signal) = core.and_then(|mut core| without_parent_death(&mut core)) {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }

    /// Looks for what a restore could not take. `highest` is the caller's own hard limit of file
    /// sizes, in bytes, above which no task can have one.
    ///
    /// # Errors
    /// As [`Images::tasks`]; [`CriuError::Image`] if a core is malformed.
    pub fn restorable_cores(&self, policies: Policies, highest: u64) -> Result<Cores> {
        let ordinary = policies == Policies::Ordinary;
        let mut cores = Cores::default();
        for task in self.tasks()? {
            let first = task.ppid == 0;
            // Limits are in the image of a task's first thread.
            for tid in task.threads.iter().copied().filter(|tid| first || ordinary || *tid == task.pid) {
                let name = format!("core-{tid}.img");
                // Of a zombie one thread is listed, whose number means nothing.
                let Some(mut entries) = self.entries_if_any::<CoreEntry>(&name, Magic::CORE)? else {
                    continue;
                };
                let Some(core) = entries.next() else { continue };
                let mut core = core?;
                let asked = first.then(|| without_parent_death(&mut core)).flatten();
                let limit = without_file_size(&mut core, task.pid, highest);
                let scheduled = ordinary && schedule_ordinarily(&mut core);
                if asked.is_some() || limit.is_some() || scheduled {
                    cores
                        .changed
                        .push((name.clone(), self.encode(&name, Magic::CORE, std::slice::from_ref(&core))?));
                }
                cores.parent_death = cores.parent_death.or(asked);
                cores.file_sizes.extend(limit);
            }
        }
        Ok(cores)
    }
}

fn without_parent_death(core: &mut CoreEntry) -> Option<u32> {
    let thread = core.thread_core.as_mut()?;
    thread.pdeath_sig.take().filter(|signal| *signal != 0)
}

fn without_file_size(core: &mut CoreEntry, pid: u32, highest: u64) -> Option<FileSizeLimit> {
    let limits = &mut core.tc.as_mut()?.rlimits.as_mut()?.rlimits;
    let limit = limits.get_mut(FILE_SIZE)?;
    let (soft, hard) = (limit.cur?, limit.max?);
    if soft == UNLIMITED {
        return None;
    }
    (limit.cur, limit.max) = (Some(highest), Some(highest));
    Some(FileSizeLimit { pid, soft, hard })
}

/// Gives a thread the ordinary scheduling policy, if it has one that CRIU refuses; whether it had.
fn schedule_ordinarily(core: &mut CoreEntry) -> bool {
    // SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE (linux/sched.h).
    const KNOWN: [u32; 5] = [0, 1, 2, 3, 5];
    let known = |policy: u32| KNOWN.contains(&(policy & !RESET_ON_FORK));
    let thread = core.thread_core.as_mut();
    let Some(thread) = thread.filter(|t| t.sched_policy.is_some_and(|policy| !known(policy))) else {
        return false;
    };
    (thread.sched_policy, thread.sched_nice, thread.sched_prio) = (Some(0), Some(0), None);
    true
}
