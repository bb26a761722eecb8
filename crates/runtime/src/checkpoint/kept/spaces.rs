//! Address spaces: what CRIU forgets of the memory of a process, and of what goes by addresses in it.

use std::collections::BTreeMap;

use hiber_memory::Stopped;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::areas::{self, Area, Areas, Lock};
use super::failures::{errno, failed};
use super::processor;
use crate::error::{Error, Result};
use crate::host::procfs::Numbered;

/// By the process's number in the container.
pub(crate) type AddressSpaces = BTreeMap<i32, AddressSpace>;

/// The properties that differ from those of an address space that CRIU restores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct AddressSpace {
    /// Whether areas that it does not have yet will be locked (MCL_FUTURE of mlockall(2)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) future: Option<Lock>,
    /// The protection keys that it has taken (pkey_alloc(2)).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<u8>,
    /// Its local descriptor table (modify_ldt(2)): numbers and descriptors of those entries that are not empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) descriptors: Vec<(u16, u64)>,
    /// Those areas that have something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) areas: Vec<Area>,
}

/// The properties that a process reports itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    future: Option<Lock>,
    keys: Vec<u8>,
    descriptors: Vec<(u16, u64)>,
}

/// linux/mman.h: PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MCL_FUTURE, MCL_ONFAULT
const READ: u64 = 1;
const WRITE: u64 = 2;
const PRIVATE_ANONYMOUS: u64 = 0x22;
const FUTURE: u64 = 2;
const ON_FAULT: u64 = 4;
/// A place that the thread may use has room for the largest table (LDT_ENTRIES of asm/ldt.h), in bytes.
const PLACE: u64 = 8192 * 8;
/// In an entry of pagemap: the page is in memory (PM_PRESENT of linux/fs/proc/task_mmu.c).
const PRESENT: u64 = 1 << 63;
/// The protection keys that a program of x86 can take, the lowest first.
const FIRST_KEY: u8 = 1;
const LAST_KEY: u8 = 15;
/// No address space has an area there: it is the kernel's half.
const NOWHERE: u64 = 0xffff_8000_0000_0000;

/// Asks the stopped process `stopped` what cannot be seen from outside. It gets a place of its own for that, which is gone
/// afterwards. Each call costs two stops.
pub(super) fn ask(stopped: &mut Stopped) -> hiber_memory::Result<Said> {
    let (pid, mut said) = (stopped.tid(), Said::default());
    let locked = areas::locked(pid);
    let segments = has_descriptors(stopped)?;
    match stopped.call(Sysno::mmap, [0, PLACE, READ | WRITE, PRIVATE_ANONYMOUS, u64::MAX, 0])? {
        Ok(place) => {
            let more = areas::locked(pid) > locked;
            said.future = more.then(|| if is_present(pid, place) { Lock::Now } else { Lock::OnFault });
            if segments {
                said.descriptors = descriptors(stopped, place)?;
            }
            let _ = stopped.call(Sysno::munmap, [place, PLACE, 0, 0, 0, 0])?;
        }
        // It may lock no more.
        Err(Errno::EAGAIN) => said.future = Some(Lock::Now),
        Err(_) => {}
    }
    if processor::has("ospke") {
        said.keys = keys(stopped)?;
    }
    Ok(said)
}

fn is_present(pid: i32, address: u64) -> bool {
    use std::os::unix::fs::FileExt;
    let mut entry = [0; 8];
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let read = std::fs::File::open(format!("/proc/{pid}/pagemap"))
        .and_then(|pagemap| pagemap.read_exact_at(&mut entry, address / page * 8));
    read.is_ok() && u64::from_ne_bytes(entry) & PRESENT != 0
}

/// Whether it has a table: the kernel says that it has given so many bytes as it is asked for, or 0 if there is none.
#[cfg(target_arch = "x86_64")]
fn has_descriptors(stopped: &mut Stopped) -> hiber_memory::Result<bool> {
    let given = stopped.call_with(&mut [0; 8], Sysno::modify_ldt, |at| [0, at, 8, 0, 0, 0])?;
    Ok(given.is_ok_and(|bytes| bytes > 0))
}

#[cfg(not(target_arch = "x86_64"))]
fn has_descriptors(_: &mut Stopped) -> hiber_memory::Result<bool> {
    Ok(false)
}

