//! The source's side: memory is served until the destination has it all.

use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use hiber_criu::page_relay::{self, Ended};
use hiber_criu::{Images, Launch, LazyMemory};
use hiber_sys::channel::{Channel, Message};
use serde::{Deserialize, Serialize};

use super::admission::Terms;
use super::peer::{Address, tune};
use super::token::Token;
use crate::error::{Error, Result, chain};
use crate::helpers::program::Program;
use crate::helpers::to_guard::{GuardChannel, ToGuard};
use crate::host::owned;

/// The task of the process.
#[derive(Debug, Serialize, Deserialize)]
struct ServeTask {
    token: Token,
    any_peer: bool,
}

/// The messages to the process.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Its task; the listener, CRIU's socket and the guard's channel come with this message.
    Prepare(ServeTask),
    /// Peers may come; the directory of the images comes with this.
    Serve,
}

impl Message for Order {}
impl Message for Word {}

/// The messages from the process.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// It knows what is to be served, and lets peers in.
    Ready,
    /// It does not serve.
    Failed(String),
    /// Something that whoever migrates should know.
    Warning(String),
}

/// The process that serves a dump's memory. Dropped before all of it is gone, it tells CRIU that it has failed.
#[derive(Debug)]
pub(crate) struct Departure {
    child: Child,
    channel: Arc<Channel<Order, Word>>,
    /// Passes on what the process warns of.
    listening: Option<JoinHandle<()>>,
    /// CRIU's configuration, which names the socket: its requests have no place for that.
    config: PathBuf,
}

impl Departure {
    /// Listens at `address` alone and gives the other end to CRIU; CRIU itself would listen at every address of the
    /// host, and serve whoever comes. Here it is who shows `token`, or with `any_peer` who asks for pages. When the
    /// destination has everything, `guard` hears of it just before CRIU. CRIU's configuration is written to `dir`.
    pub(crate) fn start(
        address: &Address,
        (token, any_peer): (&Token, bool),
        launch: &mut Launch<'_>,
        guard: &OwnedFd,
        dir: &Path,
    ) -> Result<Self> {
        let listener = TcpListener::bind((address.host.as_str(), address.port))
            .map_err(|e| Error::host(format!("--page-server {address}: cannot listen there"), e))?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| Error::host("make a socket pair", e))?;
        let number = launch.pass(theirs)?;
        let config = dir.join("criu.conf");
        owned::write(&config, format!("ps-socket {number}\n").as_bytes())
            .map_err(|e| Error::file(&config, &e))?;
        let (child, channel) = Program::MemoryDeparture.start(None, Stdio::null())?;
        let departure = Self { child, channel: Arc::new(channel), listening: None, config };
        let task = ServeTask { token: token.clone(), any_peer };
        departure.channel.send(&Order::Prepare(task), &[listener.as_fd(), ours.as_fd(), guard.as_fd()])?;
        Ok(departure)
    }

    /// Peers may come: the images, which say what memory there is, are in `dir`.
    pub(crate) fn serve(&mut self, dir: BorrowedFd<'_>) -> Result<()> {
        self.channel.send(&Order::Serve, &[dir])?;
        let failed = match self.channel.recv()? {
            Some((Word::Ready, _)) => None,
            Some((Word::Failed(why) | Word::Warning(why), _)) => Some(why),
            None => Some("the process that serves it has died".into()),
        };
        if let Some(why) = failed {
            return Err(Error::host("serve the container's memory", why));
        }
        let channel = Arc::clone(&self.channel);
        self.listening = Some(std::thread::spawn(move || {
            while let Ok(Some((Word::Warning(what), _))) = channel.recv() {
                tracing::warn!("--page-server: {what}");
            }
        }));
        Ok(())
    }

    /// The configuration file that CRIU must be given.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Write);
        let _ = self.child.wait();
        let _ = self.listening.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.config);
    }
}

/// The process.
pub(crate) fn run(socket: OwnedFd) {
    let channel = Channel::<Word, Order>::from(socket);
    let Ok(Some((Order::Prepare(task), files))) = channel.recv() else { return };
    let Ok([listener, criu, guard]) = <[OwnedFd; 3]>::try_from(files) else { return };
    let (listener, criu, guard) =
        (TcpListener::from(listener), UnixStream::from(criu), GuardChannel::from(guard));
    let memory = match channel.recv() {
        Ok(Some((Order::Serve, dir))) => dir.first().ok_or(Error::NotRunning).and_then(left_behind),
        // CRIU must not take our end for the destination's leave.
        _ => return drop(page_relay::fail(&criu)),
    };
    let memory = match memory {
        Ok(memory) => memory,
        Err(e) => {
            let _ = channel.send(&Word::Failed(chain(&e)), &[]);
            return drop(page_relay::fail(&criu));
        }
    };
    let (Ok(watched), channel) = (criu.try_clone(), Arc::new(channel)) else { return };
    let runtime = Arc::clone(&channel);
    let _ = channel.send(&Word::Ready, &[]);
    std::thread::spawn(move || {
        let _ = runtime.recv();
        // The runtime is gone, or done.
        let _ = page_relay::fail(&watched);
        std::process::exit(0);
    });
    let warn = |what: String| drop(channel.send(&Word::Warning(what), &[]));
    if let Err(e) = serve(&task, &listener, &criu, &guard, memory, &warn) {
        warn(e.to_string());
        let _ = page_relay::fail(&criu);
    }
}

/// The memory that the dump in `dir` has left in its tasks.
fn left_behind(dir: &OwnedFd) -> Result<LazyMemory> {
    let images = Images::open(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())))?;
    Ok(LazyMemory::of(&images)?)
}

fn serve(
    task: &ServeTask,
    listener: &TcpListener,
    criu: &UnixStream,
    guard: &GuardChannel,
    memory: LazyMemory,
    warn: &dyn Fn(String),
) -> std::io::Result<()> {
    let terms = Terms { token: task.token.clone(), any_peer: task.any_peer };
    let Some((peer, first)) = terms.admit(listener, criu, warn)? else { return Ok(()) };
    tune(&peer)?;
    let publishing = || {
        let told = guard.send(&ToGuard::Publishing, &[]);
        told.map_err(|e| std::io::Error::from_raw_os_error(e.errno))
    };
    let ended = page_relay::serve(criu, &peer, first, memory, publishing)?;
    match ended {
        Ended::Leave { missing: 0 } => {}
        Ended::Leave { missing } => {
            let _ = peer.shutdown(Shutdown::Both);
            warn(format!(
                "the destination took leave with {missing} pages of memory missing: the container runs on"
            ));
        }
        Ended::Broken => warn("the connection to the destination broke: the container runs on".into()),
    }
    Ok(())
}
