//! How the two ends reach each other, and how long one waits for the other.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hiber_criu::page_protocol::Memory;
use hiber_memory::images::Away;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::word::{Frame, MAX_DATA, PROTOCOL, Word, read_frame, write_data, write_pages, write_word};
use crate::error::{Error, Result};
use crate::host::procfs;

/// How often the other end hears that this one is at work.
const SIGN: Duration = Duration::from_secs(1);
/// How long the program that leads to the other end may take to end, when its stream is closed.
const ENDING: Duration = Duration::from_secs(5);

/// Where a container is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// `ssh://[USER@]HOST[:PORT]`: the system's ssh(1) runs the receiver there.
    Ssh {
        /// The user there; ssh's choice if absent.
        user: Option<String>,
        /// A name that ssh knows.
        host: String,
        /// The port; ssh's choice if absent.
        port: Option<u16>,
    },
    /// `exec:COMMAND`: a command of the shell's whose standard streams lead to a receiver.
    Command(String),
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            let expected = "expected ssh://[USER@]HOST[:PORT] or exec:COMMAND";
            Err(Error::Invalid(format!("destination {text:?}: {why}; {expected}")))
        };
        if let Some(command) = text.strip_prefix("exec:") {
            return if command.trim().is_empty() {
                bad("has no command")
            } else {
                Ok(Self::Command(command.into()))
            };
        }
        let Some(rest) = text.strip_prefix("ssh://") else { return bad("is of no kind that is known") };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        // [ADDRESS] of IPv6 has colons of its own.
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, port.strip_prefix(':').or(Some(port))),
            None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = match port.map(str::parse::<u16>) {
            Some(Err(_) | Ok(0)) => return bad("has a port that is no number from 1 to 65535"),
            Some(Ok(port)) => Some(port),
            None => None,
        };
        // ssh would take them for flags.
        if host.is_empty()
            || host.starts_with('-')
            || user.is_some_and(|user| user.is_empty() || user.starts_with('-'))
        {
            return bad("names no host");
        }
        Ok(Self::Ssh { user: user.map(str::to_owned), host: host.to_owned(), port })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, host, port) = match self {
            Self::Command(command) => return write!(f, "exec:{command}"),
            Self::Ssh { user, host, port } => (user, host, port),
        };
        f.write_str("ssh://")?;
        user.as_ref().map_or(Ok(()), |user| write!(f, "{user}@"))?;
        if host.contains(':') {
            write!(f, "[{host}]")?;
        } else {
            f.write_str(host)?;
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Destination {
    /// The command that leads there; `receiver` is what runs at the other end of ssh.
    fn command(&self, receiver: &str) -> Command {
        match self {
            Self::Command(command) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(command);
                shell
            }
            Self::Ssh { user, host, port } => {
                let mut ssh = Command::new("ssh");
                ssh.arg("-T");
                if let Some(port) = port {
                    ssh.args(["-p", &port.to_string()]);
                }
                if let Some(user) = user {
                    ssh.args(["-l", user]);
                }
                ssh.args(["--", host, receiver]);
                ssh
            }
        }
    }
}

/// One end of a conversation.
pub struct Connection {
    from: Patient<OwnedFd>,
    to: Patient<OwnedFd>,
    /// The other end's name, in messages.
    peer: String,
    /// The process that leads there, at the end that has started it; after the streams, at whose end it ends.
    leads: Option<Leader>,
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
    /// If the command cannot be started, or the other end speaks another protocol.
    pub(super) fn to(destination: &Destination, receiver: &str, stall: Duration) -> Result<Self> {
        let mut command = destination.command(receiver);
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
        let mut connection = Self {
            from: Patient { fd: from.into(), stall },
            to: Patient { fd: to, stall },
            peer: destination.to_string(),
            leads: Some(Leader(child)),
        };
        connection.greet()?;
        Ok(connection)
    }

    /// From the destination's end, over these streams.
    ///
    /// # Errors
    /// If the other end speaks another protocol.
    pub fn over(from: OwnedFd, to: OwnedFd, stall: Duration) -> Result<Self> {
        let (from, to) = (Patient { fd: from, stall }, Patient { fd: to, stall });
        let mut connection = Self { from, to, peer: "the source".into(), leads: None };
        connection.greet()?;
        Ok(connection)
    }

    fn greet(&mut self) -> Result<()> {
        let program = format!("hiber {}", env!("CARGO_PKG_VERSION"));
        let said = self.say(&Word::Hello { protocol: PROTOCOL, program });
        // The words of a program that ended at once tell more than its closed input.
        match self.hear()? {
            Word::Hello { protocol: PROTOCOL, .. } => said,
            Word::Hello { protocol, program } => {
                let why = format!(
                    "it is {program}, which speaks version {protocol} of the protocol; expected {PROTOCOL}"
                );
                Err(self.failed(why))
            }
            other => Err(self.unexpected(&other)),
        }
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
        write_word(&mut self.to, word).map_err(|e| self.broken(e))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        write_data(&mut self.to, bytes).map_err(|e| self.broken(e))
    }

    /// The next word.
    pub(super) fn hear(&mut self) -> Result<Word> {
        match self.next()? {
            Frame::Word(word) => Ok(word),
            Frame::Data(_) => Err(self.failed("it sent bytes of a file out of turn")),
            Frame::Pages { .. } => Err(self.failed("it sent memory out of turn")),
        }
    }