/// The process's table, read by way of a `place` in its memory.
#[cfg(target_arch = "x86_64")]
fn descriptors(stopped: &mut Stopped, place: u64) -> hiber_memory::Result<Vec<(u16, u64)>> {
    if stopped.call(Sysno::modify_ldt, [0, place, PLACE, 0, 0, 0])?.is_err() {
        return Ok(Vec::new());
    }
    let mut table = vec![0; usize::try_from(PLACE).unwrap_or_default()];
    stopped.read(place, &mut table)?;
    let (entries, _) = table.as_chunks::<8>();
    let entries = (0u16..).zip(entries).map(|(number, entry)| (number, u64::from_ne_bytes(*entry)));
    Ok(entries.filter(|(_, entry)| *entry != 0).collect())
}

#[cfg(not(target_arch = "x86_64"))]
fn descriptors(_: &mut Stopped, _: u64) -> hiber_memory::Result<Vec<(u16, u64)>> {
    Ok(Vec::new())
}

/// The keys that it has taken, if the first one is among them: most programs take none. Where there is no area, the kernel says
/// of a key that it knows that there is none, and refuses others before that.
fn keys(stopped: &mut Stopped) -> hiber_memory::Result<Vec<u8>> {
    let mut taken = Vec::new();
    let mut knows = |key: u8| {
        Ok(stopped.call(Sysno::pkey_mprotect, [NOWHERE, 4096, READ, key.into(), 0, 0])? == Err(Errno::ENOMEM))
    };
    for key in FIRST_KEY..=LAST_KEY {
        if knows(key)? {
            taken.push(key);
        } else if taken.is_empty() {
            break;
        }
    }
    Ok(taken)
}

/// Reads what the frozen `processes` have. By their numbers here, `said` gives what they have said before, and `areas` has their
/// areas.
pub(super) fn of<'a>(
    processes: &[Numbered],
    said: impl Fn(i32) -> Option<&'a Said>,
    mut areas: Areas,
) -> AddressSpaces {
    let mut all = AddressSpaces::new();
    for Numbered { process, .. } in processes {
        let own = said(process.outer).cloned();
        // One that was made since has what its parent has, but for the locks.
        let inherited = || {
            let parent = said(crate::host::procfs::parent(process.outer)?)?;
            Some(Said { future: None, ..parent.clone() })
        };
        let Said { future, mut keys, descriptors } = own.or_else(inherited).unwrap_or_default();
        let areas = areas.remove(&process.outer).unwrap_or_default();
        keys.extend(areas.iter().filter_map(|area| area.key.map(|(key, _)| key)));
        keys.sort_unstable();
        keys.dedup();
        let space = AddressSpace { future, keys, descriptors, areas };
        if space != AddressSpace::default() {
            all.insert(process.inner, space);
        }
    }
    all
}

impl AddressSpace {
    /// Whether the area of this address is locked, and CRIU may bring it in.
    pub(super) fn is_locked_now(&self, address: u64) -> bool {
        let is_there = |area: &&Area| (area.from..area.to).contains(&address);
        self.areas.iter().find(is_there).is_none_or(|area| area.locked != Some(Lock::OnFault))
    }

    /// Has the stopped process `pid` do what gives it back.
    pub(super) fn put_back(&self, stopped: &mut Stopped, pid: i32) -> Result<()> {
        self.descriptors.iter().try_for_each(|(number, entry)| put_descriptor(stopped, *number, *entry))?;
        if !self.keys.is_empty() {
            // The kernel gives a thread new rights with each key.
            stopped
                .keeping_extended_state(|stopped| take_keys(stopped, &self.keys).map_err(Failed))
                .map_err(|Failed(e)| e)?;
        }
        for area in &self.areas {
            area.put_back(stopped, pid)?;
        }
        if let Some(lock) = self.future {
            let on_fault = if lock == Lock::OnFault { ON_FAULT } else { 0 };
            let result =
                stopped.call(Sysno::mlockall, [FUTURE | on_fault, 0, 0, 0, 0, 0]).map_err(failed(0))?;
            if let Err(e) = result {
                tracing::warn!("new memory of process {pid} is not locked any more: {e}");
            }
        }
        self.areas.iter().filter(|area| area.sealed).try_for_each(|area| area.seal(stopped))
    }
}

