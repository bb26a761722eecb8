//! Open sockets: their kinds by a copy of each descriptor, TCP by the kernel's tables, unix peers by sock_diag(7).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use ::procfs::net::{TcpNetEntry, TcpState};
use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::pidfd::DescriptorOwner;
use hiber_sys::process::setns;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, netlink};

use super::files::SocketFd;
use super::table::{IN_FLIGHT, NETLINK, SOCKET, TCP, UNIX_DATAGRAM, UNIX_IN_FLIGHT, UNIX_PEER};
use super::tasks::Proc;
use super::{Findings, unsaved};

/// The permissions that flags give.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// `--tcp-established` or `--tcp-close`.
    pub(super) tcp: bool,
    pub(super) tcp_in_flight: bool,
    pub(super) unix_datagram: bool,
}

/// IPPROTO_UDPLITE (in.h), which rustix leaves out.
const UDPLITE: u32 = 136;
/// AF_ALG (socket.h), likewise.
const AF_ALG: u16 = 38;
/// The largest packet of a netlink dump that the kernel sends.
const PACKET: usize = 1 << 16;

/// Looks at all sockets of the container: `sockets` has those of each task.
pub(super) fn check(findings: &mut Findings, tasks: &[Proc], sockets: &[Vec<SocketFd>], allowed: Allowed) {
    let held: HashSet<u64> = sockets.iter().flatten().map(|s| s.inode).collect();
    // Once for each network namespace.
    let mut networks: HashMap<PathBuf, Network> = HashMap::new();
    let mut seen = HashSet::new();
    for (task, sockets) in tasks.iter().zip(sockets) {
        let owner = DescriptorOwner::new(task.pid);
        for socket in sockets.iter().filter(|s| seen.insert(s.inode)) {
            let Ok(copy) = owner.copy(socket.fd) else { continue };
            let Some(kind) = Kind::of(&copy) else { continue };
            if let Some(name) = kind.unsupported() {
                findings.of(task, &SOCKET, format!("descriptor {} is a socket of kind {name}", socket.fd));
                continue;
            }
            unsaved::check(findings, task, socket.fd, &copy, kind.family);
            if kind.family == AddressFamily::NETLINK && has_data(&copy) {
                findings.of(
                    task,
                    &NETLINK,
                    format!("descriptor {} has messages that it has not read", socket.fd),
                );
            }
            let Ok(namespace) = std::fs::read_link(task.path("ns/net")) else { continue };
            let network = networks.entry(namespace).or_insert_with(|| Network::read(task, &held));
            network.check(findings, task, socket, &kind, allowed);
        }
    }
}

/// The kind of a socket.
struct Kind {
    family: AddressFamily,
    type_: SocketType,
    protocol: Option<Protocol>,
}

impl Kind {
    fn of(socket: &OwnedFd) -> Option<Self> {
        use rustix::net::sockopt;
        Some(Self {
            family: sockopt::socket_domain(socket).ok()?,
            type_: sockopt::socket_type(socket).ok()?,
            protocol: sockopt::socket_protocol(socket).ok()?,
        })
    }

    /// Its name, if it is none that CRIU can save (sockets.c, sk-inet.c).
    fn unsupported(&self) -> Option<String> {
        match self.family {
            AddressFamily::UNIX | AddressFamily::NETLINK | AddressFamily::PACKET => None,
            AddressFamily::INET | AddressFamily::INET6 => self.unsupported_protocol(),
            AddressFamily::VSOCK => Some("vsock".into()),
            AddressFamily::XDP => Some("AF_XDP".into()),
            AddressFamily::BLUETOOTH => Some("bluetooth".into()),
            AddressFamily::CAN => Some("CAN".into()),
            AddressFamily::TIPC => Some("TIPC".into()),
            other if other.as_raw() == AF_ALG => Some("AF_ALG (the kernel's cryptography)".into()),
            other => Some(format!("family {}", other.as_raw())),
        }
    }

    fn unsupported_protocol(&self) -> Option<String> {
        if self.type_ == SocketType::RAW {
            return None;
        }
        let known = [ipproto::TCP, ipproto::UDP, ipproto::ICMP, ipproto::ICMPV6];
        let protocol = self.protocol?;
        let number = protocol.as_raw().get();
        if known.contains(&protocol) || number == UDPLITE {
            return None;
        }
        Some(match protocol {
            ipproto::MPTCP => "MPTCP".into(),
            ipproto::SCTP => "SCTP".into(),
            ipproto::DCCP => "DCCP".into(),
            _ => format!("IP protocol {number}"),
        })
    }
}

