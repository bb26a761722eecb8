//! Areas of a process's memory: what `/proc/PID/smaps` and `/proc/PID/numa_maps` say of them that CRIU does not keep.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::thread::JoinHandle;

use hiber_memory::Stopped;
use hiber_sys::scheduling::MemoryPolicy;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::failures::{errno, failed};
use super::policy;
use crate::error::{Error, Result};

/// An area, and what it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Area {
    /// Its first address, and the one after its last.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// mlock2(2). CRIU locks only what is no file's and what a process does not have from its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) locked: Option<Lock>,
    /// mbind(2): the mode with its flags, and the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<(i32, Vec<usize>)>,
    /// pkey_mprotect(2): the key, and what the area may be used for (PROT_READ, PROT_WRITE, PROT_EXEC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<(u8, u8)>,
    /// mseal(2)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) sealed: bool,
}

/// When locked memory is brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Lock {
    Now,
    /// When it is touched (MLOCK_ONFAULT, MCL_ONFAULT).
    OnFault,
}

/// linux/mman.h: MLOCK_ONFAULT
const ON_FAULT: u64 = 1;
/// linux/mempolicy.h: pages that are there already move to where they belong (MPOL_MF_MOVE).
const MOVE: u64 = 2;
/// Areas that the kernel makes for a process, and seals itself if it is configured so.
const OF_KERNEL: [&str; 3] = ["[vdso]", "[vvar", "[vsyscall]"];

impl Area {
    fn has_something(&self) -> bool {
        self.locked.is_some() || self.policy.is_some() || self.key.is_some() || self.sealed
    }

    fn range(&self) -> [u64; 2] {
        [self.from, self.to.saturating_sub(self.from)]
    }

    /// Has the stopped process `pid` give the area what it had but for its seal, after which nothing else can be changed. Locks
    /// come after policies: they bring memory in.
    pub(super) fn put_back(&self, stopped: &mut Stopped, pid: i32) -> Result<()> {
        let range @ [start, length] = self.range();
        if let Some((mode, nodes)) = &self.policy {
            let policy = MemoryPolicy { mode: *mode, nodes: nodes.clone() };
            policy::apply(stopped, &policy, Sysno::mbind, |mode, mask, bits| {
                [start, length, mode, mask, bits, MOVE]
            })?;
        }
        if let Some((key, protection)) = self.key {
            let arguments = [start, length, protection.into(), key.into(), 0, 0];
            let result = stopped.call(Sysno::pkey_mprotect, arguments).map_err(failed(0))?;
            result.map_err(|e| self.error("pkey_mprotect", e))?;
        }
        self.locked.map_or(Ok(()), |lock| put_lock(stopped, pid, range, lock))
    }

    pub(super) fn seal(&self, stopped: &mut Stopped) -> Result<()> {
        let [start, length] = self.range();
        let result = stopped.call(Sysno::mseal, [start, length, 0, 0, 0, 0]).map_err(failed(0))?;
        match result {
            // An older kernel has no seals, and lets programs do without.
            Err(Errno::ENOSYS) => {
                tracing::warn!("memory at {start:#x} was sealed, which this kernel cannot do");
                Ok(())
            }
            result => result.map(drop).map_err(|e| self.error("mseal", e)),
        }
    }

    fn error(&self, call: &'static str, e: Errno) -> Error {
        Error::sys(call, format!("{:#x}-{:#x}", self.from, self.to), errno(e))
    }
}

/// A process may have locked memory with a privilege that it gave up since, or below a limit that it lowered: it runs on
/// without.
fn put_lock(stopped: &mut Stopped, pid: i32, [start, length]: [u64; 2], lock: Lock) -> Result<()> {
    let before = locked(pid);
    let flags = if lock == Lock::OnFault { ON_FAULT } else { 0 };
    let result = stopped.call(Sysno::mlock2, [start, length, flags, 0, 0, 0]).map_err(failed(0))?;
    match result {
        // Locked, and not all of it can be brought in: there is no file behind it, or no right to read it.
        Err(Errno::ENOMEM) if locked(pid) > before => Ok(()),
        Err(e @ (Errno::ENOMEM | Errno::EPERM | Errno::EAGAIN)) => {
            tracing::warn!("{} KiB of memory at {start:#x} are not locked any more: {e}", length >> 10);
            Ok(())
        }
        result => {
            result.map(drop).map_err(|e| Error::sys("mlock2", format!("{length} at {start:#x}"), errno(e)))
        }
    }
}

