//! The process that brings a restored container's memory, and the one that watches over it.
//!
//! When a daemon is killed, the kernel would give the container's processes zeros for what is missing. So there are two
//! processes with one table of descriptors, which lasts until both have ended: whichever loses the other ends the container
//! before it ends itself, and until then who touches what is missing waits.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use hiber_criu::page_relay::{self, Fetcher};
use hiber_criu::{ImageDirectory, LazyFile, LazyRestore};
use hiber_memory::page_daemon::{
    self, Failure, OnDemand, PageDaemon, PageImage, PageServer, Pages, Place, Served, Touch,
};
use hiber_sandbox::cgroup::{Cgroup, OnDenied};
use hiber_sandbox::network;
use hiber_store::Opened;
use hiber_sys::channel::Channel;
use hiber_sys::clone::{Child, SingleThreaded, fork_sharing_descriptors};
use hiber_sys::userfault::Mapped;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, waitpid};

use super::arrival::{self, BringTask, Order, Word};
use super::link::Linked;
use super::on_demand::Attendant;
use super::record::{FollowingMemory, Record};
use super::stored::{self, StoredTask};
use super::working_set;
use crate::error::{Error, Result, chain};
use crate::state::entry::Entry;
use crate::state::lifecycle::Lifecycle;
use crate::state::migration::{self, Incoming};
use crate::state::store::Store;

/// The end of the process.
type OwnEnd = Channel<Word, Order>;

/// The descriptors that came with the task.
struct Job {
    task: Box<BringTask>,
    record: Record,
    entry: Option<Entry>,
}

/// Where memory is that is not in the images.
enum Peer {
    Fetched(TcpStream, arrival::Source),
    Linked(Option<Linked>),
}

impl Peer {
    fn of(source: arrival::Source, socket: OwnedFd) -> Self {
        match source {
            arrival::Source::Receiver => Self::Linked(Some(Linked::of(socket))),
            source => Self::Fetched(socket.into(), source),
        }
    }
}

/// How the worker tells that nothing is missing; by any other end it tells that something is.
const ALL_THERE: i32 = 0;
const FAILED: i32 = 1;
/// The restore has failed, for a reason of its own.
const RESTORE_FAILED: i32 = 2;

/// The process: its task comes first.
pub(crate) fn run(socket: OwnedFd) {
    let channel = OwnEnd::from(socket);
    let Ok(Some((Order::Bring(task), files))) = channel.recv() else { return };
    let mut files = files.into_iter();
    let (Some(record), Some(listener)) = (files.next(), files.next()) else { return };
    let peer = task.source.and_then(|source| Some(Peer::of(source, files.next()?)));
    let directories: Vec<File> = files.map(File::from).collect();
    let entry = task.id.parse().ok().and_then(|id| Store::new(&task.root).open(&id).ok());
    let record = Record::of(record, arrival::held(task.source));
    let job = Job { task, record, entry };
    let ended = divide().map(|divided| match divided {
        Divided::Watcher(worker) => job.watch(&worker),
        Divided::Worker(watcher) => job.work(watcher, channel, listener.into(), peer, &directories),
    });
    if let Err(e) = ended {
        job.fail(chain(&e));
    }
}

/// Taken by the thread that decides how this process ends, and never given back: once the container is being ended, the
/// worker's other thread must not take the end of its processes for memory that has arrived, and once all is there, nobody
/// ends the container any more.
static END: Mutex<()> = Mutex::new(());

/// Returns to one thread alone; all others wait for the end of the process.
fn decide_the_end() {
    std::mem::forget(END.lock().unwrap_or_else(PoisonError::into_inner));
}

enum Divided {
    /// The first process, with the other.
    Watcher(Child),
    /// The other one, with a pidfd of the first.
    Worker(OwnedFd),
}

fn divide() -> Result<Divided> {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(|e| Error::sys("pidfd_open", "this process", e))?;
    let proc = File::open("/proc").map_err(|e| Error::file("/proc".as_ref(), &e))?;
    let alone = SingleThreaded::check(proc.as_fd())?;
    // Nothing may be closed twice.
    drop(proc);
    Ok(match fork_sharing_descriptors(alone)? {
        Some(worker) => {
            // The table is one: the other's descriptor is not to be closed here.
            std::mem::forget(own);
            Divided::Watcher(worker)
        }
        None => Divided::Worker(own),
    })
}

fn ended(process: BorrowedFd<'_>) {
    let _ = retry_on_intr(|| poll(&mut [PollFd::from_borrowed_fd(process, PollFlags::IN)], None));
}

impl Job {
    /// Ends the container, and tells why.
    fn fail(&self, reason: String) {
        self.record.write(&FollowingMemory::Failed { reason: reason.clone() });
        self.end();
        self.note(match self.task.source {
            Some(arrival::Source::Receiver) => Lifecycle::MemoryLost { reason },
            _ => Lifecycle::MemoryFailed { reason },
        });
    }

