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
use hiber_sandbox::error::plain;
use hiber_sandbox::wire::Channel;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::admission::WELCOME;
use super::token::Token;
use super::{Address, PATIENCE, connect, spawn};
use crate::error::{Context, Error, Result, chain};

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
    channel: Channel,
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
        let peer = connect(source)
            .map_err(|e| Error::Invalid(format!("--page-server {source}: cannot connect: {}", plain(&e))))?;
        token.map_or(Ok(()), |token| introduce(&peer, token)).map_err(|e| {
            let why = "the source does not take this checkpoint's token: it serves another one, or serves it already";
            Error::Invalid(format!("--page-server {source}: {why}: {}", plain(&e)))
        })?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(|e| Error::file(path, &e));
        let plan = Plan {
            criu: absolute(criu.path())?,
            images: absolute(images)?,
            work: absolute(work)?,
            accounted: token.is_some(),
        };
        let (child, channel) = spawn(ARGUMENT)?;
        channel.send(&plan, &[peer.as_fd()])?;
        let arrival =
            Self { child: child.into(), channel, released: AtomicBool::new(false), verdict: OnceLock::new() };
        match arrival.listen() {
            Word::Ready => Ok(arrival),
            Word::Failed(why) => Err(Error::Invalid(why)).context("start the daemon for lazy pages"),
            word => {
                Err(Error::Invalid(format!("the daemon for lazy pages says {word:?} before it is ready")))
            }
        }
    }

    /// The container is whole but for its memory: the process goes on without us, and kills what is in this cgroup if
    /// memory stops to come.
    pub(crate) fn restored(&self, cgroup: &CgroupPaths) -> Result<()> {
        self.channel.send(cgroup, &[])?;
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
        verdict.clone().map_err(Error::Invalid).context("the container's memory did not arrive")
    }

    fn listen(&self) -> Word {
        match self.channel.recv::<Word>() {
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
pub(super) fn run(channel: &Channel) {
    let Ok(Some((plan, files))) = channel.recv::<Plan>() else { return };
    let Ok([peer]) = <[OwnedFd; 1]>::try_from(files) else { return };
    let peer = TcpStream::from(peer);
    let word = bring(channel, &plan, &peer).unwrap_or_else(|e| {
        page_relay::decline(&peer);
        Word::Failed(chain(&e))
    });
    let _ = channel.send(&word, &[]);
}

fn bring(channel: &Channel, plan: &Plan, peer: &TcpStream) -> Result<Word> {
    let fail = |e| Error::file("socket".as_ref(), &e);
    let (ours, theirs) = UnixStream::pair().map_err(fail)?;
    let mut daemon = LazyPages::start(&plan.criu, &plan.images, &plan.work, theirs)?;
    let upstream = peer.try_clone().map_err(fail)?;
    let memory = plan.accounted.then(|| LazyMemory::of(&Images::open(&plan.images)?)).transpose()?;
    let fetching = std::thread::spawn(move || page_relay::fetch(ours, &upstream, memory));
    channel.send(&Word::Ready, &[])?;
    let cgroup = attend(channel, &daemon)?;
    let ended = daemon.wait();
    drop(daemon);
    let cgroup = match cgroup {
        None => channel.recv::<CgroupPaths>()?.map(|(paths, _)| paths),
        restored => restored,
    };
    let fetched =
        fetching.join().map_err(|_| Error::Invalid("the thread that fetches memory panicked".into()))?;
    match (ended, cgroup) {
        (Ok(()), Some(_)) => Ok(Word::Arrived { confirmed: fetched.is_ok_and(|f: Fetched| f.confirm(peer)) }),
        (ended, cgroup) => {
            // Before the source hears of it: the two must not run at the same time.
            if let Some(paths) = cgroup {
                Cgroup::open(paths, OnDenied::Skip)?.kill(Signal::KILL)?;
            }
            ended?;
            Err(Error::Invalid("the restore failed".into()))
        }
    }
}

/// Waits for the daemon's end, and meanwhile for the word that the container is restored. If the runtime is gone before,
/// the daemon is to end.
fn attend(channel: &Channel, daemon: &LazyPages) -> Result<Option<CgroupPaths>> {
    let mut ready = [channel.as_fd(), daemon.pidfd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    retry_on_intr(|| poll(&mut ready, None)).map_err(|e| Error::sys("poll", "a channel and a pidfd", e))?;
    if ready[0].revents().is_empty() {
        return Ok(None);
    }
    let gone = || Error::Invalid("the restore failed".into());
    channel.recv::<CgroupPaths>()?.map(|(paths, _)| Some(paths)).ok_or_else(gone)
}
