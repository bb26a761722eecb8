//! Sockets: the options that CRIU does not restore, the multicast groups that they are in, and the keys of TCP.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use caps::Capability;
use hiber_sandbox::network::{SignatureKey, signature_keys};
use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::process::setns;
use hiber_sys::socket::{option, set_option};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, sockopt};
use serde::{Deserialize, Serialize};

use super::descriptors::{Descriptor, Owner};
use super::groups::{self, Group, Joined};
use super::options::{INT, Kind, LONGEST, OPTIONS, Of, Over, PRIORITY, SocketOption, Value, by_name};
use super::signatures::{Signature, is_encrypted};
use crate::error::{Error, Result};
use crate::host::threads::apart;

/// A socket by one of the descriptors that lead to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Socket {
    /// In the container's pid namespace.
    pub(crate) process: i32,
    pub(crate) fd: i32,
    /// Options that CRIU does not restore, by their names in C.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) options: BTreeMap<String, Value>,
    /// The multicast groups that it has joined.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<Group>,
    /// Keys with which its TCP connections are signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) signatures: Vec<Signature>,
    /// Whether the kernel encrypted the connection, with keys that nobody can read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) encrypted: bool,
    /// The number by which a socket of ICMP knows its answers (icmp(7)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ping: Option<u16>,
}

/// Whether there are connections that have ended, whose peers CRIU writes nevertheless.
pub(super) type HasClosed = bool;

