//! Switches that only a thread can turn for itself (prctl(2), personality(2), set_mempolicy(2)). Most are read from outside; a
//! few are told to the thread alone, which is asked before it is frozen.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use hiber_memory::call::NAME;
use hiber_memory::{Seized, Stopped, StoppedProcess};
use hiber_sandbox::cgroup::Cgroup;
use hiber_sys::apart;
use hiber_sys::procfs::{read, stat};
use hiber_sys::ptrace::Dispatch;
use hiber_sys::scheduling::MemoryPolicy;
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::failures::{errno, failed};
#[cfg(target_arch = "x86_64")]
use super::processor;
use super::spaces::AddressSpaces;
use super::speculation::Speculation;
use super::{policy, spaces};
use crate::error::{Context, Error, Result};
use crate::host::procfs::{Number, Numbered};

/// By the thread's number in the container. Properties of the whole process are stored with its first thread.
pub(crate) type Switches = BTreeMap<i32, Switched>;
/// Descriptors that processes have and are not to keep, by the processes' numbers here.
pub(crate) type ToClose = BTreeMap<i32, Vec<i32>>;
/// The answers of processes, by their numbers here.
pub(crate) type Answers = BTreeMap<i32, Answer>;

/// The values that differ from the kernel's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Switched {
    /// personality(2)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) personality: Option<u32>,
    /// Whether memory errors are told at once, or late (PR_MCE_KILL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) machine_checks_early: Option<bool>,
    /// PR_SET_IO_FLUSHER
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) io_flusher: bool,
    /// Whether reading the time stamp counter is a SIGSEGV (PR_SET_TSC).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_time_stamps: bool,
    /// Whether the instruction CPUID is a SIGSEGV (ARCH_SET_CPUID of arch_prctl(2)).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_processor_identification: bool,
    /// PR_SET_SPECULATION_CTRL
    #[serde(skip_serializing_if = "super::is_default")]
    pub(crate) speculation: Speculation,
    /// PR_SET_SYSCALL_USER_DISPATCH: mode, where the selector is, where the area is that is let through, and its length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dispatch: Option<[u64; 4]>,
    /// set_mempolicy(2): the mode with its flags, and the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_policy: Option<(i32, Vec<usize>)>,
    /// Of the process: PR_SET_MEMORY_MERGE.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) merging: bool,
    /// Of the process: the flags of PR_SET_THP_DISABLE, which CRIU leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) huge_pages_disabled: Option<u32>,
    /// Of the process: whether it may use AMX's tiles (ARCH_REQ_XCOMP_PERM of arch_prctl(2)).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tiles: bool,
    /// Of the process: the bits of PR_SET_MDWE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deny_write_execute: Option<u32>,
}

/// The answers of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    deny_write_execute: u32,
    huge_pages_disabled: u32,
    /// Asked only where the kernel does not tell it from outside.
    merging: bool,
    no_time_stamps: bool,
    no_processor_identification: bool,
    tiles: bool,
    dispatch: Option<[u64; 4]>,
    pub(super) space: spaces::Said,
}

/// linux/prctl.h
mod option {
    pub(super) const GET_TSC: u64 = 25;
    pub(super) const SET_TSC: u64 = 26;
    pub(super) const MCE_KILL: u64 = 33;
    pub(super) const SET_THP_DISABLE: u64 = 41;
    pub(super) const GET_THP_DISABLE: u64 = 42;
    pub(super) const SET_IO_FLUSHER: u64 = 57;
    pub(super) const SET_MDWE: u64 = 65;
    pub(super) const GET_MDWE: u64 = 66;
    pub(super) const SET_MEMORY_MERGE: u64 = 67;
    pub(super) const GET_MEMORY_MERGE: u64 = 68;
}
/// asm/prctl.h, and the number of AMX's tile data among what a processor keeps for threads.
#[cfg(target_arch = "x86_64")]
mod arch {
    pub(super) const GET_CPUID: u64 = 0x1011;
    pub(super) const SET_CPUID: u64 = 0x1012;
    pub(super) const GET_PERMISSION: u64 = 0x1022;
    pub(super) const ASK_PERMISSION: u64 = 0x1023;
    pub(super) const TILES: u64 = 18;
}
/// PR_TSC_SIGSEGV
const NO_TIME_STAMPS: u32 = 2;
/// In what PR_GET_THP_DISABLE returns: whether it is disabled at all. The higher bits are the flags of Linux 6.18.
const DISABLED: u32 = 1;
/// PR_MDWE_NO_INHERIT
const NOT_INHERITED: u32 = 2;

