//! The one table of what preflight looks for. `docs/limits.md` shows it; a test compares the two.

use super::Severity::{self, Cost, Error, Info, Loss, Warning};

/// Which command a check belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// A checkpoint.
    Checkpoint,
    /// A restore.
    Restore,
    /// Either.
    Both,
}

/// One thing that preflight looks for.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// Its name in reports.
    pub name: &'static str,
    /// The command.
    pub when: When,
    /// How serious a finding is.
    pub severity: Severity,
    /// The problem: a clause without a full stop.
    pub about: &'static str,
    /// The advice: a clause without a full stop.
    pub advice: &'static str,
}

macro_rules! checks {
    ($($constant:ident: $name:literal, $when:ident, $severity:ident, $about:literal, $advice:literal;)*) => {
        $(pub(crate) static $constant: Check =
            Check { name: $name, when: When::$when, severity: $severity, about: $about, advice: $advice };)*
        /// All checks, in the order of the documentation.
        pub static CHECKS: &[&Check] = &[$(&$constant),*];
    };
}

checks! {
    // the machine
    CRIU: "criu", Both, Error,
        "CRIU is missing, does not start here, or is too old",
        "install CRIU 3.17 or later (4.2 or later on Linux 6.16 and later), or name one by --criu or HIBER_CRIU";
    CRIU_ATTACKED: "criu-attacked", Checkpoint, Warning,
        "CRIU before 4.2.1 can be attacked by a hostile process while its code runs in there (CVE-2026-18107)",
        "use CRIU 4.2.1 or later where the container is not trusted, or an older one that your distribution has mended";
    PROGRAMS: "program", Both, Error,
        "a program that CRIU runs is missing",
        "install the package that is named";
    LAZY_PAGES: "lazy-pages", Both, Error,
        "--lazy-pages or --background is given, but kernel or CRIU cannot bring memory in later (userfaultfd)",
        "leave it out, or use a kernel with CONFIG_USERFAULTFD";
    PIPE_SIZE: "pipe-size", Checkpoint, Error,
        "--lazy-pages needs larger pipes than /proc/sys/fs/pipe-max-size allows",
        "write 4194304 to /proc/sys/fs/pipe-max-size, or give CRIU CAP_SYS_RESOURCE";
    DIRTY_TRACKING: "dirty-tracking", Checkpoint, Error,
        "--pre-dump and --parent-path need a kernel that tracks written memory",
        "make a full checkpoint, or use a kernel with CONFIG_MEM_SOFT_DIRTY";
    SPACE: "space", Checkpoint, Error,
        "the file system of the image path has less space than the memory to be written",
        "free space, or give an --image-path elsewhere";
    PAGE_SERVER: "page-server", Checkpoint, Error,
        "nobody listens at the address of --page-server",
        "start the page server first, and see that its port can be reached";
    ARGUMENTS: "arguments", Both, Error,
        "flags contradict each other, or name what is not there",
        "correct the flag that is named";
    UNWELCOME: "unsigned", Checkpoint, Warning,
        "this host's policy (trust.toml) would refuse a restore here: no key of it signs the checkpoint, or the policy is not understood",
        "pass --sign-key, with one of these keys";
    // the container
    STATE: "state", Checkpoint, Error,
        "the container is neither running nor paused",
        "start it first";
    FROZEN_ABOVE: "frozen-above", Checkpoint, Error,
        "a cgroup above the container's is frozen, so that CRIU could not let its processes move",
        "thaw it";
    OUTSIDE_FILE: "outside-file", Checkpoint, Error,
        "a file is open that lies outside the container's mounts",
        "give standard streams as pipes, a terminal or /dev/null, and close other files of the host";
    IO_URING: "io-uring", Checkpoint, Error,
        "a process uses io_uring",
        "switch io_uring off in the program, or deny io_uring_setup with seccomp";
    KIND: "file-kind", Checkpoint, Error,
        "a file of a kind that CRIU cannot save is open: userfaultfd, perf event, BPF program, KVM and so on",
        "let the process close it";
    BPF_MAP: "bpf-map", Checkpoint, Warning,
        "a BPF map is open; a CRIU that was built without libbpf, as Debian's, cannot save it",
        "let the process close it, or use a CRIU that was built with libbpf";
    DEVICE: "device", Checkpoint, Error,
        "a device is open or mapped that has state of its own: GPUs, /dev/kvm, /dev/fuse, block devices and so on",
        "let the process close it; for GPUs, CRIU needs a plugin of their maker";
    SOCKET: "socket-kind", Checkpoint, Error,
        "a socket of a kind that CRIU cannot save is open: vsock, AF_ALG, SCTP, MPTCP and so on",
        "let the process close it; Go programs use TCP instead of MPTCP with GODEBUG=multipathtcp=0";
    TCP: "tcp-connection", Checkpoint, Error,
        "a TCP connection is open",
        "pass --tcp-established, to checkpoint and to restore, or --tcp-close";
    IN_FLIGHT: "tcp-in-flight", Checkpoint, Error,
        "a TCP connection waits to be accepted",
        "pass --tcp-skip-in-flight, or try again in a moment";
    NETLINK: "netlink-unread", Checkpoint, Error,
        "a netlink socket has messages that nobody has read",
        "try again in a moment, or let the process close it";
    UNIX_PEER: "unix-peer", Checkpoint, Error,
        "a unix socket is connected to one outside the container; it is a stream, or in another network namespace",
        "let the process close it first: CRIU can save datagram sockets of the same network namespace only";
    UNIX_DATAGRAM: "unix-datagram", Checkpoint, Error,
        "a datagram unix socket is connected to one outside the container, in the same network namespace",
        "pass --ext-unix-sk, to checkpoint and to restore";
    UNIX_IN_FLIGHT: "unix-in-flight", Checkpoint, Error,
        "a unix connection that nobody has accepted yet has data in it",
        "try again in a moment";
    ANCILLARY: "unix-ancillary", Checkpoint, Error,
        "a unix socket has messages to be read that tell of their senders, or of their time (SO_PASSCRED, SO_TIMESTAMP)",
        "try again in a moment";
    CREDENTIALS: "unix-credentials", Checkpoint, Warning,
        "a unix socket says of its peer that it is another user than root; after a restore it says root (SO_PEERCRED)",
        "let programs ask for that when they accept a connection, and make connections anew after a restore";
    GROUPS: "netlink-groups", Checkpoint, Error,
        "a netlink socket is in groups beyond the 32nd, or in groups without a number of its own",
        "let the process close it";
    CORKED: "udp-corked", Checkpoint, Error,
        "a UDP socket holds back what it sends (UDP_CORK)",
        "try again in a moment, or let the process send it";
    FILTER: "socket-filter", Checkpoint, Error,
        "a socket has a BPF program attached (SO_ATTACH_BPF)",
        "let the process detach it, or attach a classic filter (SO_ATTACH_FILTER), which is saved";
    LOCK: "file-lock", Checkpoint, Error,
        "a file is locked",
        "pass --file-locks, to checkpoint and to restore";
    GHOST: "deleted-file-size", Checkpoint, Error,
        "a deleted file that is open or mapped is larger than CRIU's ghost limit of 1 MiB",
        "set ghost-limit in a CRIU configuration file (annotation org.criu.config), or let the process close it";
    LINK_REMAP: "link-remap", Checkpoint, Error,
        "a file that is open or mapped was removed from its directory but has other names",
        "pass --link-remap";
    TERMINAL: "terminal", Checkpoint, Error,
        "a terminal from outside the container is open",
        "pass --shell-job, to checkpoint and to restore, or run the container with a terminal of its own";
    SESSION: "session", Checkpoint, Error,
        "a process belongs to a session outside the container",
        "let the process call setsid(2); where the container has no pid namespace of its own, pass --shell-job";
    SESSION_LEADER: "session-leader", Checkpoint, Error,
        "the leader of a process's session is gone, or none of its ancestors, and the process came to another parent than the \
         container's first one (PR_SET_CHILD_SUBREAPER): no restore can make it a member again",
        "let the process end first, or let the container's first process take orphans";
    NAMESPACE: "nested-namespace", Checkpoint, Error,
        "a process lives in another pid, user, ipc, uts, time or cgroup namespace than the first process",
        "stop it first: CRIU saves nested mount and network namespaces only";
    JOINED_USER: "joined-user-namespace", Both, Error,
        "config.json joins a user namespace; CRIU makes a new one, which has no rights in the others that it joins",
        "give the container a user namespace of its own, or none";
    THREAD_APART: "thread-apart", Checkpoint, Loss,
        "a thread has a working directory, descriptors or namespaces of its own (unshare(2), setns(2)); after a restore it has its \
         process's",
        "let the thread end first, or use a process of its own for that";
    SHARED: "shared-task", Checkpoint, Error,
        "two processes share memory or a working directory (clone(2) with CLONE_VM or CLONE_FS, vfork(2))",
        "try again in a moment, or let the process end first";
    TRACED: "traced", Checkpoint, Error,
        "a process is traced (ptrace(2)), so that CRIU cannot trace it",
        "detach the debugger or tracer";
    ZOMBIE_THREADS: "zombie-threads", Checkpoint, Error,
        "a process's first thread has ended but others run on",
        "let it end";
    OTHER_USER: "other-user", Checkpoint, Error,
        "CRIU may not read the limits of a process of another user without CAP_SYS_RESOURCE",
        "give it that capability, or run the container in its own user namespace";
    PACKETS: "packet-pipe", Checkpoint, Error,
        "a pipe of packets (O_DIRECT) is open",
        "let the process close it";
    QUEUE: "message-queue", Checkpoint, Error,
        "a POSIX message queue is open",
        "let the process close it";
    QUEUES: "message-queues", Checkpoint, Error,
        "there are POSIX message queues, which CRIU cannot save",
        "empty and remove them, or have the program make them again";
    DEV_TTY: "dev-tty", Checkpoint, Warning,
        "a process has /dev/tty open; CRIU saves that only if the same process is the first that has the terminal open",
        "let it close /dev/tty, or open the terminal by its name instead";
    UNDO: "sem-undo", Checkpoint, Warning,
        "a process may have used semaphores with SEM_UNDO: after a restore nothing is undone at its end",
        "see that it releases what it holds before a checkpoint";
    WATCH: "watch", Checkpoint, Error,
        "a file of an overlay is watched by inotify or fanotify, and is found under no path",
        "let the process end its watch";
    CHROOT: "chroot", Checkpoint, Error,
        "the first process has another root directory than the container (chroot(2))",
        "let a child of it change its root directory, or set root.path to that";
    HOST_MOUNTS: "host-mounts", Checkpoint, Error,
        "the container is in the host's mount namespace, of which CRIU saves nothing",
        "give it a mount namespace of its own in config.json";
    MOUNT_LINE: "mount-line", Checkpoint, Error,
        "a mount's line in mountinfo is longer than the 4 KiB that CRIU reads",
        "use fewer layers, or shorter paths for them";
    MOUNT: "mount", Checkpoint, Error,
        "a mount that CRIU cannot save, or an overlay that was mounted inside",
        "unmount it, or name it in config.json as a bind mount";
    SHARING: "mount-sharing", Checkpoint, Error,
        "a mount gets its events from a mount outside the container",
        "mount it with rprivate propagation, or as a bind mount of config.json";
    BESIDE: "beside-first", Checkpoint, Warning,
        "what was put beside the container's first process and its descendants, as by exec, is not saved: it ends with \
         the container, or runs on with it",
        "let it end first, or have a process of the container start it";
    ROOT_TMP: "root-tmp", Both, Error,
        "CRIU could not enter the restored root file system: it needs a directory /tmp there, or to be able to make one",
        "make an empty directory /tmp in the root file system";
    OVERMOUNTED: "mount-over", Checkpoint, Error,
        "a mount lies over one of config.json, or in its place",
        "unmount it, or name it in config.json instead";
    REPLACED: "mount-replaced", Checkpoint, Loss,
        "the source of a bind mount was replaced, so that the container has one that is nowhere else",
        "put the old source back, or have the container take what is at the source's path at the restore";
    REPLACED_OPEN: "mount-replaced-open", Checkpoint, Error,
        "a file is open or mapped on a bind mount whose source was replaced",
        "let the process open it anew, or put the source back";
    HOSTS: "mount-of-host", Checkpoint, Error,
        "a mount of the host's lies where a restore would not find it: below a plain bind, or elsewhere",
        "unmount it, name it in config.json, or bind what is above it with rbind";
    ATTACHED: "ipc-attached", Checkpoint, Error,
        "a process has System V memory attached that belongs to an IPC namespace that config.json joins",
        "let the process detach it, or give the container an IPC namespace of its own";
    NETWORK_DEVICE: "network-device", Checkpoint, Error,
        "a network device that no restore could make again: a veth whose other end is outside or whose name is needed \
         twice, a macvlan on a device outside or in a user namespace, or of a kind that CRIU does not know",
        "pass --empty-ns network and have the network set up again at the restore, as by a hook; or name a veth or macvlan in \
         linux.netDevices, from which a restore takes it, too";
    NETWORK_ROUTE: "network-route", Checkpoint, Error,
        "routes that no restore could make again in time: several next hops of which one is down, nexthop objects beside a \
         TUN device or a bridge without ports, and, in a network namespace that a process has made, those of other tables \
         than the main one, nexthop objects and rules for IPv6",
        "remove them, or pass --empty-ns network and have the network set up again at the restore, as by a hook";
    NETWORK_PART: "network-part", Checkpoint, Loss,
        "what neither CRIU nor hiber makes again of a network: queueing disciplines of other kinds than pfifo, pfifo_fast, bfifo, tbf, \
         htb, prio, fq, fq_codel, ingress and clsact, their filters, XDP programs, bridges that tell VLANs apart, their \
         permanent multicast groups, routing of multicast, IPsec, ipsets, arptables",
        "remove it, or pass --empty-ns network and have the network set up again at the restore, as by a hook";
    EXIT_SIGNAL: "exit-signal", Checkpoint, Warning,
        "a process was made so that its parent gets another signal than SIGCHLD at its end, or none (clone(2)); after a restore \
         the parent gets SIGCHLD",
        "see that the parent takes SIGCHLD for it, too";
    DATAGRAMS: "unread-datagrams", Checkpoint, Warning,
        "a UDP, ICMP, raw or packet socket has messages that nobody has read; CRIU does not save them, and they are lost as on a \
         bad network",
        "let the process read them, or try again in a moment";
    UNTOLD: "untold-error", Checkpoint, Warning,
        "a socket has an error to tell of which nobody has heard (SO_ERROR, MSG_ERRQUEUE); after a restore it has none",
        "let the process ask for it, or try again in a moment";
    URGENT: "urgent-byte", Checkpoint, Loss,
        "a byte that was sent out of band (MSG_OOB) is to be read: CRIU drops it, or makes it one of the others",
        "let the process read it, or try again in a moment";
    SENDER: "datagram-sender", Checkpoint, Loss,
        "a unix socket has a datagram to be read of a sender that has a name and is not connected; after a restore it is nobody's \
         (recvfrom(2))",
        "let the process read it, or try again in a moment";
    EVENTS: "unread-events", Checkpoint, Loss,
        "inotify or fanotify has events to tell that nobody has read, which CRIU does not save",
        "let the process read them, or try again in a moment";
    WHOLE_MARK: "filesystem-mark", Checkpoint, Loss,
        "fanotify watches a whole file system (FAN_MARK_FILESYSTEM); after a restore it does not",
        "let the process watch mounts or directories instead, or ask for it again after a restore";
    PACKETS_TAKEN: "packet-queue", Checkpoint, Loss,
        "a netlink socket takes packets of the firewall, or logs of them (NFQUEUE, NFLOG); after a restore it gets none",
        "let the process close it first, or bind it again after a restore";
    PRESSURE: "pressure-trigger", Checkpoint, Loss,
        "a file about pressure (PSI) is open for writing, so that it may have a trigger; after a restore it has none, and poll(2) \
         tells of an error at once",
        "let the process close it first, and open it anew after a restore";
    CLOSING: "tcp-closing", Checkpoint, Loss,
        "a TCP connection that was closed has not sent everything yet: nobody has it open, so that CRIU does not save it",
        "try again in a moment, when the other end has got the rest";
    THREADED: "threaded-cgroup", Checkpoint, Loss,
        "a cgroup of version 2 has threads instead of processes (cgroup.type), and the first process is below the container's own \
         cgroup; after a restore the threads are in their process's cgroup",
        "let the first process stay in the container's cgroup, or put the threads back";
    CGROUP_PROGRAMS: "cgroup-program", Checkpoint, Loss,
        "BPF programs are attached to a cgroup of version 2 below the container's own; after a restore there are none",
        "let the process detach them, or attach them again after a restore";
    EMPTY: "empty-datagram", Checkpoint, Loss,
        "a unix socket has a datagram without content to be read: CRIU saves neither that nor those behind it",
        "let the process read it, or try again in a moment";
    TCP_KEYS: "tcp-keys", Checkpoint, Loss,
        "a TCP socket has keys that nobody can put back: of connections that the kernel encrypts (kTLS), or signs by TCP-AO \
         (RFC 5925)",
        "let the process close it; a restore refuses an encrypted connection unless --tcp-close closes it, and signs nothing by TCP-AO \
         any more";
    THREAD_TIMER: "thread-timer", Checkpoint, Loss,
        "a process of several threads has a POSIX timer that goes by the processor time of a thread; after a restore it goes by the \
         first thread's",
        "let the process delete the timer, or measure its time as a whole (CLOCK_PROCESS_CPUTIME_ID)";
    OVERRUN: "timer-overrun", Checkpoint, Warning,
        "a POSIX timer has run out and nobody has taken its signal: how often it did meanwhile (timer_getoverrun(2)) is lost",
        "let the process take the signal, or try again in a moment";
    WAITING: "uninterruptible", Checkpoint, Warning,
        "a process waits in the kernel and cannot be stopped now",
        "look at what it waits for (disk, NFS, FUSE); CRIU gives up after 10 seconds";
    SHARED_NETWORK: "shared-network", Checkpoint, Cost,
        "the network namespace is shared: all in it are cut off while the container is saved",
        "pass --network-lock skip if no connection of it need survive";
    MEMORY: "memory", Both, Cost,
        "memory to be written or read, and about how long that takes",
        "--pre-copy writes most of it while the container runs; --lazy-pages brings it over later";
    ZOMBIE: "zombie", Checkpoint, Info,
        "a process has ended and nobody has waited for it; it is saved as it is",
        "nothing";
    STOPPED: "stopped", Checkpoint, Info,
        "a process is stopped (SIGSTOP); it is restored stopped",
        "nothing";
    DELETED: "deleted-file", Checkpoint, Info,
        "a deleted file is open or mapped; its content is saved with the images",
        "nothing";
    // the checkpoint
    IMAGES: "images", Restore, Error,
        "the images are missing, incomplete, damaged or not to be trusted",
        "restore from another copy; --trust-images restores what is only not trusted";
    SIGNATURE: "signature", Restore, Error,
        "the checkpoint is not signed as --verify-key or this host's policy (trust.toml) wants it, or the policy is not understood",
        "have the checkpoint signed by one of the keys (checkpoint --sign-key), or correct the policy";
    MANIFEST: "manifest", Restore, Warning,
        "there is no hiber.json, or one without hashes: damage is not seen, and flags are not remembered",
        "pass the flags that the checkpoint was made with";
    LEFT_OUT: "left-out", Restore, Warning,
        "the checkpoint was made without something, which --accept gave up",
        "nothing; make another checkpoint where it is needed";
    BUNDLE: "bundle", Restore, Error,
        "the bundle cannot be used, or a namespace that config.json joins is not there",
        "give the bundle that the container was created from, or its like";
    CONFIG: "config", Restore, Warning,
        "config.json is not the one that the checkpoint was made with",
        "use the original where the restore fails";
    ID: "id", Restore, Error,
        "there is a container of that id",
        "delete it, or restore under another id";
    CGROUP: "cgroup", Restore, Error,
        "the container's cgroup has processes already",
        "stop them, or give another linux.cgroupsPath";
    ARCHITECTURE: "architecture", Restore, Error,
        "the checkpoint was made on another architecture",
        "restore on a machine of that architecture";
    CPU: "cpu", Restore, Warning,
        "the processor lacks features of the one that the checkpoint was made on, which its programs may use",
        "restore on a machine with the same or a newer processor";
    KERNEL: "kernel", Restore, Warning,
        "the checkpoint was made on a newer kernel",
        "restore on the same or a newer kernel where the restore fails";
    CRIU_VERSION: "criu-version", Restore, Warning,
        "the checkpoint was made by a newer CRIU",
        "use a CRIU at least as new as the one that made it";
    FLAG: "flag", Restore, Error,
        "the images hold what needs a flag to be restored",
        "pass the flag";
    MOUNT_SOURCE: "mount-source", Both, Error,
        "the source of a bind mount is missing",
        "make or mount it first";
    MOUNT_POINT: "mount-point", Restore, Error,
        "a mount point is a file where a directory is needed, or the other way round",
        "remove what is in its place from the root file system";
    MOUNT_MISSING: "mount-missing", Restore, Error,
        "the checkpoint has a mount from outside that config.json does not supply",
        "restore with the mounts of the configuration that the checkpoint was made with";
    ROOTFS: "rootfs", Restore, Error,
        "a file that was open or mapped is missing or has changed",
        "restore on the same root file system, as it was then";
    PID: "pid", Restore, Error,
        "a process number of the checkpoint is taken",
        "restore into a pid namespace of its own, or stop the process that has the number";
    ADDRESS: "address", Restore, Error,
        "a saved connection's own address is not in the network namespace that is joined",
        "give the address to an interface there, or pass --tcp-close";
    PROFILE: "profile", Restore, Error,
        "a security profile of the checkpoint or of --lsm-profile is not loaded here",
        "load it, or restore on a machine with the same security module";
    PARENT_DEATH: "parent-death-signal", Restore, Warning,
        "the first process had asked for a signal when its parent dies; that was the runtime or a shim, and is another now",
        "let the program ask for it again (prctl(2), PR_SET_PDEATHSIG) where the new parent's death should end it";
    SECCOMP_AGENT: "seccomp-agent", Restore, Error,
        "there is no agent at linux.seccomp.listenerPath, which answers for system calls (SCMP_ACT_NOTIFY)",
        "start the agent first";
    MEMORY_LIMIT: "memory-limit", Restore, Warning,
        "the images hold more memory than config.json allows the container",
        "raise linux.resources.memory.limit";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let mut names: Vec<_> = CHECKS.iter().map(|c| c.name).collect();
        assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }

    /// The rows of the documentation, between two comments.
    fn rows() -> String {
        let row = |c: &&Check| {
            let when = match c.when {
                When::Checkpoint => "checkpoint",
                When::Restore => "restore",
                When::Both => "both",
            };
            format!("| `{}` | {when} | {} | {} | {} |\n", c.name, c.severity, c.about, c.advice)
        };
        CHECKS.iter().map(row).collect()
    }

    #[test]
    fn the_documentation_shows_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/limits.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (_, rest) = text.split_once("<!-- checks -->\n").unwrap();
        let (table, _) = rest.split_once("<!-- end of checks -->").unwrap();
        let written: String = table.lines().skip(2).map(|line| format!("{line}\n")).collect();
        assert!(written == rows(), "docs/limits.md should have these rows:\n{}", rows());
    }
}
