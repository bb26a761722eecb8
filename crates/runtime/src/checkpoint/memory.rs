//! Where a dump's memory goes, if not into files.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hiber_criu::own_tracking::prepare_parent;
use hiber_criu::page_protocol::Memory as OfMemory;
use hiber_criu::{Common, ImageDirectory, Launch, PageServer, Session};
use hiber_memory::copy::{Copies, Limits, Process};
use hiber_memory::images::{
    Away, Behind, Finisher, Image, Pages, Place, REST, Ranges, Receiver, Source, Unwritten, Work,
};
use hiber_memory::track::{Means, Tracked, clear_dirty_bits};

use super::criu_options::config_file;
use super::frozen::Frozen;
use super::options::{CheckpointOptions, Leaves, PreCopy, PreCopyMode};
use super::rules::check_peers;
use crate::checkpoint::preflight::check_pipe_size;
use crate::container::task::Task;
use crate::error::{Error, Result};
use crate::helpers::guard::Guard;
use crate::helpers::lazy::{self, Token, departure::Departure};
use crate::host::procfs::{self, Number, Numbered};
use crate::state::entry::Entry;

/// From so many bytes on it pays to take memory from CRIU, and not to wait for its restore.
pub(crate) const LARGE: u64 = 32 << 20;
/// The file in the container's state that says that CRIU has begun to track its memory.
const CHAIN: &str = "pre-dumped";
/// The error if memory cannot be received.
const WRITE: &str = "write the container's memory";

/// The checkpoint's part in moving memory.
pub(super) enum Memory {
    /// Nothing: CRIU writes files, or its own configuration says more of it than we know.
    Foreign,
    /// CRIU sends it to us, and we write the files.
    Received(Box<Received>),
    /// The connection to a page server.
    Sent(PageServer),
    /// It is served, to who has the token.
    Served(Departure, Token),
}

/// The receiver of CRIU's pages, which has the copied pages already.
pub(super) struct Received {
    receiver: Receiver,
    server: PageServer,
    place: Place,
    /// CRIU leaves the memory to us.
    tracked: bool,
    /// About how many bytes are left for the time in which the container stands still.
    rest: u64,
    /// Whether the pages that CRIU leaves to us are read by who writes the checkpoint.
    leave: bool,
    /// Whether pages that may follow stay in the processes.
    behind: bool,
    /// The processes with the bytes that each has of its own.
    processes: Vec<(Process, u64)>,
    /// Until it is known which of them are what the memory is.
    copies: Option<Copies>,
    /// Memory that is still tracked, though nobody asks any more.
    tracking: Vec<Tracked>,
}

impl Memory {
    /// The memory that needs no connection to CRIU; `None` if this takes one.
    pub(super) fn unconnected(task: &Task, options: &CheckpointOptions) -> Result<Option<Self>> {
        let spec = &*task.container().spec()?;
        check_peers(options, spec)?;
        let unconnected = config_file(spec).is_some()
            || options.dump.page_server.is_none() && !is_received(options, &own_memory(task)?);
        Ok(unconnected.then_some(Self::Foreign))
    }

    /// Memory that is fetched later is served by us, and a page server is reached by us, unless a configuration of CRIU's
    /// own may say otherwise, for instance by encryption.
    pub(super) fn connect(
        task: &Task,
        options: &CheckpointOptions,
        launch: &mut Launch<'_>,
        guard: &Guard,
        to: (&ImageDirectory, Work, Option<&Arc<Mutex<dyn Away>>>),
    ) -> Result<Self> {
        let Some(address) = &options.dump.page_server else {
            return Self::receive(task, launch, to);
        };
        if !options.criu.lazy_pages {
            let stream = lazy::connect(address)
                .and_then(|stream| lazy::bound(&stream).map(|()| stream))
                .map_err(|e| Error::host(format!("--page-server {address}: Can't connect to server"), e))?;
            let connection = Some(launch.pass(stream)?);
            let (address, port) = (Some(address.host.clone()), address.port);
            return Ok(Self::Sent(PageServer { address, port, connection }));
        }
        check_pipe_size()?;
        let (token, dir) = (Token::new()?, task.container().entry().path());
        let departure = Departure::start(address, (&token, options.any_peer), launch, &guard.share()?, dir)?;
        Ok(Self::Served(departure, token))
    }

    /// Memory that is large is taken by us: its tasks are frozen for a third of the time that CRIU needs to write files.
    fn receive(
        task: &Task,
        launch: &mut Launch<'_>,
        (dir, work, away): (&ImageDirectory, Work, Option<&Arc<Mutex<dyn Away>>>),
    ) -> Result<Self> {
        let processes = own_memory(task)?;
        let place = match away {
            Some(away) => Place::Away(Arc::clone(away)),
            None => Place::Here(dir.clone(), Finisher::start(work)),
        };
        let (receiver, theirs) =
            Receiver::start(dir.clone(), place.clone()).map_err(|e| Error::host(WRITE, e))?;
        let connection = Some(launch.pass(theirs)?);
        let server = PageServer { address: None, port: 0, connection };
        Ok(Self::Received(Box::new(Received {
            receiver,
            server,
            place,
            tracked: false,
            rest: processes.iter().map(|(_, bytes)| bytes).sum(),
            leave: false,
            behind: false,
            processes,
            copies: None,
            tracking: Vec::new(),
        })))
    }

