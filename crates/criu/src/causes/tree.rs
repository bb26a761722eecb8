//! Causes in ties to other processes, sessions and networks. They need an option, or a look at the network.

use super::cause::{Cause, cause};

pub(super) const CAUSES: &[Cause] = &[
    cause(
        "tcp-connection-in-images",
        &["Connected TCP socket in image"],
        "the checkpoint has an open TCP connection",
        "set tcp_established or tcp_close for the restore",
    ),
    cause(
        "tcp-connection",
        &["Connected TCP socket"],
        "a process has an open TCP connection",
        "set tcp_established, for the dump and for the restore",
    ),
    cause(
        "tcp-in-flight",
        &["In-flight connection"],
        "a TCP connection waits to be accepted",
        "set tcp_skip_in_flight, or try again in a moment",
    ),
    cause("file-lock", &["file locks are hold"], "a process holds a file lock", "set file_locks"),
    cause(
        "unix-peer-outside",
        &["External socket"],
        "a process is connected to a unix socket outside the tree",
        "set ext_unix_sk, or let it close the connection",
    ),
    cause(
        "unix-peer-other-network",
        &["Unix socket", "without peer"],
        "a process is connected to a unix socket in another network namespace",
        "let it close the connection first",
    ),
    cause(
        "unix-stream-outside",
        &["Can't dump half of stream unix connection"],
        "a process has a stream connection to a unix socket outside the tree",
        "let it close the connection first: CRIU can save datagram sockets only",
    ),
    cause(
        "terminal-outside",
        &["Found dangling tty"],
        "a process uses a terminal whose session is outside the tree",
        "set shell_job, or start the tree with a session and streams of its own",
    ),
    cause(
        "session-outside",
        &["is not a session leader"],
        "the first process of the tree belongs to a session outside the tree",
        "set shell_job, or have the process call setsid(2) when it starts",
    ),
    cause(
        "process-session-outside",
        &["session leader of", "is outside of its pid namespace"],
        "a process belongs to a session outside the tree",
        "let it call setsid(2)",
    ),
    cause(
        "dev-tty",
        &["ctty inheritance detected"],
        "a process has /dev/tty open, and CRIU did not find its terminal opened by the same process",
        "let it close /dev/tty, or open the terminal itself as well",
    ),
    cause(
        "tcp-close",
        &["Need to set the --tcp-close"],
        "the images were made with tcp_close",
        "set tcp_close for the restore, too",
    ),
    cause(
        "tcp-address",
        &["Can't bind inet socket", "Cannot assign requested address"],
        "the address of a saved connection is on no interface of the network namespace",
        "give the address to an interface there, or set tcp_close",
    ),
    cause(
        "veth-peer-outside",
        &["Unknown peer net namespace"],
        "the other end of a veth was in a network namespace outside the tree",
        "set empty_network_ns for the restore and set the network up again yourself, or name the device as external",
    ),
    cause(
        "macvlan-parent-outside",
        &["a macvlan parent for"],
        "the parent of a macvlan device was outside the tree",
        "set empty_network_ns for the restore and set the network up again yourself",
    ),
    cause(
        "ip-tool",
        &["IP tool failed"],
        "the addresses, routes or rules of the images could not be saved or made again",
        "set empty_network_ns and set the network up again yourself at the restore",
    ),
    cause(
        "network-device",
        &["Can't restore link"],
        "a network device of the images could not be made again",
        "set empty_network_ns for the restore and set the network up again yourself",
    ),
    cause(
        "network-device-kind",
        &["Unsupported link"],
        "a network device is of a kind that CRIU cannot save",
        "remove it, or set empty_network_ns",
    ),
];
