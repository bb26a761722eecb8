//! Timers and clocks: `same/timers.c`.

use super::super::row::{Peer, Row, criu, differs, hiber, refused};

pub(in super::super) const ROWS: &[Row] = &[
    criu("timerfd", "timerfd_gettime(2): what is left to wait"),
    criu("timerfd-boottime", "the same of CLOCK_BOOTTIME"),
    criu("timerfd-once", "poll(2) of one that has run out"),
    hiber("timerfd-until", "timerfd_gettime(2) of one with TFD_TIMER_ABSTIME"),
    hiber("timerfd-until-boottime", "the same of CLOCK_BOOTTIME"),
    hiber("timerfd-until-date", "the same of CLOCK_REALTIME"),
    hiber("timerfd-cancel-on-set", "the same with TFD_TIMER_CANCEL_ON_SET, and fdinfo"),
    hiber("timerfd-periodic", "read(2), again and again, of one that had run out unread"),
    hiber("timerfd-overruns", "read(2): how often one had run out unread"),
    criu("timer-monotonic", "timer_gettime(2) and /proc/self/timers"),
    criu("timer-boottime", "the same of CLOCK_BOOTTIME"),
    criu("timer-tai", "the same of CLOCK_TAI"),
    criu("timer-of-thread", "the same of one that signals a thread"),
    criu("timer-cpu", "the same of CLOCK_PROCESS_CPUTIME_ID"),
    criu("timer-runs", "sigwaitinfo(2), again and again"),
    refused(
        "timer-thread-cpu",
        "timer_gettime(2) of one of CLOCK_THREAD_CPUTIME_ID",
        "thread-timer",
        "of its threads",
    )
    .peers(Peer::Lost, Peer::Lost),
    differs(
        "timer-until-date",
        "timer_gettime(2) of one of CLOCK_REALTIME with TIMER_ABSTIME",
        "later by the sleep",
    ),
    differs("timer-overrun", "timer_getoverrun(2)", "begins at 0 (`timer-overrun` warns)"),
    criu("itimer-real", "getitimer(2)"),
    criu("itimer-virtual", "getitimer(2)"),
    criu("itimer-prof", "getitimer(2)"),
    criu("itimer-pending", "sigpending(2) after one has run out"),
    criu("monotonic-clock", "clock_gettime(2)"),
];