    /// Before the container is frozen by us, if it is: its memory is copied in rounds, or room for it is found. A stopped
    /// container does not change anyway; and if CRIU stops it, nobody could tell which pages were written last.
    pub(super) fn copy_ahead(
        &mut self,
        task: &Task,
        options: &CheckpointOptions,
        freezes: bool,
    ) -> Result<()> {
        let how = &options.pre_copy;
        match self {
            Self::Received(received) if how.leaves == Leaves::Always => {
                received.behind = true;
                Ok(())
            }
            Self::Received(received) if freezes && how.mode != PreCopyMode::Off => received.copy(task, how),
            // Nothing is to be written.
            Self::Received(received) if received.tracked && received.leave => Ok(()),
            Self::Received(received) => received.reserve(),
            _ => Ok(()),
        }
    }

    /// Whether CRIU may leave the memory to us, if it can: nobody else counts on the soft-dirty bits.
    pub(super) fn may_be_tracked(&self, task: &Task) -> bool {
        matches!(self, Self::Received(_)) && !task.container().entry().path().join(CHAIN).exists()
    }

    /// Asks CRIU, which was told so where that was necessary, and prepares the images for that. The container will stand still.
    pub(super) fn track(&mut self, session: &mut Session, images: &ImageDirectory) -> Result<()> {
        let Self::Received(received) = self else { return Ok(()) };
        received.tracked = session.features()?.mem_track;
        if received.tracked {
            prepare_parent(images)?;
        }
        Ok(())
    }

    /// Whether CRIU leaves the memory to us.
    pub(super) fn is_tracked(&self) -> bool {
        matches!(self, Self::Received(received) if received.tracked)
    }

    /// The container stands still: what was not written since it was copied is known from now on, and the rest is read when CRIU
    /// has said what there is.
    pub(super) fn still(&mut self, task: &Task) -> Result<()> {
        let Self::Received(received) = self else { return Ok(()) };
        if !received.behind {
            received.place.begins(REST, received.rest);
        }
        let (sources, tracking) = received.copies.take().map(Copies::into_sources).unwrap_or_default();
        received.tracking = tracking;
        if received.tracked && received.leave {
            received.receiver.leave();
        }
        sources.into_iter().for_each(|(memory, source)| received.receiver.know(memory, source));
        for process in processes(task)? {
            let memory = OfMemory::Task(process.number);
            if received.tracked {
                // CRIU sends what is dirty all the same.
                let _ = clear_dirty_bits(process.pid);
                received.receiver.read(memory, process.pid);
            }
            if received.behind {
                received.receiver.leave_behind(memory, process.pid);
            }
        }
        Ok(())
    }

    /// The container runs again, or has ended: tracking ends.
    pub(super) fn let_go(&mut self) {
        if let Self::Received(received) = self {
            received.tracking.clear();
        }
    }

    /// Whether CRIU writes the files of pages.
    pub(super) fn is_written_by_criu(&self) -> bool {
        matches!(self, Self::Foreign)
    }

    /// Completes the images, when CRIU has sent all. Tells of those that are ours.
    pub(super) fn finish(&mut self) -> Result<Vec<Image>> {
        let Self::Received(received) = self else { return Ok(Vec::new()) };
        received.receiver.finish().map_err(|e| Error::host(WRITE, e))
    }

    /// Where it can, memory stays where it is until the checkpoint is given away, while the container stands still.
    pub(super) fn leave(&mut self, leave: bool) {
        if let Self::Received(received) = self {
            received.leave = leave;
        }
    }

    /// The files of pages that are not written, after all else is finished.
    pub(super) fn unwritten(&mut self) -> Vec<Unwritten> {
        if let Self::Received(received) = self { received.receiver.unwritten() } else { Vec::new() }
    }

    /// The pages that stay in the container's processes, after all else is finished.
    pub(super) fn behind(&mut self) -> Vec<Behind> {
        if let Self::Received(received) = self { received.receiver.behind() } else { Vec::new() }
    }

    /// Why a dump has failed, if that is our doing and not CRIU's.
    pub(super) fn failure(&mut self) -> Option<Error> {
        let Self::Received(received) = self else { return None };
        received.receiver.finish().err().filter(|e| !e.is_end_of_criu()).map(|e| Error::host(WRITE, e))
    }

    /// The options for CRIU.
    pub(super) fn describe(&self, common: &mut Common) {
        match self {
            Self::Foreign => {}
            Self::Sent(server) => common.page_server = Some(server.clone()),
            Self::Received(received) => common.page_server = Some(received.server.clone()),
            Self::Served(departure, _) => {
                common.page_server = None;
                common.config_file = Some(departure.config().to_owned());
            }
        }
    }

    pub(super) fn token(&self) -> Option<&Token> {
        if let Self::Served(_, token) = self { Some(token) } else { None }
    }