    /// The next word that says more than that the other end is still at work.
    pub(super) fn hear_result(&mut self) -> Result<Word> {
        loop {
            match self.hear()? {
                Word::Working => {}
                word => return Ok(word),
            }
        }
    }

    /// The next frame.
    pub(super) fn next(&mut self) -> Result<Frame> {
        match read_frame(&mut self.from) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(self.broken(e)),
        }
    }

    fn broken(&mut self, e: io::Error) -> Error {
        let closed = matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe);
        let Some(child) = self.leads.as_mut().filter(|_| closed) else {
            return if closed { self.failed("the connection was closed") } else { self.failed(e) };
        };
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

    /// Lets go of the other end, to which all was said, and waits for what has led there. No [`Sender`] may be left.
    pub(super) fn close(self) {
        let Self { from, to, leads, .. } = self;
        drop((from, to));
        leads.into_iter().for_each(Leader::wait);
    }

    /// Tells the other end that this one is at work, until the result is dropped. No other word may be said meanwhile.
    pub(super) fn signs(&self) -> Result<Signs> {
        let (mut sender, working) = (self.sender(None)?, Arc::new(AtomicBool::new(true)));
        let goes_on = Arc::clone(&working);
        let teller = std::thread::spawn(move || {
            while goes_on.load(Ordering::Relaxed) {
                std::thread::park_timeout(SIGN);
                if goes_on.load(Ordering::Relaxed) && !sender.say(&Word::Working) {
                    return;
                }
            }
        });
        Ok(Signs { working, teller: Some(teller) })
    }

    /// A second sender, for words from another thread.
    pub(super) fn sender(&self, bandwidth: Option<u64>) -> Result<Sender> {
        let fd = self.to.fd.try_clone().map_err(|e| Error::host("duplicate the connection", e))?;
        Ok(Sender { to: Patient { fd, stall: self.to.stall }, memory: 0, bandwidth, next: Instant::now() })
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

/// Says words while the other end listens, and sends memory.
#[derive(Debug)]
pub(super) struct Sender {
    to: Patient<OwnedFd>,
    /// Bytes of memory that were sent.
    pub(super) memory: u64,
    /// Bytes of it in a second, at most, and when the next may be sent.
    bandwidth: Option<u64>,
    next: Instant,
}

impl Sender {
    /// Whether the word could be said.
    pub(super) fn say(&mut self, word: &Word) -> bool {
        write_word(&mut self.to, word).is_ok()
    }
}

impl Sender {
    /// Keeps to the bandwidth; time in which nothing was sent is not made up for.
    fn wait_for_turn(&mut self, bytes: u64) {
        let Some(bandwidth) = self.bandwidth else { return };
        let now = Instant::now();
        std::thread::sleep(self.next.saturating_duration_since(now));
        self.next = self.next.max(now) + Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
    }
}

impl Away for Sender {
    fn put(&mut self, memory: Memory, address: u64, pages: &[u8]) -> io::Result<()> {
        if pages.is_empty() {
            return write_pages(&mut self.to, memory.id(), address, pages);
        }
        self.memory += pages.len() as u64;
        self.wait_for_turn(pages.len() as u64);
        let mut parts = pages.chunks(MAX_DATA).zip((address..).step_by(MAX_DATA));
        parts.try_for_each(|(part, at)| write_pages(&mut self.to, memory.id(), at, part))
    }
}

/// A stream that fails if the other end neither sends nor takes anything for some time.
#[derive(Debug)]
struct Patient<T> {
    fd: T,
    stall: Duration,
}

impl<T: AsFd> Patient<T> {
    fn ready(&self, flags: PollFlags) -> io::Result<()> {
        let timeout = Timespec::try_from(self.stall).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&self.fd, flags)], Some(&timeout)))? {
            0 => {
                let why = format!("it has stalled for {} s (--stall)", self.stall.as_secs_f64());
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            }
            _ => Ok(()),
        }
    }
}

impl<T: AsFd> Read for Patient<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ready(PollFlags::IN)?;
        Ok(rustix::io::read(&self.fd, buffer)?)
    }
}

impl<T: AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.ready(PollFlags::OUT)?;
            match rustix::io::write(&self.fd, bytes) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_what_they_say() {
        let ssh = |user: Option<&str>, host: &str, port| Destination::Ssh {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
        };
        for (text, expected) in [
            ("ssh://host", ssh(None, "host", None)),
            ("ssh://me@host:2222", ssh(Some("me"), "host", Some(2222))),
            ("ssh://[fe80::1%eth0]:22", ssh(None, "fe80::1%eth0", Some(22))),
            ("ssh://me@[::1]", ssh(Some("me"), "::1", None)),
            ("exec:nc host 1", Destination::Command("nc host 1".into())),
        ] {
            let destination: Destination = text.parse().unwrap();
            assert_eq!(destination, expected);
            assert_eq!(destination.to_string(), text);
        }
        for (text, why) in [
            ("host", "no kind that is known"),
            ("exec: ", "has no command"),
            ("ssh://", "names no host"),
            ("ssh://-oProxyCommand=x", "names no host"),
            ("ssh://-l@host", "names no host"),
            ("ssh://host:0", "a port"),
            ("ssh://host:x", "a port"),
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("expected ssh://"), "{error}");
        }
    }

    #[test]
    fn who_stalls_is_told() {
        let (from, _held) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut patient = Patient { fd: from, stall: Duration::from_millis(20) };
        let error = patient.read(&mut [0]).unwrap_err();
        assert!(error.to_string().contains("stalled for 0.02 s"), "{error}");
    }
}
