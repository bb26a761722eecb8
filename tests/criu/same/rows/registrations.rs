//! Requests of sockets to the kernel: `same/registrations.c`.

use super::super::row::{Peer, Row, criu, differs, hiber, refused};
use hiber_tests::require::Need;

pub(in super::super) const ROWS: &[Row] = &[
    refused("queue-of-packets", "/proc/net/netfilter/nfnetlink_queue", "packet-queue", "NFQUEUE")
        .peers(Peer::Lost, Peer::Lost),
    refused("log-of-packets", "/proc/net/netfilter/nfnetlink_log", "packet-queue", "NFLOG")
        .peers(Peer::Lost, Peer::Lost),
    criu("packet-fanout", "PACKET_FANOUT"),
    criu("packet-origdev-and-loss", "PACKET_ORIGDEV and PACKET_LOSS"),
    criu("packet-version", "PACKET_VERSION"),
    differs("flow-label", "/proc/net/ip6_flowlabel", "not leased; sending with it fails"),
    differs("anycast-address", "/proc/net/anycast6", "none").peers(Peer::Lost, Peer::Lost),
    hiber("udp-encapsulation", "UDP_ENCAP"),
    criu("unix-backlog", "connect(2), until there is no more room"),
    refused(
        "tcp-closing",
        "recv(2), of what was on its way when the other end was closed",
        "tcp-closing",
        "has not sent everything yet",
    )
    .flags(&["--tcp-established"])
    .peers(Peer::Fails, Peer::Lost),
    criu("bound-by-scope", "getsockname(2), of a link-local address"),
    differs("unix-peer-groups", "SO_PEERGROUPS", "none"),
    criu("unix-peer-pidfd", "SO_PEERPIDFD").needs(&[Need::Linux(6, 5)]),
];
