//! Parts of a container's network namespaces that CRIU cannot save, or saves and cannot make again.

use std::path::PathBuf;

use ::procfs::net::TcpState;
use ::procfs::process::Process;
use hiber_sandbox::network::{self, Contents, Device};
use hiber_sandbox::plan::NamespaceKind;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::device_names::taken_twice;
use super::table::{CLOSING, NETWORK_DEVICE, NETWORK_PART, NETWORK_ROUTE};
use super::tasks::Proc;
use super::{Accepted, Findings};
use crate::checkpoint::{CheckpointOptions, config_file, joined};
use crate::container::task::Task;
use crate::error::Result;
use crate::state::facts::Facts;

/// Kinds of devices that CRIU makes again (net.c), but for those that lead outside.
const REMADE: [&str; 4] = ["veth", "tun", "bridge", "sit"];
/// Devices that the kernel makes in every network namespace, which CRIU leaves alone.
const KERNELS: [&str; 3] = ["sit0", "gre0", "gretap0"];

/// Refuses a network that no restore could make again, before anything is stopped.
pub(crate) fn check_network(task: &Task, options: &CheckpointOptions, accepted: &mut Accepted) -> Result<()> {
    let mut findings = Findings::default();
    check(&mut findings, task, &task.tasks()?, options)?;
    accepted.judge(&findings)
}

/// A process for each network namespace whose contents CRIU saves.
pub(crate) fn saved_networks(task: &Task, options: &CheckpointOptions) -> Result<Vec<i32>> {
    if options.criu.empty_network == Some(true) {
        return Ok(Vec::new());
    }
    let (facts, spec) = (task.facts()?, &*task.container().spec()?);
    Ok(saved(facts, spec, &task.tasks()?).iter().map(|task| task.pid).collect())
}

/// Looks into each network namespace that CRIU is to save.
pub(super) fn check(
    findings: &mut Findings,
    task: &Task,
    tasks: &[Proc],
    options: &CheckpointOptions,
) -> Result<()> {
    let (facts, spec) = (task.facts()?, &*task.container().spec()?);
    if options.criu.empty_network == Some(true) {
        return Ok(());
    }
    let saved = saved(facts, spec, tasks);
    for task in &saved {
        let others: Vec<_> = saved.iter().map(|other| other.pid).filter(|pid| *pid != task.pid).collect();
        match network::contents(task.pid, &others) {
            Ok(contents) => tell(findings, &contents, spec, task.pid == facts.pid),
            // Nothing is known then, and CRIU is asked.
            Err(e) => tracing::debug!("the network namespace of process {} is not looked at: {e}", task.pid),
        }
        if options.criu.tcp_established == Some(true) {
            closing(findings, task);
        }
    }
    Ok(())
}

/// Connections that their processes have closed, and that have more to send than that.
fn closing(findings: &mut Findings, task: &Proc) {
    let Ok(process) = Process::new(task.pid) else { return };
    for entry in process.tcp().into_iter().chain(process.tcp6()).flatten() {
        let is_closing = matches!(entry.state, TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck);
        // The end of the stream counts as a byte.
        if entry.inode == 0 && is_closing && entry.tx_queue > 1 {
            let (local, remote) = (entry.local_address, entry.remote_address);
            findings.add(
                &CLOSING,
                format!("the closed TCP connection {local} to {remote} has not sent everything yet"),
            );
        }
    }
}

/// A process for each network namespace whose contents CRIU saves.
fn saved<'a>(facts: &Facts, spec: &Spec, tasks: &'a [Proc]) -> Vec<&'a Proc> {
    let name = |task: &Proc| std::fs::read_link(task.path("ns/net")).ok();
    let shared =
        !facts.namespaces.contains(&NamespaceKind::Network) || joined(spec).any(|(kind, ..)| kind == "net");
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    for task in tasks.iter().filter(|task| !task.is_dead()) {
        let Some(namespace) = name(task).filter(|name| !seen.contains(name)) else { continue };
        // The first process is the first of them.
        if !(shared && seen.is_empty()) {
            found.push(task);
        }
        seen.push(namespace);
    }
    found
}

