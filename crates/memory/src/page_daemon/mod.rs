//! Brings the memory of processes that CRIU restores lazily: when they touch it, and meanwhile all the rest.
//!
//! CRIU connects to `lazy-pages.socket` in its work directory and hands over a userfaultfd for each process. From then on one
//! thread hears what the kernel tells of them (pages that somebody waits for, forks, memory that moves or goes), and others
//! copy: first what was touched first after an earlier restore, then the rest in its order. Pages come from images that are
//! mapped, or from a [page server](PageServer). When nothing is missing any more, the descriptors are closed, and the kernel
//! gives the processes pages as it gives them to others. [`OnDemand`] leaves the rest where it is until somebody asks for it.
//!
//! The caller of a daemon must make sure that processes do not outlive a killed daemon: when the last descriptor is closed, what
//! is missing reads as zeros.

mod asked;
mod failure;
mod greeting;
mod missing;
mod pages;
mod server;
mod space;
mod work;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::PoisonError;

use hiber_sys::userfault::Mapped;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::retry_on_intr;

pub use failure::{Failure, Touch};
use greeting::{Greeting, Said};
pub use missing::PAGE;
pub use pages::{Filler, PageImage, Pages, Place};
pub use server::{Answer, PageServer};
use space::{Attended, Space};
use work::{Queue, Shared};

/// The name of the socket in the work directory by which CRIU finds the daemon.
pub const SOCKET: &str = "lazy-pages.socket";
/// How many first touches are recorded: with what is brought around each, a gibibyte at most.
const MAX_TOUCHES: usize = 16 << 10;

/// The task of a daemon.
#[derive(Debug)]
pub struct PageDaemon {
    /// Where CRIU connects.
    pub listener: UnixListener,
    /// The memory to bring.
    pub pages: Pages,
    /// The server for pages that are not here.
    pub server: Option<Box<dyn PageServer>>,
    /// The pages that were touched first after an earlier restore, in that order.
    pub first: Vec<Touch>,
    /// Bring pages that nobody touches only when somebody asks for them.
    pub on_demand: Option<OnDemand>,
}

/// The two ways in which a daemon ends that brings only what is touched.
#[derive(Debug)]
pub struct OnDemand {
    /// An eventfd(2) that says that all of what is missing is wanted.
    pub asked: OwnedFd,
    /// An eventfd(2) that says that the processes are about to end, or have.
    pub ended: OwnedFd,
}

/// The report of a daemon that has brought everything, or all that was wanted.
#[derive(Debug)]
pub struct Served {
    /// Whether everything is there; false of processes that have ended before.
    pub whole: bool,
    /// The pages that were touched first, in that order.
    pub touched: Vec<Touch>,
    /// The pages that the page server was not asked for, because their process has unmapped them or has ended.
    pub unneeded: Vec<Touch>,
}

impl PageDaemon {
    /// Serves one restore until nothing is missing, or on demand until its processes have ended.
    ///
    /// # Errors
    /// The reason why memory does not arrive. The processes must then be ended before this one ends.
    pub fn run(self) -> Result<Served, Failure> {
        let Self { listener, pages, server, first, on_demand } = self;
        let (criu, _) = listener.accept().map_err(Failure::Restore)?;
        drop(listener);
        let told = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Failure::Host("eventfd", e.into()))?;
        let prefers = server.as_ref().is_some_and(|server| server.prefers());
        let queue = Queue::new(first, pages.elsewhere(), prefers, on_demand.is_none());
        let (spaces, verdict) = Default::default();
        let shared = Shared { pages, server, spaces, queue, told, verdict };
        let touched = std::thread::scope(|scope| {
            let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
            let workers = if on_demand.is_some() { 1 } else { workers };
            (0..workers).for_each(|_| drop(scope.spawn(|| shared.work())));
            if let Some(server) = &shared.server {
                scope.spawn(|| shared.receive(&**server));
                scope.spawn(|| shared.ask(&**server));
            }
            // However it ends.
            let _closing = Closing(&shared);
            shared.listen(criu, on_demand)
        });
        match touched {
            Ok((touched, whole)) => Ok(Served { whole, touched, unneeded: shared.queue.left() }),
            Err(failure) => {
                // The descriptors stay open until this process ends, so that who waits for memory waits on.
                std::mem::forget(shared);
                Err(failure)
            }
        }
    }
}

