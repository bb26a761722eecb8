//! System calls in a stopped thread, as if its program had made them.
//!
//! Afterwards the thread is in its old state: its registers, its blocked signals, an interrupted call and a restartable sequence
//! are as before. Its filters of seccomp and its dispatch of system calls do not see the call.
//!
//! If a tracer is killed in the middle of a call, the thread goes on with the registers of the call. So a process called [`NAME`]
//! makes calls [apart](hiber_sys::apart) where the program is to run on whatever happens.

use std::ffi::CStr;

use hiber_sys::ptrace::{
    Dispatch, GoOn, dispatch, extended_state, rseq_area, set_dispatch, set_extended_state, set_signal_mask,
    signal_mask,
};
use nix::errno::Errno;
use syscalls::Sysno;

use crate::error::{Error, Result, memory as memory_error};
use crate::registers::{INSTRUCTION, Registers};
use crate::remote::Memory;
use crate::stop::{Seized, Stop, await_stop, detach, go_on, interrupt, kill, registers, set_registers};

/// The name of processes that make calls apart. A kill of all processes with this program's name does not reach them.
pub const NAME: &CStr = c"injected-calls";
/// The offset of the present sequence in `struct rseq` (linux/rseq.h).
const RSEQ_CS: u64 = 8;
/// The most bytes of an area that are searched for an instruction.
const SEARCHED: u64 = 1 << 20;
/// The bytes that a function may use below its stack (the red zone of the x86-64 ABI); aarch64 has none.
const RED_ZONE: u64 = 128;
/// The results that are errors (linux/err.h, MAX_ERRNO).
const ERRORS: std::ops::RangeInclusive<i64> = -4095..=-1;

/// A thread that the calling thread has stopped by ptrace(2). When this is dropped, the thread goes on as before.
#[derive(Debug)]
pub struct Stopped {
    tid: i32,
    saved: Registers,
    prepared: Option<Prepared>,
    held: bool,
    doomed: bool,
}

/// The state that calls change, and that is put back.
#[derive(Debug)]
struct Prepared {
    memory: Memory,
    instruction: u64,
    mask: u64,
    dispatch: Option<Dispatch>,
    /// The address and the value of the pointer to its restartable sequence.
    sequence: Option<(u64, u64)>,
}

impl Seized {
    /// Waits until the thread has stopped.
    ///
    /// # Errors
    /// It has ended, does not stop, or runs a 32-bit program.
    pub fn wait(self) -> Result<Stopped> {
        let (tid, doomed) = (self.tid(), self.is_doomed());
        let saved = self.stopped()?;
        Ok(Stopped { tid, saved, prepared: None, held: true, doomed })
    }
}

impl Stopped {
    /// The thread's number.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// The thread's own dispatch of system calls.
    pub fn dispatch(&self) -> Option<Dispatch> {
        self.prepared.as_ref().map_or_else(|| dispatch(self.tid), |prepared| prepared.dispatch)
    }

    /// Sets its dispatch of system calls.
    ///
    /// # Errors
    /// The kernel is older than 6.4, or refuses it.
    pub fn set_dispatch(&mut self, to: &Dispatch) -> Result<()> {
        match &mut self.prepared {
            Some(prepared) => prepared.dispatch = Some(*to),
            None => dispatch_by(self.tid, to)?,
        }
        Ok(())
    }

