//! The options of sockets that CRIU 4.2.1 does not restore: the one table of them.

use caps::Capability;
use rustix::net::{AddressFamily, SocketType};
use serde::{Deserialize, Serialize};

/// An option that a checkpoint keeps.
pub(super) struct SocketOption {
    /// Its name in C.
    pub(super) name: &'static str,
    /// The level and number that getsockopt(2) knows it by.
    pub(super) level: i32,
    pub(super) number: i32,
    /// The longest value, in bytes; one of [`INT`] bytes is a number.
    pub(super) size: usize,
    /// The sockets whose option it keeps, of those that have it.
    pub(super) of: Of,
    /// The privilege that setting a value needs.
    pub(super) needs: Needs,
}

/// How long most options are.
pub(super) const INT: usize = size_of::<i32>();

/// Which sockets an option is kept of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    All,
    /// All but TCP, whose value CRIU restores.
    NotTcp,
    /// All but those of IP with a peer, whose value is the kernel's, or cannot be set any more.
    Unconnected,
    /// Those of IP without a peer that do not listen for one either.
    Idle,
    /// TCP connections, whatever the value: what CRIU makes of a connection has another one than a new socket.
    Connection,
}

/// Whether a value needs a capability over the network namespace.
#[derive(Clone, Copy)]
pub(super) enum Needs {
    Nothing,
    /// One of these, unless the value is 0.
    OneOf(&'static [Capability]),
    /// CAP_NET_ADMIN in the machine's first user namespace, unless the value is 0.
    HostAdmin,
    /// CAP_NET_ADMIN, unless the kernel allows the algorithm to all.
    Algorithm,
    /// CAP_NET_ADMIN for clocks other than CLOCK_MONOTONIC.
    Clock,
    /// CAP_NET_RAW for options other than those of [`FREE_IP_OPTIONS`].
    IpOptions,
}

/// The namespace that a capability must be held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The socket's network namespace.
    Network,
    /// The machine.
    Host,
}

/// The kind of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) family: AddressFamily,
    pub(super) type_: SocketType,
    /// 0 for the family's only one.
    pub(super) protocol: u32,
}

/// An option's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Number(i32),
    /// A value that is no number, as the kernel's bytes in hexadecimal digits.
    Bytes(String),
}

impl Value {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes.try_into() {
            Ok(bytes) => Self::Number(i32::from_ne_bytes(bytes)),
            Err(_) => Self::Bytes(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    /// None of what `of` does not make.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Number(number) => Some(number.to_ne_bytes().to_vec()),
            Self::Bytes(digits) => {
                let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
                let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
                let byte = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
                if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
            }
        }
    }
}

/// IPPROTO_* (in.h) that are levels, too.
const IP: i32 = 0;
const TCP: i32 = 6;
const UDP: i32 = 17;
const IPV6: i32 = 41;
const UDPLITE: i32 = 136;
/// IPPROTO_* that are no levels of options.
const ICMP: u32 = 1;
const ICMPV6: u32 = 58;
/// SOL_* (socket.h)
const SOCKET: i32 = 1;
const PACKET: i32 = 263;
const NETLINK: i32 = 270;
/// SO_PRIORITY (asm-generic/socket.h), which IP_TOS sets as well.
pub(super) const PRIORITY: (i32, i32) = (SOCKET, 12);

impl Kind {
    pub(super) fn is_inet(&self) -> bool {
        matches!(self.family, AddressFamily::INET | AddressFamily::INET6)
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.is_inet() && self.type_ == SocketType::STREAM
    }

    /// Whether it is one of ICMP that is no raw socket.
    pub(super) fn is_ping(&self) -> bool {
        self.type_ == SocketType::DGRAM
            && match self.family {
                AddressFamily::INET => self.protocol == ICMP,
                AddressFamily::INET6 => self.protocol == ICMPV6,
                _ => false,
            }
    }

