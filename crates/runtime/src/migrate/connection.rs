//! The conversation with the other end, and the program or stream that leads there.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::outgoing::{Outgoing, Sender};
use super::packing::{Compress, Packer, Packing};
use super::place::Destination;
use super::progress::{Gauge, Phase, Stage};
use super::stream::Patient;
#[cfg(feature = "tls")]
use super::tls;
use super::word::{Bytes, Frame, PROTOCOL, Word, read_frame};
use crate::error::{Error, Result, chain};
use crate::host::procfs;
use crate::state::migration::Identity;

/// How often the other end hears that this one is at work.
const SIGN: Duration = Duration::from_secs(1);
/// How long the program that leads to the other end may take to end, when its stream is closed.
const ENDING: Duration = Duration::from_secs(5);

/// The way to the other end.
pub(super) struct Route<'a> {
    pub(super) destination: &'a Destination,
    /// The command that receives, at the other end of ssh.
    pub(super) receiver: &'a str,
    /// For TLS.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(super) identity: Option<&'a Identity>,
}

impl Route<'_> {
    /// The program that leads there; none where the way is our own.
    fn program(&self) -> Option<Command> {
        match self.destination {
            Destination::Command(command) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(command);
                Some(shell)
            }
            Destination::Ssh { user, host, port } => {
                let mut ssh = Command::new("ssh");
                ssh.arg("-T");
                if let Some(port) = port {
                    ssh.args(["-p", &port.to_string()]);
                }
                if let Some(user) = user {
                    ssh.args(["-l", user]);
                }
                ssh.args(["--", host, self.receiver]);
                Some(ssh)
            }
            #[cfg(feature = "tls")]
            Destination::Tls { .. } => None,
        }
    }
}

/// One end of a conversation.
pub struct Connection {
    from: Reading,
    to: Outgoing,
    /// The other end's name, in messages.
    peer: String,
    /// Ends the connection; after the streams, at whose end a program ends.
    leads: Leads,
}

/// The frames that come from the other end.
pub(super) type Frames = Box<dyn Read + Send>;

/// Where frames are read.
enum Reading {
    Here(Frames),
    /// By another thread, which passes on what is not for itself.
    There(Receiver<io::Result<Option<Frame>>>),
}

