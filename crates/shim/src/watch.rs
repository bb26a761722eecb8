//! The events that the shim waits for: ends of processes, from the runtime, and want of memory, from the kernel.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Wake, Waker};

use hiber::{ExitStatus, Wait};
use hiber_sandbox::cgroup::OomWatch;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::error::{Context, Result, chain};

/// Calls `told` once with the result, on the runtime's waiting thread, which must not be held up.
pub(crate) fn when_ended(mut wait: Wait, told: impl FnOnce(ExitStatus) + Send + 'static) {
    let notice = Arc::new(Notice { wait: wait.clone(), told: Mutex::new(Some(Box::new(told))) });
    let waker = Waker::from(Arc::clone(&notice));
    if Future::poll(Pin::new(&mut wait), &mut TaskContext::from_waker(&waker)).is_ready() {
        notice.wake();
    }
}

type Told = Box<dyn FnOnce(ExitStatus) + Send>;

struct Notice {
    wait: Wait,
    told: Mutex<Option<Told>>,
}

impl Wake for Notice {
    fn wake(self: Arc<Self>) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(told), Some(status)) = (told, self.wait.try_get()) {
            told(status);
        }
    }
}

/// A key to take an entry out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

type Happened = Box<dyn Fn() + Send>;

#[derive(Default)]
struct Entries {
    last: u64,
    by_token: HashMap<u64, (OomWatch, Happened)>,
}

/// The containers whose memory is watched: one thread for all.
pub(crate) struct MemoryWatch {
    epoll: OwnedFd,
    entries: Mutex<Entries>,
}

impl MemoryWatch {
    /// Starts the thread.
    pub(crate) fn start() -> Result<Arc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("epoll_create")?;
        let watch = Arc::new(Self { epoll, entries: Mutex::default() });
        let own = Arc::clone(&watch);
        std::thread::Builder::new()
            .name("memory".into())
            .spawn(move || own.run())
            .context("start a thread")?;
        Ok(watch)
    }

    /// Calls `happened` each time that memory runs out; it must not come back here.
    pub(crate) fn add(&self, watch: OomWatch, happened: impl Fn() + Send + 'static) -> Result<Token> {
        let mut entries = self.lock();
        entries.last += 1;
        let token = entries.last;
        epoll::add(&self.epoll, &watch, EventData::new_u64(token), EventFlags::IN).context("epoll_ctl")?;
        entries.by_token.insert(token, (watch, Box::new(happened)));
        Ok(Token(token))
    }

    pub(crate) fn remove(&self, token: Token) {
        if let Some((watch, _)) = self.lock().by_token.remove(&token.0) {
            let _ = epoll::delete(&self.epoll, watch.as_fd());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut events = Vec::with_capacity(16);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => {
                    tracing::error!("OOM events are no longer seen: epoll_wait: {e}");
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
        let Some((watch, happened)) = entries.by_token.get_mut(&token) else { return };
        match watch.take() {
            Ok(0) => {}
            Ok(_) => happened(),
            Err(e) => {
                tracing::warn!("OOM events of a container are no longer seen: {}", chain(&e));
                let _ = epoll::delete(&self.epoll, watch.as_fd());
                entries.by_token.remove(&token);
            }
        }
    }
}