    pub(super) fn departure(&mut self) -> Option<&mut Departure> {
        if let Self::Served(departure, _) = self { Some(departure) } else { None }
    }
}

impl Received {
    /// Nothing is copied beforehand.
    fn reserve(&self) -> Result<()> {
        for (process, bytes) in self.processes.iter().filter(|(_, bytes)| *bytes > 0) {
            let name = format!("memory-of-{}", process.pid);
            let memory = OfMemory::Task(process.number);
            let pages = Pages::create(&self.place, &name, memory).map_err(|e| Error::host(WRITE, e))?;
            pages.reserve(*bytes);
            self.receiver.know(memory, Source { pages, clean: Ranges::default() });
        }
        Ok(())
    }

    fn copy(&mut self, task: &Task, how: &PreCopy) -> Result<()> {
        let limits = Limits { frozen: how.max_frozen, rounds: how.max_rounds };
        let mut copies = Copies::new(self.place.clone(), means(task.container().entry()));
        let processes = || processes(task).unwrap_or_default();
        let copied = copies.run(&limits, processes, || Frozen::take(task.cgroup()).map_err(CopyError::Stop));
        let copied = copied.map_err(|e| match e {
            CopyError::Stop(e) => e,
            CopyError::Write(e) => Error::host(WRITE, e),
        })?;
        if let (PreCopyMode::On, Some((_, why))) = (how.mode, copied.untracked.first()) {
            return Err(Error::host("--pre-copy on", why.as_str()));
        }
        for (_, why) in &copied.untracked {
            tracing::debug!("memory is copied while the container is frozen: {why}");
        }
        let (rounds, bytes, left) = (copied.rounds, copied.bytes, copied.left);
        let untracked = |pid: i32| copied.untracked.iter().any(|(other, _)| *other == pid);
        let whole =
            self.processes.iter().filter(|(process, _)| untracked(process.pid)).map(|(_, bytes)| bytes);
        self.rest = left + whole.sum::<u64>();
        let rest = Duration::from_secs_f64(copied.each * self.rest as f64);
        let missed = how.at_most.filter(|at_most| rest > *at_most);
        self.behind = missed.is_some() && how.leaves == Leaves::OnMiss;
        if let Some(at_most) = missed.filter(|_| !self.behind) {
            let (mib, rest, at_most) = (left >> 20, rest.as_millis(), at_most.as_millis());
            let why = format!(
                "after {rounds} rounds {mib} MiB are left, for which the container would stand still for about {rest} ms; at \
                 most {at_most} ms are allowed (--max-downtime; --on-miss force stops it nevertheless, --on-miss post-copy sends \
                 them when it runs there)"
            );
            return Err(Error::host("the container writes memory faster than it can be copied", why));
        }
        tracing::debug!("{bytes} bytes of memory were copied in {rounds} rounds, {left} bytes are left");
        self.copies = Some(copies);
        Ok(())
    }
}

/// Why copying fails.
enum CopyError {
    /// The container cannot be stopped for a moment.
    Stop(Error),
    Write(hiber_memory::Error),
}

impl From<hiber_memory::Error> for CopyError {
    fn from(e: hiber_memory::Error) -> Self {
        Self::Write(e)
    }
}

/// Notes that a later dump may count on the soft-dirty bits of the container's memory.
pub(super) fn note_chain(entry: &Entry) -> Result<()> {
    let path = entry.path().join(CHAIN);
    std::fs::write(&path, "").map_err(|e| Error::file(&path, &e))
}

/// How writes are tracked, or why they are not.
fn means(entry: &Entry) -> Result<Means, String> {
    let means = Means::find()?;
    if means.clears_dirty_bits() && entry.path().join(CHAIN).exists() {
        return Err(
            "a pre-dump of this container was made, and the next dump counts on its soft-dirty bits".into()
        );
    }
    Ok(means)
}

fn processes(task: &Task) -> Result<Vec<Process>> {
    let number = |process: Number| u64::try_from(process.inner).unwrap_or_default();
    let processes = Numbered::all(task.facts()?.pid, &task.pids()?);
    Ok(processes.iter().map(|of| Process { pid: of.process.outer, number: number(of.process) }).collect())
}

/// Whether memory of this size is taken from CRIU.
fn is_received(options: &CheckpointOptions, processes: &[(Process, u64)]) -> bool {
    let builds_on_others = options.pre_dump || options.dump.parent_path.is_some() || options.criu.auto_dedup;
    let large = processes.iter().map(|(_, bytes)| bytes).sum::<u64>() >= LARGE;
    let wanted = options.pre_copy.mode == PreCopyMode::On || options.pre_copy.leaves == Leaves::Always;
    !builds_on_others && (large || wanted)
}

/// How many bytes of memory each process has of its own.
fn own_memory(task: &Task) -> Result<Vec<(Process, u64)>> {
    let size = |process: &Process| procfs::own_memory(process.pid).unwrap_or_default();
    Ok(processes(task)?.into_iter().map(|process| (process, size(&process))).collect())
}