    /// Whether sockets of this kind may have an option.
    pub(super) fn has(&self, option: &SocketOption) -> bool {
        let protocol = i32::try_from(self.protocol).unwrap_or(-1);
        match option.level {
            SOCKET => true,
            IP => self.is_inet(),
            IPV6 => self.family == AddressFamily::INET6,
            TCP => self.is_tcp(),
            UDP => self.is_inet() && [UDP, UDPLITE].contains(&protocol),
            UDPLITE => self.is_inet() && protocol == UDPLITE,
            PACKET => self.family == AddressFamily::PACKET,
            NETLINK => self.family == AddressFamily::NETLINK,
            _ => false,
        }
    }
}

/// The option of that name.
pub(super) fn by_name(name: &str) -> Option<&'static SocketOption> {
    OPTIONS.iter().find(|option| option.name == name)
}

const fn option(name: &'static str, level: i32, number: i32) -> SocketOption {
    SocketOption { name, level, number, size: INT, of: Of::All, needs: Needs::Nothing }
}

impl SocketOption {
    const fn of(mut self, of: Of) -> Self {
        self.of = of;
        self
    }

    const fn sized(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    const fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    const fn raw(self) -> Self {
        self.needs(Needs::OneOf(&[Capability::CAP_NET_RAW]))
    }

    const fn raw_or_admin(self) -> Self {
        self.needs(Needs::OneOf(&[Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN]))
    }
}

impl SocketOption {
    /// The privilege that setting `value` needs and `may` does not grant.
    pub(super) fn missing(&self, value: &[u8], may: impl Fn(Capability, Over) -> bool) -> Option<Capability> {
        let is_set = value.iter().any(|byte| *byte != 0);
        let needed: &[Capability] = match self.needs {
            Needs::OneOf(all) if is_set => all,
            Needs::HostAdmin if is_set => &[Capability::CAP_NET_ADMIN],
            Needs::Algorithm if !is_allowed(value) => &[Capability::CAP_NET_ADMIN],
            Needs::Clock if value.get(..INT) != Some(&MONOTONIC.to_ne_bytes()) => {
                &[Capability::CAP_NET_ADMIN]
            }
            Needs::IpOptions if !are_free(value) => &[Capability::CAP_NET_RAW],
            _ => &[],
        };
        let over = if matches!(self.needs, Needs::HostAdmin) { Over::Host } else { Over::Network };
        let missing = needed.first().copied()?;
        (!needed.iter().any(|capability| may(*capability, over))).then_some(missing)
    }
}

/// Whether everybody may choose the algorithm of congestion control: `value` is its name, with zeros behind.
fn is_allowed(value: &[u8]) -> bool {
    let all = hiber_sys::file::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
        .unwrap_or_default();
    let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
    all.split_whitespace().any(|allowed| allowed.as_bytes() == name)
}

/// Whether these options of IP headers are of kinds that everybody may send: a byte is the kind, the next one, of all but
/// the first two kinds, the length (RFC 791, section 3.1).
fn are_free(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        let length = match kind {
            0 | 1 => 1,
            _ => rest.first().copied().unwrap_or(0).max(1).into(),
        };
        if !FREE_IP_OPTIONS.contains(kind) {
            return false;
        }
        options = options.get(length..).unwrap_or_default();
    }
    true
}

/// CLOCK_MONOTONIC
const MONOTONIC: i32 = 1;
/// IPOPT_* (ip.h): end, no operation, record route, timestamp, loose and strict source route, router alert.
const FREE_IP_OPTIONS: [u8; 7] = [0, 1, 7, 68, 131, 137, 148];

