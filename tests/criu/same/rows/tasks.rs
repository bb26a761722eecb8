//! Tasks: credentials, scheduling, names, limits: `same/tasks.c`.

use super::super::row::{Peer, Row, criu, differs, hiber};
use hiber_tests::prelude::*;
use hiber_tests::require::Need;

pub(in super::super) const ROWS: &[Row] = &[
    criu("umask", "umask(2)"),
    hiber("affinity", "Cpus_allowed_list in /proc/thread-self/status"),
    hiber("thread-affinity", "the same, of two threads that differ"),
    differs("io-priority", "ioprio_get(2)", "as if it had never been set").peers(Peer::Lost, Peer::Lost),
    differs("memory-deny-write-execute", "PR_GET_MDWE", "off").needs(&[Need::Linux(6, 3)]),
    criu("limits-of-config", "/proc/self/limits").config(|c| {
        c["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "hard": 1000, "soft": 999},
            {"type": "RLIMIT_STACK", "hard": 16 << 20, "soft": 4 << 20},
        ]);
    }),
];