enum Leads {
    /// The caller's streams.
    Nobody,
    Program(Leader),
    #[cfg(feature = "tls")]
    Tls {
        /// Dropped, the connection is closed.
        _ending: tls::Ending,
    },
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    /// From the source's end: starts what leads to the destination.
    ///
    /// # Errors
    /// If there is no way to the other end, or it speaks another protocol.
    pub(super) fn to(route: &Route<'_>, stall: Duration) -> Result<Self> {
        let peer = route.destination.to_string();
        #[cfg(feature = "tls")]
        if let Destination::Tls { host, port } = route.destination {
            let missing = || Error::Invalid(format!("{peer}: expected --cert, --key and --ca, too"));
            let identity = route.identity.ok_or_else(missing)?;
            return Self::tls(tls::connect(host, *port, identity, stall)?, peer);
        }
        let mut command = route
            .program()
            .ok_or_else(|| Error::internal("reach the destination", "no program leads there"))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Error::host(format!("start {}", command.get_program().to_string_lossy()), e))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("reach the destination", "its standard streams are not piped"));
        };
        let to = OwnedFd::from(to);
        rustix::io::ioctl_fionbio(&to, true).map_err(|e| Error::sys("ioctl", "FIONBIO", e))?;
        Self {
            from: Reading::Here(Box::new(Patient { fd: from, stall })),
            to: Outgoing::new(Patient { fd: to, stall }),
            peer,
            leads: Leads::Program(Leader(child)),
        }
        .greet()
    }

    /// From the destination's end, over these streams.
    ///
    /// # Errors
    /// If the other end speaks another protocol.
    pub fn over(from: OwnedFd, to: OwnedFd, stall: Duration) -> Result<Self> {
        let from = Reading::Here(Box::new(Patient { fd: from, stall }));
        let to = Outgoing::new(Patient { fd: to, stall });
        Self { from, to, peer: "the source".into(), leads: Leads::Nobody }.greet()
    }

    /// From the destination's end, with a source that has connected and has to show a certificate. Each step of it is done
    /// within `stall`.
    ///
    /// # Errors
    /// If the source is not one that `identity` believes, or speaks another protocol.
    #[cfg(feature = "tls")]
    pub fn accept(socket: std::net::TcpStream, identity: &Identity, stall: Duration) -> Result<Self> {
        Self::tls(tls::accept(socket, identity, stall)?, "the source".into())
    }

    #[cfg(feature = "tls")]
    fn tls((from, to, _ending): tls::Parts, peer: String) -> Result<Self> {
        let from = Reading::Here(Box::new(from));
        Self { from, to: Outgoing::new(to), peer, leads: Leads::Tls { _ending } }.greet()
    }

    fn greet(mut self) -> Result<Self> {
        let program = format!("hiber {}", env!("CARGO_PKG_VERSION"));
        let said = self.say(&Word::Hello { protocol: PROTOCOL, program });
        // The words of a program that ended at once tell more than its closed input.
        match self.hear()? {
            Word::Hello { protocol: PROTOCOL, .. } => said.map(|()| self),
            Word::Hello { protocol, program } => {
                let why = format!(
                    "it is {program}, which speaks version {protocol} of the protocol; expected {PROTOCOL}"
                );
                Err(self.failed(why))
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// The other end's name, in messages.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// An error of this conversation.
    pub(super) fn failed(&self, why: impl Into<crate::error::Cause>) -> Error {
        Error::host(format!("migrate with {}", self.peer), why)
    }

    /// As [`failed`](Self::failed), of what the other end refuses.
    pub(super) fn refused(&self, why: &str) -> Error {
        Error::host(format!("{} refuses", self.peer), why)
    }

    /// As [`failed`](Self::failed), of a word out of turn.
    pub(super) fn unexpected(&self, word: &Word) -> Error {
        let mut said = format!("{word:?}");
        said.truncate(said.char_indices().nth(100).map_or(said.len(), |(at, _)| at));
        self.failed(format!("it said {said} out of turn"))
    }

    pub(super) fn say(&mut self, word: &Word) -> Result<()> {
        self.to.say(word).map_err(|e| self.broken(e))
    }

    pub(super) fn send(&mut self, bytes: Bytes<'_>) -> Result<()> {
        self.to.send(bytes).map_err(|e| self.broken(e))
    }

    /// Tells the other end that nothing comes of it, and hears what it says to that: or has said before, if it was first.
    pub(super) fn give_up(&mut self, why: &Error) -> Option<Word> {
        match self.to.say(&Word::Abort(chain(why))) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => None,
            _ => self.hear_result().ok(),
        }
    }

    /// The next word.
    pub(super) fn hear(&mut self) -> Result<Word> {
        match self.next()? {
            Frame::Word(word) => Ok(word),
            Frame::Data(_) => Err(self.failed("it sent bytes of a file out of turn")),
            Frame::Pages { .. } => Err(self.failed("it sent memory out of turn")),
        }
    }

    /// The next word that says more than that the other end is still at work, or wants memory.
    pub(super) fn hear_result(&mut self) -> Result<Word> {
        loop {
            match self.hear()? {
                Word::Working | Word::Want(_) => {}
                word => return Ok(word),
            }
        }
    }

    /// The next frame.
    pub(super) fn next(&mut self) -> Result<Frame> {
        let frame = match &mut self.from {
            Reading::Here(from) => read_frame(from),
            Reading::There(frames) => frames.recv().unwrap_or(Ok(None)),
        };
        match frame {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(self.broken(e)),
        }
    }

    /// Has another thread read frames from now on, which passes on those that are for this one.
    pub(super) fn read_elsewhere(&mut self, frames: Receiver<io::Result<Option<Frame>>>) -> Option<Frames> {
        match std::mem::replace(&mut self.from, Reading::There(frames)) {
            Reading::Here(from) => Some(from),
            Reading::There(_) => None,
        }
    }

    pub(super) fn broken(&mut self, e: io::Error) -> Error {
        let closed = matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe);
        let Leads::Program(child) = &mut self.leads else {
            return if closed { self.failed("the connection was closed") } else { self.failed(e) };
        };
        if !closed {
            return self.failed(e);
        }
        // How it has ended says most.
        match child.ended() {
            Some(status) => {
                // a shell's word for a program that it does not find
                let hint = if status.code() == Some(127) {
                    "; hiber must be in the PATH that commands have there, or --receiver must name it"
                } else {
                    ""
                };
                self.failed(format!("the connection was closed ({status}){hint}"))
            }
            None => self.failed("the connection was closed"),
        }
    }

    /// All was said. A program that leads to the other end may go on until it hears that.
    pub(super) fn said_all(&self) {
        if matches!(self.leads, Leads::Program(_)) {
            self.to.end();
        }
    }

    /// Lets go of the other end, to which all was said, and waits for the program that leads there. No [`Sender`] may be left.
    pub(super) fn close(self) {
        let Self { from, to, leads, .. } = self;
        drop((from, to));
        if let Leads::Program(leader) = leads {
            leader.wait();
        }
    }

    /// Compresses as is wanted what goes over from now on, if the other end knows that.
    pub(super) fn compress(&mut self, wanted: Compress, known: &[Packing]) -> Result<()> {
        let packer = Packer::new(wanted, known).map_err(|packing| {
            self.failed(format!("one of the two ends does not know the compression by {}", packing.name()))
        })?;
        self.to.lock().packer = packer;
        Ok(())
    }

    /// So many bytes of memory in a second, at most.
    pub(super) fn limit(&mut self, bandwidth: Option<u64>) {
        self.to.lock().bandwidth = bandwidth;
    }

    /// Counts what is sent from now on.
    pub(super) fn measure(&mut self, gauge: Gauge) {
        self.to.lock().gauge = Some(gauge);
    }

    /// Tells who waits for this.
    pub(super) fn tell(&mut self, phase: Phase) {
        self.to.lock().gauge.iter_mut().for_each(|gauge| gauge.phase(phase));
    }

    /// Something else goes over from now on, about so many bytes.
    pub(super) fn begin(&mut self, stage: Stage, total: Option<u64>) {
        self.to.begin(stage, total);
    }

    /// Rounds over memory so far.
    pub(super) fn rounds(&self) -> u32 {
        self.to.lock().gauge.as_ref().map_or(0, Gauge::rounds)
    }

    /// Bytes of files and memory that were sent, as they were sent.
    pub(super) fn sent(&self) -> u64 {
        self.to.lock().sent
    }

    /// Tells the other end that this one is at work, until the result is dropped.
    pub(super) fn signs(&self) -> Signs {
        let (sender, working) = (self.sender(), Arc::new(AtomicBool::new(true)));
        let goes_on = Arc::clone(&working);
        let teller = std::thread::spawn(move || {
            while goes_on.load(Ordering::Relaxed) {
                std::thread::park_timeout(SIGN);
                if goes_on.load(Ordering::Relaxed) && !sender.say(&Word::Working) {
                    return;
                }
            }
        });
        Signs { working, teller: Some(teller) }
    }

    /// A second sender, for words from another thread.
    pub(super) fn sender(&self) -> Sender {
        Sender(self.to.clone())
    }
}

/// Started by [`Connection::signs`].
#[derive(Debug)]
pub(super) struct Signs {
    working: Arc<AtomicBool>,
    teller: Option<JoinHandle<()>>,
}

impl Drop for Signs {
    fn drop(&mut self) {
        self.working.store(false, Ordering::Relaxed);
        if let Some(teller) = self.teller.take() {
            teller.thread().unpark();
            let _ = teller.join();
        }
    }
}

/// A program that leads to the other end. Dropped, it has ended, with those of its descendants that are in its process group: a
/// shell's command holds our standard error as well.
struct Leader(Child);

impl Leader {
    /// How it has ended, if it does by itself.
    fn ended(&mut self) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            match self.0.try_wait() {
                Ok(None) if began.elapsed() < ENDING => std::thread::sleep(Duration::from_millis(1)),
                other => return other.ok().flatten(),
            }
        }
    }
}

impl Leader {
    /// Waits for its end, which comes by itself when all was said.
    fn wait(mut self) {
        let _ = self.0.wait();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // Their parents are known only as long as the first of them lives.
            let below = procfs::below_in_group(self.0.id().cast_signed());
            let _ = self.0.kill();
            let _ = self.0.wait();
            for process in below {
                let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
            }
        }
    }
}