/// In the order in which they are set: of those that share flags in the kernel, the one that says more comes later.
pub(super) static OPTIONS: &[SocketOption] = &[
    // asm-generic/socket.h
    option("SO_DEBUG", SOCKET, 1).needs(Needs::HostAdmin),
    option("SO_REUSEADDR", SOCKET, 2).of(Of::NotTcp),
    option("SO_REUSEPORT", SOCKET, 15).of(Of::Connection),
    option("SO_TIMESTAMP", SOCKET, 29),
    option("SO_TIMESTAMPNS", SOCKET, 35),
    option("SO_TIMESTAMPING", SOCKET, 37).sized(8),
    option("SO_TIMESTAMP_NEW", SOCKET, 63),
    option("SO_TIMESTAMPNS_NEW", SOCKET, 64),
    option("SO_TIMESTAMPING_NEW", SOCKET, 65).sized(8),
    option("SO_RXQ_OVFL", SOCKET, 40),
    option("SO_WIFI_STATUS", SOCKET, 41),
    option("SO_PEEK_OFF", SOCKET, 42),
    option("SO_NOFCS", SOCKET, 43),
    option("SO_SELECT_ERR_QUEUE", SOCKET, 45),
    option("SO_BUSY_POLL", SOCKET, 46).needs(Needs::HostAdmin),
    option("SO_MAX_PACING_RATE", SOCKET, 47).sized(8),
    option("SO_INCOMING_CPU", SOCKET, 49).of(Of::Unconnected),
    option("SO_ZEROCOPY", SOCKET, 60),
    option("SO_TXTIME", SOCKET, 61).sized(8).needs(Needs::Clock),
    option("SO_PREFER_BUSY_POLL", SOCKET, 69).needs(Needs::HostAdmin),
    option("SO_RESERVE_MEM", SOCKET, 73),
    option("SO_TXREHASH", SOCKET, 74),
    option("SO_RCVMARK", SOCKET, 75).raw_or_admin(),
    option("SO_PASSPIDFD", SOCKET, 76),
    option("SO_RCVPRIORITY", SOCKET, 82),
    option("SO_PASSRIGHTS", SOCKET, 83),
    // in.h; a socket of IPv6 has these for what it sends and gets by IPv4
    option("IP_TOS", IP, 1),
    option("IP_TTL", IP, 2),
    option("IP_OPTIONS", IP, 4).sized(40).needs(Needs::IpOptions),
    option("IP_RECVOPTS", IP, 6),
    option("IP_RETOPTS", IP, 7),
    option("IP_PKTINFO", IP, 8),
    option("IP_MTU_DISCOVER", IP, 10),
    option("IP_RECVERR", IP, 11),
    option("IP_RECVTTL", IP, 12),
    option("IP_RECVTOS", IP, 13),
    option("IP_PASSSEC", IP, 18),
    option("IP_TRANSPARENT", IP, 19).raw_or_admin(),
    option("IP_RECVORIGDSTADDR", IP, 20),
    option("IP_MINTTL", IP, 21),
    option("IP_CHECKSUM", IP, 23),
    option("IP_BIND_ADDRESS_NO_PORT", IP, 24),
    option("IP_RECVFRAGSIZE", IP, 25),
    option("IP_RECVERR_RFC4884", IP, 26),
    option("IP_MULTICAST_IF", IP, 32).of(Of::NotTcp),
    option("IP_MULTICAST_TTL", IP, 33).of(Of::NotTcp),
    option("IP_MULTICAST_LOOP", IP, 34),
    option("IP_MULTICAST_ALL", IP, 49),
    option("IP_UNICAST_IF", IP, 50),
    option("IP_LOCAL_PORT_RANGE", IP, 51),
    // in6.h
    option("IPV6_2292PKTINFO", IPV6, 2),
    option("IPV6_2292HOPOPTS", IPV6, 3),
    option("IPV6_2292DSTOPTS", IPV6, 4),
    option("IPV6_2292RTHDR", IPV6, 5),
    option("IPV6_CHECKSUM", IPV6, 7),
    option("IPV6_2292HOPLIMIT", IPV6, 8),
    option("IPV6_FLOWINFO", IPV6, 11),
    option("IPV6_UNICAST_HOPS", IPV6, 16),
    option("IPV6_MULTICAST_IF", IPV6, 17).of(Of::NotTcp),
    option("IPV6_MULTICAST_HOPS", IPV6, 18).of(Of::NotTcp),
    option("IPV6_MULTICAST_LOOP", IPV6, 19),
    option("IPV6_MTU_DISCOVER", IPV6, 23),
    option("IPV6_RECVERR", IPV6, 25),
    option("IPV6_MULTICAST_ALL", IPV6, 29),
    option("IPV6_ROUTER_ALERT_ISOLATE", IPV6, 30),
    option("IPV6_RECVERR_RFC4884", IPV6, 31),
    option("IPV6_FLOWINFO_SEND", IPV6, 33),
    option("IPV6_RECVHOPLIMIT", IPV6, 51),
    option("IPV6_RECVHOPOPTS", IPV6, 53),
    option("IPV6_HOPOPTS", IPV6, 54).sized(EXTENSION).raw(),
    option("IPV6_RTHDRDSTOPTS", IPV6, 55).sized(EXTENSION).raw(),
    option("IPV6_RECVRTHDR", IPV6, 56),
    option("IPV6_RTHDR", IPV6, 57).sized(EXTENSION),
    option("IPV6_RECVDSTOPTS", IPV6, 58),
    option("IPV6_DSTOPTS", IPV6, 59).sized(EXTENSION).raw(),
    option("IPV6_RECVPATHMTU", IPV6, 60),
    option("IPV6_DONTFRAG", IPV6, 62),
    option("IPV6_RECVTCLASS", IPV6, 66),
    option("IPV6_TCLASS", IPV6, 67),
    option("IPV6_AUTOFLOWLABEL", IPV6, 70),
    option("IPV6_ADDR_PREFERENCES", IPV6, 72),
    option("IPV6_MINHOPCOUNT", IPV6, 73),
    option("IPV6_RECVORIGDSTADDR", IPV6, 74),
    option("IPV6_TRANSPARENT", IPV6, 75).raw_or_admin(),
    option("IPV6_UNICAST_IF", IPV6, 76),
    option("IPV6_RECVFRAGSIZE", IPV6, 77),
    // tcp.h
    option("TCP_MAXSEG", TCP, 2).of(Of::Unconnected),
    option("TCP_SYNCNT", TCP, 7),
    option("TCP_LINGER2", TCP, 8),
    option("TCP_DEFER_ACCEPT", TCP, 9),
    option("TCP_WINDOW_CLAMP", TCP, 10),
    option("TCP_QUICKACK", TCP, 12),
    option("TCP_CONGESTION", TCP, 13).sized(16).needs(Needs::Algorithm),
    option("TCP_THIN_LINEAR_TIMEOUTS", TCP, 16),
    option("TCP_THIN_DUPACK", TCP, 17),
    option("TCP_USER_TIMEOUT", TCP, 18),
    option("TCP_FASTOPEN", TCP, 23).of(Of::Unconnected),
    option("TCP_NOTSENT_LOWAT", TCP, 25),
    option("TCP_SAVE_SYN", TCP, 27),
    option("TCP_FASTOPEN_CONNECT", TCP, 30).of(Of::Idle),
    option("TCP_FASTOPEN_KEY", TCP, 33).sized(32).of(Of::Unconnected),
    option("TCP_FASTOPEN_NO_COOKIE", TCP, 34).of(Of::Unconnected),
    option("TCP_INQ", TCP, 36),
    option("TCP_TX_DELAY", TCP, 37),
    option("TCP_RTO_MAX_MS", TCP, 44),
    option("TCP_RTO_MIN_US", TCP, 45),
    option("TCP_DELACK_MAX_US", TCP, 46),
    // udp.h
    option("UDP_ENCAP", UDP, 100),
    option("UDP_NO_CHECK6_TX", UDP, 101),
    option("UDP_NO_CHECK6_RX", UDP, 102),
    option("UDP_SEGMENT", UDP, 103),
    option("UDP_GRO", UDP, 104),
    option("UDPLITE_SEND_CSCOV", UDPLITE, 10),
    option("UDPLITE_RECV_CSCOV", UDPLITE, 11),
    // if_packet.h
    option("PACKET_TX_HAS_OFF", PACKET, 19),
    option("PACKET_QDISC_BYPASS", PACKET, 20),
    option("PACKET_IGNORE_OUTGOING", PACKET, 23),
    // netlink.h
    option("NETLINK_PKTINFO", NETLINK, 3),
    option("NETLINK_BROADCAST_ERROR", NETLINK, 4),
    option("NETLINK_NO_ENOBUFS", NETLINK, 5),
    option("NETLINK_LISTEN_ALL_NSID", NETLINK, 8).needs(Needs::OneOf(&[Capability::CAP_NET_BROADCAST])),
    option("NETLINK_CAP_ACK", NETLINK, 10),
    option("NETLINK_EXT_ACK", NETLINK, 11),
    option("NETLINK_GET_STRICT_CHK", NETLINK, 12),
    // last: with this one no filter can be attached any more
    option("SO_LOCK_FILTER", SOCKET, 44),
];

