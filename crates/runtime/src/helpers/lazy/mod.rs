//! Memory that follows a container later (`--lazy-pages`), between a dump that serves it and a restore that fetches it.
//!
//! ```text
//!   hiber checkpoint                                          hiber restore
//!     criu swrk <--socket--> departure <--- TCP ---> arrival <--socket--> criu lazy-pages
//! ```
//!
//! CRIU alone would lose containers here (see [`hiber_criu::page_relay`]): so the connection is made by us, and each end
//! has a process of its own, which outlives a runtime that is killed. Only when the destination has everything, the
//! source's container ends; in every other case it runs on, its checkpoint is withdrawn, and the restored half of it is
//! killed, since memory that does not come any more would read as zeros.
//!
//! Anybody may connect to the source. Only who shows the token of the checkpoint's manifest, and so has its images, is
//! heard ([`admission`]).

mod admission;
pub(crate) mod arrival;
pub(crate) mod departure;
mod token;

use std::ffi::OsStr;
use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hiber_sandbox::wire::{Channel, Message};
use rustix::net::sockopt;

use crate::error::{Context, Error, Result};

pub use token::Token;

/// Where memory is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// An address or a name of the host.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How long connecting may take, and an answer to the token.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long a page server may take nothing, or not answer: CRIU then says goodbye, and waits as long for an answer to
/// that. The container is frozen meanwhile.
const LIMIT: Duration = Duration::from_secs(20);

/// Connects to whoever serves or takes memory.
pub(crate) fn connect(source: &Address) -> std::io::Result<TcpStream> {
    let mut last = std::io::ErrorKind::NotFound.into();
    for address in (source.host.as_str(), source.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return tune(&stream).map(|()| stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Ends a connection on which nothing goes on, whoever then reads from it or writes to it.
pub(crate) fn bound(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(sockopt::set_tcp_user_timeout(stream, u32::try_from(LIMIT.as_millis()).unwrap_or(u32::MAX))?)
}

/// Finds a peer that is gone without a word within half a minute, and sends requests at once.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    Ok(sockopt::set_tcp_keepcnt(stream, 4)?)
}

/// Starts this program as one of the two processes; `argument` says which.
fn spawn<Says: Message, Hears: Message>(argument: &str) -> Result<(Child, Channel<Says, Hears>)> {
    let (ours, theirs) = Channel::pair()?;
    let theirs: OwnedFd =
        theirs.as_fd().try_clone_to_owned().map_err(|e| Error::host("duplicate a socket", e))?;
    let child = Command::new("/proc/self/exe")
        .arg(argument)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::file("/proc/self/exe".as_ref(), &e))
        .context(format!("start the process for {argument}"))?;
    Ok((child, ours))
}

/// The other end of [`spawn`]'s channel, if this process was started by it with `name`.
fn asked(argument: Option<&OsStr>, name: &str) -> Option<OwnedFd> {
    if argument != Some(name.as_ref()) {
        return None;
    }
    // What is sent to the runtime's process group is not meant for us.
    let _ = rustix::process::setsid();
    rustix::stdio::stdin().try_clone_to_owned().ok()
}

/// Acts as one of the processes if the first argument says so, and then does not return.
pub(crate) fn run_if_asked(argument: Option<&OsStr>) {
    if let Some(socket) = asked(argument, departure::ARGUMENT) {
        departure::run(socket);
        std::process::exit(0);
    }
    if let Some(socket) = asked(argument, arrival::ARGUMENT) {
        arrival::run(socket);
        std::process::exit(0);
    }
}
