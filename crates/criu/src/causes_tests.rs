use crate::diagnose::diagnose_text;

/// Lines as CRIU writes them, and a part of the advice that each must get.
const SAMPLES: &[(&str, &str)] = &[
    ("cg: BUG at criu/cgroup.c:1032", "look why it ended"),
    ("inet: Connected TCP socket, consider using --tcp-established option.", "tcp_established"),
    ("Some file locks are hold by dumping tasks! You can try --file-locks to dump them.", "file_locks"),
    ("unix: External socket is used. Consider using --ext-unix-sk option.", "ext_unix_sk"),
    ("tty: Found dangling tty with sid 5 pgid 5 (pts) on peer fd 0.", "shell_job"),
    ("The root process 7 is not a session leader. Consider using --shell-job option", "shell_job"),
    ("A session leader of 91(12) is outside of its pid namespace", "setsid"),
    ("inet: In-flight connection (l) for 563add", "tcp_skip_in_flight"),
    ("unix: Can't dump half of stream unix connection. name: ; peer name: /s", "datagram"),
    ("parasite: send_fds failed (-22)", "io_uring_setup"),
    ("inet: Unsupported proto 262 for socket 564740", "multipathtcp"),
    ("sockets: BUG! Unknown socket collected (family 40)", "close the socket"),
    ("zombie 19856 (comm odd) found while seizing", "debugger"),
    ("mnt: Mount 91:./data is autodetected external mount. Try \"--ext-mount-map auto\"", "external mount"),
    ("mnt: No mapping for 91:./data mountpoint", "each external mount"),
    (
        "mnt-v2: Failed to copy sharing from -1:/sys/fs/cgroup/pids/c to 49: Invalid argument",
        "as systemd does",
    ),
    ("Can't lookup mount=29 for fd=1 path=/tmp/log", "pipes"),
    ("Can't dump ghost file /a of 2097152 size, increase limit", "ghost_limit"),
    ("Can't create link remap for /a. Use link-remap option.", "link_remap"),
    ("execvp(\"iptables-restore\", ...) failed: No such file or directory", "install iptables"),
    ("execvp(\"ip\", ...) failed: No such file or directory", "iproute2"),
    ("execvp(\"tar\", ...) failed: No such file or directory", "install tar"),
    ("Tracking memory is not available. Consider omitting --track-mem option.", "full dump"),
    ("Can't dump file 9 of that type [0] (unknown anon_inode:[io_uring])", "io_uring_setup"),
    ("Can't dump file 9 of that type [20000] (chr 10:229)", "close the device"),
    ("Can't dump file 9 of that type [0] (anon anon_inode:[perf_event])", "close the file"),
    ("Can't write pages: No space left on device", "free space"),
    ("Can't get rlimit 7: Operation not permitted", "CAP_SYS_RESOURCE"),
    ("vdso: Unexpected rt vDSO area bounds", "newer CRIU"),
    ("Can't dump nested pid namespace for 88", "nested pid"),
    ("Can't fork for 12: File exists", "pid namespace of its own"),
    ("Pid 13 do not match expected 12", "pid namespace of its own"),
    ("page-pipe: splice: -1: Bad file descriptor", "pipe-max-size"),
    ("files-reg: File lib/libc.so.6 has bad size 1 (expect 2)", "same root file system"),
    ("CPU capabilities do not match run time", "processor"),
    ("Unexpected EOF on (empty-image)", "complete checkpoint"),
    ("Can't get /proc fd", "Landlock"),
    ("can't dump unprivileged task whose /proc doesn't belong to it (-1)", "mount a proc"),
    ("Read 257 bytes while 527 expected from /i/mm-1.img: No such file or directory", "another copy"),
    ("page-xfer: The page server doesn't answer: Resource temporarily unavailable", "same version"),
    ("net: IP tool failed on route restore  ", "empty_network_ns"),
    ("net: Can't restore link: -17", "empty_network_ns"),
    ("Head magic doesn't match for pstree.img", "another copy"),
];

#[test]
fn the_usual_failures_get_their_own_advice() {
    for (message, advice) in SAMPLES {
        let d = diagnose_text(&format!("(00.1) Error (criu/file.c:1): {message}\n"));
        let cause = d.cause.unwrap_or_else(|| panic!("no cause for {message:?}"));
        assert!(cause.advice.contains(advice), "{message:?}: {}", cause.advice);
    }
}

#[test]
fn the_first_cause_counts() {
    let d = diagnose_text(
        "(00.1) Error (criu/x.c:1): No space left on device\n(00.2) Error (criu/y.c:2): Connected TCP socket\n",
    );
    assert_eq!(d.cause.unwrap().explanation, "a file system is full");
    assert_eq!(d.lines.len(), 2);
}

#[test]
fn causes_have_names_of_their_own_and_speak_of_no_containers() {
    let mut ids = std::collections::BTreeSet::new();
    for cause in crate::causes() {
        assert!(ids.insert(cause.id), "{} twice", cause.id);
        let text = format!("{}; {}", cause.explanation, cause.advice);
        for word in ["container", "hiber", "HIBER", "--"] {
            assert!(!text.contains(word), "{}: {text}", cause.id);
        }
    }
}
