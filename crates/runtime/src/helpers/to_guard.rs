//! The messages to the guards of checkpoints and restores.

use std::os::fd::OwnedFd;

use hiber_sys::channel::{Channel, Message};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::unfinished::Identity;

/// A message to a guard. After [`Done`](Self::Done) nothing is left to guard; if the channel ends without that, its sender is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToGuard {
    /// The checkpoint's directory is made: by its identity the guard sees later whether it was published.
    Staging(Identity),
    /// CRIU runs, under this process number: nothing is settled before its end.
    Criu(u32),
    /// Comes with the socket of the conversation with CRIU. The guard keeps it until the end: CRIU waits for an answer then, instead of
    /// going on alone when its caller is dead.
    Conversation,
    /// CRIU is about to lock the network: from now on its rules may be left.
    Locking,
    /// The checkpoint is about to be published, with its memory still in the container. If the runtime dies, the container runs on,
    /// and the checkpoint is withdrawn.
    Lending,
    /// The checkpoint is about to be published: the container is to end if it was.
    Publishing,
    /// Nothing is left to guard.
    Done,
}

/// Guards say nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromGuard {}

impl Message for ToGuard {}
impl Message for FromGuard {}

/// The sender's end of the channel to a guard.
pub(crate) type GuardChannel = Channel<ToGuard, FromGuard>;

/// The next message to a guard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Message(ToGuard),
    /// A message that this guard does not know.
    Unknown,
    /// All senders are gone.
    End,
}

/// The guard's end of the channel.
pub(super) struct Listener {
    channel: Channel<FromGuard, ToGuard>,
    /// Descriptors that came along.
    kept: Vec<OwnedFd>,
}

impl Listener {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { channel: socket.into(), kept: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Next {
        match self.channel.recv() {
            Ok(Some((message, descriptors))) => {
                self.kept.extend(descriptors);
                Next::Message(message)
            }
            Err(e) if e.errno == Errno::PROTO.raw_os_error() => Next::Unknown,
            // No message can come any more in both cases.
            Ok(None) | Err(_) => Next::End,
        }
    }
}