fn has_data(socket: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(socket, PollFlags::IN)];
    rustix::event::poll(&mut ready, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// A network namespace's sockets.
struct Network {
    tcp: HashMap<u64, TcpNetEntry>,
    /// Sockets that are connected to one that the container does not have: with a name for the other end.
    outside: HashMap<u64, Peer>,
    /// Sockets that have sent something to one that has not accepted them yet.
    hasty: HashSet<u64>,
}

/// The other end of a unix socket.
struct Peer {
    /// Its name, or that of the near end; may be empty.
    name: String,
    /// Whether it is in the same network namespace, where CRIU can see it.
    is_near: bool,
}

impl Network {
    fn read(task: &Proc, held: &HashSet<u64>) -> Self {
        let tables = ::procfs::process::Process::new(task.pid)
            .map(|p| p.tcp().unwrap_or_default().into_iter().chain(p.tcp6().unwrap_or_default()))
            .into_iter()
            .flatten();
        let tcp = tables.map(|entry| (entry.inode, entry)).collect();
        let local = unix_sockets(task).unwrap_or_default();
        let waiting = waiting(&local, held);
        let hasty = local.iter().filter(|s| {
            waiting.contains(&s.header.inode)
                && s.nlas.iter().any(|nla| matches!(nla, Nla::ReceiveQueueLength(_, sent) if *sent > 0))
        });
        let hasty = hasty.map(|socket| socket.header.inode.into()).collect();
        Self { tcp, outside: outside_peers(&local, held), hasty }
    }

    fn check(&self, findings: &mut Findings, task: &Proc, socket: &SocketFd, kind: &Kind, allowed: Allowed) {
        if kind.family == AddressFamily::UNIX
            && let Some(peer) = self.outside.get(&socket.inode)
        {
            let can_be_named = kind.type_ == SocketType::DGRAM && peer.is_near;
            let check = if can_be_named { &UNIX_DATAGRAM } else { &UNIX_PEER };
            if !can_be_named || !allowed.unix_datagram {
                let what =
                    format!("descriptor {} is connected to a unix socket outside the container", socket.fd);
                findings.of(task, check, what).path = Some(peer.name.clone()).filter(|name| !name.is_empty());
            }
        }
        if self.hasty.contains(&socket.inode) {
            let what = format!(
                "descriptor {} is a unix connection that nobody has accepted, and has sent something",
                socket.fd
            );
            findings.of(task, &UNIX_IN_FLIGHT, what);
        }
        let Some(entry) = self.tcp.get(&socket.inode) else { return };
        tcp(findings, task, socket.fd, entry, allowed);
    }
}

fn tcp(findings: &mut Findings, task: &Proc, fd: i32, entry: &TcpNetEntry, allowed: Allowed) {
    let (local, remote) = (entry.local_address, entry.remote_address);
    match &entry.state {
        TcpState::Listen if entry.rx_queue > 0 && !allowed.tcp_in_flight => {
            let what = format!(
                "descriptor {fd}, which listens on {local}, has {} connections to accept",
                entry.rx_queue
            );
            findings.of(task, &IN_FLIGHT, what);
        }
        TcpState::Listen
        | TcpState::Close
        | TcpState::TimeWait
        | TcpState::SynRecv
        | TcpState::NewSynRecv => {}
        _ if allowed.tcp => {}
        state => {
            let what = format!("descriptor {fd} is a TCP connection, {local} to {remote} ({state:?})");
            findings.of(task, &TCP, what);
        }
    }
}

/// The sockets that wait to be accepted by one of `held`.
fn waiting(all: &[UnixResponse], held: &HashSet<u64>) -> HashSet<u32> {
    let held = all.iter().filter(|socket| held.contains(&u64::from(socket.header.inode)));
    held.filter_map(UnixResponse::pending_connections).flatten().copied().collect()
}

/// The sockets of `held` whose other end is not in it, nor waiting to be accepted by one that is.
fn outside_peers(all: &[UnixResponse], held: &HashSet<u64>) -> HashMap<u64, Peer> {
    let is_held = |s: &&UnixResponse| held.contains(&u64::from(s.header.inode));
    let waiting = waiting(all, held);
    let names: HashMap<u32, String> = all.iter().map(|s| (s.header.inode, name(s))).collect();
    let mut outside = HashMap::new();
    for socket in all.iter().filter(is_held) {
        let inode = socket.header.inode;
        let elsewhere = match socket.peer() {
            // Nobody has accepted the connection yet, or the other end is closed, which shuts this one down.
            Some(0) => !waiting.contains(&inode) && socket.shutdown_state().unwrap_or(0) == 0,
            Some(peer) => !held.contains(&u64::from(peer)),
            None => false,
        };
        if elsewhere {
            let other = socket.peer().and_then(|peer| names.get(&peer));
            let named = other.filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| name(socket));
            outside.insert(u64::from(inode), Peer { name: named, is_near: other.is_some() });
        }
    }
    outside
}