/// linux/sched.h: PF_MCE_PROCESS, PF_MCE_EARLY; PF_MEMALLOC_NOIO with PF_LOCAL_THROTTLE.
const MACHINE_CHECKS: u64 = 0x80;
const MACHINE_CHECKS_EARLY: u64 = 0x0800_0000;
const IO_FLUSHER: u64 = 0x0008_0000 | 0x0010_0000;

/// Asks the processes `pids`, which run, what cannot be seen from outside. Each is stopped for some 100 µs.
pub(crate) fn ask(pids: &[i32]) -> Answers {
    let ask = |pid: &i32| (*pid, asked(*pid));
    // In a process of its own: a kill of this one leaves the container's as they were.
    let answered = apart(NAME, || pids.iter().map(ask).collect::<Vec<_>>());
    let answers = answered.unwrap_or_else(|e| {
        tracing::debug!("no process is asked: {e}");
        Vec::new()
    });
    let answer = |(pid, answer)| match answer {
        Ok(answer) => Some((pid, answer)),
        // A thread that ends meanwhile has nothing to keep. A thread that cannot be stopped stops CRIU, too, which then says why.
        Err(e) => {
            tracing::debug!("process {pid} is not asked: {e}");
            None
        }
    };
    answers.into_iter().filter_map(answer).collect()
}

/// As [`ask`], of processes that are frozen in `cgroup`: they are thawed for that, and run no further than to where they stop.
pub(crate) fn ask_frozen(first: i32, pids: &[i32], cgroup: &Cgroup) -> Result<Answers> {
    apart(NAME, || asked_frozen(first, pids, cgroup))?
}

fn asked_frozen(first: i32, pids: &[i32], cgroup: &Cgroup) -> Result<Answers> {
    let processes = Numbered::all(first, pids);
    let threads = processes.iter().flat_map(|process| &process.threads);
    let seize = |thread: &Number| Seized::new(thread.outer).map_err(failed(thread.inner));
    let seized: Vec<_> = threads.map(seize).collect::<Result<_>>()?;
    cgroup.thaw()?;
    let asked = seized.into_iter().map(|seized| {
        let mut stopped = seized.wait().map_err(failed(0))?;
        let is_process = pids.contains(&stopped.tid());
        let answer = is_process.then(|| answer(&mut stopped)).transpose().map_err(failed(0))?;
        stopped.settle().map_err(failed(0))?;
        Ok((stopped, answer))
    });
    let asked: Result<Vec<_>> = asked.collect();
    // Whatever was found out: they do not run.
    cgroup.freeze()?;
    let answers = asked?.into_iter().filter_map(|(stopped, answer)| Some((stopped.tid(), answer?)));
    Ok(answers.collect())
}

fn asked(pid: i32) -> hiber_memory::Result<Answer> {
    // With all threads: one that maps memory meanwhile could get the place that another one takes for a moment.
    let mut stopped = StoppedProcess::new(pid)?;
    let answer = answer(stopped.first()?)?;
    stopped.release()?;
    Ok(answer)
}

fn answer(stopped: &mut Stopped) -> hiber_memory::Result<Answer> {
    let mut get = |option| stopped.call(Sysno::prctl, [option, 0, 0, 0, 0, 0]);
    // Older kernels have them not.
    let number =
        |result: std::result::Result<u64, _>| result.ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let deny_write_execute = number(get(option::GET_MDWE)?);
    let huge_pages_disabled = number(get(option::GET_THP_DISABLE)?);
    let merging = !tells_of_merging() && number(get(option::GET_MEMORY_MERGE)?) != 0;
    let no_time_stamps = cfg!(target_arch = "x86_64") && {
        let mut value = [0; 4];
        stopped.call_with(&mut value, Sysno::prctl, |at| [option::GET_TSC, at, 0, 0, 0, 0])?.is_ok()
            && u32::from_ne_bytes(value) == NO_TIME_STAMPS
    };
    let dispatch = stopped.dispatch().map(|d| [d.mode, d.selector, d.offset, d.length]);
    let (no_processor_identification, tiles) = ask_processor(stopped)?;
    let space = spaces::ask(stopped)?;
    Ok(Answer {
        deny_write_execute,
        huge_pages_disabled,
        merging,
        no_time_stamps,
        no_processor_identification,
        tiles,
        dispatch,
        space,
    })
}

