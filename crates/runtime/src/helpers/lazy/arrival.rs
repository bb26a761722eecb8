//! Memory that comes while the restored container runs, from local images or from a source: the restore's side.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use hiber_criu::ImageDirectory;
use hiber_memory::page_daemon::SOCKET;
use hiber_sandbox::cgroup::CgroupPaths;
use hiber_sys::channel::{Channel, Message};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::admission::WELCOME;
use super::peer::{Address, PATIENCE, connect};
use super::record::{self, FollowingMemory, Held, Record};
use super::stored::{StoredMemory, StoredTask};
use super::token::Token;
use crate::error::{Error, Result};
use crate::helpers::program::Program;
use crate::state::entry::Entry;

/// How many checkpoints can build on each other: each one's directory is handed over.
pub(crate) const MAX_CHAIN: usize = 32;

/// The task of the process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BringTask {
    /// The directory with all containers, and the container's id.
    pub(super) root: PathBuf,
    pub(super) id: String,
    /// The container to end if memory stops arriving.
    pub(super) cgroup: CgroupPaths,
    /// The one that has memory which is not in the images, if there is one.
    pub(super) source: Option<Source>,
    /// Whether the container waits until all is there.
    pub(super) before: bool,
    /// Whether memory comes only when it is touched, until somebody asks for it.
    pub(super) on_demand: bool,
    /// The store that has the files of pages, of which only holes are in the directory.
    pub(super) stored: Option<StoredTask>,
}

/// The other end of the connection to where memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Source {
    /// A page server of CRIU's.
    PageServer,
    /// The relay of a runtime like this one, which hears what becomes of each page.
    Relay,
    /// The process here that receives the container ([`link`](super::link)).
    Receiver,
}

/// The place where memory is that has not arrived from there.
pub(super) fn held(source: Option<Source>) -> Held {
    if source == Some(Source::Receiver) { Held::There } else { Held::Else }
}

/// Where the memory of a container is that runs already.
#[derive(Debug)]
pub(crate) enum Origin<'a> {
    /// In the images.
    Images,
    /// There, and it stays there until it is touched, or somebody asks for it.
    ImagesOnDemand,
    /// Some of it at a page server, which is shown the checkpoint's token if that has one.
    PageServer(&'a Address, Option<&'a Token>),
    /// Some of it at the machine from which the container comes: the end of a [link](super::link).
    Machine(OwnedFd),
}

/// The messages to the process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Its task. With it come the record, where CRIU connects, the connection to the source if there is one, and the directories
    /// of images.
    Bring(Box<BringTask>),
    /// The container is whole but for its memory.
    Restored,
}

/// The messages from the process. How it failed is in the record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// To a container that waits: all of its memory is there, and the process ends.
    AllThere,
}

impl Message for Order {}
impl Message for Word {}

/// The process that brings a restored container's memory. It outlives this one. Dropped before [`restored`](Self::restored), it
/// ends, and a source hears that its container is still needed.
#[derive(Debug)]
pub(crate) struct Arrival {
    child: Option<Child>,
    channel: Channel<Order, Word>,
}

/// The container whose memory is brought.
pub(crate) struct Destination<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) root: &'a Path,
    pub(crate) id: &'a str,
    pub(crate) cgroup: &'a CgroupPaths,
    /// CRIU's work directory.
    pub(crate) work: &'a ImageDirectory,
    /// The images, and those that they build on.
    pub(crate) chain: &'a [ImageDirectory],
    /// Where the content of files of pages is, if it is not in the images.
    pub(crate) stored: Option<&'a StoredMemory>,
}

impl Arrival {
    /// Starts it for a container that waits until all of its memory has come from the images.
    pub(crate) fn start_before(to: &Destination<'_>) -> Result<Self> {
        Self::begin(to, Origin::Images, true)
    }

    /// Starts it.
    pub(crate) fn start(to: &Destination<'_>, origin: Origin<'_>) -> Result<Self> {
        Self::begin(to, origin, false)
    }