    /// Does `work`, and restores the thread's extended registers afterwards. Some calls change these: pkey_alloc(2), for
    /// instance, the rights of a protection key.
    ///
    /// # Errors
    /// Those of `work`; the state could not be read or put back.
    pub fn keeping_extended_state<E: From<Error>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = extended_state(self.tid).map_err(Error::of(self.tid, "PTRACE_GETREGSET"))?;
        let done = work(self);
        let put = set_extended_state(self.tid, &mut state).map_err(Error::of(self.tid, "PTRACE_SETREGSET"));
        done.and_then(|()| Ok(put?))
    }

    /// Makes a system call, and returns its result.
    ///
    /// # Errors
    /// If the call could not be made. An error of the call itself is a result.
    pub fn call(&mut self, number: Sysno, arguments: [u64; 6]) -> Result<Result<u64, Errno>> {
        let instruction = self.prepare()?.instruction;
        let number = u64::try_from(number.id()).unwrap_or_default();
        set_registers(self.tid, &self.saved.calling(instruction, number, arguments))?;
        // Its beginning and its end.
        for _ in 0..2 {
            go_on(self.tid, GoOn::ToCall, 0)?;
            await_stop(self.tid, GoOn::ToCall, Stop::Call)?;
        }
        let result = registers(self.tid)?.result();
        Ok(match ERRORS.contains(&result) {
            true => Err(Errno::from_raw(i32::try_from(-result).unwrap_or_default())),
            false => Ok(result.cast_unsigned()),
        })
    }

    /// As [`Stopped::call`], with bytes that lie in the thread's memory during the call: `arguments` gets their address. The
    /// bytes lie below the program's stack, where the program has no data.
    ///
    /// # Errors
    /// Those of [`Stopped::call`].
    pub fn call_with(
        &mut self,
        bytes: &mut [u8],
        number: Sysno,
        arguments: impl FnOnce(u64) -> [u64; 6],
    ) -> Result<Result<u64, Errno>> {
        let length = u64::try_from(bytes.len()).unwrap_or_default();
        let at = (self.saved.stack() - RED_ZONE - length) & !15;
        let mut before = vec![0; bytes.len()];
        self.read(at, &mut before)?;
        self.write(at, bytes)?;
        let result = self.call(number, arguments(at))?;
        self.read(at, bytes)?;
        self.write(at, &before)?;
        Ok(result)
    }

    /// Reads the thread's memory.
    ///
    /// # Errors
    /// If there is no memory at the address.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let tid = self.tid;
        let read = self.prepare()?.memory.read_exact_at(bytes, address);
        read.map_err(memory_error(tid, address))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let tid = self.tid;
        let written = self.prepare()?.memory.write_all_at(bytes, address);
        written.map_err(memory_error(tid, address))
    }

    /// Before the first call: blocks signals, and switches the dispatch of system calls off.
    fn prepare(&mut self) -> Result<&Prepared> {
        if self.prepared.is_none() {
            let tid = self.tid;
            let memory = Memory::of(tid).map_err(memory_error(tid, 0))?;
            let instruction = self.instruction(&memory)?;
            let sequence = self.sequence(&memory);
            let (mask, dispatch) = (mask_of(tid)?, dispatch(tid));
            block(tid, u64::MAX)?;
            self.prepared = Some(Prepared { memory, instruction, mask, dispatch, sequence });
            if dispatch.is_some() {
                dispatch_by(tid, &Dispatch::default())?;
            }
        }
        self.prepared.as_ref().ok_or(Error::Gone(self.tid))
    }

    /// Where an instruction of a system call is: the one that the thread waits in, or one of the kernel's own (vdso(7)), or
    /// any.
    fn instruction(&self, memory: &Memory) -> Result<u64> {
        let mut there = vec![0; INSTRUCTION.len()];
        if let Some(caller) = self.saved.caller()
            && memory.read_exact_at(&mut there, caller).is_ok()
            && there == INSTRUCTION
        {
            return Ok(caller);
        }
        let maps = hiber_sys::file::read_to_string(format!("/proc/{}/maps", self.tid)).unwrap_or_default();
        let executable = |line: &&str| line.split(' ').nth(1).is_some_and(|access| access.contains('x'));
        let (own, others): (Vec<_>, Vec<_>) =
            maps.lines().filter(executable).partition(|line| line.ends_with("[vdso]"));
        let found = own.into_iter().chain(others).find_map(|line| find(memory, line));
        found.ok_or(Error::NoInstruction(self.tid))
    }

    /// The kernel aborts a sequence when the thread runs elsewhere. A thread that waits in a call is in no sequence.
    fn sequence(&self, memory: &Memory) -> Option<(u64, u64)> {
        if self.saved.in_call() {
            return None;
        }
        let at = rseq_area(self.tid)? + RSEQ_CS;
        let mut is = [0; 8];
        memory.read_exact_at(&mut is, at).ok()?;
        Some((at, u64::from_ne_bytes(is))).filter(|(_, is)| *is != 0)
    }

    /// Lets the thread go on as it was; one that is [doomed](crate::Seized::doomed) is killed.
    ///
    /// # Errors
    /// It has ended, or could not be brought back to where it was: then it is to be ended.
    pub fn release(mut self) -> Result<()> {
        self.held = false;
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        if self.doomed {
            kill(self.tid);
            return Ok(());
        }
        self.settle()?;
        detach(self.tid)
    }

    /// Puts back everything that was changed for calls, and keeps the thread stopped. Then it can be let go without running, even
    /// if its cgroup is frozen meanwhile.
    ///
    /// # Errors
    /// Those of [`Stopped::release`].
    pub fn settle(&mut self) -> Result<()> {
        let tid = self.tid;
        if let Some(prepared) = self.prepared.take() {
            if let Some((at, was)) = prepared.sequence {
                let written = prepared.memory.write_all_at(&was.to_ne_bytes(), at);
                written.map_err(memory_error(tid, at))?;
            }
            set_registers(tid, &self.saved)?;
            if self.saved.interrupted() {
                // From the end of our call the kernel would return to the program with what was left of that one's. It goes on
                // with calls where it delivers signals: there the thread stops once more.
                interrupt(tid)?;
                go_on(tid, GoOn::Freely, 0)?;
                await_stop(tid, GoOn::Freely, Stop::Asked)?;
            }
            if let Some(dispatch) = &prepared.dispatch {
                dispatch_by(tid, dispatch)?;
            }
            block(tid, prepared.mask)?;
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.held {
            let _ = self.let_go();
        }
    }
}