/// For both what the kernel and what ptrace(2) refuses.
struct Failed(Error);

impl From<hiber_memory::Error> for Failed {
    fn from(e: hiber_memory::Error) -> Self {
        Self(failed(0)(e))
    }
}

/// Takes these keys, and no others. The kernel gives the lowest that is free.
fn take_keys(stopped: &mut Stopped, wanted: &[u8]) -> Result<()> {
    let (mut taken, mut others) = (Vec::new(), Vec::new());
    let missing = |taken: &[u8]| wanted.iter().find(|key| !taken.contains(key)).copied();
    while let Some(key) = missing(&taken) {
        match stopped.call(Sysno::pkey_alloc, [0; 6]).map_err(failed(0))? {
            Ok(new) => {
                let new = u8::try_from(new).unwrap_or_default();
                if wanted.contains(&new) { &mut taken } else { &mut others }.push(new);
            }
            Err(e) => return Err(Error::sys("pkey_alloc", format!("protection key {key}"), errno(e))),
        }
    }
    for key in others {
        let freed = stopped.call(Sysno::pkey_free, [key.into(), 0, 0, 0, 0, 0]).map_err(failed(0))?;
        freed.map_err(|e| Error::sys("pkey_free", key.to_string(), errno(e)))?;
    }
    Ok(())
}

/// `struct user_desc` (asm/ldt.h) of an entry of the table.
fn described(number: u16, entry: u64) -> [u8; 16] {
    let bits = |from: u32, count: u32| u32::try_from(entry >> from & ((1 << count) - 1)).unwrap_or_default();
    let base = bits(16, 24) | bits(56, 8) << 24;
    let limit = bits(0, 16) | bits(48, 4) << 16;
    let [code_or_stack, writable, present, usable, wide, pages] =
        [bits(42, 2), bits(41, 1), bits(47, 1), bits(52, 1), bits(54, 1), bits(55, 1)];
    let flags =
        wide | code_or_stack << 1 | (writable ^ 1) << 3 | pages << 4 | (present ^ 1) << 5 | usable << 6;
    let mut all = [0; 16];
    for (place, word) in all.as_chunks_mut::<4>().0.iter_mut().zip([number.into(), base, limit, flags]) {
        *place = word.to_ne_bytes();
    }
    all
}

#[cfg(target_arch = "x86_64")]
fn put_descriptor(stopped: &mut Stopped, number: u16, entry: u64) -> Result<()> {
    /// Writes an entry as programs of today do.
    const WRITE_NEW: u64 = 0x11;
    let mut bytes = described(number, entry);
    let length = 16;
    let result = stopped
        .call_with(&mut bytes, Sysno::modify_ldt, |at| [WRITE_NEW, at, length, 0, 0, 0])
        .map_err(failed(0))?;
    result.map(drop).map_err(|e| Error::sys("modify_ldt", format!("entry {number}: {entry:#x}"), errno(e)))
}

#[cfg(not(target_arch = "x86_64"))]
fn put_descriptor(_: &mut Stopped, number: u16, entry: u64) -> Result<()> {
    let described = described(number, entry);
    Err(Error::Invalid(format!("a local descriptor table is one of x86: {described:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel turns the structure into the entry again (fill_ldt of asm/desc.h).
    #[test]
    fn a_descriptor_is_described() {
        // base 0x10000, limit 0xfff, 32 bits: data that can be written
        let entry = 0x0040_f301_0000_0fff;
        let words: Vec<_> =
            described(2, entry).as_chunks::<4>().0.iter().copied().map(u32::from_ne_bytes).collect();
        assert_eq!(words, [2, 0x1_0000, 0xfff, 1]);
        // code that can be read, by pages, up to 4 GiB, base 0x12345678
        let words: Vec<_> = described(0, 0x12cf_fb34_5678_ffff)
            .as_chunks::<4>()
            .0
            .iter()
            .copied()
            .map(u32::from_ne_bytes)
            .collect();
        assert_eq!(words, [0, 0x1234_5678, 0xf_ffff, 1 | 2 << 1 | 1 << 4]);
    }
}