/// Lets the other threads go when the one that listens is done.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.queue.close();
        if let Some(server) = self.0.server.as_ref().filter(|_| !self.0.is_all_there()) {
            server.close();
        }
    }
}

/// How long processes that are about to end may take, before somebody looks again.
const ENDING: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Somebody who is listened to beside the processes.
enum Ear {
    Criu(Greeting),
    /// [`OnDemand::asked`]
    Asked(OwnedFd),
    /// [`OnDemand::ended`]
    Ended(OwnedFd),
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Criu(criu) => criu.stream().as_fd(),
            Self::Asked(fd) | Self::Ended(fd) => fd.as_fd(),
        }
    }
}

/// The word of somebody beside the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// There may be more of it.
    More,
    /// It was the last one.
    Last,
    /// The processes are about to end.
    Ending,
}

impl Shared {
    /// Hears CRIU and the kernel, and brings what somebody waits for. The result is what was touched first, and whether all is there.
    fn listen(&self, criu: UnixStream, on_demand: Option<OnDemand>) -> Result<(Vec<Touch>, bool), Failure> {
        let unreadable = Mapped::unreadable().map_err(|e| Failure::Host("mmap", e))?;
        let mut ears = vec![Ear::Criu(Greeting::new(criu))];
        ears.extend(on_demand.into_iter().flat_map(|both| [Ear::Asked(both.asked), Ear::Ended(both.ended)]));
        let (mut touches, mut ending) = (Vec::new(), false);
        loop {
            let spaces: Vec<_> = self.spaces().into_iter().filter(|space| !space.is_gone()).collect();
            if ending && spaces.is_empty() {
                return Ok((touches, false));
            }
            let mut all = vec![PollFd::new(&self.told, PollFlags::IN)];
            all.extend(ears.iter().map(|ear| PollFd::new(ear, PollFlags::IN)));
            all.extend(spaces.iter().map(|space| PollFd::from_borrowed_fd(space.fd(), PollFlags::IN)));
            let limit = ending.then_some(&ENDING);
            retry_on_intr(|| poll(&mut all, limit)).map_err(|e| Failure::Host("poll", e.into()))?;
            let mut ready = all.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
            if ready.next() == Some(true)
                && let Some(verdict) = self.verdict.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                return verdict.map(|()| (touches, true));
            }
            let spoke: Vec<bool> = ready.by_ref().take(ears.len()).collect();
            for space in spaces.iter().zip(ready).filter_map(|(space, ready)| ready.then_some(space)) {
                let Attended { forked, touched, wanted } =
                    space.attend(&self.pages, |child| self.add(child))?;
                if forked {
                    self.forget_ended(&unreadable);
                }
                wanted.into_iter().for_each(|(start, end)| self.queue.hurry(space.task, start, end));
                touches.extend(touched.into_iter().take(MAX_TOUCHES - touches.len().min(MAX_TOUCHES)));
            }
            for number in (0..ears.len()).rev().filter(|number| spoke[*number]) {
                let heard = self.heed(&ears[number])?;
                ending |= heard == Heard::Ending;
                if heard != Heard::More {
                    ears.remove(number);
                }
            }
            if ending {
                self.forget_ended(&unreadable);
            }
        }
    }

    fn heed(&self, ear: &Ear) -> Result<Heard, Failure> {
        match ear {
            Ear::Criu(criu) => match criu.hear()? {
                Said::Task(task, fd) => self.add(Space::new(task, fd, self.pages.of(task))),
                Said::Nothing => {}
                Said::Finished => {
                    self.queue.open();
                    return Ok(Heard::Last);
                }
            },
            Ear::Asked(_) => {
                self.queue.want_rest();
                return Ok(Heard::Last);
            }
            Ear::Ended(_) => return Ok(Heard::Ending),
        }
        Ok(Heard::More)
    }
}
