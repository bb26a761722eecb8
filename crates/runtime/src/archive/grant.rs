//! The judge of a config.json from an archive, which nobody has granted.
//!
//! The owner of a bundle has said by its config.json what the container may have. Where the bundle is made from
//! spec.dump, nobody has: the archive would grant itself what it likes. So it gets what an ordinary container without privileges has,
//! as engines run it, and not a thing of this host; whatever is beyond is refused by name, and `--trust-spec` takes it.

use std::path::Path;

use caps::Capability;
use hiber_sandbox::plan::DEFAULT_DEVICES;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, Mount, Spec};

/// The capabilities that engines give to every container.
const CAPABILITIES: [Capability; 14] = [
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];
/// File systems of the kernel's that show a container its own.
const FILESYSTEMS: [&str; 7] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];
/// Namespaces that every container has to itself.
const NAMESPACES: [LinuxNamespaceType; 5] = [
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::Mount,
];
/// Paths of the host's kernel that must be hidden, and that must not be written.
const MASKED: [&str; 4] = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"];
const READ_ONLY: [&str; 2] = ["/proc/sys", "/proc/sysrq-trigger"];
/// Numbers of devices that every container has, as major and minor: those of /dev, terminals, and their multiplexer.
const DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// Annotations that hiber obeys begin so.
const OBEYED: [&str; 2] = [hiber_sandbox::cgroup::ANNOTATION_PREFIX, "org.criu.config"];

/// Lists the fields by which a configuration asks for more than an ordinary container has. `is_own` tells of a bind mount whether the bundle has
/// a file for it.
pub(super) fn beyond(spec: &Spec, is_own: impl Fn(&Mount) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    process(spec, &mut found);
    mounts(spec, is_own, &mut found);
    linux(spec, &mut found);
    if spec.hooks().is_some() {
        found.push("hooks: programs of this host's".to_owned());
    }
    for name in spec.annotations().iter().flatten().map(|(name, _)| name) {
        if OBEYED.iter().any(|prefix| name.starts_with(prefix)) {
            found.push(format!("annotations.{}: is obeyed", name.escape_debug()));
        }
    }
    found
}

fn process(spec: &Spec, found: &mut Vec<String>) {
    let Some(process) = spec.process() else { return };
    if let Some(given) = process.capabilities() {
        let sets =
            [given.bounding(), given.effective(), given.inheritable(), given.permitted(), given.ambient()];
        let mut more: Vec<_> = sets.into_iter().flatten().flatten().map(ToString::to_string).collect();
        let usual = |name: &String| {
            CAPABILITIES
                .iter()
                .any(|usual| usual.to_string().trim_start_matches("CAP_") == name.trim_start_matches("CAP_"))
        };
        more.retain(|name| !usual(name));
        more.sort();
        more.dedup();
        found.extend(more.iter().map(|name| format!("process.capabilities: {name}")));
    }
    if process.oom_score_adj().is_some_and(|adjust| adjust < 0) {
        found.push("process.oomScoreAdj: is below 0".to_owned());
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|label| !label.is_empty())
        && !label.split(':').any(|part| part == "container_t")
    {
        found.push(format!("process.selinuxLabel: {}", label.escape_debug()));
    }
}

fn mounts(spec: &Spec, is_own: impl Fn(&Mount) -> bool, found: &mut Vec<String>) {
    for mount in spec.mounts().iter().flatten().filter(|mount| !is_own(mount)) {
        let (at, kind) = (mount.destination().display(), mount.typ().as_deref().unwrap_or("bind"));
        let binds = |option: &String| matches!(&**option, "bind" | "rbind");
        if mount.options().iter().flatten().any(binds) || !FILESYSTEMS.contains(&kind) {
            let source = mount.source().as_deref().unwrap_or(Path::new("none")).display();
            found.push(format!("mounts: {at} is {kind} of {source}"));
        }
    }
}

fn linux(spec: &Spec, found: &mut Vec<String>) {
    let Some(linux) = spec.linux() else {
        found.push("linux: is missing, and with it all namespaces".to_owned());
        return;
    };
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    for kind in NAMESPACES {
        if !namespaces.iter().any(|namespace| namespace.typ() == kind) {
            found.push(format!("linux.namespaces: the host's {kind:?}"));
        }
    }
    for namespace in namespaces {
        if let Some(path) = namespace.path() {
            found.push(format!("linux.namespaces: {:?} at {}", namespace.typ(), path.display()));
        }
    }
    for device in linux.devices().iter().flatten() {
        let path = device.path();
        if !DEFAULT_DEVICES.iter().any(|(usual, ..)| Path::new(usual) == path)
            || !is_usual(Some(device.major()), Some(device.minor()))
        {
            found.push(format!("linux.devices: {}", path.display()));
        }
    }
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_ref());
    for rule in rules.into_iter().flatten().filter(|rule| !is_harmless(rule)) {
        found.push(format!(
            "linux.resources.devices: allows {} {}:{} {}",
            rule.typ().unwrap_or(LinuxDeviceType::A).as_str(),
            rule.major().map_or_else(|| "*".to_owned(), |n| n.to_string()),
            rule.minor().map_or_else(|| "*".to_owned(), |n| n.to_string()),
            rule.access().as_deref().unwrap_or("rwm"),
        ));
    }
    for (field, needed, given) in [
        ("maskedPaths", &MASKED[..], linux.masked_paths()),
        ("readonlyPaths", &READ_ONLY[..], linux.readonly_paths()),
    ] {
        let has = |path: &&str| given.iter().flatten().any(|given| given == path);
        let missing: Vec<_> = needed.iter().filter(|path| !has(path)).copied().collect();
        if !missing.is_empty() {
            found.push(format!("linux.{field}: {} not among them", missing.join(", ")));
        }
    }
    let shared = linux.rootfs_propagation().as_deref().is_some_and(|how| how.contains("shared"));
    for (there, what) in [
        (shared, "linux.rootfsPropagation: is shared"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()), "linux.netDevices"),
    ] {
        found.extend(there.then(|| what.to_owned()));
    }
}

fn is_usual(major: Option<i64>, minor: Option<i64>) -> bool {
    DEVICES.iter().any(|(usual, number)| Some(*usual) == major && (number.is_none() || *number == minor))
}

/// A rule that denies, or allows what every container has.
fn is_harmless(rule: &LinuxDeviceCgroup) -> bool {
    let access = rule.access().as_deref().unwrap_or("rwm");
    let kind = rule.typ().unwrap_or(LinuxDeviceType::A);
    // A node can be made by that, and not opened.
    let makes = access == "m" && kind != LinuxDeviceType::A;
    !rule.allow() || makes || kind == LinuxDeviceType::C && is_usual(rule.major(), rule.minor())
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
