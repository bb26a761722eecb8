//! Sockets of rarer protocols, keys, errors that wait: `same/protocols.c`.

use super::super::row::{Peer, Row, criu, differs, hiber, refused};

pub(in super::super) const ROWS: &[Row] = &[
    criu("icmp-filter", "ICMP_FILTER"),
    criu("ip-nodefrag", "IP_NODEFRAG"),
    criu("ipv6-hdrincl", "IPV6_HDRINCL"),
    criu("so-buf-lock", "SO_BUF_LOCK"),
    criu("so-dontroute", "SO_DONTROUTE"),
    criu("packet-vnet-header", "PACKET_VNET_HDR"),
    criu("packet-reserve", "PACKET_RESERVE"),
    criu("packet-timestamp", "PACKET_TIMESTAMP"),
    criu("packet-promiscuous", "PACKET_DROP_MEMBERSHIP"),
    criu("packet-ring", "mmap(2) of PACKET_RX_RING"),
    hiber("signed-listener", "keys of TCP_MD5SIG, by sock_diag(7)"),
    hiber("signed-listener6", "the same, of IPv6"),
    hiber("signed-connection", "the same, of both ends of a connection, and what is sent over it")
        .flags(&["--tcp-established"])
        .peers(Peer::Fails, Peer::Lost),
    refused("encrypted-connection", "TCP_ULP, of `tls`", "tcp-keys", "kTLS")
        .flags(&["--tcp-established"])
        .unless("No such file or directory"),
    refused("authenticated-listener", "TCP_AO_INFO", "tcp-keys", "TCP-AO")
        .peers(Peer::Lost, Peer::Lost)
        .unless("Protocol not available"),
    differs("udp-error-untold", "poll(2), of ECONNREFUSED", "none (`untold-error` warns)")
        .peers(Peer::Fails, Peer::Lost),
    differs("queue-of-errors", "poll(2), of what MSG_ERRQUEUE gives", "none (`untold-error` warns)"),
    refused("unix-urgent-byte", "recv(2) with MSG_OOB", "urgent-byte", "out of band")
        .peers(Peer::Lost, Peer::Lost),
    refused(
        "unix-datagram-senders",
        "recvfrom(2), of senders with names",
        "datagram-sender",
        "not connected",
    )
    .peers(Peer::Lost, Peer::Lost),
    criu("unix-datagram-sender-connected", "the same, of one that is connected"),
    criu("unix-name-removed", "getsockname(2)"),
    criu("unix-name-relative", "connect(2), to a name that was given in another directory"),
    criu("unix-datagrams-unheard", "send(2), after SHUT_RD of the other end"),
    criu("netlink-peer", "getpeername(2)"),
    hiber("ping-number", "getsockname(2), of SOCK_DGRAM with IPPROTO_ICMP").peers(Peer::Fails, Peer::Lost),
    refused("multicast-router", "MRT_INIT", "network-part", "routes multicast").peers(Peer::Lost, Peer::Lost),
];