fn name(socket: &UnixResponse) -> String {
    match socket.name() {
        Some(UnixDiagName::Pathname(path)) => path.to_string_lossy().into_owned(),
        Some(UnixDiagName::Abstract(bytes)) => {
            format!("@{}", String::from_utf8_lossy(bytes).trim_end_matches('\0'))
        }
        None => String::new(),
    }
}

/// The unix sockets of a task's network namespace; asked by a thread that joins it and ends.
fn unix_sockets(task: &Proc) -> Option<Vec<UnixResponse>> {
    let namespace = File::open(task.path("ns/net")).ok()?;
    let ask = || -> Option<Vec<UnixResponse>> {
        setns(
            namespace.as_fd(),
            NamespaceKind::Network.clone_flag(),
            "into the container's network namespace",
        )
        .ok()?;
        ask_for_unix_sockets().ok()
    };
    std::thread::scope(|scope| scope.spawn(ask).join().ok().flatten())
}

fn ask_for_unix_sockets() -> rustix::io::Result<Vec<UnixResponse>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = UnixRequest {
        state_flags: StateFlags::from_bits_retain(u32::MAX),
        inode: 0,
        show_flags: ShowFlags::NAME | ShowFlags::PEER | ShowFlags::ICONS | ShowFlags::RQLEN,
        cookie: [0xff; 8],
    };
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(SockDiagMessage::UnixRequest(request)));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    rustix::net::send(&socket, &bytes, SendFlags::empty())?;
    let mut all = Vec::new();
    let mut buffer = vec![0u8; PACKET];
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if collect(&buffer[..length], &mut all) {
            return Ok(all);
        }
    }
}

/// Takes the messages of one packet; whether it was the last.
fn collect(mut packet: &[u8], all: &mut Vec<UnixResponse>) -> bool {
    while !packet.is_empty() {
        let Ok(message) = NetlinkMessage::<SockDiagMessage>::deserialize(packet) else { return true };
        let length = usize::try_from(message.header.length).unwrap_or(0).next_multiple_of(4).max(4);
        match message.payload {
            NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return true,
            NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(response)) => all.push(*response),
            _ => {}
        }
        packet = packet.get(length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn inode(fd: impl AsFd) -> u64 {
        File::from(fd.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap().ino()
    }

    #[test]
    fn a_peer_that_is_not_held_is_outside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let all = ask_for_unix_sockets().unwrap();
        let (listening, connected) = (inode(&listener), inode(&client));
        assert!(outside_peers(&all, &[listening, connected].into()).is_empty(), "it waits to be accepted");
        let outside = outside_peers(&all, &[connected].into());
        assert!(outside.contains_key(&connected), "whoever listens is not held");
        let (server, _) = listener.accept().unwrap();
        let all = ask_for_unix_sockets().unwrap();
        assert!(outside_peers(&all, &[connected, inode(&server)].into()).is_empty());
        let outside = outside_peers(&all, &[listening, connected].into());
        assert_eq!(outside[&connected].name, path.to_string_lossy());
        assert!(outside[&connected].is_near);
        drop(server);
        let all = ask_for_unix_sockets().unwrap();
        assert!(outside_peers(&all, &[connected].into()).is_empty(), "a connection that is closed");
    }

    #[test]
    fn kinds_are_told_by_a_copy_of_the_descriptor() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(Kind::of(&a.into()).unwrap().unsupported(), None);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(Kind::of(&tcp.into()).unwrap().unsupported(), None);
        let kind = |family, type_, protocol| Kind { family, type_, protocol };
        let mptcp = kind(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP));
        assert_eq!(mptcp.unsupported().as_deref(), Some("MPTCP"));
        assert!(kind(AddressFamily::VSOCK, SocketType::STREAM, None).unsupported().is_some());
    }
}
