//! Properties that CRIU drops or changes without a word, and nobody puts back.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use hiber_criu::CgroupMode;
use hiber_sys::pidfd::DescriptorOwner;
use hiber_sys::socket::{option, set_option};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrAny, SocketAddrUnix, SocketType, sockopt};

use super::table::{
    CGROUP_PROGRAMS, DATAGRAMS, EMPTY, EVENTS, OVERRUN, SENDER, TCP_KEYS, THREAD_TIMER, THREADED, UNTOLD,
    URGENT,
};
use super::tasks::{self, Proc};
use super::{Accepted, Findings, apart, bound, sessions};
use crate::checkpoint::CheckpointOptions;
use crate::checkpoint::kept::Cgroups;
use crate::checkpoint::kept::signatures::{has_authentication, is_encrypted};
use crate::container::task::Task;
use crate::error::Result;

/// SOL_SOCKET and SO_PEEK_OFF (asm-generic/socket.h).
const PEEK_OFFSET: (i32, i32) = (1, 42);
/// No datagram of a unix socket is longer than its sender's buffer; longer ones are looked at in parts.
const PART: usize = 1 << 16;

/// Refuses what would be lost, unless that is accepted. Whether the container is `frozen` decides how closely is looked.
pub(crate) fn check_losses(task: &Task, frozen: bool, accepted: &mut Accepted) -> Result<()> {
    let mut findings = Findings::default();
    let (tasks, _) = tasks::split(task.tasks()?);
    check(&mut findings, &tasks, frozen);
    accepted.judge(&findings)
}

/// Refuses cgroups that nobody would make as they are, unless that is accepted.
pub(crate) fn check_cgroups(cgroups: &Cgroups, accepted: &mut Accepted) -> Result<()> {
    let mut findings = Findings::default();
    self::cgroups(&mut findings, cgroups);
    accepted.judge(&findings)
}

/// Looks at the cgroups that a checkpoint with these options saves.
pub(super) fn cgroups_of(findings: &mut Findings, task: &Task, options: &CheckpointOptions) -> Result<()> {
    if options.criu.cgroups_mode != Some(CgroupMode::Ignore) {
        let facts = task.facts()?;
        cgroups(findings, &Cgroups::of(facts.pid, &task.pids()?, &facts.cgroup, false)?);
    }
    Ok(())
}

fn cgroups(findings: &mut Findings, cgroups: &Cgroups) {
    if let Some(name) = &cgroups.threaded {
        findings.add(&THREADED, format!("the cgroup {name} has threads instead of processes"));
    }
    if let Some(name) = &cgroups.with_programs {
        findings.add(&CGROUP_PROGRAMS, format!("BPF programs are attached to the cgroup {name}"));
    }
}

/// Looks at all descriptors and timers of processes.
pub(super) fn check(findings: &mut Findings, tasks: &[Proc], frozen: bool) {
    let (mut seen, mut senders) = (HashSet::new(), Senders::default());
    for task in tasks.iter().filter(|task| !task.is_dead()) {
        timers(findings, task);
        descriptors(findings, task, frozen, &mut seen, &mut senders);
    }
    senders.tell(findings);
    apart::check(findings, tasks);
    sessions::check(findings, tasks);
}

/// A POSIX timer's line `signal: NUMBER/VALUE` and `ClockID: NUMBER` (proc_pid_timers(5)).
fn timers(findings: &mut Findings, task: &Proc) {
    let text = hiber_sys::file::read_to_string(task.path("timers")).unwrap_or_default();
    if text.is_empty() {
        return;
    }
    let pending = pending(task);
    for line in text.lines() {
        if let Some(clock) = line.strip_prefix("ClockID: ").and_then(|clock| clock.parse().ok())
            && task.threads > 1
            && is_own_thread(clock)
        {
            findings.of(task, &THREAD_TIMER, "a timer goes by the processor time of one of its threads");
        }
        let signal = line.strip_prefix("signal: ").and_then(|rest| rest.split('/').next()?.parse().ok());
        if let Some(signal @ 1..=64u32) = signal
            && pending & (1 << (signal - 1)) != 0
        {
            findings.of(
                task,
                &OVERRUN,
                format!("a timer has run out, and nobody has taken its signal {signal} yet"),
            );
        }
    }
}

/// Whether a clock is that of whichever thread asks: CLOCK_THREAD_CPUTIME_ID, or what the kernel calls it. The other bits of a
/// negative number are those of a thread's number, the third one says that it is one (linux/posix-timers.h).
fn is_own_thread(clock: i32) -> bool {
    const THREAD_CPUTIME_ID: i32 = 3;
    clock == THREAD_CPUTIME_ID || (clock >> 3 == -1 && clock & 4 != 0)
}