/// How much memory the process has locked, in KiB.
pub(super) fn locked(pid: i32) -> u64 {
    let status = hiber_sys::file::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// The areas that are being read of frozen processes, while CRIU saves them: the kernel walks all pages for that, which takes
/// 35 ms for a GiB of small ones, and as much again for policies.
pub(crate) struct Reading(JoinHandle<Areas>);

/// By the process's number here.
pub(super) type Areas = BTreeMap<i32, Vec<Area>>;

impl Reading {
    /// # Errors
    /// There can be no more threads.
    pub(crate) fn start(pids: Vec<i32>) -> Result<Self> {
        let thread = std::thread::Builder::new().name("hiber-areas".into());
        let reading = thread.spawn(move || {
            let choice = policy::has_choice();
            pids.into_iter().map(|pid| (pid, of(pid, choice))).collect()
        });
        Ok(Self(reading.map_err(|e| Error::host("start the thread that reads areas", e))?))
    }

    /// The areas, without those that CRIU had in the processes meanwhile.
    pub(super) fn finish(self) -> Result<Areas> {
        let mut all =
            self.0.join().map_err(|panic| Error::panicked("the thread that reads areas", &*panic))?;
        all.retain(|_, areas| !areas.is_empty());
        for (pid, areas) in &mut all {
            *areas = within(areas, &ranges(*pid));
        }
        Ok(all)
    }
}

/// The areas that process `pid` has.
fn ranges(pid: i32) -> Vec<[u64; 2]> {
    let text = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(|line| begin(line).map(|(area, ..)| [area.from, area.to])).collect()
}

/// The parts of areas that are in one of `ranges`; both are in order.
fn within(areas: &[Area], ranges: &[[u64; 2]]) -> Vec<Area> {
    let parts = |area: &Area| {
        let first = ranges.partition_point(|[_, to]| *to <= area.from);
        let (from, to) = (area.from, area.to);
        let inside = ranges[first..].iter().take_while(move |[start, _]| *start < to);
        let part =
            |[start, end]: &[u64; 2]| Area { from: from.max(*start), to: to.min(*end), ..area.clone() };
        inside.map(part).collect::<Vec<_>>()
    };
    areas.iter().flat_map(parts).collect()
}

/// The areas of process `pid` that have something, in the order of their addresses. Policies are read where there is a `choice`
/// of nodes.
fn of(pid: i32, choice: bool) -> Vec<Area> {
    let open = |file: &str| File::open(format!("/proc/{pid}/{file}")).map(BufReader::new);
    let mut areas = open("smaps").map(read).unwrap_or_default();
    if choice {
        let own = policy::of_thread(pid);
        let policies = open("numa_maps").map(policies).unwrap_or_default();
        // An area without a policy of its own shows the thread's.
        for (from, shown) in policies.into_iter().filter(|(_, shown)| *shown != own) {
            if let (Ok(at), Some(shown)) = (areas.binary_search_by_key(&from, |area| area.from), shown) {
                areas[at].policy = Some((shown.mode, shown.nodes));
            }
        }
    }
    areas.retain(Area::has_something);
    areas
}

fn policies(text: impl BufRead) -> Vec<(u64, Option<MemoryPolicy>)> {
    let mut all = Vec::new();
    each_line(text, |line| {
        let from = line.split(' ').next().and_then(|from| u64::from_str_radix(from, 16).ok());
        all.extend(from.map(|from| (from, policy::parse(line))));
    });
    all
}

/// Calls `look` with each line, up to an error. A large process has a hundred thousand: none of them is copied. Names of files may
/// be anything.
fn each_line(mut text: impl BufRead, mut look: impl FnMut(&str)) {
    let mut line = Vec::new();
    while text.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        look(String::from_utf8_lossy(&line).trim_end_matches('\n'));
        line.clear();
    }
}

/// All areas of `/proc/PID/smaps` but the kernel's own.
fn read(text: impl BufRead) -> Vec<Area> {
    let mut areas = Vec::new();
    // The last one's access; none if it is the kernel's own.
    let mut last: Option<String> = None;
    each_line(text, |line| {
        let mut words = line.split_ascii_whitespace();
        let Some(head) = words.next() else { return };
        let Some(name) = head.strip_suffix(':') else {
            let Some((area, access, name)) = begin(line) else { return };
            last = (!OF_KERNEL.iter().any(|of_kernel| name.starts_with(of_kernel))).then_some(access);
            if last.is_some() {
                areas.push(area);
            }
            return;
        };
        let (Some(access), Some(area)) = (&last, areas.last_mut()) else { return };
        match name {
            "ProtectionKey" => {
                let key = words.next().and_then(|key| key.parse().ok()).filter(|key| *key != 0);
                // The kernel itself gives what can only be executed a key.
                area.key =
                    key.map(|key| (key, protection(access))).filter(|(_, protection)| *protection != EXECUTE);
            }
            "VmFlags" => {
                let flags: Vec<_> = words.collect();
                area.sealed = flags.contains(&"sl");
                area.locked = lock(&flags);
            }
            _ => {}
        }
    });
    areas
}

