//! The events of a container as they happen: operations on it, ends of its processes, want of memory, and its resource use.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

use derive_setters::Setters;
use hiber_sandbox::cgroup::{OomWatch, Usage};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::container::exit::ExitStatus;
use crate::container::monitor;
use crate::container::process::{Attributes, Process};
use crate::container::task::Task;
use crate::error::{Error, Result};
use crate::state::lifecycle::{FILE, Lifecycle, Line, lines};
use crate::status::Status;

/// Something that happened in a container.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// An operation on the container, by any process.
    Lifecycle {
        /// When.
        time: SystemTime,
        /// What.
        what: Lifecycle,
    },
    /// Its resource use, once each interval.
    Stats(Box<Usage>),
    /// Memory ran out, and the kernel killed a process or stopped it.
    Oom,
    /// A process ended: the first one, or one that was executed in it.
    Exit {
        /// None for the first one.
        exec: Option<Exec>,
        /// How it ended.
        status: ExitStatus,
    },
    /// It was removed. Nothing follows.
    Deleted,
}

/// A process that was executed in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exec {
    /// The id that the caller gave it, if any.
    pub id: Option<String>,
    /// Its number in the runtime's pid namespace.
    pub pid: i32,
}

/// The choice of events, and when they end. Each option has a setter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct EventsOptions {
    /// The interval of reports of its resource use; the first comes after one interval. None if absent.
    pub interval: Option<Duration>,
    /// Begin with the operations on it until now.
    pub past: bool,
    /// Go on until it is removed, instead of until its first process ends.
    pub until_deleted: bool,
}

/// The events of a container. The descriptor is readable when there may be an event to [take](Self::try_next), so a loop of the
/// embedder can watch many. Only statistics come by time.
#[derive(Debug)]
pub struct Events {
    task: Task,
    options: EventsOptions,
    epoll: OwnedFd,
    inotify: OwnedFd,
    log: Log,
    oom: Option<OomWatch>,
    /// The first process, until it ends.
    init: Option<Process>,
    execs: HashMap<u64, (Exec, Process)>,
    next_exec: u64,
    next_stats: Option<Instant>,
    queue: VecDeque<Event>,
    /// No event follows those in the queue.
    over: bool,
}

/// The keys of epoll's events; larger numbers are processes.
const INOTIFY: u64 = 0;
const INIT: u64 = 1;
const OOM: u64 = 2;
const FIRST_EXEC: u64 = 3;

impl Task {
    /// The events of a container, from now on or from its beginning.
    ///
    /// # Errors
    /// If it has stopped, unless it is followed until it is deleted.
    pub fn events(&self, options: EventsOptions) -> Result<Events> {
        if !options.until_deleted {
            self.check_alive()?;
        }
        Events::new(self.clone(), options)
    }
}

impl Events {
    fn new(task: Task, options: EventsOptions) -> Result<Self> {
        let entry = task.container().entry();
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| Error::sys("epoll_create", "", e))?;
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(|e| Error::sys("inotify_init", "", e))?;
        let watch = |path: String, flags| {
            inotify::add_watch(&inotify, path.as_str(), flags)
                .map_err(|e| Error::sys("inotify_add_watch", path, e))
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // Without: made by a version that wrote none.
        let file = rustix::fs::openat(entry.dir(), FILE, flags, Mode::empty()).ok().map(File::from);
        if file.is_some() {
            watch(format!("{}/{FILE}", entry.proc_path()), WatchFlags::MODIFY)?;
        }
        let log = Log::new(file, options.past);
        watch(entry.proc_path(), WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF)?;
        let init = task.init().cloned();
        let mut events = Self {
            oom: task.cgroup().watch_oom()?,
            next_stats: options.interval.map(|interval| Instant::now() + interval),
            task,
            options,
            epoll,
            inotify,
            log,
            init,
            execs: HashMap::new(),
            next_exec: FIRST_EXEC,
            queue: VecDeque::new(),
            over: false,
        };
        events.watch(&events.inotify, INOTIFY)?;
        events.init.as_ref().map_or(Ok(()), |init| events.watch(init.pidfd(), INIT))?;
        events.oom.as_ref().map_or(Ok(()), |oom| events.watch(oom, OOM))?;
        // A directory that was removed before it was watched gives no more events.
        events.read_log()?;
        if options.past && events.init.is_none() && events.task.status()? == Status::Stopped {
            // The process is gone, so there is no pidfd that would become readable.
            events.queue.push_back(Event::Exit { exec: None, status: events.task.exit_status() });
        }
        if events.task.container().entry().is_removed() {
            events.end();
        }
        Ok(events)
    }

