//! Signals: `same/signals.c`.

use super::super::row::{Row, criu};

pub(in super::super) const ROWS: &[Row] = &[
    criu("signal-mask", "SigBlk in /proc/thread-self/status"),
    criu("thread-signal-masks", "the same, of two threads that differ"),
    criu("signal-handlers", "rt_sigaction(2): handlers, flags and masks"),
    criu("ignored-signals", "SigIgn and SigCgt in /proc/thread-self/status"),
    criu("signal-stack", "sigaltstack(2), with SS_AUTODISARM"),
    criu("pending-signals", "SigPnd and ShdPnd in /proc/thread-self/status"),
    criu("queued-values", "sigtimedwait(2), of signals of sigqueue(3)"),
    criu("thread-pending-signals", "the same, of one thread alone"),
    criu("running-handler", "whether it ends, and can be called again"),
    criu("signal-of-a-child", "sigtimedwait(2), of a SIGCHLD: code and status"),
];
