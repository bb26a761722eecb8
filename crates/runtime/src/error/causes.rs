//! The causes of CRIU's failures in this library's terms: what to do by the options of its commands, and which preflight
//! checks find whose fault it is. `hiber-criu` says the rest, for callers without containers.

use hiber_criu::Cause;

/// The library's own knowledge of a cause of `hiber-criu`.
struct Entry {
    id: &'static str,
    /// The meaning in the container's terms, where it is another.
    explanation: Option<&'static str>,
    /// The advice, where it differs from that of `hiber-criu`.
    advice: Option<&'static str>,
    /// Names of checks of `checkpoint/preflight/table.rs`.
    checks: &'static [&'static str],
}

/// The explanation of a cause and the advice, as one clause each.
pub(crate) fn meaning(cause: &Cause) -> String {
    let own = entry(cause);
    let explanation = own.and_then(|own| own.explanation).unwrap_or(cause.explanation);
    let advice = own.and_then(|own| own.advice).unwrap_or(cause.advice);
    format!("{explanation}; {advice}")
}

/// The names of the preflight checks that find whose fault it is.
pub(crate) fn checks(cause: &Cause) -> &'static [&'static str] {
    entry(cause).map_or(&[], |own| own.checks)
}

fn entry(cause: &Cause) -> Option<&'static Entry> {
    ENTRIES.iter().find(|own| own.id == cause.id)
}