/// The signals that wait for a process or one of its threads.
fn pending(task: &Proc) -> u64 {
    let threads = std::fs::read_dir(task.path("task")).into_iter().flatten().flatten();
    let of = |status: PathBuf| {
        let text = hiber_sys::file::read_to_string(status).unwrap_or_default();
        let sets = text.lines().filter_map(|l| l.strip_prefix("SigPnd:").or(l.strip_prefix("ShdPnd:")));
        sets.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok()).fold(0, |all, set| all | set)
    };
    threads.map(|thread| of(thread.path().join("status"))).fold(0, |all, set| all | set)
}

fn descriptors<'a>(
    findings: &mut Findings,
    task: &'a Proc,
    frozen: bool,
    seen: &mut HashSet<PathBuf>,
    senders: &mut Senders<'a>,
) {
    let owner = DescriptorOwner::new(task.pid);
    for entry in std::fs::read_dir(task.path("fd")).into_iter().flatten().flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let text = target.to_str().unwrap_or_default();
        let events = matches!(text, "anon_inode:inotify" | "anon_inode:[fanotify]");
        // The others' names are not theirs alone.
        let is_pressure = bound::is_pressure(text);
        let is_new = events || is_pressure || text.starts_with("socket:[") && seen.insert(target.clone());
        if !is_new {
            continue;
        }
        let Ok(copy) = owner.copy(fd) else { continue };
        if is_pressure {
            bound::pressure(findings, task, fd, &copy);
        } else if !events {
            socket(findings, task, fd, &copy, frozen);
            senders.add(task, fd, copy.as_fd());
        } else if rustix::io::ioctl_fionread(&copy).is_ok_and(|bytes| bytes > 0) {
            findings.of(task, &EVENTS, format!("descriptor {fd} has events to tell that nobody has read"));
        }
        if text == "anon_inode:[fanotify]" {
            bound::fanotify(findings, task, fd);
        }
    }
}

fn socket(findings: &mut Findings, task: &Proc, fd: i32, copy: &OwnedFd, frozen: bool) {
    let (Ok(family), Ok(kind)) = (sockopt::socket_domain(copy), sockopt::socket_type(copy)) else { return };
    let is_stream = kind == SocketType::STREAM;
    let is_inet = matches!(family, AddressFamily::INET | AddressFamily::INET6);
    if is_inet && has_error(copy) {
        findings.of(task, &UNTOLD, format!("descriptor {fd} has an error to tell"));
    }
    if is_stream && has_urgent(copy) {
        findings.of(task, &URGENT, format!("descriptor {fd} has a byte out of band to be read"));
    }
    match family {
        AddressFamily::NETLINK => bound::netlink(findings, task, fd, copy.as_fd()),
        AddressFamily::INET | AddressFamily::INET6 | AddressFamily::PACKET
            if !is_stream && has_message(copy) =>
        {
            findings.of(task, &DATAGRAMS, format!("descriptor {fd} has messages that nobody has read"));
        }
        AddressFamily::INET | AddressFamily::INET6 if is_stream && is_encrypted(copy.as_fd()) => {
            findings.of(
                task,
                &TCP_KEYS,
                format!("descriptor {fd} is a connection that the kernel encrypts (kTLS)"),
            );
        }
        AddressFamily::INET | AddressFamily::INET6 if is_stream && has_authentication(copy.as_fd()) => {
            findings.of(task, &TCP_KEYS, format!("descriptor {fd} has keys of TCP-AO"));
        }
        AddressFamily::UNIX if !is_stream && has_message(copy) && has_empty(copy.as_fd(), frozen) => {
            findings.of(task, &EMPTY, format!("descriptor {fd} has a datagram without content to be read"));
        }
        _ => {}
    }
}

/// Whether there is a message, and not only the end of them.
fn has_message(socket: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(socket, PollFlags::IN | PollFlags::RDHUP)];
    let polled = rustix::event::poll(&mut ready, Some(&Timespec::default()));
    polled.is_ok() && ready[0].revents() & (PollFlags::IN | PollFlags::RDHUP) == PollFlags::IN
}

fn has_error(socket: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(socket, PollFlags::empty())];
    rustix::event::poll(&mut ready, Some(&Timespec::default())).is_ok()
        && ready[0].revents().contains(PollFlags::ERR)
}

