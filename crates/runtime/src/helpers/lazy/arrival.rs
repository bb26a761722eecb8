//! The destination's side: memory comes while the restored container runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use hiber_criu::page_relay::{self, Fetched};
use hiber_criu::{Criu, Images, LazyMemory, LazyPages};
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, OnDenied};
use hiber_sandbox::wire::{Channel, Message};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::admission::WELCOME;
use super::peer::{Address, PATIENCE, connect};
use super::process::spawn;
use super::token::Token;
use crate::error::{Error, Result, chain};

/// argv\[1\] of the runtime's binary when it is to watch over a daemon of CRIU's.
pub(super) const ARGUMENT: &str = "memory-arrival";

/// What the process is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    criu: PathBuf,
    images: PathBuf,
    work: PathBuf,
    /// Whether the source is a runtime like this one, and hears what becomes of each page.
    accounted: bool,
}

/// What it hears.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// What it is to do; the connection to the source comes with this.
    Fetch(Plan),
    /// The container is whole but for its memory: this is its cgroup.
    Restored(CgroupPaths),
}

impl Message for Order {}
impl Message for Word {}

/// The end of the process.
type OwnEnd = Channel<Word, Order>;

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// The restore can begin.
    Ready,
    /// All memory is there. The source may not have heard of it.
    Arrived { confirmed: bool },
    /// It will not come any more, and the container was killed.
    Failed(String),
}

/// The process that brings a restored container's memory. It outlives this one.
#[derive(Debug)]
pub(crate) struct Arrival {
    child: Mutex<Child>,
    channel: Channel<Order, Word>,
    /// Whether it is to go on without us.
    released: AtomicBool,
    verdict: OnceLock<Result<(), String>>,
}

impl Arrival {
    /// Connects to the source, shows it the checkpoint's token if that has one, and starts CRIU's daemon, which is ready when this returns. Dropped before
    /// [`restored`](Self::restored), it ends the daemon, and the source hears that its container is still needed.
    pub(crate) fn start(
        criu: &Criu,
        images: &Path,
        work: &Path,
        source: &Address,
        token: Option<&Token>,
    ) -> Result<Self> {
        let peer =
            connect(source).map_err(|e| Error::host(format!("--page-server {source}: cannot connect"), e))?;
        token.map_or(Ok(()), |token| introduce(&peer, token)).map_err(|e| {
            let why = "the source does not take this checkpoint's token: it serves another one, or serves it already";
            Error::host(format!("--page-server {source}: {why}"), e)
        })?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(|e| Error::file(path, &e));
        let plan = Plan {
            criu: absolute(criu.path())?,
            images: absolute(images)?,
            work: absolute(work)?,
            accounted: token.is_some(),
        };
        let (child, channel) = spawn(ARGUMENT)?;
        channel.send(&Order::Fetch(plan), &[peer.as_fd()])?;
        let arrival =
            Self { child: child.into(), channel, released: AtomicBool::new(false), verdict: OnceLock::new() };
        match arrival.listen() {
            Word::Ready => Ok(arrival),
            Word::Failed(why) => Err(Error::host("start the daemon for lazy pages", why)),
            word => {
                let why = format!("its process says {word:?} before it is ready");
                Err(Error::internal("start the daemon for lazy pages", why))
            }
        }
    }

