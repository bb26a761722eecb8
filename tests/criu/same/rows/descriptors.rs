//! Descriptors of rarer kinds: `same/descriptors.c`.

use super::super::row::{Peer, Row, criu, differs, refused};
use hiber_tests::require::Need;

pub(in super::super) const ROWS: &[Row] = &[
    criu("epoll-exclusive", "EPOLLEXCLUSIVE in /proc/self/fdinfo"),
    differs(
        "inotify-next-number",
        "inotify_add_watch(2), after others were removed",
        "numbers of removed watches come again",
    ),
    differs("inotify-once", "IN_ONESHOT and IN_EXCL_UNLINK in /proc/self/fdinfo", "neither")
        .needs(&[Need::Linux(5, 19)]),
    criu("path-of-symbolic-link", "readlinkat(2) of O_PATH with O_NOFOLLOW"),
    criu("removed-fifo", "fstat(2) and FIONREAD"),
    differs("nameless-file-named", "linkat(2) of a file of O_TMPFILE", "it cannot get a name any more"),
    criu("nameless-file-never-named", "the same, of O_TMPFILE with O_EXCL"),
    differs("terminal-output-stopped", "write(2) after TCOOFF of tcflow(3)", "it goes on"),
    criu("open-flags", "F_GETFL, of O_DSYNC, O_SYNC, O_NOATIME, O_APPEND, O_NONBLOCK"),
    criu("own-memory-file", "pread(2) of /proc/self/mem"),
    refused("secret-memory", "memfd_secret(2)", "file-kind", "memfd_secret")
        .unless("Function not implemented"),
    refused("landlock-ruleset", "landlock_create_ruleset(2)", "file-kind", "landlock-ruleset")
        .unless("Operation not supported"),
    criu("namespace-files", "fstat(2) of seven files of /proc/self/ns"),
    criu("pidfd-nonblocking", "F_GETFL, of PIDFD_NONBLOCK"),
    refused("pidfd-of-thread", "pidfd_open(2) with PIDFD_THREAD", "file-kind", "PIDFD_THREAD")
        .unless("Invalid argument"),
    // apart from others whose flags it must not need
    differs("tcp-error-untold", "poll(2), of a connection that was refused", "none (`untold-error` warns)")
        .peers(Peer::Fails, Peer::Fails),
    refused("pressure-trigger", "poll(2) of /proc/pressure/memory", "pressure-trigger", "PSI")
        .peers(Peer::Lost, Peer::Lost)
        .unless("Operation not supported"),
    criu("character-devices", "write(2) to /dev/full, /dev/urandom and /dev/zero"),
];