/// A process all of whose threads are stopped: none of them sees in between what a call has made of memory or descriptors, and none
/// takes the place of that.
#[derive(Debug)]
pub struct StoppedProcess {
    pid: i32,
    threads: Vec<Stopped>,
}

impl StoppedProcess {
    /// Stops all threads of process `pid`.
    ///
    /// # Errors
    /// As of [`Seized::new`] and [`Seized::wait`], of any of them.
    pub fn new(pid: i32) -> Result<Self> {
        let mut process = Self { pid, threads: Vec::new() };
        while process.stop_new()? {}
        Ok(process)
    }

    /// Stops those threads that were not known; whether there were any.
    fn stop_new(&mut self) -> Result<bool> {
        let threads =
            std::fs::read_dir(format!("/proc/{}/task", self.pid)).map_err(memory_error(self.pid, 0))?;
        let tids = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let new: Vec<_> = tids.filter(|tid| self.threads.iter().all(|known| known.tid() != *tid)).collect();
        let seized: Vec<_> = new.into_iter().map(Seized::new).collect();
        let mut more = false;
        for thread in seized.into_iter().map(|seized| seized.and_then(Seized::wait)) {
            match thread {
                Ok(thread) => self.threads.push(thread),
                Err(Error::Gone(_)) => continue,
                Err(e) => return Err(e),
            }
            more = true;
        }
        Ok(more)
    }

    /// Its first thread, which makes the calls.
    ///
    /// # Errors
    /// That one has ended.
    pub fn first(&mut self) -> Result<&mut Stopped> {
        let pid = self.pid;
        self.threads.iter_mut().find(|thread| thread.tid() == pid).ok_or(Error::Gone(pid))
    }

    /// Lets all threads go on as they were.
    ///
    /// # Errors
    /// As of [`Stopped::release`], but that one has ended.
    pub fn release(self) -> Result<()> {
        self.threads.into_iter().try_for_each(|thread| match thread.release() {
            Err(Error::Gone(_)) => Ok(()),
            other => other,
        })
    }
}

fn mask_of(tid: i32) -> Result<u64> {
    signal_mask(tid).map_err(Error::of(tid, "PTRACE_GETSIGMASK"))
}

fn block(tid: i32, mask: u64) -> Result<()> {
    set_signal_mask(tid, mask).map_err(Error::of(tid, "PTRACE_SETSIGMASK"))
}

fn dispatch_by(tid: i32, to: &Dispatch) -> Result<()> {
    set_dispatch(tid, to).map_err(Error::of(tid, "PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG"))
}

/// Where an area of a line of `/proc/PID/maps` has the instruction.
fn find(memory: &Memory, line: &str) -> Option<u64> {
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    let mut bytes = vec![0; usize::try_from((to - from).min(SEARCHED)).ok()?];
    let read = memory.read_at(&mut bytes, from).ok()?;
    // Instructions of aarch64 are aligned.
    let step = if cfg!(target_arch = "aarch64") { INSTRUCTION.len() } else { 1 };
    let mut places = (0..read.saturating_sub(INSTRUCTION.len() - 1)).step_by(step);
    let at = places.find(|at| bytes[*at..].starts_with(INSTRUCTION))?;
    Some(from + u64::try_from(at).ok()?)
}