/// Whether a process's ksm_stat says whether all of its memory is merged; that of Linux 6.12 does not.
fn tells_of_merging() -> bool {
    static TELLS: OnceLock<bool> = OnceLock::new();
    *TELLS.get_or_init(|| read("self", "ksm_stat").is_some_and(|text| text.contains("ksm_merge_any:")))
}

/// Whether the processor does not tell the stopped thread what it is, and whether the process may use tiles.
#[cfg(target_arch = "x86_64")]
fn ask_processor(stopped: &mut Stopped) -> hiber_memory::Result<(bool, bool)> {
    let withheld = processor::has("cpuid_fault")
        && stopped.call(Sysno::arch_prctl, [arch::GET_CPUID, 0, 0, 0, 0, 0])? == Ok(0);
    let mut may = [0; 8];
    let asked = |at| [arch::GET_PERMISSION, at, 0, 0, 0, 0];
    let known = processor::has("amx_tile") && stopped.call_with(&mut may, Sysno::arch_prctl, asked)?.is_ok();
    Ok((withheld, known && u64::from_ne_bytes(may) & 1 << arch::TILES != 0))
}

#[cfg(not(target_arch = "x86_64"))]
fn ask_processor(_: &mut Stopped) -> hiber_memory::Result<(bool, bool)> {
    Ok((false, false))
}

/// Reads what the frozen `processes` have; `answers` are what they have said before.
pub(super) fn of(processes: &[Numbered], answers: &Answers) -> Switches {
    let mut all = Switches::new();
    for process in processes {
        for thread in &process.threads {
            let mut switched = Switched::of(thread.outer);
            if *thread == process.process {
                switched.complete(thread.outer, answers);
            }
            if switched != Switched::default() {
                all.insert(thread.inner, switched);
            }
        }
    }
    all
}

impl Switched {
    fn of(tid: i32) -> Self {
        let personality = read(tid, "personality").and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
        let flags = flags(tid);
        let machine_checks = flags & MACHINE_CHECKS != 0;
        Self {
            personality: personality.filter(|persona| *persona != 0),
            machine_checks_early: machine_checks.then_some(flags & MACHINE_CHECKS_EARLY != 0),
            io_flusher: flags & IO_FLUSHER == IO_FLUSHER,
            speculation: Speculation::of(tid),
            memory_policy: policy::of_thread(tid).map(|policy| (policy.mode, policy.nodes)),
            ..Self::default()
        }
    }

    /// Adds what a process has as a whole.
    fn complete(&mut self, pid: i32, answers: &Answers) {
        let text = read(pid, "ksm_stat").unwrap_or_default();
        self.merging = text.lines().any(|line| line == "ksm_merge_any: yes");
        let own = answers.get(&pid).cloned();
        // One that was made since has what its parent has.
        let inherited = || {
            let mut parent = answers.get(&crate::host::procfs::parent(pid)?)?.clone();
            if parent.deny_write_execute & NOT_INHERITED != 0 {
                parent.deny_write_execute = 0;
            }
            parent.dispatch = None;
            Some(parent)
        };
        let Some(answer) = own.or_else(inherited) else { return };
        self.merging |= answer.merging;
        self.no_time_stamps = answer.no_time_stamps;
        self.no_processor_identification = answer.no_processor_identification;
        self.tiles = answer.tiles;
        self.dispatch = answer.dispatch;
        self.deny_write_execute = Some(answer.deny_write_execute).filter(|bits| *bits != 0);
        let flags = answer.huge_pages_disabled & !DISABLED;
        self.huge_pages_disabled = Some(flags).filter(|flags| *flags != 0);
    }

