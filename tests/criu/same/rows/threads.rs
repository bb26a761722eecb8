//! Properties that threads have apart, and processes share: `same/threads.c`.

use super::super::row::{Peer, Row, criu, differs, hiber, refused};
use hiber_tests::require::Need;

/// A property of a thread that its process does not have.
const fn apart(name: &'static str, read: &'static str) -> Row {
    refused(name, read, "thread-apart", "of its own").peers(Peer::Lost, Peer::Lost)
}

pub(in super::super) const ROWS: &[Row] = &[
    apart("thread-working-directory", "getcwd(2), after unshare(2) with CLONE_FS"),
    apart("thread-descriptors", "F_GETFD, after unshare(2) with CLONE_FILES"),
    apart("thread-network-namespace", "stat(2) of /proc/thread-self/ns/net"),
    apart("thread-uts-namespace", "stat(2) of /proc/thread-self/ns/uts"),
    criu("thread-users-and-groups", "getresuid(2), getresgid(2), of two threads that differ"),
    refused(
        "shared-working-directory",
        "chdir(2) of a child of CLONE_FS",
        "shared-task",
        "shares its working directory",
    ),
    criu("shared-descriptors", "dup2(2) and close(2) of a child of CLONE_FILES"),
    refused("memory-of-two-processes", "clone(2) with CLONE_VM", "shared-task", "shares its memory"),
    criu("stop-untold", "waitid(2) with WSTOPPED, of a child that SIGTSTP has stopped"),
    differs("stop-told", "the same, of a child of whose stop was told", "it is told once more"),
    differs("continuation-untold", "waitid(2) with WCONTINUED", "it is not told"),
    criu("odd-name", "PR_GET_NAME, of `a) R 1 (` and a line feed"),
    hiber("huge-pages-but-where-advised", "PR_GET_THP_DISABLE, of PR_THP_DISABLE_EXCEPT_ADVISED")
        .needs(&[Need::Linux(6, 18)]),
    differs("futex-buckets", "PR_FUTEX_HASH_GET_SLOTS", "as many as the kernel chooses")
        .needs(&[Need::Linux(6, 17)]),
    differs("process-keyring", "KEYCTL_SEARCH", "a new one, without keys"),
];
