//! System calls that wait while a process is saved: `same/calls.c`. CRIU ends those that the kernel would go on with by
//! restart_syscall(2), for it cannot see how far they are, and those that any stop ends (signal(7)).

use super::super::row::{Row, criu, differs};

const INTERRUPTED: &str = "ends with EINTR";

pub(in super::super) const ROWS: &[Row] = &[
    differs("sleep", "nanosleep(2)", INTERRUPTED),
    criu("sleep-until", "clock_nanosleep(2) with TIMER_ABSTIME"),
    differs("poll-with-timeout", "poll(2)", INTERRUPTED),
    differs("poll-without-timeout", "poll(2)", INTERRUPTED),
    criu("select-with-timeout", "select(2)"),
    criu("select-without-timeout", "select(2)"),
    differs("epoll-wait", "epoll_wait(2)", INTERRUPTED),
    criu("futex-without-timeout", "FUTEX_WAIT"),
    differs("futex-with-timeout", "FUTEX_WAIT", INTERRUPTED),
    criu("receiving", "recv(2)"),
    differs("receiving-with-timeout", "recv(2) with SO_RCVTIMEO", INTERRUPTED),
    criu("accepting", "accept(2)"),
    criu("reading-of-a-pipe", "read(2)"),
    differs("writing-more-than-fits", "write(2) to a pipe that is full", "ends with what was written"),
    criu("waiting-for-a-child", "waitpid(2)"),
    differs("waiting-for-a-signal", "sigtimedwait(2)", INTERRUPTED),
    criu("suspended", "sigsuspend(2)"),
    criu("waiting-for-a-message", "msgrcv(2)"),
    criu("waiting-for-a-lock", "flock(2)").flags(&["--file-locks"]),
    criu("poll-with-a-mask", "SigBlk in /proc/PID/status, of ppoll(2)"),
    criu("lock-that-lends-priority", "a mutex of PTHREAD_PRIO_INHERIT that a thread waits for"),
];