const fn found_by(id: &'static str, checks: &'static [&'static str]) -> Entry {
    Entry { id, explanation: None, advice: None, checks }
}

impl Entry {
    const fn means(mut self, explanation: &'static str) -> Self {
        self.explanation = Some(explanation);
        self
    }

    const fn advises(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }
}

static ENTRIES: &[Entry] = &[
    found_by("tcp-connection-in-images", &["flag"]).advises("pass --tcp-established or --tcp-close to restore"),
    found_by("tcp-connection", &["tcp-connection"]).advises("pass --tcp-established, to checkpoint and to restore"),
    found_by("tcp-in-flight", &["tcp-in-flight"]).advises("pass --tcp-skip-in-flight, or try again in a moment"),
    found_by("file-lock", &["file-lock"]).advises("pass --file-locks"),
    found_by("unix-peer-outside", &["unix-peer", "unix-datagram"]).means("a process is connected to a unix socket outside the container").advises("pass --ext-unix-sk, or let it close the connection"),
    found_by("unix-peer-other-network", &["unix-peer"]),
    found_by("unix-stream-outside", &["unix-peer"]).means("a process has a stream connection to a unix socket outside the container"),
    found_by("terminal-outside", &["terminal"]).means("a process uses a terminal whose session is outside the container").advises("pass --shell-job, or run the container with a terminal of its own"),
    found_by("session-outside", &["session"]).means("the container's first process belongs to a session outside it").advises("pass --shell-job"),
    found_by("process-session-outside", &["session"]).means("a process belongs to a session outside the container"),
    found_by("dev-tty", &["dev-tty"]).advises("let it close /dev/tty, or open the terminal itself as well; stop what exec started with a terminal"),
    found_by("tcp-close", &[]).means("the checkpoint was made with --tcp-close").advises("pass --tcp-close to restore too"),
    found_by("tcp-address", &["address"]).advises("give the address to an interface there, or pass --tcp-close"),
    found_by("veth-peer-outside", &["network-device"]).means("the other end of a veth was in a network namespace outside the container").advises("pass --empty-ns network to restore and have the network set up again, as by a hook, or name the device in linux.netDevices"),
    found_by("macvlan-parent-outside", &["network-device"]).means("the parent of a macvlan device was outside the container").advises("pass --empty-ns network to restore and have the network set up again, as by a hook, or name the device in linux.netDevices"),
    found_by("ip-tool", &["network-device", "network-route"]).means("the addresses, routes or rules of the checkpoint could not be saved or made again").advises("pass --empty-ns network and have the network set up again at the restore, as by a hook"),
    found_by("network-device", &["network-device"]).means("a network device of the checkpoint could not be made again").advises("pass --empty-ns network to restore and have the network set up again, as by a hook"),
    found_by("network-device-kind", &["network-device"]).advises("remove it, or pass --empty-ns network"),
    found_by("packet-pipe", &["packet-pipe"]),
    found_by("secret-memory", &["file-kind"]),
    found_by("foreign-proc", &[]).advises("mount a proc of the container's own there"),
    found_by("watched-file", &["watch"]),
    found_by("proc-line-too-long", &["mount-line"]),
    found_by("mounts-unreadable", &["mount-line", "chroot"]).means("CRIU could not read the container's mounts").advises("have the first process keep the container's root directory, and no mount with a line over 4 KiB"),
    found_by("mount-outside", &["mount"]).means("a mount comes from outside the container"),
    found_by("mount-missing", &["mount-missing"]).means("the checkpoint has an external mount that the restore does not supply").advises("restore with the mounts of the configuration that the checkpoint was made with"),
    found_by("file-system", &["mount"]),
    found_by("mount-sharing", &["mount-sharing"]).means("a mount gets its events from outside the container"),
    found_by("mount-private", &[]).means("a mount was to get the events of one of the host's, which is private since").advises("try again: the host's mounts have changed meanwhile"),
    found_by("terminal-on-host", &["terminal"]).means("a process uses a terminal outside the container").advises("pass --shell-job, or run the container with a terminal of its own"),
    found_by("file-outside", &["outside-file", "message-queue"]).means("a file is open that lies on no mount of the container's").advises("give standard streams as pipes, a terminal or /dev/null, and close other files of the host"),
    found_by("deleted-file-too-large", &["deleted-file-size"]).advises("raise ghost-limit in a CRIU configuration file, or let the process close the file"),
    found_by("link-remap", &["link-remap"]).advises("pass --link-remap"),
    found_by("file-size", &["rootfs"]),
    found_by("file-mode", &["rootfs"]),
    found_by("file-missing", &["rootfs"]),
    found_by("io-uring", &["io-uring"]),
    found_by("io-uring-descriptor", &["io-uring"]),
    found_by("device", &["device"]),
    found_by("device-mapping", &["device"]),
    found_by("file-kind", &["file-kind"]),
    found_by("mptcp", &["socket-kind"]),
    found_by("socket-protocol", &["socket-kind"]),
    found_by("socket-kind", &["socket-kind"]),
    found_by("netlink-unread", &["netlink-unread"]),
    found_by("netlink-groups", &["netlink-groups"]),
    found_by("unix-ancillary", &["unix-ancillary"]),
    found_by("unix-in-flight", &["unix-in-flight"]),
    found_by("udp-corked", &["udp-corked"]),
    found_by("socket-filter", &["socket-filter"]),
    found_by("dirty-tracking", &[]).advises("make a full checkpoint, without --pre-dump and --parent-path"),
    found_by("no-parent", &[]).means("the earlier checkpoint is not where --parent-path says"),
    found_by("page-server-unreachable", &["page-server"]).advises("start it first, and see that its address and port are those of --page-server"),
    found_by("page-server-gone", &["page-server"]),
    found_by("lazy-memory-not-fetched", &[]).means("the destination did not fetch all memory, so that the container runs on here").advises("see what the restore says, and make a new checkpoint"),
    found_by("nested-pid-namespace", &["nested-namespace"]).means("a process lives in a pid namespace inside the container's"),
    found_by("nested-namespace", &["nested-namespace"]).means("a process lives in a namespace inside the container's"),
    found_by("pid-taken", &["pid"]),
    found_by("pid-not-given", &["pid"]),
    found_by("traced", &["traced"]),
    found_by("freeze-timeout", &[]).advises("try again while they fork less, or let the container be frozen first"),
    found_by("cgroup-freeze", &[]).means("the container's cgroup could not be frozen in time"),
    found_by("first-process-ended", &[]).means("the container's first process ended meanwhile, and with it the container"),
    found_by("zombie-threads", &["zombie-threads"]),
    found_by("other-user-limits", &["other-user"]).advises("give it CAP_SYS_RESOURCE, or run the container in its own user namespace"),
    found_by("vdso", &[]).advises("use a newer CRIU (4.0 or later), by its path in HIBER_CRIU"),
    found_by("rseq", &[]).advises("use CRIU 4.0 or later, by its path in HIBER_CRIU"),
    found_by("other-security-module", &["profile"]),
    found_by("no-security-module", &["profile"]).advises("restore without --lsm-profile, or on a machine with that module"),
    found_by("killed-in-restore", &["images"]).advises("look with `hiber inspect --verify`, and restore from another copy of the checkpoint"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_of_a_cause_that_there_is() {
        for own in ENTRIES {
            assert!(hiber_criu::causes().any(|cause| cause.id == own.id), "{}", own.id);
            let same = ENTRIES.iter().filter(|other| other.id == own.id).count();
            assert_eq!(same, 1, "{}", own.id);
            let says = !own.checks.is_empty() || own.explanation.is_some() || own.advice.is_some();
            assert!(says, "{}", own.id);
        }
    }

    #[test]
    fn advice_names_flags_of_this_command_and_no_fields_of_options() {
        let fields =
            ["_established", "shell_job", "empty_network_ns", "parent_img", "page_server", "the tree"];
        for cause in hiber_criu::causes() {
            let text = meaning(cause);
            let found = fields.iter().find(|field| text.contains(*field));
            assert_eq!(found, None, "{}: {text}", cause.id);
        }
        let of = |id: &str| meaning(hiber_criu::causes().find(|cause| cause.id == id).unwrap());
        assert_eq!(of("file-lock"), "a process holds a file lock; pass --file-locks");
        assert!(
            of("session-outside")
                .ends_with("the container's first process belongs to a session outside it; pass --shell-job")
        );
    }
}
