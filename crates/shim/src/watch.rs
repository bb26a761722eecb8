//! One thread that waits for everything: ends of processes, and memory that ran out.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hiber_sandbox::cgroup::OomWatch;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use crate::error::{Context, Result, chain};
use crate::process::Exit;

/// What is waited for.
enum Entry {
    /// A child of the shim's; told once.
    Process { pidfd: Arc<OwnedFd>, ended: Box<dyn FnOnce(Exit) + Send> },
    /// Told each time.
    Oom { watch: OomWatch, happened: Box<dyn Fn(u64) + Send> },
}

impl Entry {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Process { pidfd, .. } => pidfd.as_fd(),
            Self::Oom { watch, .. } => watch.as_fd(),
        }
    }
}

/// A key to take an entry out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

#[derive(Default)]
struct Entries {
    last: u64,
    by_token: HashMap<u64, Entry>,
}

/// The set of what is waited for.
pub(crate) struct Watch {
    epoll: OwnedFd,
    entries: Mutex<Entries>,
}

impl Watch {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Arc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("epoll_create")?;
        let watch = Arc::new(Self { epoll, entries: Mutex::default() });
        let own = Arc::clone(&watch);
        std::thread::Builder::new().name("watch".into()).spawn(move || own.run()).context("start a thread")?;
        Ok(watch)
    }

    /// Calls `ended` when the child is dead and reaped; nobody else may reap it.
    pub(crate) fn process(&self, pidfd: Arc<OwnedFd>, ended: impl FnOnce(Exit) + Send + 'static) -> Result<Token> {
        self.add(Entry::Process { pidfd, ended: Box::new(ended) })
    }

    /// Calls `happened` with the number of times that memory ran out.
    pub(crate) fn oom(&self, watch: OomWatch, happened: impl Fn(u64) + Send + 'static) -> Result<Token> {
        self.add(Entry::Oom { watch, happened: Box::new(happened) })
    }

    pub(crate) fn remove(&self, token: Token) {
        if let Some(entry) = self.lock().by_token.remove(&token.0) {
            let _ = epoll::delete(&self.epoll, entry.fd());
        }
    }

    fn add(&self, entry: Entry) -> Result<Token> {
        let mut entries = self.lock();
        entries.last += 1;
        let token = entries.last;
        epoll::add(&self.epoll, entry.fd(), EventData::new_u64(token), EventFlags::IN).context("epoll_ctl")?;
        entries.by_token.insert(token, entry);
        Ok(Token(token))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut events = Vec::with_capacity(16);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => {
                    tracing::error!("ends of processes are no longer seen: epoll_wait: {e}");
                    return;
                }
            }
            for event in events {
                self.handle(event.data.u64());
            }
        }
    }

    fn handle(&self, token: u64) {
        let mut entries = self.lock();
        let Some(entry) = entries.by_token.remove(&token) else { return };
        match entry {
            Entry::Process { pidfd, ended } => {
                let _ = epoll::delete(&self.epoll, &*pidfd);
                drop(entries);
                ended(reap(&pidfd));
            }
            Entry::Oom { mut watch, happened } => {
                let taken = watch.take();
                match taken {
                    Ok(0) => drop(entries.by_token.insert(token, Entry::Oom { watch, happened })),
                    Ok(count) => {
                        // Called while it is locked: what it calls does not come back here.
                        happened(count);
                        entries.by_token.insert(token, Entry::Oom { watch, happened });
                    }
                    Err(e) => {
                        let _ = epoll::delete(&self.epoll, watch.as_fd());
                        tracing::warn!("OOM events are no longer seen: {}", chain(&e));
                    }
                }
            }
        }
    }
}

/// The status of a dead child, as a shell has it: 128 and the signal.
fn reap(pidfd: &OwnedFd) -> Exit {
    let status = loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let code = match &status {
        Ok(Some(status)) => status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)),
        _ => None,
    };
    let code = code.and_then(|code| u32::try_from(code).ok()).unwrap_or_else(|| {
        tracing::error!("the exit status of a process is lost: waitid: {status:?}");
        255
    });
    Exit { status: code, at: SystemTime::now() }
}