    /// The container is whole but for its memory: the process goes on without us, and kills what is in this cgroup if
    /// memory stops to come.
    pub(crate) fn restored(&self, cgroup: &CgroupPaths) -> Result<()> {
        self.channel.send(&Order::Restored(cgroup.clone()), &[])?;
        self.released.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until all memory is there.
    pub(crate) fn wait(&self) -> Result<()> {
        let verdict = self.verdict.get_or_init(|| {
            let word = self.listen();
            let _ = self.child.lock().map(|mut child| child.wait());
            match word {
                Word::Arrived { confirmed } => {
                    tracing::info!("the last page of the container's memory has arrived");
                    if !confirmed {
                        tracing::warn!("the source has not confirmed that its container ended");
                    }
                    Ok(())
                }
                Word::Failed(why) => Err(why),
                Word::Ready => Err("the process that brings it is confused".into()),
            }
        });
        verdict.clone().map_err(|why| Error::host("the container's memory did not arrive", why))
    }

    fn listen(&self) -> Word {
        match self.channel.recv() {
            Ok(Some((word, _))) => word,
            Ok(None) => Word::Failed("the process that brings it has died".into()),
            Err(e) => Word::Failed(e.to_string()),
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.released.load(Ordering::Relaxed) {
            let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
            let _ = self.child.get_mut().map(Child::wait);
        }
    }
}

/// Shows the token and waits for the answer.
fn introduce(mut peer: &TcpStream, token: &Token) -> std::io::Result<()> {
    peer.set_read_timeout(Some(PATIENCE))?;
    peer.write_all(token.as_bytes())?;
    let mut answer = [0];
    peer.read_exact(&mut answer)?;
    if answer != [WELCOME] {
        return Err(std::io::Error::other(format!("it answers with {}", answer[0])));
    }
    peer.set_read_timeout(None)
}

/// The process: its plan comes first, with the connection.
pub(super) fn run(socket: OwnedFd) {
    let channel = &OwnEnd::from(socket);
    let Ok(Some((Order::Fetch(plan), files))) = channel.recv() else { return };
    let Ok([peer]) = <[OwnedFd; 1]>::try_from(files) else { return };
    let peer = TcpStream::from(peer);
    let word = bring(channel, &plan, &peer).unwrap_or_else(|e| {
        page_relay::decline(&peer);
        Word::Failed(chain(&e))
    });
    let _ = channel.send(&word, &[]);
}

fn bring(channel: &OwnEnd, plan: &Plan, peer: &TcpStream) -> Result<Word> {
    let fail = |e| Error::host("duplicate a socket", e);
    let (ours, theirs) = UnixStream::pair().map_err(|e| Error::host("make a socket pair", e))?;
    let mut daemon = LazyPages::start(&plan.criu, &plan.images, &plan.work, theirs)?;
    let upstream = peer.try_clone().map_err(fail)?;
    let memory = plan.accounted.then(|| LazyMemory::of(&Images::open(&plan.images)?)).transpose()?;
    let fetching = std::thread::spawn(move || page_relay::fetch(ours, &upstream, memory));
    channel.send(&Word::Ready, &[])?;
    let cgroup = attend(channel, &daemon)?;
    let ended = daemon.wait();
    drop(daemon);
    let cgroup = match cgroup {
        None => hear_of_restored(channel)?,
        restored => restored,
    };
    let fetched =
        fetching.join().map_err(|panic| Error::panicked("the thread that fetches memory", &*panic))?;
    match (ended, cgroup) {
        (Ok(()), Some(_)) => Ok(Word::Arrived { confirmed: fetched.is_ok_and(|f: Fetched| f.confirm(peer)) }),
        (ended, cgroup) => {
            // Before the source hears of it: the two must not run at the same time.
            if let Some(paths) = cgroup {
                Cgroup::open(paths, OnDenied::Skip)?.kill(Signal::KILL)?;
            }
            ended?;
            Err(restore_failed())
        }
    }
}

/// Waits for the daemon's end, and meanwhile for the word that the container is restored. If the runtime is gone before,
/// the daemon is to end.
fn attend(channel: &OwnEnd, daemon: &LazyPages) -> Result<Option<CgroupPaths>> {
    let mut ready = [channel.as_fd(), daemon.pidfd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    retry_on_intr(|| poll(&mut ready, None)).map_err(|e| Error::sys("poll", "a channel and a pidfd", e))?;
    if ready[0].revents().is_empty() {
        return Ok(None);
    }
    hear_of_restored(channel)?.map(Some).ok_or_else(restore_failed)
}

/// The restored container's cgroup; none if there will be none.
fn hear_of_restored(channel: &OwnEnd) -> Result<Option<CgroupPaths>> {
    match channel.recv()? {
        Some((Order::Restored(paths), _)) => Ok(Some(paths)),
        Some((other, _)) => {
            Err(Error::internal("wait for the restored container", format!("heard {other:?}")))
        }
        None => Ok(None),
    }
}

/// Why memory that has come is of no use.
fn restore_failed() -> Error {
    Error::host("bring the container's memory", "the restore failed")
}