/// The longest extension header: its length is a byte, in units of 8 bytes beyond the first (RFC 8200, section 4.3).
const EXTENSION: usize = 2048;

/// The longest value of all.
pub(super) const LONGEST: usize = EXTENSION;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_values_fit() {
        let mut names: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPTIONS.len());
        assert!(OPTIONS.iter().all(|option| (INT..=LONGEST).contains(&option.size)));
    }

    #[test]
    fn what_needs_a_capability_is_missing_without() {
        let missing = |name: &str, value: &[u8], has: &[Capability]| {
            by_name(name).unwrap().missing(value, |capability, _| has.contains(&capability))
        };
        let one = 1i32.to_ne_bytes();
        let (admin, raw) = (Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW);
        assert_eq!(missing("IP_TRANSPARENT", &one, &[]), Some(raw));
        assert_eq!(missing("IP_TRANSPARENT", &one, &[admin]), None, "either will do");
        assert_eq!(missing("IP_TRANSPARENT", &[0; 4], &[]), None);
        assert_eq!(missing("SO_BUSY_POLL", &one, &[raw]), Some(admin));
        assert_eq!(missing("TCP_FASTOPEN", &one, &[]), None);
        assert_eq!(missing("TCP_CONGESTION", b"reno\0\0", &[]), None);
        assert_eq!(missing("TCP_CONGESTION", b"none-such", &[]), Some(admin));
        assert_eq!(missing("SO_TXTIME", &[1, 0, 0, 0, 2, 0, 0, 0], &[]), None);
        assert_eq!(missing("SO_TXTIME", &[11, 0, 0, 0, 2, 0, 0, 0], &[]), Some(admin));
        assert_eq!(missing("IP_OPTIONS", &[7, 3, 4, 0], &[]), None, "record route");
        assert_eq!(missing("IP_OPTIONS", &[1, 134, 6, 0, 0, 0, 0], &[]), Some(raw), "CIPSO");
    }

    #[test]
    fn values_are_numbers_or_digits() {
        for bytes in [&[1, 0, 0, 0][..], &[], &[0xab], &[1, 2, 3, 4, 5, 0xff, 0, 9]] {
            let value = Value::of(bytes);
            let json = serde_json::to_string(&value).unwrap();
            let read: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(read.bytes().as_deref(), Some(bytes), "{json}");
        }
        for digits in ["0", "0x", "+1", "é"] {
            assert_eq!(Value::Bytes(digits.into()).bytes(), None, "{digits}");
        }
    }

    #[test]
    fn options_belong_to_kinds() {
        let kind = |family, type_, protocol| Kind { family, type_, protocol };
        let has = |kind: &Kind, name| kind.has(by_name(name).unwrap());
        let udp6 = kind(AddressFamily::INET6, SocketType::DGRAM, 17);
        assert!(has(&udp6, "IP_TOS") && has(&udp6, "IPV6_TCLASS") && has(&udp6, "UDP_GRO"));
        assert!(!has(&udp6, "TCP_FASTOPEN") && !has(&udp6, "UDPLITE_SEND_CSCOV"));
        let unix = kind(AddressFamily::UNIX, SocketType::STREAM, 0);
        assert!(has(&unix, "SO_PASSPIDFD") && !has(&unix, "IP_TOS") && !has(&unix, "TCP_CONGESTION"));
    }
}
