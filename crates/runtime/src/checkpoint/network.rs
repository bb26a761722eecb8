//! Whether a checkpoint needs the container's network locked.
//!
//! CRIU locks it with iptables or nftables so that no packet changes a TCP connection, or resets it, while one end is
//! saved and the other goes on. That costs tens of milliseconds at the dump and again at each restore, which follows
//! the method that the images name.

use hiber_sandbox::plan::NamespaceKind;
use oci_spec::runtime::Spec;

use super::{CriuOptions, joined};
use crate::state::Facts;

/// Whether nothing can be lost without a lock: the network namespace is the container's own and has no interface but
/// loopback, so that no packet comes from outside; and CRIU was not told to save established connections, so that it
/// refuses any.
pub(crate) fn needs_no_lock(facts: &Facts, spec: &Spec, options: &CriuOptions) -> bool {
    let own =
        facts.namespaces.contains(&NamespaceKind::Network) && joined(spec).all(|(kind, ..)| kind != "net");
    own && options.tcp_established != Some(true) && only_loopback(facts.pid)
}

/// What cannot be read counts as an interface.
fn only_loopback(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/net/dev")).is_ok_and(|table| names_only_loopback(&table))
}

/// Two lines of headings, then `NAME: COUNTERS` for each interface (proc_pid_net(5)).
fn names_only_loopback(table: &str) -> bool {
    let mut names = table.lines().skip(2).map(|line| line.split_once(':').map(|(name, _)| name.trim()));
    table.lines().count() > 2 && names.all(|name| name == Some("lo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                            |  Transmit\n \
                        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n";

    #[test]
    fn loopback_alone_is_told_from_others() {
        let lo = "    lo:       0       0    0    0    0     0          0         0        0       0\n";
        assert!(names_only_loopback(&format!("{HEAD}{lo}")));
        assert!(!names_only_loopback(&format!("{HEAD}{lo}  eth0: 1 2 3\n")));
        assert!(!names_only_loopback(&format!("{HEAD}  lo2: 1 2 3\n")));
        assert!(!names_only_loopback(&format!("{HEAD}garbage\n")));
        assert!(!names_only_loopback(HEAD));
        assert!(!names_only_loopback(""));
    }
}
