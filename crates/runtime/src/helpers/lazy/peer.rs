//! The other machine, and the connection to it.

use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

/// Where memory is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

/// The reason why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; expected ADDRESS:PORT")]
pub struct InvalidAddress(&'static str);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (address, port) = text.rsplit_once(':').ok_or(InvalidAddress("no port"))?;
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        if bare.is_none() && address.contains(':') {
            return Err(InvalidAddress("an IPv6 address needs brackets"));
        }
        let host = bare.unwrap_or(address).to_owned();
        let port = port.parse().ok().filter(|&port| port > 0);
        let port = port.ok_or(InvalidAddress("the port is no number from 1 to 65535"))?;
        if host.is_empty() { Err(InvalidAddress("no address")) } else { Ok(Self { host, port }) }
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// How long connecting may take, and an answer to the token.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
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
pub(super) fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    Ok(sockopt::set_tcp_keepcnt(stream, 4)?)
}