/// The kernel tells flags in the order of their bits. Older ones have no word for that of MLOCK_ONFAULT, which is the next but
/// for those that are named here.
fn lock(flags: &[&str]) -> Option<Lock> {
    let between = ["io", "sr", "rr", "dc", "de"];
    let at = flags.iter().position(|flag| *flag == "lo")?;
    let next = flags[at + 1..].iter().find(|flag| !between.contains(flag));
    Some(if matches!(next, Some(&"lf" | &"??")) { Lock::OnFault } else { Lock::Now })
}

/// `FROM-TO ACCESS OFFSET DEVICE INODE NAME`: the area, its access and its name.
fn begin(line: &str) -> Option<(Area, String, &str)> {
    let mut fields = line.splitn(6, ' ');
    let (from, to) = fields.next()?.split_once('-')?;
    let hex = |number| u64::from_str_radix(number, 16).ok();
    let area = Area { from: hex(from)?, to: hex(to)?, ..Area::default() };
    let access = fields.next()?.to_owned();
    Some((area, access, fields.nth(3).unwrap_or_default().trim_start()))
}

/// PROT_EXEC (linux/mman.h)
const EXECUTE: u8 = 4;

/// `rwxp` as protections of mprotect(2).
fn protection(access: &str) -> u8 {
    [('r', 1), ('w', 2), ('x', EXECUTE)].iter().filter(|(c, _)| access.contains(*c)).map(|(_, bit)| bit).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_read() {
        let text = "\
00400000-00401000 r-xp 00000000 08:01 7                                  /bin/a: b
Rss:                   4 kB
ProtectionKey:         0
VmFlags: rd ex mr mw me lo
7f0000000000-7f0000002000 rw-p 00000000 00:00 0
ProtectionKey:         3
VmFlags: rd wr mr mw me lo lf ac sl
7f0000004000-7f0000005000 --xp 00000000 00:00 0
ProtectionKey:         1
VmFlags: ex
7fff00000000-7fff00002000 r-xp 00000000 00:00 0                          [vdso]
VmFlags: rd ex sl
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex
";
        let mut found = read(text.as_bytes());
        found.retain(Area::has_something);
        let program = Area { from: 0x40_0000, to: 0x40_1000, locked: Some(Lock::Now), ..Area::default() };
        let (from, to) = (0x7f00_0000_0000, 0x7f00_0000_2000);
        let locked = Some(Lock::OnFault);
        let area = Area { from, to, locked, key: Some((3, 3)), sealed: true, ..Area::default() };
        assert_eq!(found, [program, area]);
    }

    #[test]
    fn locks_are_told_by_older_kernels_too() {
        let lock = |flags: &str| lock(&flags.split(' ').collect::<Vec<_>>());
        assert_eq!(lock("rd wr mr mw me ac sd"), None);
        assert_eq!(lock("rd wr mr mw me lo ac sd"), Some(Lock::Now));
        assert_eq!(lock("rd wr mr mw me lo ac sd ??"), Some(Lock::Now));
        assert_eq!(lock("?? rd mr mw me lo"), Some(Lock::Now));
        assert_eq!(lock("rd wr mr mw me lo ?? ac sd"), Some(Lock::OnFault));
        assert_eq!(lock("rd wr mr mw me lo dc de lf ac"), Some(Lock::OnFault));
    }

    #[test]
    fn only_what_is_still_there_counts() {
        let area = |from, to| Area { from, to, sealed: true, ..Area::default() };
        let ranges = [[0, 4], [6, 8], [8, 10]];
        assert_eq!(within(&[area(2, 9), area(10, 12)], &ranges), [area(2, 4), area(6, 8), area(8, 9)]);
        assert_eq!(within(&[area(4, 6)], &ranges), []);
    }

    #[test]
    fn policies_stand_with_the_addresses() {
        let found = policies("00400000 default file=/a\n7f00 bind:0 anon=1\n".as_bytes());
        let bind = MemoryPolicy { mode: 2, nodes: vec![0] };
        assert_eq!(found, [(0x40_0000, None), (0x7f00, Some(bind))]);
    }
}