/// Whether a stream has a byte of MSG_OOB that is not yet read. Only those that have anything are asked.
fn has_urgent(socket: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(socket, PollFlags::PRI)];
    let polled = rustix::event::poll(&mut ready, Some(&Timespec::default()));
    let flags = RecvFlags::OOB | RecvFlags::PEEK | RecvFlags::DONTWAIT;
    polled.is_ok_and(|ready| ready > 0)
        && rustix::net::recv(socket, &mut [0][..], flags).is_ok_and(|(bytes, _)| bytes > 0)
}

/// Datagrams of unix sockets that have names, and whether their senders are connected to the receivers: CRIU sends them again by
/// sockets that are.
#[derive(Default)]
struct Senders<'a> {
    /// The name of a connected socket, and that of its peer.
    connected: HashSet<Way>,
    /// A process's descriptor with a datagram, and the way that this came.
    queued: Vec<(&'a Proc, i32, Way)>,
}

/// The names of a sender and a receiver.
type Way = (Vec<u8>, Vec<u8>);

impl<'a> Senders<'a> {
    fn add(&mut self, task: &'a Proc, fd: i32, copy: BorrowedFd<'_>) {
        let is_unix = sockopt::socket_domain(copy) == Ok(AddressFamily::UNIX);
        if !is_unix || sockopt::socket_type(copy) != Ok(SocketType::DGRAM) {
            return;
        }
        let own = rustix::net::getsockname(copy).map(|address| name(&address)).unwrap_or_default();
        if let Ok(Some(peer)) = rustix::net::getpeername(copy) {
            self.connected.insert((own.clone(), name(&peer)));
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        if let Ok((_, _, Some(sender))) = rustix::net::recvfrom(copy, &mut [0][..], flags)
            && !name(&sender).is_empty()
        {
            self.queued.push((task, fd, (name(&sender), own)));
        }
    }

    fn tell(self, findings: &mut Findings) {
        for (task, fd, way) in self.queued.iter().filter(|(.., way)| !self.connected.contains(way)) {
            let name = String::from_utf8_lossy(&way.0).replace('\0', "@");
            let what =
                format!("descriptor {fd} has a datagram of {}, which is not connected", name.escape_debug());
            findings.of(task, &SENDER, what);
        }
    }
}

/// The name of a unix socket; an abstract one begins with a zero.
fn name(address: &SocketAddrAny) -> Vec<u8> {
    let Ok(unix) = SocketAddrUnix::try_from(address.clone()) else { return Vec::new() };
    match (unix.path_bytes(), unix.abstract_name()) {
        (Some(path), _) => path.to_vec(),
        (None, Some(name)) => [b"\0", name].concat(),
        (None, None) => Vec::new(),
    }
}

/// Whether one of the datagrams of a unix socket, which has some, is empty. Those behind the first one are seen only while nobody
/// else can look at them meanwhile, and a single time: to look at one that is empty has the kernel leave it out the next time.
fn has_empty(socket: BorrowedFd<'_>, frozen: bool) -> bool {
    if rustix::io::ioctl_fionread(socket).is_ok_and(|first| first == 0) {
        return true;
    }
    let (level, name) = PEEK_OFFSET;
    let mut before = [0; 4];
    if !frozen
        || option(socket, level, name, &mut before).is_err()
        || set_option(socket, level, name, &[0; 4]).is_err()
    {
        return false;
    }
    let mut part = vec![0; PART];
    let empty = loop {
        match rustix::net::recv(socket, &mut part[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => break true,
            Ok(_) => {}
            Err(_) => break false,
        }
    };
    let _ = set_option(socket, level, name, &before);
    empty
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn clocks_of_threads_are_told_from_others() {
        // those of the calling thread; of the process, of thread 7, of a process 7, and plain ones
        assert!([3, -2, -3, -4].into_iter().all(is_own_thread));
        assert!(![-6, (!7 << 3) | 6, (!7 << 3) | 2, 0, 1, 2, 9].into_iter().any(is_own_thread));
    }

    #[test]
    fn an_empty_datagram_is_found_first_or_behind_others() {
        let (near, far) = UnixDatagram::pair().unwrap();
        let far: OwnedFd = far.into();
        assert!(!has_message(&far));
        near.send(b"one").unwrap();
        assert!(has_message(&far) && !has_empty(far.as_fd(), true));
        near.send(b"").unwrap();
        near.send(b"three").unwrap();
        assert!(!has_empty(far.as_fd(), false), "nobody else's place is changed");
        assert!(has_empty(far.as_fd(), true));
        let mut bytes = [0; 8];
        assert_eq!(rustix::net::recv(&far, &mut bytes[..], RecvFlags::empty()).unwrap().0, 3);
        assert!(has_empty(far.as_fd(), false));
    }
}
