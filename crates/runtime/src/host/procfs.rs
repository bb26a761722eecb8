//! The little that is read from /proc/PID.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::procfs;
use rustix::process::{Pid, PidfdFlags};

/// A process in /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// When it started, in clock ticks since boot.
    pub(crate) start_time: u64,
    /// Whether it has ended and waits to be reaped.
    pub(crate) dead: bool,
    /// The status (waitpid(2)) of a process that has ended; none if the caller may not know it.
    pub(crate) exit_status: Option<i32>,
}

/// None if there is no such process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    procfs::stat(pid, known)?
}

/// The process's parent; none for one that has none here.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    procfs::stat(pid, |stat| stat.field(4))?.filter(|parent| *parent > 0)
}

/// The descendants of `ancestor` that are in its process group, as pidfds.
pub(crate) fn below_in_group(ancestor: i32) -> Vec<OwnedFd> {
    let group = |pid| procfs::stat(pid, |stat| stat.field::<i32>(5)).flatten();
    let wanted = group(ancestor);
    let is_below =
        |pid: i32| std::iter::successors(parent(pid), |pid| parent(*pid)).any(|pid| pid == ancestor);
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let fd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        (group(pid) == wanted && is_below(pid)).then_some(fd)
    })
    .collect()
}

/// Its arguments, as a shell would be given them without quotes; empty if it is gone.
pub(crate) fn command_line(pid: i32) -> String {
    procfs::read(pid, "cmdline").unwrap_or_default().replace('\0', " ").trim_end().to_owned()
}

/// The name and resource use of a process.
pub(crate) struct Usage {
    pub(crate) command: String,
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
    /// In clock ticks.
    pub(crate) user_ticks: u64,
    /// In clock ticks.
    pub(crate) kernel_ticks: u64,
    pub(crate) resident_pages: u64,
    /// Of those: of files and of shared memory.
    pub(crate) shared_pages: u64,
    /// Data and stack.
    pub(crate) data_pages: u64,
}

/// From stat and statm (proc_pid_statm(5)); none if there is no such process.
pub(crate) fn usage(pid: i32) -> Option<Usage> {
    let statm = procfs::read(pid, "statm")?;
    let pages: Vec<u64> = statm.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    procfs::stat(pid, |stat| {
        Some(Usage {
            command: stat.command.to_owned(),
            user_ticks: stat.field(14)?,
            kernel_ticks: stat.field(15)?,
            start_time: stat.field(22)?,
            resident_pages: *pages.get(1)?,
            shared_pages: *pages.get(2)?,
            data_pages: *pages.get(5)?,
        })
    })?
}

fn known(stat: procfs::Stat<'_>) -> Option<Stat> {
    let (dead, start_time) = (stat.dead(), stat.field(22)?);
    // 0 is also what those see who may not trace it.
    let told = |status: &i32| *status != 0 || rustix::process::geteuid().is_root();
    let exit_status = if dead { stat.field(52).filter(told) } else { None };
    Some(Stat { start_time, dead, exit_status })
}

/// The process's start time in clock ticks since boot, if it is alive: neither gone nor a zombie.
pub(crate) fn alive_since(pid: i32) -> Option<u64> {
    stat(pid).filter(|stat| !stat.dead).map(|stat| stat.start_time)
}

/// All processes in the pid namespace of process `pid` that can be seen from here; `pid` alone if that cannot be read.
pub(crate) fn in_pid_namespace_of(pid: i32) -> Vec<i32> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let (Some(wanted), Ok(entries)) = (namespace(pid), std::fs::read_dir("/proc")) else { return vec![pid] };
    let all = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    all.filter(|pid| namespace(*pid).as_ref() == Some(&wanted)).collect()
}

/// The kinds of namespaces in which process `pid` is elsewhere than this program's first thread.
pub(crate) fn other_namespaces(pid: i32) -> impl Iterator<Item = NamespaceKind> {
    let namespace = |process: &str, kind: NamespaceKind| {
        std::fs::read_link(format!("/proc/{process}/ns/{}", kind.proc_name())).ok()
    };
    let theirs = pid.to_string();
    NamespaceKind::ALL.into_iter().filter(move |kind| {
        let (own, other) = (namespace("self", *kind), namespace(&theirs, *kind));
        own.is_some() && other.is_some() && own != other
    })
}

/// Targets of three descriptors of a process; `/dev/null` for one that is closed.
pub(crate) fn streams(process: impl std::fmt::Display, fds: [i32; 3]) -> Vec<String> {
    fds.iter()
        .map(|fd| {
            let target = std::fs::read_link(format!("/proc/{process}/fd/{fd}"));
            target.unwrap_or_else(|_| PathBuf::from("/dev/null")).to_string_lossy().into_owned()
        })
        .collect()
}

