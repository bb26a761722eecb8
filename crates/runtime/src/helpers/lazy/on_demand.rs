//! Memory that stays in the images until it is touched, or somebody asks for all of it: by a connection to `ROOT/ID/memory.sock`.

use std::os::fd::{AsFd, OwnedFd};

use hiber_memory::page_daemon::OnDemand;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Result};
use crate::state::entry::Entry;

const SOCKET: &str = "memory.sock";

/// The ears of a process that brings memory on demand.
#[derive(Debug)]
pub(super) struct Attendant {
    socket: OwnedFd,
    asked: OwnedFd,
    ended: OwnedFd,
}

/// Asks for all memory of a container; one whose memory is not brought on demand has nobody to ask.
pub(crate) fn ask(entry: &Entry) -> Result<()> {
    entry.connect(SOCKET).map(drop)
}

impl Attendant {
    /// Listens, for a daemon that hears of it by the second result.
    pub(super) fn new(entry: &Entry) -> Result<(Self, OnDemand)> {
        let new = || eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| Error::sys("eventfd", "0", e));
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| Error::host("duplicate an eventfd", e));
        let attendant = Self { socket: entry.listen_on(SOCKET)?, asked: new()?, ended: new()? };
        let daemon = OnDemand { asked: copy(&attendant.asked)?, ended: copy(&attendant.ended)? };
        Ok((attendant, daemon))
    }

    /// Tells the daemon when somebody asks, which `asked` hears, too, and when the container's first process has ended. Returns then.
    pub(super) fn attend(self, entry: &Entry, asked: impl FnOnce()) {
        let pid = entry.facts().ok().flatten().and_then(|facts| Pid::from_raw(facts.pid));
        let first = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let mut asked = Some(asked);
        while let Some(first) = &first {
            let mut both = vec![PollFd::new(first, PollFlags::IN)];
            both.extend(asked.as_ref().map(|_| PollFd::new(&self.socket, PollFlags::IN)));
            if retry_on_intr(|| poll(&mut both, None)).is_err() || !both[0].revents().is_empty() {
                break;
            }
            if let Some(asked) = asked.take() {
                asked();
                tell(self.asked.as_fd());
            }
        }
        tell(self.ended.as_fd());
    }
}

fn tell(eventfd: std::os::fd::BorrowedFd<'_>) {
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}