    fn begin(to: &Destination<'_>, origin: Origin<'_>, before: bool) -> Result<Self> {
        if to.chain.len() > MAX_CHAIN {
            return Err(Error::Invalid(format!(
                "memory cannot follow from {} checkpoints that build on each other, expected at most {MAX_CHAIN}",
                to.chain.len()
            )));
        }
        let on_demand = matches!(origin, Origin::ImagesOnDemand);
        let memory = if on_demand { FollowingMemory::Lazy } else { FollowingMemory::Arriving };
        let (source, peer) = match origin {
            Origin::Images | Origin::ImagesOnDemand => (None, None),
            Origin::PageServer(address, token) => {
                let source = if token.is_some() { Source::Relay } else { Source::PageServer };
                (Some(source), Some(OwnedFd::from(greet(address, token)?)))
            }
            Origin::Machine(link) => (Some(Source::Receiver), Some(link)),
        };
        let listener = listen(to.work)?;
        let record = Record::new(to.entry, held(source), &memory)?;
        let task = BringTask {
            root: std::path::absolute(to.root).map_err(|e| Error::file(to.root, &e))?,
            id: to.id.to_owned(),
            cgroup: to.cgroup.clone(),
            source,
            before,
            on_demand,
            stored: to.stored.map(StoredMemory::task),
        };
        let directories = to.chain.iter().map(readable).collect::<Result<Vec<_>>>()?;
        let mut files: Vec<BorrowedFd<'_>> = vec![record.as_fd(), listener.as_fd()];
        files.extend(peer.as_ref().map(OwnedFd::as_fd));
        files.extend(directories.iter().map(File::as_fd));
        let (child, channel) = Program::MemoryArrival.start(None, Stdio::null())?;
        channel.send(&Order::Bring(Box::new(task)), &files)?;
        Ok(Self { child: Some(child), channel })
    }

    /// Waits until all memory is there, for a container that waits.
    pub(crate) fn all_there(&self, entry: &Entry) -> Result<()> {
        match self.channel.recv()? {
            Some((Word::AllThere, _)) => record::forget(entry),
            // The reason is in the record.
            None => Err(record::not_arrived("the process that brings it has ended".into())),
        }
    }

    /// The container is whole but for its memory: the process goes on without us. It may be told so again.
    pub(crate) fn restored(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            if let Err(e) = self.channel.send(&Order::Restored, &[]) {
                self.child = Some(child);
                return Err(e.into());
            }
            // The library's caller lives on.
            std::thread::spawn(move || child.wait());
        }
        Ok(())
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
            let _ = child.wait();
        }
    }
}

/// A directory whose descriptor says nothing of how it was opened.
fn readable(dir: &ImageDirectory) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, ".", flags, Mode::empty());
    opened.map(File::from).map_err(|e| Error::file(dir.path(), &e.into()))
}

/// Listens where CRIU looks for the daemon. The directory is named by its descriptor, since paths of sockets are short.
fn listen(work: &ImageDirectory) -> Result<UnixListener> {
    forget(work);
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", work.as_fd().as_raw_fd()));
    UnixListener::bind(path).map_err(|e| Error::file(&work.path().join(SOCKET), &e))
}

/// Removes the socket, also one that a daemon has left that was killed.
pub(crate) fn forget(work: &ImageDirectory) {
    let _ = rustix::fs::unlinkat(work, SOCKET, AtFlags::empty());
}

fn greet(source: &Address, token: Option<&Token>) -> Result<TcpStream> {
    let peer =
        connect(source).map_err(|e| Error::host(format!("--page-server {source}: cannot connect"), e))?;
    token.map_or(Ok(()), |token| introduce(&peer, token)).map_err(|e| {
        let why =
            "the source does not take this checkpoint's token: it serves another one, or serves it already";
        Error::host(format!("--page-server {source}: {why}"), e)
    })?;
    Ok(peer)
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
