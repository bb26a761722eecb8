//! What a running container uses, and when it runs out of memory.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hiber_sandbox::cgroup::{Cgroup, OomWatch, Usage};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::process::Process;
use crate::task::Task;

/// Something to tell of a container.
#[derive(Debug)]
pub enum Event {
    /// Its use of resources, due once each interval.
    Stats(Box<Usage>),
    /// Memory ran out, and the kernel killed a process or holds it.
    Oom,
}

/// The events of a container, until it has stopped.
#[derive(Debug)]
pub struct Events {
    cgroup: Cgroup,
    init: Arc<Process>,
    oom: Option<OomWatch>,
    /// OOM events that came in and were not yet handed out.
    pending: u64,
    interval: Duration,
    next: Instant,
    over: bool,
}

impl Task {
    /// Its events: OOM at once, usage every `interval`, for the first time after one.
    pub fn events(&self, interval: Duration) -> Result<Events> {
        self.check_alive()?;
        let cgroup = self.cgroup().clone();
        let oom = cgroup.watch_oom()?;
        let init = Arc::clone(self.init().ok_or(Error::NotRunning)?);
        Ok(Events { cgroup, init, oom, pending: 0, interval, next: Instant::now() + interval, over: false })
    }
}

impl Events {
    /// Waits for the next event; None when the container has stopped.
    pub fn wait(&mut self) -> Result<Option<Event>> {
        loop {
            if self.pending > 0 {
                self.pending -= 1;
                return Ok(Some(Event::Oom));
            }
            if self.over {
                return Ok(None);
            }
            let left = self.next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.next += self.interval;
                return Ok(Some(Event::Stats(Box::new(self.cgroup.usage()?))));
            }
            self.poll(left)?;
        }
    }

    fn poll(&mut self, left: Duration) -> Result<()> {
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = vec![PollFd::from_borrowed_fd(self.init.pidfd(), PollFlags::IN)];
        fds.extend(self.oom.as_ref().map(|oom| PollFd::from_borrowed_fd(oom.as_fd(), PollFlags::IN)));
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::sys("poll", "for events of the container", e)),
        }
        let over = !fds[0].revents().is_empty();
        // Also when it is over: it may be what ended it.
        if let Some(oom) = &mut self.oom {
            self.pending += oom.take()?;
        }
        self.over = over;
        Ok(())
    }
}
