//! Data that is queued in sockets, and how these are connected: `same/queues.c`.

use super::super::row::{Peer, Row, criu, differs, refused};

pub(in super::super) const ROWS: &[Row] = &[
    criu("unix-stream", "MSG_PEEK at both ends"),
    criu("unix-datagrams", "recv(2), of several of them"),
    refused(
        "unix-empty-datagram",
        "recv(2), of several, the first of which is empty",
        "empty-datagram",
        "without content",
    )
    .peers(Peer::Lost, Peer::Lost),
    refused("unix-empty-datagram-behind", "the same, of the second one", "empty-datagram", "without content")
        .peers(Peer::Lost, Peer::Lost)
        .hidden(),
    criu("unix-packets", "recv(2), of SOCK_SEQPACKET"),
    criu("unix-half-closed", "poll(2) and write(2), after SHUT_WR"),
    criu("unix-peer-gone", "poll(2) and MSG_PEEK, after its peer was closed"),
    criu("unix-listener", "getsockname(2) and connect(2)"),
    criu("unix-abstract", "the same, of a name without a file"),
    criu("unix-connection", "MSG_PEEK and SO_PEERCRED"),
    criu("unix-not-accepted", "poll(2) of the listener"),
    refused(
        "unix-not-accepted-with-data",
        "poll(2) of the listener",
        "unix-in-flight",
        "nobody has accepted",
    ),
    refused(
        "unix-queued-credentials",
        "SCM_CREDENTIALS of recvmsg(2)",
        "unix-ancillary",
        "tell of their senders",
    ),
    refused("unix-queued-time", "SCM_TIMESTAMP of recvmsg(2)", "unix-ancillary", "tell of their senders"),
    criu("passed-descriptor", "recvmsg(2) of SCM_RIGHTS that was on its way"),
    criu("tcp-listener", "TCP_INFO: its backlog, and connect(2)").peers(Peer::Lost, Peer::Kept),
    criu("tcp-connection", "MSG_PEEK at both ends, and what is sent over it")
        .flags(&["--tcp-established"])
        .peers(Peer::Fails, Peer::Kept),
    refused("tcp-connection-without-flag", "the same", "tcp-connection", "--tcp-established"),
    criu("tcp-half-closed", "poll(2) and write(2), after SHUT_WR")
        .flags(&["--tcp-established"])
        .peers(Peer::Fails, Peer::Kept),
    refused("tcp-urgent-byte", "MSG_OOB", "urgent-byte", "out of band")
        .flags(&["--tcp-established"])
        .peers(Peer::Fails, Peer::Lost),
    criu("udp", "getpeername(2), and what is sent over it").peers(Peer::Fails, Peer::Kept),
    differs("udp-queue", "MSG_PEEK", "is empty (`unread-datagrams` warns)").peers(Peer::Fails, Peer::Lost),
    criu("raw-socket", "SO_PROTOCOL, IP_HDRINCL"),
    criu("packet-socket", "getsockname(2)"),
    criu("netlink-socket", "getsockname(2): its number and groups"),
    refused("netlink-unread", "poll(2)", "netlink-unread", "netlink"),
    criu("unbound-sockets", "SO_DOMAIN, SO_TYPE, F_GETFL"),
    refused("mptcp", "socket(2) with IPPROTO_MPTCP", "socket-kind", "MPTCP").unless("Protocol not available"),
    refused("crypto-socket", "socket(2) with AF_ALG", "socket-kind", "family")
        .unless("Address family not supported by protocol"),
    refused("vsock", "socket(2) with AF_VSOCK", "socket-kind", "family")
        .unless("Address family not supported by protocol"),
];