/// `own` is the first process's, which is put together before there are sockets; others are afterwards.
fn tell(findings: &mut Findings, contents: &Contents, spec: &Spec, own: bool) {
    for device in &contents.devices {
        if let Some(why) = why_not(device, spec) {
            findings.add(&NETWORK_DEVICE, format!("network device {} {why}", device.name.escape_debug()));
        }
    }
    if let Some(name) = taken_twice(&contents.devices) {
        let what = "has a name that CRIU's restore would need for another veth's end meanwhile";
        let finding = findings.add(&NETWORK_DEVICE, format!("network device {} {what}", name.escape_debug()));
        finding.advice = format!(
            "call it otherwise (ip link set {} name NEW), or {}",
            name.escape_debug(),
            finding.advice
        );
    }
    let nested = "in a network namespace that a process has made, where sockets come before them";
    let tables: Vec<_> = contents.tables.iter().map(ToString::to_string).collect();
    if !tables.is_empty() && !own {
        findings.add(&NETWORK_ROUTE, format!("there are routes in table {}, {nested}", tables.join(", ")));
    }
    let dark = contents.devices.iter().find(|device| has_no_carrier(device, &contents.devices));
    for (there, what) in [
        (contents.nexthops && !own, format!("there are nexthop objects (ip nexthop), {nested}")),
        (
            contents.nexthops && dark.is_some(),
            "there are nexthop objects (ip nexthop) beside a TUN device or a bridge without ports, which has no carrier when \
             they are made"
                .into(),
        ),
        (contents.rules_of_ipv6 && !own, format!("there are rules for IPv6 (ip -6 rule), {nested}")),
        (contents.dead_hops, "a route of several next hops leads over a device that is down".into()),
    ] {
        if there {
            findings.add(&NETWORK_ROUTE, what);
        }
    }
    for what in &contents.strange {
        findings.add(&NETWORK_PART, what);
    }
}

/// Whether a restored device has no carrier when the kernel is asked for nexthop objects, which refuses them then. A bridge
/// loses the carrier that it was born with when it gets its address again.
fn has_no_carrier(device: &Device, devices: &[Device]) -> bool {
    match device.kind.as_deref() {
        Some("tun") => true,
        Some("bridge") => devices.iter().all(|port| port.master != Some(device.index)),
        _ => false,
    }
}

/// Why CRIU cannot make a device again.
fn why_not(device: &Device, spec: &Spec) -> Option<String> {
    let kind = device.kind.as_deref();
    if device.loopback || KERNELS.contains(&device.name.as_str()) {
        return None;
    }
    // CRIU's own configuration may say what becomes of these.
    let configured = config_file(spec).is_some();
    match kind {
        Some("veth") if device.outside && !configured && !is_supplied(device, spec) => {
            Some("is a veth whose other end is in a network namespace outside the container".into())
        }
        Some("macvlan") if device.below.is_some() => spec_has_users(spec)
            .then(|| "is a macvlan, which a restore cannot make in a user namespace".into()),
        Some("macvlan") if !configured && !is_supplied(device, spec) => {
            Some("is a macvlan on a device outside its network namespace".into())
        }
        Some("macvlan") => None,
        Some(kind) if REMADE.contains(&kind) => None,
        Some(kind) => Some(format!("is of kind {kind}, which CRIU cannot save")),
        None => Some("is a device of the host's hardware".into()),
    }
}

fn spec_has_users(spec: &Spec) -> bool {
    let mut namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

/// Whether a restore gets the device from `linux.netDevices`, as the container did.
fn is_supplied(device: &Device, spec: &Spec) -> bool {
    let given = spec.linux().iter().flat_map(|linux| linux.net_devices().iter().flatten());
    given.into_iter().any(|(name, as_named)| {
        as_named.name().as_deref().filter(|inside| !inside.is_empty()).unwrap_or(name) == device.name
    })
}