/// A process or thread by its two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    /// In the runtime's pid namespace.
    pub(crate) outer: i32,
    /// In the container's.
    pub(crate) inner: i32,
}

/// A process of a container, and its threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) process: Number,
    /// The first one, whose numbers are the process's, among them.
    pub(crate) threads: Vec<Number>,
}

impl Numbered {
    /// The processes `pids` of the container whose first process is `first`, without those that have ended.
    pub(crate) fn all(first: i32, pids: &[i32]) -> Vec<Self> {
        let depth = numbers(&format!("{first}")).map_or(0, |all| all.len().saturating_sub(1));
        pids.iter().filter_map(|pid| Self::read(*pid, depth)).collect()
    }

    /// `depth` is how many pid namespaces the container's is below the runtime's.
    fn read(pid: i32, depth: usize) -> Option<Self> {
        stat(pid).filter(|stat| !stat.dead)?;
        let entries = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let tids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let number = |tid: i32| {
            let inner = numbers(&format!("{pid}/task/{tid}"))?.get(depth).copied()?;
            Some(Number { outer: tid, inner })
        };
        let threads: Vec<_> = tids.filter_map(number).collect();
        let process = threads.iter().copied().find(|thread| thread.outer == pid)?;
        Some(Self { process, threads })
    }
}

/// A process's or thread's numbers, in the runtime's pid namespace first (`NSpid` of proc_pid_status(5)).
pub(crate) fn numbers(of: &str) -> Option<Vec<i32>> {
    let status = procfs::read(of, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(line.split_whitespace().filter_map(|number| number.parse().ok()).collect())
}

/// How many bytes of memory a process has that no file has, in RAM or swapped out (proc_pid_status(5)).
pub(crate) fn own_memory(pid: i32) -> Option<u64> {
    let status = hiber_sys::file::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("RssAnon:")? + kib("VmSwap:")?) << 10)
}

/// The inode numbers of files that a process has mapped so that its writes reach them (proc_pid_maps(5)).
pub(crate) fn mapped_to_write(pid: i32) -> Vec<u64> {
    let maps = procfs::read(pid, "maps").unwrap_or_default();
    let inode = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().filter(|may| may.as_bytes().get(1) == Some(&b'w') && may.ends_with('s'))?;
        fields.nth(2)?.parse().ok().filter(|inode| *inode != 0)
    };
    maps.lines().filter_map(inode).collect()
}

fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Whether a process executes the program that this one does, or none any more because it ends.
pub(crate) fn is_own_program(pid: i32) -> bool {
    let program =
        |of: &str| rustix::fs::stat(format!("/proc/{of}/exe")).map(|stat| (stat.st_dev, stat.st_ino));
    match program(&pid.to_string()) {
        // Others may live on without their first thread.
        Err(e) => e == rustix::io::Errno::NOENT && threads(pid) == 1,
        found => found == program("self"),
    }
}

/// How many bytes of memory can be had without swapping (proc_meminfo(5), MemAvailable).
pub(crate) fn available_memory() -> Option<u64> {
    let text = hiber_sys::file::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = std::process::id() as i32;
        let stat = stat(me).unwrap();
        assert!(!stat.dead && stat.exit_status.is_none());
        assert_eq!(alive_since(me), Some(stat.start_time));
        assert_eq!(alive_since(0), None);
    }

    #[test]
    fn a_child_is_where_its_parent_is_but_for_what_it_left() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(other_namespaces(child.id() as i32).count(), 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(other_namespaces(child.id() as i32).count(), 0, "of one that is gone nothing is known");
    }

    #[test]
    fn a_zombie_is_dead_and_tells_how_it_ended() {
        let mut child = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let pid = child.id() as i32;
        for _ in 0..1000 {
            if alive_since(pid).is_none() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(alive_since(pid), None);
        assert_eq!(stat(pid).unwrap().exit_status, Some(3 << 8));
        child.wait().unwrap();
        assert_eq!(stat(pid), None);
    }

    #[test]
    fn commands_may_hold_anything() {
        let fields = (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let parse = |line: &str| procfs::Stat::parse(line).and_then(known);
        let parsed = parse(&format!("7 (a) Z 1 (b c) S {fields}\n")).unwrap();
        assert_eq!(parsed, Stat { start_time: 22, dead: false, exit_status: None });
        let dead = parse(&format!("7 (sh) Z {fields}")).unwrap();
        assert_eq!((dead.dead, dead.exit_status), (true, Some(52)));
        assert_eq!(parse("7 (sh) Z 1 2"), None);
    }
}