    /// Ends what there is of the container.
    fn end(&self) {
        let Ok(cgroup) = Cgroup::open(self.task.cgroup.clone(), OnDenied::Skip) else { return };
        let undecided = |entry: &Entry| Incoming::of(entry).is_ok_and(|incoming| incoming.is_some());
        if self.entry.as_ref().is_some_and(undecided) {
            // It may go on where it came from, with its connections.
            network::hush(cgroup.pids().unwrap_or_default().into_iter().map(u32::cast_signed));
        }
        drop(cgroup.kill(Signal::KILL));
    }

    /// Nobody reads the images any more. A receiver that was killed has left them in memory.
    fn sweep(&self) {
        migration::sweep(&Store::new(&self.task.root));
    }

    /// Nobody has seen a container that still waits.
    fn note(&self, what: Lifecycle) {
        if let Some(entry) = self.entry.as_ref().filter(|_| !self.task.before) {
            entry.note(what);
        }
    }

    /// Until the worker has ended. Does not return.
    fn watch(&self, worker: &Child) {
        ended(worker.pidfd.as_fd());
        let pid = Pid::from_raw(worker.pid);
        let status = retry_on_intr(|| waitpid(pid, WaitOptions::empty()));
        let status = status.ok().flatten().map(|(_, status)| status);
        match status.and_then(WaitStatus::exit_status) {
            // It has said how it ended.
            Some(ALL_THERE | FAILED) => {}
            Some(RESTORE_FAILED) => self.end(),
            _ => {
                let signal = status.and_then(WaitStatus::terminating_signal);
                let how =
                    signal.map_or_else(|| "ended".into(), |signal| format!("was killed by signal {signal}"));
                self.fail(format!("the process that brought the container's memory {how}"));
            }
        }
        self.sweep();
        // The other may have closed what is open here as well, by the same number.
        std::process::exit(0);
    }

    /// Does not return.
    fn work(
        &self,
        watcher: OwnedFd,
        channel: OwnEnd,
        listener: UnixListener,
        mut peer: Option<Peer>,
        directories: &[File],
    ) {
        let restored = Arc::new(Restored::default());
        let (hears, channel) = (Arc::clone(&restored), Arc::new(channel));
        let (attendant, on_demand) = match self.attendant().map(Option::unzip) {
            Ok(both) => both,
            Err(e) => return self.fail(chain(&e)),
        };
        std::thread::scope(|scope| {
            let heard = Arc::clone(&channel);
            scope.spawn(move || {
                hears.listen(&heard);
                if let (Some(attendant), Some(entry)) = (attendant, &self.entry) {
                    attendant.attend(entry, || self.asked());
                }
            });
            scope.spawn(|| {
                ended(watcher.as_fd());
                decide_the_end();
                self.fail("the process that watched over the container's memory was killed".into());
                self.sweep();
                std::process::exit(FAILED);
            });
            let code =
                match self.bring((&channel, &restored), (listener, on_demand), peer.as_mut(), directories) {
                    Ok(true) => ALL_THERE,
                    Ok(false) => {
                        decide_the_end();
                        RESTORE_FAILED
                    }
                    Err(e) => {
                        decide_the_end();
                        self.fail(chain(&e));
                        FAILED
                    }
                };
            // Not before: the two must not run at the same time.
            if let Some(Peer::Fetched(peer, _)) = peer.as_ref().filter(|_| code != ALL_THERE) {
                page_relay::decline(peer);
            }
            std::process::exit(code)
        });
    }

    /// The ears of this process, if memory comes on demand.
    fn attendant(&self) -> Result<Option<(Attendant, OnDemand)>> {
        let entry = self.entry.as_ref().filter(|_| self.task.on_demand);
        entry.map(Attendant::new).transpose()
    }

    /// Somebody wants all memory that came on demand so far.
    fn asked(&self) {
        self.record.write(&FollowingMemory::Arriving);
        self.note(Lifecycle::MemoryArriving);
    }