/// Reads what the sockets among `descriptors` have.
pub(super) fn of(descriptors: &[Descriptor<'_>]) -> Result<(Vec<Socket>, HasClosed)> {
    let mut reader = Reader::default();
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for descriptor in descriptors.iter().filter(|d| d.is_socket() && seen.insert(&d.target)) {
        kept.extend(reader.read(descriptor)?);
    }
    Ok((kept, reader.has_closed))
}

/// Gives the restored sockets what they had. Options that this machine's kernel or network lacks are logged.
pub(super) fn put_back(kept: &[Socket], owners: &[Owner]) -> Result<()> {
    for socket in kept {
        let copy = Owner::find(owners, socket.process)?.copy(socket.fd)?;
        let whose = format!("descriptor {} of process {}", socket.fd, socket.process);
        if socket.encrypted && is_connection(copy.as_fd()) {
            let why = "was a connection that the kernel encrypted (kTLS), and would go on in the clear";
            return Err(Error::Invalid(format!("{whose} {why}: restore with --tcp-close")));
        }
        set_options(socket, copy.as_fd(), &whose)?;
        let is_ipv6 = sockopt::socket_domain(&copy).is_ok_and(|family| family == AddressFamily::INET6);
        // The kernel lists the newest first.
        for signature in socket.signatures.iter().rev() {
            signature
                .set(copy.as_fd(), is_ipv6)
                .map_err(|e| Error::sys("setsockopt", format!("TCP_MD5SIG, {whose}"), e))?;
        }
        if let Some(number) = socket.ping {
            bind_ping(copy.as_fd(), number)
                .map_err(|e| Error::sys("bind", format!("the number {number} of ICMP, {whose}"), e))?;
        }
        for group in &socket.groups {
            match groups::join(copy.as_fd(), group) {
                Ok(()) => {}
                Err(e) if is_missing(e) => tracing::warn!("{whose} cannot join {group}: {e}"),
                Err(e) => return Err(Error::sys("setsockopt", format!("{group}, {whose}"), e)),
            }
        }
    }
    Ok(())
}

fn set_options(socket: &Socket, copy: BorrowedFd<'_>, whose: &str) -> Result<()> {
    let priority = read(copy, PRIORITY.0, PRIORITY.1, INT);
    for option in OPTIONS {
        let Some(value) = socket.options.get(option.name) else { continue };
        let value = value.bytes().unwrap_or_default();
        match set_option(copy, option.level, option.number, &value) {
            Ok(()) => {}
            // A connection that a restore has closed may take less.
            Err(e) if is_missing(e) || is_closed(copy) => {
                tracing::warn!("{whose} cannot have its {} again: {e}", option.name);
            }
            Err(e) => {
                return Err(Error::sys("setsockopt", format!("{} {value:?}, {whose}", option.name), e));
            }
        }
    }
    if is_connection(copy) {
        renew_segment_size(copy);
    }
    // IP_TOS has set another.
    if let Some(priority) = priority
        && read(copy, PRIORITY.0, PRIORITY.1, INT).as_ref() != Some(&priority)
    {
        set_option(copy, PRIORITY.0, PRIORITY.1, &priority)
            .map_err(|e| Error::sys("setsockopt", format!("SO_PRIORITY, {whose}"), e))?;
    }
    Ok(())
}

/// Errors that mean that another kernel, or a network with other devices and addresses, lacks the option.
fn is_missing(e: Errno) -> bool {
    [Errno::NOPROTOOPT, Errno::OPNOTSUPP, Errno::NOENT, Errno::NODEV, Errno::ADDRNOTAVAIL].contains(&e)
}

/// A connection that CRIU has made again sends segments of 536 bytes, whatever the path and the peer take: that is what
/// the kernel begins with, CRIU sets the peer's limit later, and the kernel looks at the limit again only when the peer's
/// window grows. Any change of the headers has it look, even one that changes nothing.
fn renew_segment_size(connection: BorrowedFd<'_>) {
    let [ip_options, routing_header] = ["IP_OPTIONS", "IPV6_RTHDR"].map(by_name);
    for option in [ip_options, routing_header].into_iter().flatten() {
        let has_none =
            read(connection, option.level, option.number, option.size).is_some_and(|v| v.is_empty());
        if has_none && let Err(e) = set_option(connection, option.level, option.number, &[]) {
            tracing::debug!("{} of a connection: {e}", option.name);
        }
    }
}

fn is_connection(socket: BorrowedFd<'_>) -> bool {
    Kind::of(socket).is_some_and(|kind| kind.is_tcp()) && has_peer(socket)
}

/// TCP without a peer that listens for none either.
fn is_closed(socket: BorrowedFd<'_>) -> bool {
    Kind::of(socket).is_some_and(|kind| kind.is_tcp()) && !listens(socket) && !has_peer(socket)
}

/// The port that a socket of IP is bound to; 0 if to none.
fn port(socket: BorrowedFd<'_>) -> u16 {
    let name = rustix::net::getsockname(socket).ok().and_then(|name| SocketAddr::try_from(name).ok());
    name.map_or(0, |name| name.port())
}

/// Gives a socket of ICMP its number, under the address that CRIU has given it.
fn bind_ping(socket: BorrowedFd<'_>, number: u16) -> std::result::Result<(), Errno> {
    if port(socket) == number {
        return Ok(());
    }
    let mut name = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    name.set_port(number);
    rustix::net::bind(socket, &name)
}

fn listens(socket: BorrowedFd<'_>) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

fn has_peer(socket: BorrowedFd<'_>) -> bool {
    rustix::net::getpeername(socket).is_ok_and(|address| address.is_some())
}

/// An option's value; none where the socket has no such option.
fn read(socket: BorrowedFd<'_>, level: i32, number: i32, size: usize) -> Option<Vec<u8>> {
    let mut value = [0; LONGEST];
    let length = option(socket, level, number, &mut value[..size]).ok()?;
    Some(value[..length].to_vec())
}

impl Kind {
    fn of(socket: impl AsFd) -> Option<Self> {
        Some(Self {
            family: sockopt::socket_domain(&socket).ok()?,
            type_: sockopt::socket_type(&socket).ok()?,
            protocol: sockopt::socket_protocol(&socket).ok()?.map_or(0, |p| p.as_raw().get()),
        })
    }

    /// The options of a socket that nobody has touched; none where such a socket cannot be made.
    fn untouched(self) -> Option<Values> {
        let protocol = std::num::NonZeroU32::new(self.protocol).map(Protocol::from_raw);
        let socket =
            rustix::net::socket_with(self.family, self.type_, SocketFlags::CLOEXEC, protocol).ok()?;
        let options = OPTIONS.iter().filter(|option| self.has(option) && option.of != Of::Connection);
        Some(
            options
                .filter_map(|o| Some((o.name, read(socket.as_fd(), o.level, o.number, o.size)?)))
                .collect(),
        )
    }
}

type Values = HashMap<&'static str, Vec<u8>>;

/// Reads sockets, and remembers what is the same for many.
#[derive(Default)]
struct Reader {
    /// The options of untouched sockets by the network namespace, which sets what some begin with.
    untouched: HashMap<(PathBuf, Kind), Values>,
    /// By the network namespace.
    joined: HashMap<PathBuf, Vec<Joined>>,
    /// By the network namespace and the socket's inode number.
    keys: HashMap<PathBuf, HashMap<u32, Vec<SignatureKey>>>,
    has_closed: HasClosed,
}

impl Reader {
    fn read(&mut self, descriptor: &Descriptor<'_>) -> Result<Option<Socket>> {
        let copy = descriptor.copy()?;
        let Some(kind) = Kind::of(&copy) else { return Ok(None) };
        let (owner, fd) = (descriptor.owner, descriptor.fd);
        let network = owner.namespace(NamespaceKind::Network)?;
        let options = self.options(&network, owner, kind, copy.as_fd())?;
        self.has_closed |= kind.is_tcp() && is_closed(copy.as_fd()) && port(copy.as_fd()) != 0;
        let ping = (kind.is_ping()).then(|| port(copy.as_fd())).filter(|port| *port != 0);
        let (signatures, encrypted) = match kind.is_tcp() {
            true => (self.signatures(&network, descriptor)?, is_encrypted(copy.as_fd())),
            false => (Vec::new(), false),
        };
        let groups = if kind.is_inet() && !kind.is_tcp() {
            let joined = self.joined.entry(network).or_insert_with(|| groups::all(owner.outer));
            groups::of(copy.as_fd(), kind.family, joined)
                .map_err(|e| Error::sys("getsockopt", format!("MCAST_MSFILTER of descriptor {fd}"), e))?
        } else {
            Vec::new()
        };
        let kept = !options.is_empty()
            || !groups.is_empty()
            || !signatures.is_empty()
            || encrypted
            || ping.is_some();
        Ok(kept.then_some(Socket { process: owner.inner, fd, options, groups, signatures, encrypted, ping }))
    }

    /// The keys of a TCP socket.
    fn signatures(&mut self, network: &Path, descriptor: &Descriptor<'_>) -> Result<Vec<Signature>> {
        let keys = match self.keys.entry(network.into()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(signature_keys(descriptor.owner.outer)?),
        };
        let inode = descriptor.socket().and_then(|inode| inode.parse().ok());
        let keys = inode.and_then(|inode: u32| keys.get(&inode));
        Ok(keys.into_iter().flatten().map(Signature::of).collect())
    }

    /// The options that are not those of an untouched socket.
    fn options(
        &mut self,
        network: &Path,
        owner: &Owner,
        kind: Kind,
        copy: BorrowedFd<'_>,
    ) -> Result<BTreeMap<String, Value>> {
        let untouched = match self.untouched.entry((network.into(), kind)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(untouched_in(owner, kind)?.unwrap_or_default()),
        };
        let peer = has_peer(copy);
        let is_kept = |option: &&SocketOption| {
            kind.has(option)
                && match option.of {
                    Of::All => true,
                    Of::NotTcp => !kind.is_tcp(),
                    Of::Unconnected => !(kind.is_inet() && peer),
                    Of::Idle => !peer && !listens(copy),
                    Of::Connection => kind.is_tcp() && peer,
                }
        };
        let mut kept = BTreeMap::new();
        for option in OPTIONS.iter().filter(is_kept) {
            if let Some(value) = read(copy, option.level, option.number, option.size)
                && untouched.get(option.name) != Some(&value)
            {
                kept.insert(option.name.to_owned(), Value::of(&value));
            }
        }
        Ok(kept)
    }
}

/// The options of an untouched socket in the network namespace of a process.
fn untouched_in(owner: &Owner, kind: Kind) -> Result<Option<Values>> {
    let path = format!("/proc/{}/ns/net", owner.outer);
    let own = std::fs::read_link("/proc/self/ns/net").ok();
    if !kind.is_inet() || own == std::fs::read_link(&path).ok() {
        return Ok(kind.untouched());
    }
    let namespace = File::open(&path).map_err(|e| Error::file(Path::new(&path), &e))?;
    // A namespace is joined by a thread that ends.
    let there = || {
        setns(
            namespace.as_fd(),
            NamespaceKind::Network.clone_flag(),
            "into the container's network namespace",
        )?;
        Ok(kind.untouched())
    };
    apart("the thread in the container's network namespace", there)
}

/// The options of `kept` that may not be set; `may` is whether config.json grants a capability.
pub(crate) fn refused(kept: &[Socket], may: impl Fn(Capability, Over) -> bool) -> Option<String> {
    let all = kept.iter().flat_map(|socket| socket.options.iter().map(move |option| (socket, option)));
    for (socket, (name, value)) in all {
        let whose = format!("descriptor {} of process {} in kept.json", socket.fd, socket.process);
        let known = by_name(name).zip(value.bytes());
        let Some((option, value)) = known.filter(|(option, value)| value.len() <= option.size) else {
            return Some(format!(
                "gives a socket the option {name:?} of a value that it cannot have ({whose})"
            ));
        };
        if let Some(needed) = option.missing(&value, &may) {
            return Some(format!("sets {name}, and config.json does not grant {needed} ({whose})"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untouched_socket_has_nothing_to_be_kept() {
        let me = crate::host::procfs::Numbered::all(1, &[i32::try_from(std::process::id()).unwrap()]);
        let owners = Owner::all(&me);
        let untouched = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let touched = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        touched.set_multicast_ttl_v4(9).unwrap();
        let fd = |socket: BorrowedFd<'_>| std::os::fd::AsRawFd::as_raw_fd(&socket);
        let ours = [untouched.as_fd(), listener.as_fd(), touched.as_fd()].map(fd);
        let descriptors = owners[0].descriptors().unwrap();
        let ours: Vec<_> = descriptors.into_iter().filter(|d| ours.contains(&d.fd)).collect();
        let (kept, _) = of(&ours).unwrap();
        let number = |name: &str, number| BTreeMap::from([(name.to_owned(), Value::Number(number))]);
        // std's listeners have SO_REUSEADDR, which CRIU keeps
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!((kept[0].fd, &kept[0].options), (fd(touched.as_fd()), &number("IP_MULTICAST_TTL", 9)));
        untouched.set_ttl(3).unwrap();
        let other = Socket { process: owners[0].inner, fd: fd(untouched.as_fd()), ..kept[0].clone() };
        put_back(&[other], &owners).unwrap();
        assert_eq!(untouched.multicast_ttl_v4().unwrap(), 9);
    }
}