    /// Has the stopped thread turn them. Settings that forbid the thread something come last.
    fn put_back(&self, stopped: &mut Stopped) -> Result<()> {
        let mut set = |number, arguments: [u64; 6]| -> Result<()> {
            let result = stopped.call(number, arguments).map_err(failed(0))?;
            result.map(drop).map_err(|e| Error::sys(number.name(), format!("{arguments:?}"), errno(e)))
        };
        let mut switch = |option: u64, one: u64, two: u64| set(Sysno::prctl, [option, one, two, 0, 0, 0]);
        if self.io_flusher {
            switch(option::SET_IO_FLUSHER, 1, 0)?;
        }
        if let Some(early) = self.machine_checks_early {
            switch(option::MCE_KILL, 1, u64::from(early))?;
        }
        if self.merging {
            switch(option::SET_MEMORY_MERGE, 1, 0)?;
        }
        if let Some(flags) = self.huge_pages_disabled {
            switch(option::SET_THP_DISABLE, 1, flags.into())?;
        }
        if self.no_time_stamps {
            switch(option::SET_TSC, NO_TIME_STAMPS.into(), 0)?;
        }
        #[cfg(target_arch = "x86_64")]
        if self.no_processor_identification {
            set(Sysno::arch_prctl, [arch::SET_CPUID, 0, 0, 0, 0, 0])?;
        }
        #[cfg(target_arch = "x86_64")]
        if self.tiles {
            set(Sysno::arch_prctl, [arch::ASK_PERMISSION, arch::TILES, 0, 0, 0, 0])?;
        }
        if let Some(persona) = self.personality {
            set(Sysno::personality, [persona.into(), 0, 0, 0, 0, 0])?;
        }
        self.speculation.put_back(stopped)?;
        if let Some((mode, nodes)) = &self.memory_policy {
            policy::set(stopped, &MemoryPolicy { mode: *mode, nodes: nodes.clone() })?;
        }
        if let Some([mode, selector, offset, length]) = self.dispatch {
            stopped.set_dispatch(&Dispatch { mode, selector, offset, length }).map_err(failed(0))?;
        }
        if let Some(bits) = self.deny_write_execute {
            let result =
                stopped.call(Sysno::prctl, [option::SET_MDWE, bits.into(), 0, 0, 0, 0]).map_err(failed(0))?;
            result.map_err(|e| Error::sys("prctl", "PR_SET_MDWE", errno(e)))?;
        }
        Ok(())
    }
}

/// The next step of restored processes that have all their properties.
pub(crate) enum Then<'a> {
    /// They run.
    Run,
    /// All of them stay frozen, by this, before an instruction of their own.
    Hold(&'a dyn Fn() -> Result<()>),
    /// All of them stop there, and are killed afterwards.
    End,
}

/// Has the restored `processes`, which are frozen in their cgroup and traced by nobody, `close` descriptors, set up their address
/// spaces and turn their switches. `thaw` lets them go to where they stop, before an instruction of their own; `then` says
/// what follows.
pub(super) fn put_back(
    all: &Switches,
    spaces: &AddressSpaces,
    processes: &[Numbered],
    then: Then<'_>,
    close: &ToClose,
    thaw: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let concerned = |process: &&Numbered| {
        !matches!(then, Then::Run)
            || close.contains_key(&process.process.outer)
            || spaces.contains_key(&process.process.inner)
            || process.threads.iter().any(|thread| all.contains_key(&thread.inner))
    };
    let threads = processes.iter().filter(concerned).flat_map(|process| &process.threads);
    let seize = |thread: &Number| {
        let seized = Seized::new(thread.outer).map_err(failed(thread.inner))?;
        Ok((*thread, if matches!(then, Then::End) { seized.doomed() } else { seized }))
    };
    let seized: Vec<_> = threads.map(seize).collect::<Result<_>>()?;
    thaw()?;
    let wait =
        |(thread, seized): (Number, Seized)| Ok((thread, seized.wait().map_err(failed(thread.inner))?));
    let mut stopped: Vec<_> = seized.into_iter().map(wait).collect::<Result<_>>()?;
    for (thread, stopped) in &mut stopped {
        for descriptor in close.get(&thread.outer).into_iter().flatten() {
            let number = u64::try_from(*descriptor).unwrap_or(u64::MAX);
            let closed = stopped.call(Sysno::close, [number, 0, 0, 0, 0, 0]).map_err(failed(thread.inner))?;
            closed.map_err(|e| Error::sys("close", format!("descriptor {descriptor}"), errno(e)))?;
        }
        // The number of a process is that of its first thread.
        if let Some(space) = spaces.get(&thread.inner) {
            let what = format!("give process {} back what its memory had", thread.inner);
            space.put_back(stopped, thread.outer).context(what)?;
        }
        let Some(switched) = all.get(&thread.inner) else { continue };
        switched
            .put_back(stopped)
            .context(format!("give thread {} back what only it can set", thread.inner))?;
    }
    if let Then::Hold(freeze) = then {
        freeze()?;
    }
    stopped.into_iter().try_for_each(|(thread, stopped)| stopped.release().map_err(failed(thread.inner)))
}

/// The kernel's flags of a thread (proc_pid_stat(5), field 9).
fn flags(tid: i32) -> u64 {
    stat(tid, |stat| stat.field(9)).flatten().unwrap_or(0)
}