    /// False if the restore has failed; true, and the end decided, if all memory is there.
    fn bring(
        &self,
        (channel, restored): (&OwnEnd, &Restored),
        (listener, on_demand): (UnixListener, Option<OnDemand>),
        peer: Option<&mut Peer>,
        directories: &[File],
    ) -> Result<bool> {
        let Some(images) = directories.first() else { return Err(Error::NotFound) };
        let open =
            |dir: &File| Ok(ImageDirectory::open(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())))?);
        let chain = directories.iter().map(open).collect::<Result<Vec<_>>>()?;
        let lazy = LazyRestore::of(&chain)?;
        if lazy.left_behind() > 0 && peer.is_none() {
            return Err(Error::Invalid("the checkpoint's memory was left with a page server".into()));
        }
        let first = working_set::read(images.as_fd());
        let known = !first.is_empty();
        let (fetcher, server) = serving(peer)?;
        let stored = self.task.stored.as_ref().map(StoredTask::open).transpose()?;
        let pages = pages(lazy, stored.as_ref().zip(chain.first()))?;
        let daemon = PageDaemon { listener, pages, server, first, on_demand };
        let Served { whole, touched, unneeded } = match daemon.run() {
            // CRIU, which is in the container's cgroup, may have more to say: its end is the runtime's to wait for.
            Err(Failure::Restore(_)) if self.task.before || !restored.is() => return Ok(false),
            served => served.map_err(|e| Error::host("bring the container's memory", e))?,
        };
        if self.task.before {
            decide_the_end();
            // A runtime that is gone needs no answer: the restore has failed.
            let _ = channel.send(&Word::AllThere, &[]);
            return Ok(true);
        }
        if !restored.is() {
            return Ok(false);
        }
        decide_the_end();
        if let Some(fetcher) = fetcher {
            let pages = |touch: Touch| {
                (number(touch.task), touch.start, (touch.end - touch.start) / page_daemon::PAGE)
            };
            if !fetcher.confirm(unneeded.into_iter().map(pages)) {
                self.note(Lifecycle::SourceUnconfirmed);
            }
        } else if !known && self.task.source.is_none() {
            // If somebody has deleted the images, or made them read-only, nobody needs it.
            let _ = working_set::write(images.as_fd(), &touched);
        }
        // Nobody misses what is not whole.
        self.record.write(&FollowingMemory::Arrived);
        if whole {
            self.note(Lifecycle::MemoryArrived);
        }
        Ok(true)
    }
}

/// Whether the container is whole but for its memory.
#[derive(Default)]
struct Restored(Mutex<Option<bool>>, Condvar);

impl Restored {
    /// If the runtime is gone before, the restore has failed, or nobody knows how it would have ended.
    fn listen(&self, channel: &OwnEnd) {
        let restored = matches!(channel.recv(), Ok(Some((Order::Restored, _))));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(restored);
        self.1.notify_all();
        if !restored {
            // By whatever it waits for: the watcher ends the rest.
            decide_the_end();
            std::process::exit(RESTORE_FAILED);
        }
    }

    fn is(&self) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.1.wait_while(known, |known| known.is_none());
        known.is_ok_and(|known| *known == Some(true))
    }
}

fn number(task: i32) -> u64 {
    u64::try_from(task).unwrap_or_default()
}

/// The pages, in files that are whole, or that a store fills.
fn pages(lazy: LazyRestore, stored: Option<(&Opened, &ImageDirectory)>) -> Result<Pages> {
    let map = |file: LazyFile| {
        let mapped = Mapped::new(file.file.as_fd(), file.length);
        let mapped = mapped.map_err(|e| Error::host("map the images", e))?;
        let filler = stored.map(|(from, images)| stored::filler(from, images, &file)).transpose()?;
        Ok(PageImage { mapped, filler })
    };
    let files = lazy.files.into_iter().map(map).collect::<Result<Vec<_>>>()?;
    let place = |run: hiber_criu::LazyRun| Place { start: run.start, end: run.end, file: run.place };
    let task = |(task, runs): (u32, Vec<hiber_criu::LazyRun>)| {
        Some((i32::try_from(task).ok()?, runs.into_iter().map(place).collect()))
    };
    let tasks: BTreeMap<_, _> = lazy.tasks.into_iter().filter_map(task).collect();
    Ok(Pages::new(files, tasks))
}

/// The page server at the other end, which hears more in the end where that is of a checkpoint.
#[expect(clippy::type_complexity, reason = "one of the two is the other")]
fn serving(peer: Option<&mut Peer>) -> Result<(Option<Arc<Fetcher>>, Option<Box<dyn PageServer>>)> {
    let (socket, source) = match peer {
        None => return Ok((None, None)),
        Some(Peer::Linked(linked)) => {
            return Ok((None, linked.take().map(|linked| Box::new(linked) as Box<dyn PageServer>)));
        }
        Some(Peer::Fetched(socket, source)) => (socket, source),
    };
    let socket = socket.try_clone().map_err(|e| Error::host("duplicate a socket", e))?;
    let relay = *source == arrival::Source::Relay;
    let fetcher = Arc::new(if relay { Fetcher::of_relay(socket) } else { Fetcher::of_page_server(socket) });
    Ok((Some(Arc::clone(&fetcher)), Some(Box::new(Source(fetcher)))))
}

/// Where the dump has left memory.
#[derive(Debug)]
struct Source(Arc<Fetcher>);

impl PageServer for Source {
    fn ask(&self, task: i32, address: u64, pages: u64, _waited: bool) -> std::io::Result<()> {
        self.0.ask(number(task), address, pages)
    }

    fn answer(&self) -> std::io::Result<page_daemon::Answer> {
        let page_relay::Fetched { task, address, bytes } = self.0.answer()?;
        Ok(page_daemon::Answer { task: i32::try_from(task).unwrap_or_default(), address, bytes })
    }

    fn close(&self) {
        self.0.close();
    }
}
