//! The usual causes of failed dumps and restores, as CRIU words them, and what to do about each.
//!
//! Words are those of CRIU 3.17 to 4.2; an entry matches a line that has all of its words. The first
//! matching entry wins, so special ones stand above general ones.

/// An explanation for people.
#[derive(Debug, PartialEq, Eq)]
pub struct Cause {
    /// Parts of an error line of CRIU's: all must be in it.
    words: &'static [&'static str],
    /// What it means: a clause without a full stop.
    pub explanation: &'static str,
    /// What to do: a clause without a full stop.
    pub advice: &'static str,
    /// The names of the preflight checks that find whose fault it is, for failures of dumps.
    pub checks: &'static [&'static str],
}

impl Cause {
    const fn found_by(mut self, checks: &'static [&'static str]) -> Self {
        self.checks = checks;
        self
    }

    pub(crate) fn matches(&self, line: &str) -> bool {
        self.words.iter().all(|word| line.contains(word))
    }
}

const fn cause(words: &'static [&'static str], explanation: &'static str, advice: &'static str) -> Cause {
    Cause { words, explanation, advice, checks: &[] }
}

/// The table.
pub(crate) static CAUSES: &[Cause] = &[
    // what needs a flag
    cause(
        &["Connected TCP socket in image"],
        "the checkpoint has an open TCP connection",
        "pass --tcp-established or --tcp-close to restore",
    )
    .found_by(&["flag"]),
    cause(
        &["Connected TCP socket"],
        "a process has an open TCP connection",
        "pass --tcp-established, to checkpoint and to restore",
    )
    .found_by(&["tcp-connection"]),
    cause(
        &["In-flight connection"],
        "a TCP connection waits to be accepted",
        "pass --tcp-skip-in-flight, or try again in a moment",
    )
    .found_by(&["tcp-in-flight"]),
    cause(&["file locks are hold"], "a process holds a file lock", "pass --file-locks")
        .found_by(&["file-lock"]),
    cause(
        &["External socket"],
        "a process is connected to a unix socket outside the container",
        "pass --ext-unix-sk, or let it close the connection",
    )
    .found_by(&["unix-peer", "unix-datagram"]),
    cause(
        &["Unix socket", "without peer"],
        "a process is connected to a unix socket in another network namespace",
        "let it close the connection first",
    )
    .found_by(&["unix-peer"]),
    cause(
        &["Can't dump half of stream unix connection"],
        "a process has a stream connection to a unix socket outside the container",
        "let it close the connection first: CRIU can save datagram sockets only",
    )
    .found_by(&["unix-peer"]),
    cause(
        &["Found dangling tty"],
        "a process uses a terminal whose session is outside the container",
        "pass --shell-job, or run the container with a terminal of its own",
    )
    .found_by(&["terminal"]),
    cause(
        &["is not a session leader"],
        "the container's first process belongs to a session outside it",
        "pass --shell-job",
    )
    .found_by(&["session"]),
    cause(
        &["session leader of", "is outside of its pid namespace"],
        "a process belongs to a session outside the container",
        "let it call setsid(2)",
    )
    .found_by(&["session"]),
    cause(
        &["ctty inheritance detected"],
        "a process has /dev/tty open, and CRIU did not find its terminal opened by the same process",
        "let it close /dev/tty, or open the terminal itself as well; stop what exec started with a terminal",
    )
    .found_by(&["dev-tty"]),
    cause(
        &["Need to set the --tcp-close"],
        "the checkpoint was made with --tcp-close",
        "pass --tcp-close to restore too",
    ),
    cause(
        &["Can't bind inet socket", "Cannot assign requested address"],
        "the address of a saved connection is on no interface of the network namespace",
        "give the address to an interface there, or pass --tcp-close",
    )
    .found_by(&["address"]),
    // network devices
    cause(
        &["Unknown peer net namespace"],
        "the other end of a veth was in a network namespace outside the container",
        "pass --empty-ns network to restore and have the network set up again, as by a hook, or name the device in \
         linux.netDevices",
    )
    .found_by(&["network-device"]),
    cause(
        &["a macvlan parent for"],
        "the parent of a macvlan device was outside the container",
        "pass --empty-ns network to restore and have the network set up again, as by a hook",
    )
    .found_by(&["network-device"]),
    cause(
        &["IP tool failed"],
        "the addresses, routes or rules of the checkpoint could not be saved or made again",
        "pass --empty-ns network and have the network set up again at the restore, as by a hook",
    )
    .found_by(&["network-device", "network-route"]),
    cause(
        &["Can't restore link"],
        "a network device of the checkpoint could not be made again",
        "pass --empty-ns network to restore and have the network set up again, as by a hook",
    )
    .found_by(&["network-device"]),
    cause(
        &["Unsupported link"],
        "a network device is of a kind that CRIU cannot save",
        "remove it, or pass --empty-ns network",
    )
    .found_by(&["network-device"]),
    // kernel objects
    cause(&["packetized mode for pipes"], "a pipe of packets (O_DIRECT) is open", "let the process close it")
        .found_by(&["packet-pipe"]),
    cause(
        &["Unknown shit", "/secretmem"],
        "memory of memfd_secret(2) is in use, which nobody but its process can read",
        "let the process close it",
    )
    .found_by(&["file-kind"]),
    cause(
        &["can't dump unprivileged task whose /proc doesn't belong to it"],
        "a process without CAP_SYS_ADMIN sees at /proc the processes of another pid namespace",
        "mount a proc of the container's own there",
    ),
    cause(
        &["Can't get /proc fd"],
        "a process may not open its own /proc: as a rule a Landlock domain that it has entered forbids to read, which nobody \
         else can see or lift",
        "have the program do without Landlock, as by denying landlock_create_ruleset with seccomp",
    ),
    cause(
        &["Can't dump that handle"],
        "a file that inotify or fanotify watches was found by no path",
        "let the process end its watch, or name the place with irmap-scan-path in CRIU's configuration",
    )
    .found_by(&["watch"]),
    cause(
        &["bfd buffer is too small"],
        "a line of /proc is longer than CRIU reads, as that of an overlay with many layers",
        "use fewer layers, or shorter paths for them",
    )
    .found_by(&["mount-line"]),
    cause(
        &["Can't parse", "'s mountinfo"],
        "CRIU could not read the container's mounts",
        "have the first process keep the container's root directory, and no mount with a line over 4 KiB",
    )
    .found_by(&["mount-line", "chroot"]),
    // mounts and files
    cause(
        &["is autodetected external mount"],
        "a mount comes from outside the container",
        "name it as an external mount",
    )
    .found_by(&["mount"]),
    cause(
        &["No mapping for", "mountpoint"],
        "the checkpoint has an external mount that the restore does not supply",
        "restore with the mounts of the configuration that the checkpoint was made with",
    )
    .found_by(&["mount-missing"]),
    cause(
        &["FS mnt", "unsupported id"],
        "a mount's file system cannot be saved",
        "name it as an external mount, or unmount it",
    )
    .found_by(&["mount"]),
    cause(
        &["has unreachable sharing"],
        "a mount gets its events from outside the container",
        "mount it with rprivate propagation, or as an external mount",
    )
    .found_by(&["mount-sharing"]),
    cause(
        &["Can't lookup mount=", "path=/dev/pts/"],
        "a process uses a terminal outside the container",
        "pass --shell-job, or run the container with a terminal of its own",
    )
    .found_by(&["terminal"]),
    cause(
        &["Can't lookup mount="],
        "a file is open that lies on no mount of the container's",
        "give standard streams as pipes, a terminal or /dev/null, and close other files of the host",
    )
    .found_by(&["outside-file", "message-queue"]),
    cause(
        &["Open files on overmounted mounts"],
        "a file is open below a mount that another one covers",
        "let the process close it, or mount in another order",
    ),
    cause(
        &["Can't dump ghost file", "increase limit"],
        "a deleted file that is still open is larger than CRIU's ghost limit",
        "raise ghost-limit in a CRIU configuration file, or let the process close the file",
    )
    .found_by(&["deleted-file-size"]),
    cause(
        &["Can't create link remap"],
        "a file is open that was removed from its directory but has other names",
        "pass --link-remap",
    )
    .found_by(&["link-remap"]),
    cause(
        &["bad size", "(expect"],
        "a file's size is not what it was at the checkpoint",
        "restore on the same root file system, as it was then",
    )
    .found_by(&["rootfs"]),
    cause(
        &["bad mode", "(expect"],
        "a file's mode is not what it was at the checkpoint",
        "restore on the same root file system, as it was then",
    )
    .found_by(&["rootfs"]),
    cause(
        &["bad build-ID"],
        "a program or library is another build than at the checkpoint",
        "restore on the same root file system, as it was then",
    ),
    cause(
        &["Can't open file", "No such file"],
        "a file that was open at the checkpoint is missing",
        "restore on the same root file system, as it was then",
    )
    .found_by(&["rootfs"]),
    cause(
        &["io_uring"],
        "a process uses io_uring, which CRIU cannot save",
        "switch io_uring off in the program, or deny io_uring_setup with seccomp",
    )
    .found_by(&["io-uring"]),
    // The kernel passes no io_uring over a unix socket (EINVAL), which is how CRIU takes descriptors.
    cause(
        &["send_fds failed (-22)"],
        "a process has a descriptor that the kernel does not hand over: an io_uring",
        "switch io_uring off in the program, or deny io_uring_setup with seccomp",
    )
    .found_by(&["io-uring"]),
    cause(
        &["Can't dump file", "of that type", "(chr"],
        "a process has a device open that has state of its own",
        "let it close the device; for GPUs, CRIU needs a plugin of their maker",
    )
    .found_by(&["device"]),
    cause(
        &["Can't handle non-regular mapping"],
        "a process has mapped a device that has state of its own",
        "let it unmap the device; for GPUs, CRIU needs a plugin of their maker",
    )
    .found_by(&["device"]),
    cause(
        &["Can't dump file", "of that type"],
        "a process has a file open of a kind that CRIU cannot save",
        "let it close the file; its kind and name are in the message",
    )
    .found_by(&["file-kind"]),
    cause(
        &["Unsupported proto 262"],
        "a process has an MPTCP socket, which CRIU cannot save",
        "let it use TCP: Go programs do with GODEBUG=multipathtcp=0",
    )
    .found_by(&["socket-kind"]),
    cause(
        &["Unsupported proto"],
        "a process has a socket of a protocol that CRIU cannot save",
        "let it close the socket",
    )
    .found_by(&["socket-kind"]),
    cause(
        &["Unknown socket collected"],
        "a process has a socket of a kind that CRIU cannot save",
        "let it close the socket",
    )
    .found_by(&["socket-kind"]),
    cause(
        &["The socket has data to read"],
        "a process has a netlink socket with messages that it has not read",
        "try again in a moment, or let it close the socket",
    )
    .found_by(&["netlink-unread"]),
    cause(
        &["The netlink socket", "groups"],
        "a process has a netlink socket in groups that CRIU cannot save",
        "let it close the socket",
    )
    .found_by(&["netlink-groups"]),
    cause(
        &["Control messages in queue"],
        "a unix socket has messages to be read that tell of their senders",
        "try again in a moment",
    )
    .found_by(&["unix-ancillary"]),
    cause(
        &["Non-empty write queue on an in-flight socket"],
        "a unix connection that nobody has accepted yet has data in it",
        "try again in a moment",
    )
    .found_by(&["unix-in-flight"]),
    cause(
        &["Can't dump corked dgram socket"],
        "a UDP socket holds back what it sends",
        "try again in a moment, or let the process send it",
    )
    .found_by(&["udp-corked"]),
    cause(
        &["Can't get socket filter len", "Permission denied"],
        "a socket has a BPF program attached",
        "let the process detach it",
    )
    .found_by(&["socket-filter"]),
    // programs that CRIU runs
    cause(
        &["execvp(\"iptables"],
        "CRIU found no iptables-restore program for locking the network",
        "install iptables, or choose another network lock",
    ),
    cause(
        &["execvp(\"ip6tables"],
        "CRIU found no ip6tables-restore program for locking the network",
        "install iptables, or choose another network lock",
    ),
    cause(&["execvp(\"ip\""], "CRIU found no ip program", "install iproute2"),
    cause(
        &["execvp(\"tar\""],
        "CRIU found no tar program for the content of a tmpfs mount",
        "install tar and gzip",
    ),
    cause(
        &["iptables-restore returned"],
        "the network could not be locked with iptables",
        "install iptables, load the module xt_mark, or choose another network lock",
    ),
    cause(
        &["Iptables configuration failed"],
        "a TCP connection could not be locked with iptables",
        "install iptables, or choose another network lock",
    ),
    cause(
        &["ocking", "failed using nftables"],
        "the network could not be locked with nftables",
        "load the module nf_tables, or choose another network lock",
    ),
    cause(
        &["built without libnftables"],
        "this CRIU cannot use nftables",
        "choose another network lock, or a CRIU that was built with libnftables",
    ),
    // memory and incremental checkpoints
    cause(
        &["Tracking memory is not available"],
        "this kernel does not track changed pages (CONFIG_MEM_SOFT_DIRTY)",
        "make a full checkpoint, without --pre-dump and --parent-path",
    ),
    cause(
        &["No parent image found"],
        "the earlier checkpoint is not where --parent-path says",
        "give the path relative to the image directory",
    ),
    cause(
        &["Can't connect to server"],
        "the page server cannot be reached",
        "start it first, and see that its address and port are those of --page-server",
    )
    .found_by(&["page-server"]),
    cause(
        &["The page server doesn't answer"],
        "the page server went away, or is none",
        "look at what it says, and that its CRIU is of the same version",
    )
    .found_by(&["page-server"]),
    cause(
        &["page-pipe: splice", "Bad file descriptor"],
        "CRIU could not make its pipes large enough for lazy pages",
        "write 4194304 to /proc/sys/fs/pipe-max-size, or give CRIU CAP_SYS_RESOURCE",
    ),
    cause(
        &["Can't read pagemap from socket"],
        "the destination did not fetch all memory, so that the container runs on here",
        "see what the restore says, and make a new checkpoint",
    ),
    cause(
        &["userfaultfd", "Operation not permitted"],
        "userfaultfd is not permitted",
        "write 1 to /proc/sys/vm/unprivileged_userfaultfd, or run with CAP_SYS_PTRACE",
    ),
    // the process tree
    cause(
        &["Can't dump nested pid namespace"],
        "a process lives in a pid namespace inside the container's",
        "stop it first: CRIU cannot save nested pid namespaces",
    )
    .found_by(&["nested-namespace"]),
    cause(
        &["Can't dump nested", "namespace"],
        "a process lives in a namespace inside the container's",
        "stop it first",
    )
    .found_by(&["nested-namespace"]),
    cause(
        &["Can't fork for", "File exists"],
        "a process number of the checkpoint is taken",
        "restore into a pid namespace of its own, or end what has the number: a process, a thread, or a session or \
         process group, which lasts until the parents of its zombies have waited for them",
    )
    .found_by(&["pid"]),
    cause(
        &["Pid", "do not match expected"],
        "a process number of the checkpoint is taken",
        "restore into a pid namespace of its own, or end what has the number: a process, a thread, or a session or \
         process group, which lasts until the parents of its zombies have waited for them",
    )
    .found_by(&["pid"]),
    cause(
        &["found while seizing"],
        "a process could not be stopped, because it is traced or about to end",
        "detach the debugger or tracer, or try again in a moment",
    )
    .found_by(&["traced"]),
    cause(
        &["Timeout reached"],
        "the processes could not be stopped in time",
        "try again while they fork less, or let the container be frozen first",
    ),
    cause(
        &["Unable to freeze cgroup"],
        "the container's cgroup could not be frozen in time",
        "look for a process in uninterruptible sleep (state D)",
    ),
    cause(
        &["Zombies with threads"],
        "a process has ended but not all of its threads",
        "try again in a moment",
    )
    .found_by(&["zombie-threads"]),
    // rights and machines
    cause(
        &["Can't get rlimit", "Operation not permitted"],
        "CRIU may not read the limits of a process of another user",
        "give it CAP_SYS_RESOURCE, or run the container in its own user namespace",
    )
    .found_by(&["other-user"]),
    cause(
        &["CRIU needs to have the CAP"],
        "CRIU lacks capabilities",
        "run as root with CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_NET_ADMIN and CAP_SYS_RESOURCE",
    ),
    cause(
        &["clone3", "Operation not permitted"],
        "CRIU may not choose the numbers of processes",
        "give it CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
    ),
    cause(
        &["vdso: Unexpected rt vDSO"],
        "this CRIU does not know the running kernel's vDSO",
        "use a newer CRIU (4.0 or later), by its path in HIBER_CRIU",
    ),
    cause(
        &["do not match run time"],
        "this processor lacks something that the checkpoint's processor had",
        "restore on a machine with the same or a newer processor",
    ),
    cause(
        &["FPU feature required by image"],
        "this processor lacks something that the checkpoint's processor had",
        "restore on a machine with the same or a newer processor",
    ),
    cause(
        &["unsupported RSEQ ABI"],
        "this CRIU does not know the kernel's restartable sequences",
        "use CRIU 4.0 or later, by its path in HIBER_CRIU",
    ),
    cause(
        &["mismatched lsm types"],
        "the checkpoint was made under another security module",
        "restore without a profile, or on a machine with the same module",
    )
    .found_by(&["profile"]),
    cause(
        &["LSM specified but", "not supported by kernel"],
        "the security module of the profile is not active in this kernel",
        "restore without --lsm-profile, or on a machine with that module",
    )
    .found_by(&["profile"]),
    // images
    cause(
        &["stopped by signal"],
        "a process died while it was restored; its images may be damaged",
        "look with `hiber inspect --verify`, and restore from another copy of the checkpoint",
    )
    .found_by(&["images"]),
    cause(
        &["Not supported images version"],
        "the images are of another version than this CRIU knows",
        "use a CRIU at least as new as the one that made them",
    ),
    cause(
        &["magic doesn't match"],
        "an image file is damaged or of another kind",
        "restore from another copy of the checkpoint",
    ),
    cause(
        &["Unexpected EOF on (empty-image)"],
        "an image file is missing",
        "restore from a complete checkpoint",
    ),
    cause(
        &["Unexpected EOF on"],
        "an image file is truncated",
        "restore from another copy of the checkpoint",
    ),
    cause(
        &["Read ", "bytes while", "expected from"],
        "an image file is truncated",
        "restore from another copy of the checkpoint",
    ),
    cause(
        &["No space left on device"],
        "a file system is full",
        "free space where the images and CRIU's work files go",
    ),
    cause(
        &["Cannot allocate memory"],
        "there is not enough memory",
        "raise the memory limit, or free memory",
    ),
];

#[cfg(test)]
#[path = "causes_tests.rs"]
mod tests;
