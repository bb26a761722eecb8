//! Networks that a checkpoint need not lock or save.
//!
//! CRIU locks it with iptables or nftables so that no packet changes a TCP connection, or resets it, while one end is
//! saved and the other goes on. It saves what a network namespace holds with a program each for addresses, routes, rules
//! and four kinds of firewall, and walks the machine's whole table of connections twice, even if told to leave the
//! namespace empty. Each costs tens of milliseconds at the dump, the tasks being frozen. It does none of that for a network
//! namespace that it lives in itself: so it is started in the container's, if that is one that a restore can make anew,
//! and the images are told that it was elsewhere.

use hiber_criu::Launch;
use hiber_sandbox::loopback;
use hiber_sandbox::plan::{NamespaceKind, in_container};
use oci_spec::runtime::Capability;
use oci_spec::runtime::Spec;

use super::criu_options::config_file;
use super::options::CheckpointOptions;
use super::{CriuOptions, joined};
use crate::container::task::Task;
use crate::error::Result;
use crate::state::facts::Facts;

/// Whether nothing can be lost without a lock: CRIU was not told to save established connections, and either was told that
/// they are closed, of which their other ends are to hear; or the network namespace is the container's own and has no interface
/// but loopback, so that no packet comes from outside.
pub(crate) fn needs_no_lock(facts: &Facts, spec: &Spec, options: &CriuOptions) -> bool {
    let closed = || options.tcp_close == Some(true);
    let apart = || owns_namespace(facts, spec) && only_loopback(facts.pid);
    options.tcp_established != Some(true) && (closed() || apart())
}

/// Whether a dump with these options can leave the container's network namespace out, and CRIU be inside of it.
pub(super) fn has_fresh_network(task: &Task, options: &CheckpointOptions) -> Result<bool> {
    let criu = &options.criu;
    let elsewhere = options.dump.page_server.is_some() || criu.lazy_pages || options.pre_dump;
    let chosen = criu.empty_network.is_some() || criu.tcp_established == Some(true);
    let spec = task.container().spec()?;
    Ok(!elsewhere && !chosen && config_file(&spec).is_none() && is_fresh(task.facts()?, &spec, &task.pids()?))
}

/// Whether the network namespace is as `create` made it: a restore can make another. It must be the container's own and
/// hold loopback alone, and nobody may have changed its sysctls, which are not looked at: the container
/// has no right to, and no hook ran in it.
fn is_fresh(facts: &Facts, spec: &Spec, processes: &[i32]) -> bool {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = namespace(facts.pid);
    let sysctls_are_ours = || {
        let protected = spec.linux().as_ref().and_then(|l| l.readonly_paths().as_ref());
        let hooked = spec.hooks().as_ref().is_some_and(|hooks| *hooks != oci_spec::runtime::Hooks::default());
        !may_have(spec, Capability::NetAdmin)
            && !hooked
            && protected.is_some_and(|paths| paths.iter().any(|p| in_container(p).as_os_str() == "/proc/sys"))
    };
    owns_namespace(facts, spec)
        && sysctls_are_ours()
        && processes.iter().all(|pid| namespace(*pid) == own)
        && loopback::is_alone(facts.pid).unwrap_or_else(|e| {
            tracing::debug!("the network namespace is saved as it is: {e}");
            false
        })
}

/// Whether a process of the container may get a capability.
pub(super) fn may_have(spec: &Spec, capability: Capability) -> bool {
    spec.process().as_ref().is_none_or(|process| {
        let sets = process.capabilities().as_ref();
        let bounding = sets.and_then(|sets| sets.bounding().as_ref());
        bounding.is_some_and(|set| set.contains(&capability))
    })
}

/// Keeps CRIU's libnftables from printing rules with extensions of iptables as these extensions would: it finds none of their
/// plugins, of which those of another version than its own crash CRIU. Nobody reads these rules, which are in kept.json. Where
/// there are tables of the older iptables, the programs that save them need the plugins.
pub(super) fn keep_libnftables_plain(task: &Task, launch: &mut Launch<'_>) -> Result<()> {
    let facts = task.facts()?;
    if !owns_namespace(facts, &*task.container().spec()?) {
        return Ok(());
    }
    let has_older = ["net/ip_tables_names", "net/ip6_tables_names"]
        .iter()
        .any(|names| hiber_sys::procfs::read(facts.pid, names).is_some_and(|names| !names.is_empty()));
    if !has_older && hiber_sandbox::network::has_extensions(facts.pid).unwrap_or(false) {
        launch.environment("XTABLES_LIBDIR", "/nonexistent");
    }
    Ok(())
}

/// Whether the network namespace was made for the container, and ends with it.
pub(crate) fn owns_namespace(facts: &Facts, spec: &Spec) -> bool {
    facts.namespaces.contains(&NamespaceKind::Network) && joined(spec).all(|(kind, ..)| kind != "net")
}

/// A file that cannot be read counts as an interface.
fn only_loopback(pid: i32) -> bool {
    hiber_sys::file::read_to_string(format!("/proc/{pid}/net/dev"))
        .is_ok_and(|table| names_only_loopback(&table))
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
