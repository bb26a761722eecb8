//! Tasks: `same/tasks.c`.

use super::super::row::{Peer, Row, criu, differs, hiber};
use hiber_tests::prelude::*;
use hiber_tests::require::Need;

pub(in super::super) const ROWS: &[Row] = &[
    criu("umask", "umask(2)"),
    criu("users-and-groups", "getresuid(2), getresgid(2), setfsuid(2), all different")
        .needs(&[Need::SysResource]),
    criu("supplementary-groups", "getgroups(2)"),
    criu("capabilities", "CapInh, CapPrm and CapEff in /proc/thread-self/status"),
    criu("thread-capabilities", "the same, of two threads that differ"),
    criu("bounding-set", "CapBnd in /proc/thread-self/status"),
    criu("ambient-set", "CapAmb in /proc/thread-self/status"),
    criu("securebits", "PR_GET_SECUREBITS"),
    criu("keep-capabilities", "PR_GET_KEEPCAPS"),
    criu("no-new-privileges", "PR_GET_NO_NEW_PRIVS"),
    criu("thread-no-new-privileges", "the same, of two threads that differ"),
    criu("dumpable", "PR_GET_DUMPABLE, of 0"),
    differs("session-keyring", "KEYCTL_SEARCH and KEYCTL_READ of a key", "a new one, without keys"),
    criu("login-user", "/proc/self/loginuid"),
    criu("thread-names", "PR_GET_NAME"),
    criu("command-line", "/proc/self/cmdline"),
    criu("environment", "getenv(3) and /proc/self/environ"),
    criu("auxiliary-vector", "/proc/self/auxv"),
    criu("program", "/proc/self/exe"),
    criu("working-directory", "getcwd(2)"),
    criu("removed-working-directory", "getcwd(2)"),
    criu("root-directory", "access(2) below a chroot(2)"),
    criu("limits", "getrlimit(2) of all sixteen"),
    criu("limits-of-size", "getrlimit(2) of RLIMIT_AS, RLIMIT_DATA and RLIMIT_STACK"),
    // CRIU alone ends the process: its code there goes on writing to the log.
    hiber("file-size-limit", "getrlimit(2) of RLIMIT_FSIZE, of 0"),
    criu("limits-of-config", "/proc/self/limits").config(|c| {
        c["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "hard": 1000, "soft": 999},
            {"type": "RLIMIT_STACK", "hard": 16 << 20, "soft": 4 << 20},
        ]);
    }),
    criu("oom-score", "/proc/self/oom_score_adj"),
    criu("oom-score-of-config", "/proc/1/oom_score_adj").config(|c| c["process"]["oomScoreAdj"] = json!(77)),
    hiber("core-filter", "/proc/self/coredump_filter"),
    hiber("affinity", "Cpus_allowed_list in /proc/thread-self/status"),
    hiber("thread-affinity", "the same, of two threads that differ"),
    criu("nice", "getpriority(2)"),
    criu("thread-nice", "the same, of two threads that differ"),
    criu("batch-scheduling", "sched_getattr(2), of SCHED_BATCH"),
    criu("idle-scheduling", "sched_getattr(2), of SCHED_IDLE"),
    criu("real-time-scheduling", "sched_getattr(2), of SCHED_RR").unless("Operation not permitted"),
    hiber("deadline-scheduling", "sched_getattr(2), of SCHED_DEADLINE")
        .peers(Peer::Fails, Peer::Fails)
        .unless("Operation not permitted"),
    criu("reset-on-fork", "sched_getattr(2), of SCHED_FLAG_RESET_ON_FORK"),
    hiber("time-slice", "sched_getattr(2), of a runtime"),
    hiber("utilisation-clamp", "sched_getattr(2)").unless("Operation not supported"),
    hiber("autogroup-nice", "/proc/self/autogroup"),
    hiber("io-priority", "ioprio_get(2)"),
    hiber("io-priority-of-config", "ioprio_get(2), of process.ioPriority")
        .config(|c| c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6})),
    hiber("thread-io-priority", "the same, of two threads that differ"),
    hiber("timer-slack", "PR_GET_TIMERSLACK, of two threads that differ"),
    differs("default-timer-slack", "the same, after it was set to 0", "50 µs"),
    hiber("personality", "personality(2)"),
    hiber("personality-of-config", "uname(2), of linux.personality")
        .config(|c| c["linux"]["personality"] = json!({"domain": "LINUX32"})),
    hiber("memory-deny-write-execute", "PR_GET_MDWE").needs(&[Need::Linux(6, 3)]),
    criu("subreaper", "PR_GET_CHILD_SUBREAPER"),
    hiber("machine-check-policy", "PR_MCE_KILL_GET"),
    hiber("time-stamp-counter", "PR_GET_TSC"),
    hiber("speculation-control", "PR_GET_SPECULATION_CTRL, of stores, two threads that differ")
        .unless("No such device or address"),
    hiber("speculation-until-exec", "the same, after PR_SPEC_DISABLE_NOEXEC")
        .unless("No such device or address"),
    hiber("indirect-branches", "PR_GET_SPECULATION_CTRL, of branches").unless("Operation not permitted"),
    hiber("syscall-dispatch", "whether a call becomes a SIGSYS (PR_SET_SYSCALL_USER_DISPATCH)")
        .needs(&[Need::Linux(6, 4)]),
    criu("seccomp-filter", "Seccomp in /proc/thread-self/status, and a call that it forbids"),
    criu("thread-seccomp-filter", "the same, of two threads that differ"),
    criu("process-and-thread-numbers", "getpid(2), getppid(2), gettid(2)"),
    criu("session-and-groups", "getsid(2) and getpgid(2), of itself and a child"),
    criu("zombie", "waitid(2) with WNOWAIT, of a child that ended"),
    criu("killed-zombie", "the same, of a child that was killed"),
    criu("stopped-child", "State in /proc/PID/status"),
    criu("orphan", "PPid in /proc/PID/status"),
    criu("parent-death-signal-of-a-child", "PR_GET_PDEATHSIG"),
    differs(
        "landlock",
        "mkfifo(3), which a domain of the process forbids",
        "in no domain; nobody can see one before (see below)",
    )
    .unless("Operation not supported"),
    differs(
        "exit-signal",
        "/proc/PID/stat, of a child of clone(2) with SIGUSR2",
        "SIGCHLD (`exit-signal` warns)",
    ),
    criu("robust-lists", "get_robust_list(2)"),
    criu("tid-addresses", "PR_GET_TID_ADDRESS"),
    criu("restartable-sequences", "rseq(2), which a registered thread may not call again"),
    criu("memory-barriers", "membarrier(2), and what is registered for it"),
    differs("used-processor-time", "clock(3)", "begins at 0"),
    differs("start-time", "/proc/self/stat", "the time of the restore"),
    differs("io-counters", "/proc/self/io", "begin at 0"),
];
