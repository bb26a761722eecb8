//! The standard streams of a process.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;

use crate::error::{Error, Result};
use crate::host::procfs;

/// Standard input, output and error of a new process. One whose configuration asks for a terminal takes one of the
/// last three, all others one of the first three or the last.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum Stdio<'a> {
    /// The caller's own.
    #[default]
    Inherit,
    /// These files, whose descriptors are above 2.
    Files([BorrowedFd<'a>; 3]),
    /// Pipes, whose other ends the [`Process`](crate::Process) keeps until they are taken.
    Pipes,
    /// A new terminal, whose master is sent over this connected unix socket, as runc's `--console-socket` has it.
    Console(BorrowedFd<'a>),
    /// A new terminal, whose master the [`Process`](crate::Process) keeps.
    Terminal,
    /// By the configuration: [`Terminal`](Self::Terminal) or [`Inherit`](Self::Inherit).
    Attended,
}

/// The caller's ends.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) stdin: Mutex<Option<OwnedFd>>,
    pub(crate) stdout: Mutex<Option<OwnedFd>>,
    pub(crate) stderr: Mutex<Option<OwnedFd>>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// Streams that are ready for a process.
pub(crate) struct Wired<'a> {
    given: Stdio<'a>,
    /// The process's ends of pipes.
    pipes: Option<[OwnedFd; 3]>,
    /// The socket that init sends a master to, where it is ours.
    console: Option<OwnedFd>,
    /// The other end of that.
    receiver: Option<OwnedFd>,
    kept: Kept,
}

impl<'a> Stdio<'a> {
    /// The streams of a process with or without a terminal.
    pub(crate) fn for_terminal(self, terminal: bool) -> Result<Self> {
        let what = match (terminal, self) {
            (true, Self::Inherit | Self::Files(_) | Self::Pipes) => {
                "cannot allocate tty if hiber will detach without setting console socket: pass --console-socket, \
                 or set process.terminal of config.json to false"
            }
            (false, Self::Console(_) | Self::Terminal) => {
                "cannot use console socket if hiber will not detach or allocate tty"
            }
            (true, Self::Attended) => return Ok(Self::Terminal),
            (false, Self::Attended) => return Ok(Self::Inherit),
            _ => return Ok(self),
        };
        Err(Error::Invalid(what.into()))
    }

    /// Makes the pipes and sockets.
    pub(crate) fn wire(self) -> Result<Wired<'a>> {
        let mut wired =
            Wired { given: self, pipes: None, console: None, receiver: None, kept: Kept::default() };
        match self {
            Self::Inherit | Self::Attended | Self::Files(_) | Self::Console(_) => {}
            Self::Terminal => {
                let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
                let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)
                    .map_err(|e| Error::sys("socketpair", "AF_UNIX", e))?;
                (wired.receiver, wired.console) = (Some(ours), Some(theirs));
            }
            Self::Pipes => {
                let ((stdin, to), (from, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
                wired.pipes = Some([stdin, stdout, stderr]);
                let kept = |fd| Mutex::new(Some(fd));
                wired.kept =
                    Kept { stdin: kept(to), stdout: kept(from), stderr: kept(errors), terminal: None };
            }
        }
        Ok(wired)
    }
}

pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::sys("pipe2", "for a standard stream", e))
}

impl Wired<'_> {
    /// The three streams, if they are not the caller's own.
    pub(crate) fn files(&self) -> Option<[BorrowedFd<'_>; 3]> {
        match (&self.pipes, self.given) {
            (Some(pipes), _) => Some([pipes[0].as_fd(), pipes[1].as_fd(), pipes[2].as_fd()]),
            (None, Stdio::Files(files)) => Some(files),
            _ => None,
        }
    }

    /// The streams, as targets of links in /proc/PID/fd. Those of a terminal are known to init, which opens it.
    pub(crate) fn names(&self) -> Vec<String> {
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        procfs::streams("self", self.files().unwrap_or(own).map(|fd| fd.as_raw_fd()))
    }

    /// The socket that receives the terminal's master.
    pub(crate) fn console(&self) -> Option<BorrowedFd<'_>> {
        match (&self.console, self.given) {
            (Some(socket), _) => Some(socket.as_fd()),
            (None, Stdio::Console(socket)) => Some(socket),
            _ => None,
        }
    }

    /// The caller's ends, after the process has got its own.
    pub(crate) fn keep(mut self) -> Result<Kept> {
        // Nobody else will send now.
        drop(self.console.take());
        if let Some(socket) = &self.receiver {
            self.kept.terminal = Some(receive(socket)?);
        }
        Ok(self.kept)
    }
}

/// Takes the master of a terminal that a process has sent.
fn receive(socket: &OwnedFd) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0u8; 256];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut name)], &mut ancillary, flags)
        .map_err(|e| Error::sys("recvmsg", "the container's terminal", e))?;
    let master = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    master.ok_or_else(|| Error::internal("receive the container's terminal", "it sent none"))
}
