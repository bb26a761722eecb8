//! Rarer memory, processes, timers, watches and mounts: `same/rarer.c`.

use super::super::row::{Peer, Row, criu, differs, hiber, may, refused};
use hiber_tests::require::Need;

pub(in super::super) const ROWS: &[Row] = &[
    criu("shared-memory-cut", "its bytes, after munmap(2) of its beginning and mremap(2) beyond its end"),
    criu("file-mapped-to-read", "mprotect(2), of a shared mapping of a file that was opened to be read"),
    criu("pages-in-another-order", "its bytes, after remap_file_pages(2)"),
    criu("private-memfd", "its bytes, and those of a page of one's own"),
    refused(
        "segment-cut-to-read",
        "its bytes, of System V memory whose beginning was unmapped",
        "",
        "map_files",
    )
    .hidden(),
    criu("huge-page", "its bytes, and VmFlags in /proc/self/smaps").unless("Cannot allocate memory"),
    criu("huge-memfd", "the same, of MFD_HUGETLB").unless("Cannot allocate memory"),
    criu("strict-seccomp", "Seccomp in /proc/PID/status, of SECCOMP_MODE_STRICT"),
    criu("group-without-leader", "getpgid(2), of an orphan of a subreaper"),
    refused(
        "session-without-leader",
        "getsid(2), of an orphan of a subreaper",
        "session-leader",
        "the leader of its session",
    ),
    criu("thread-death-signals", "PR_GET_PDEATHSIG, of two threads that differ"),
    criu("thread-signal-stacks", "sigaltstack(2), of two threads that differ"),
    hiber("io-flusher", "PR_GET_IO_FLUSHER")
        .config(|c| may(c, "CAP_SYS_RESOURCE"))
        .needs(&[Need::SysResource]),
    criu("core-scheduling", "PR_SCHED_CORE_GET").unless("Invalid argument"),
    differs("timer-numbers-to-choose", "PR_TIMER_CREATE_RESTORE_IDS", "off").needs(&[Need::Linux(6, 16)]),
    criu("timer-silent", "timer_gettime(2), of SIGEV_NONE"),
    criu("timer-of-another-process", "the same, of the clock of another process's processor time"),
    refused(
        "timerfd-alarm",
        "timerfd_gettime(2), of CLOCK_BOOTTIME_ALARM",
        "file-kind",
        "Unknown clock type",
    )
    .config(|c| may(c, "CAP_WAKE_ALARM"))
    .unless("Operation not permitted"),
    criu("replaced-file", "pread(2), of one in whose place there is another"),
    criu("lock-of-two-processes", "flock(2) of another opening").flags(&["--file-locks"]),
    criu("locks-of-ranges", "F_GETLK, by another process").flags(&["--file-locks"]),
    criu("fanotify-names", "marks in /proc/self/fdinfo, of FAN_REPORT_DFID_NAME")
        .needs(&[Need::Linux(5, 17)]),
    criu("fanotify-permission", "the same, of FAN_CLASS_CONTENT"),
    refused(
        "fanotify-of-filesystem",
        "the same, of FAN_MARK_FILESYSTEM",
        "filesystem-mark",
        "FAN_MARK_FILESYSTEM",
    )
    .peers(Peer::Lost, Peer::Lost),
    refused(
        "mount-network-name",
        "stat(2) of a bind mount of /proc/self/ns/net",
        "mount",
        "proper root mount",
    ),
    criu("mount-covered", "the file below, after umount(2)"),
    criu("mount-of-fifo", "stat(2)"),
    refused(
        "mount-of-removed-file",
        "the bytes of a bind mount's source that was removed",
        "mount",
        "removed since",
    )
    .peers(Peer::Lost, Peer::Lost),
    criu("mount-follower", "access(2), of what was mounted where events come from"),
];