    fn watch(&self, fd: impl AsFd, key: u64) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(key), EventFlags::IN)
            .map_err(|e| Error::sys("epoll_ctl", "of a container's events", e))
    }

    /// Waits for the next event; none when there will be no more.
    pub fn wait(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            if self.over {
                return Ok(None);
            }
            let left = self.next_stats.map(|next| next.saturating_duration_since(Instant::now()));
            let timeout =
                left.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: l.subsec_nanos().into() });
            match rustix::event::poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::sys("poll", "for events of the container", e)),
            }
        }
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        if let Some(event) = self.queue.pop_front() {
            return Ok(Some(event));
        }
        if self.over {
            return Ok(None);
        }
        self.collect()?;
        if let Some(event) = self.queue.pop_front() {
            return Ok(Some(event));
        }
        if let (Some(next), Some(interval)) = (self.next_stats, self.options.interval)
            && !self.over
            && next <= Instant::now()
        {
            self.next_stats = Some(next + interval);
            return Ok(Some(Event::Stats(Box::new(self.task.cgroup().usage()?))));
        }
        Ok(None)
    }

    /// Puts all pending events of the kernel into the queue.
    fn collect(&mut self) -> Result<()> {
        let mut space = [std::mem::MaybeUninit::uninit(); 16];
        let ready = match epoll::wait(&self.epoll, &mut space, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok((ready, _)) => ready.iter().map(|event| event.data.u64()).collect(),
            Err(Errno::INTR) => Vec::new(),
            Err(e) => return Err(Error::sys("epoll_wait", "for events of the container", e)),
        };
        let removed = ready.contains(&INOTIFY) && self.read_inotify();
        self.read_log()?;
        if let Some(oom) = self.oom.as_mut().filter(|_| ready.contains(&OOM) || ready.contains(&INIT)) {
            // Before the end that it may have been.
            let count = oom.take()?;
            self.queue.extend((0..count).map(|_| Event::Oom));
        }
        for key in ready.iter().filter(|key| **key >= FIRST_EXEC) {
            if let Some((exec, process)) = self.execs.remove(key) {
                let _ = epoll::delete(&self.epoll, process.pidfd());
                let status = process.exit_status().unwrap_or_else(ExitStatus::unknown);
                self.queue.push_back(Event::Exit { exec: Some(exec), status });
            }
        }
        if ready.contains(&INIT)
            && let Some(init) = self.init.take()
        {
            let _ = epoll::delete(&self.epoll, init.pidfd());
            let status = init.exit_status().unwrap_or_else(ExitStatus::unknown);
            self.queue.push_back(Event::Exit { exec: None, status });
            self.next_stats = None;
            self.over |= !self.options.until_deleted;
        }
        if removed {
            self.end();
        }
        Ok(())
    }

    /// The container was removed, so its processes have ended before, whichever event arrives first.
    fn end(&mut self) {
        let mut ended: Vec<_> =
            self.execs.drain().map(|(_, (exec, process))| (Some(exec), process)).collect();
        ended.extend(self.init.take().map(|init| (None, init)));
        for (exec, process) in ended {
            let status = process.exit_status().unwrap_or_else(ExitStatus::unknown);
            self.queue.push_back(Event::Exit { exec, status });
        }
        self.queue.push_back(Event::Deleted);
        self.over = true;
    }

    /// Reads inotify's events. Returns whether the container was removed.
    fn read_inotify(&self) -> bool {
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        let gone = inotify::ReadFlags::MOVE_SELF | inotify::ReadFlags::DELETE_SELF;
        let mut removed = false;
        while let Ok(event) = reader.next() {
            removed |= event.events().intersects(gone);
        }
        removed
    }

    /// Reads the lines that were written since the last call.
    fn read_log(&mut self) -> Result<()> {
        for Line { time, what } in self.log.read() {
            let time = humantime::parse_rfc3339(&time).unwrap_or(SystemTime::UNIX_EPOCH);
            let started = match &what {
                Lifecycle::ExecStarted { exec, pid, start_time } => {
                    Some((Exec { id: exec.clone(), pid: *pid }, *start_time))
                }
                _ => None,
            };
            self.queue.push_back(Event::Lifecycle { time, what });
            if let Some((exec, start_time)) = started {
                self.follow(exec, start_time)?;
            }
        }
        Ok(())
    }

    /// Waits for the end of a further process. If it is gone already, its end is reported as unknown.
    fn follow(&mut self, exec: Exec, start_time: u64) -> Result<()> {
        let Some(process) = Process::open(exec.pid, start_time, Attributes::default())? else {
            let status = monitor::how_it_ended(exec.pid, start_time).unwrap_or_else(ExitStatus::unknown);
            self.queue.push_back(Event::Exit { exec: Some(exec), status });
            return Ok(());
        };
        let key = self.next_exec;
        self.next_exec += 1;
        self.watch(process.pidfd(), key)?;
        self.execs.insert(key, (exec, process));
        Ok(())
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Iterator for Events {
    type Item = Result<Event>;

    /// As [`wait`](Events::wait).
    fn next(&mut self) -> Option<Result<Event>> {
        self.wait().transpose()
    }
}

/// The file of operations, and the position of the reader.
#[derive(Debug)]
struct Log {
    file: Option<File>,
    offset: u64,
}

impl Log {
    fn new(file: Option<File>, past: bool) -> Self {
        let end = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
        Self { file, offset: if past { 0 } else { end } }
    }

    /// The lines since the last time. A line that cannot be read or understood, such as one of a newer version, is skipped.
    fn read(&mut self) -> Vec<Line> {
        let Some(file) = &self.file else { return Vec::new() };
        let size = file.metadata().map_or(0, |meta| meta.len());
        if size < self.offset {
            // It has begun anew.
            self.offset = 0;
        }
        let mut text = vec![0; usize::try_from(size - self.offset).unwrap_or(0)];
        let length = file.read_at(&mut text, self.offset).unwrap_or(0);
        // The last line may still be without its end.
        let whole = text[..length].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        self.offset += whole as u64;
        lines(&text[..whole]).collect()
    }
}
