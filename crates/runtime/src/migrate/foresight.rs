//! Whether a container that is offered can be restored here: asked before anything moves.

use std::net::IpAddr;
use std::path::Path;

use hiber_criu::Version;
use hiber_sandbox::cgroup::{Cgroup, Kind, OnDenied};
use hiber_sandbox::network;
use hiber_sandbox::plan::{MountSource, NamespaceKind, Namespaces};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::word::Offer;
use crate::checkpoint::CriuOptions;
use crate::checkpoint::preflight::{check_root, numbers_taken};
use crate::checkpoint::restore_options::unprivileged_userfaultfd;
use crate::container::prepared::{CreateOptions, Prepared};
use crate::container::task::Task;
use crate::error::{Context, Error, Result};
use crate::host::procfs::{self, Numbered};
use crate::id::ContainerId;
use crate::state::store::Store;

/// How many bytes of memory its processes have of their own.
pub(super) fn memory_of(task: &Task) -> Result<u64> {
    Ok(task.pids()?.into_iter().filter_map(procfs::own_memory).sum())
}

/// The features of the first processor; empty where none are told.
pub(super) fn processor() -> Vec<String> {
    let text = hiber_sys::file::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // x86 and arm have other words for the same.
    let features = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        matches!(name.trim(), "flags" | "Features").then_some(value)
    });
    features.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Milliseconds since 1970.
pub(super) fn clock() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

/// A clock that is ahead by less than this many milliseconds may be a message's time on its way.
const CLOCKS_DIFFER: i64 = 1000;

/// Nothing breaks by another date, and the clocks that only go on do so: they are the container's own after a restore.
pub(super) fn warn_of_clock(ahead: i64) {
    if ahead.abs() >= CLOCKS_DIFFER {
        let (way, seconds) =
            (if ahead > 0 { "ahead of" } else { "behind" }, ahead.unsigned_abs() as f64 / 1e3);
        tracing::warn!(
            "the destination's clock is {seconds} s {way} the one here: so far the container's date jumps"
        );
    }
}

/// A machine's kind of cgroups, in an offer.
pub(super) fn cgroups(kind: Kind) -> &'static str {
    match kind {
        Kind::V1 => "v1",
        Kind::V2 => "v2",
        Kind::Hybrid => "hybrid",
    }
}

/// The numbers of a container's processes and threads that have to be free elsewhere: none if it has a pid namespace.
pub(super) fn numbers_of(task: &Task) -> Result<Vec<i32>> {
    let spec = task.container().spec()?;
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    if namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Pid) {
        return Ok(Vec::new());
    }
    let all = Numbered::all(task.facts()?.pid, &task.pids()?);
    Ok(all.iter().flat_map(|process| &process.threads).map(|thread| thread.inner).collect())
}

/// Refuses an offer that could not be restored here from this bundle, whose root file system may still be to come. The result is the
/// container's id.
pub(super) fn check(
    store: &Store,
    offer: &Offer,
    bundle: &Path,
    criu: &CriuOptions,
    systemd_cgroup: bool,
) -> Result<ContainerId> {
    let invalid = |why: String| Err(Error::Invalid(why));
    let id: ContainerId = offer.id.parse().map_err(|e| Error::Invalid(format!("{e}")))?;
    match store.open(&id) {
        Err(Error::NotFound) => {}
        Ok(_) => return Err(Error::Exists).context(format!("container {id}")),
        Err(e) => return Err(e),
    }
    let options = CreateOptions { bundle: bundle.into(), systemd_cgroup, ..CreateOptions::default() };
    let prepared = Prepared::new(&id, &options)?;
    let theirs: Spec = serde_json::from_str(&offer.config)
        .map_err(|e| Error::Invalid(format!("the source's config.json cannot be understood: {e}")))?;
    if let Some(difference) = difference(&theirs, &prepared.spec) {
        return invalid(format!("{}: {difference}", bundle.join("config.json").display()));
    }
    if prepared.plan.init.process.terminal {
        return invalid("process.terminal: a container with a terminal cannot be received yet".into());
    }
    check_places(&prepared, offer.rootfs.is_none())?;
    check_machine(offer, &prepared)?;
    check_criu(offer, criu)?;
    let ours = processor();
    let missing: Vec<_> =
        offer.processor.iter().filter(|feature| !ours.contains(feature)).map(String::as_str).collect();
    if !missing.is_empty() && !ours.is_empty() {
        return invalid(format!(
            "this processor lacks what the source's has, and programs may use: {}",
            missing.join(" ")
        ));
    }
    // Its images are in memory, too, until it runs.
    let needed = offer.memory.saturating_mul(2);
    match procfs::available_memory() {
        Some(available) if available < needed => {
            let (needed, available) = (needed >> 20, available >> 20);
            Err(Error::host(
                "not enough memory",
                format!("it takes {needed} MiB, {available} MiB are available"),
            ))
        }
        _ => Ok(id),
    }
}

/// The cgroup, the root file system and the sources of bind mounts.
fn check_places(prepared: &Prepared, has_root: bool) -> Result<()> {
    let cgroup = Cgroup::open(prepared.cgroup.clone(), OnDenied::Skip)?;
    if cgroup.exists() {
        cgroup.check_unused()?;
    }
    let Some(root) = &prepared.plan.init.root else { return Ok(()) };
    if has_root {
        check_root(&root.path, &prepared.spec)?;
    }
    for mount in &root.mounts {
        if let MountSource::Bind { path, .. } = &mount.source
            && let Err(e) = std::fs::metadata(path)
        {
            return Err(Error::file(path, &e))
                .context(format!("the source of {}", mount.destination.display()));
        }
    }
    Ok(())
}

/// Its kind of cgroups, the numbers of processes that are not the container's own, and the network devices that it gets.
fn check_machine(offer: &Offer, prepared: &Prepared) -> Result<()> {
    let ours = cgroups(prepared.layout.kind());
    if (offer.cgroups == "v2") != (ours == "v2") {
        let why = format!(
            "cgroups: are {ours} here, and {} at the source; expected v2 at both, or at neither",
            offer.cgroups
        );
        return Err(Error::Invalid(why));
    }
    let namespaces = &prepared.plan.namespaces;
    if !offer.numbers.is_empty()
        && let Some(taken) = numbers_taken(namespaces)
        && let Some((number, holder)) = offer.numbers.iter().find_map(|n| Some((n, taken.get(n)?)))
    {
        return Err(Error::Invalid(format!(
            "process number {number} of the container is taken {holder} here"
        )));
    }
    if offer.post_copy {
        check_post_copy(namespaces)?;
    }
    let devices = &prepared.plan.net_devices;
    match namespaces.joined(NamespaceKind::Network) {
        Some(joined) => network::expect_in(&joined.path, devices)?,
        None => network::expect(devices)?,
    }
    check_addresses(&offer.addresses, namespaces)
}

/// Whether the network that the container shares here has the addresses that its connections use.
fn check_addresses(used: &[IpAddr], namespaces: &Namespaces) -> Result<()> {
    if used.is_empty() {
        return Ok(());
    }
    let joined = namespaces.joined(NamespaceKind::Network).map(|joined| joined.path.as_path());
    let place = joined.map_or("the network of this machine".into(), |path| {
        format!("the network namespace {} (linux.namespaces)", path.display())
    });
    let found = network::look_for(used, joined).context(format!("look for addresses in {place}"))?;
    if found.lacking.is_empty() {
        return Ok(());
    }
    let all = |addresses: &[IpAddr]| {
        let all: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    };
    Err(Error::Invalid(format!(
        "established connections (--tcp-established) use {}, which {place} here does not have; expected all that they use there before \
         the container comes, and found {}",
        all(&found.lacking),
        all(&found.present)
    )))
}

/// Whether memory may come when the container runs already.
fn check_post_copy(namespaces: &Namespaces) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::Invalid(format!("memory cannot come when the container runs here (post-copy): {why}")))
    };
    if namespaces.has(NamespaceKind::User) && !unprivileged_userfaultfd() {
        return refuse(
            "it has a user namespace, whose processes may not use userfaultfd; write 1 to \
             /proc/sys/vm/unprivileged_userfaultfd meanwhile",
        );
    }
    if !hiber_sys::userfault::serves_others() {
        return refuse("this kernel, or its configuration, does not let processes use userfaultfd");
    }
    Ok(())
}

fn check_criu(offer: &Offer, criu: &CriuOptions) -> Result<()> {
    let ours = criu.find_criu()?.launch().start()?.version()?;
    let [major, minor, sublevel] = offer.criu;
    let theirs = Version::new(major, minor, sublevel);
    if theirs > ours {
        return Err(Error::Invalid(format!(
            "the source dumps with CRIU {theirs}, whose images CRIU {ours} here may not understand"
        )));
    }
    Ok(())
}

/// The first difference between the two configurations that would make a restore fail.
fn difference(theirs: &Spec, ours: &Spec) -> Option<String> {
    let say = |field: &str, theirs: String, ours: String| {
        Some(format!("{field}: is {ours} here, and {theirs} at the source"))
    };
    let places = |spec: &Spec| -> Vec<(String, Option<String>)> {
        let mounts: &[Mount] = spec.mounts().as_deref().unwrap_or_default();
        mounts.iter().map(|m| (m.destination().display().to_string(), m.typ().clone())).collect()
    };
    let (there, here) = (places(theirs), places(ours));
    if there != here {
        let other = there.iter().zip(&here).find(|(a, b)| a != b);
        return match other {
            Some((a, b)) => say("mounts", format!("{a:?}"), format!("{b:?}")),
            None => say("mounts", format!("{} of them", there.len()), format!("{} of them", here.len())),
        };
    }
    let namespaces = |spec: &Spec| {
        let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).unwrap_or_default();
        let mut all: Vec<_> = all.iter().map(|n| (n.typ().to_string(), n.path().is_some())).collect();
        all.sort();
        all
    };
    let (there, here) = (namespaces(theirs), namespaces(ours));
    if there != here {
        return say("linux.namespaces", format!("{there:?}"), format!("{here:?}"));
    }
    let maps = |spec: &Spec| {
        let linux = spec.linux().as_ref()?;
        Some((linux.uid_mappings().clone(), linux.gid_mappings().clone()))
    };
    let (there, here) = (maps(theirs), maps(ours));
    (there != here)
        .then(|| say("linux.uidMappings or gidMappings", format!("{there:?}"), format!("{here:?}")))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_be_the_same_is_named() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.2.0","mounts":[{"destination":"/data","type":"bind","source":"/here"}],
                "linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}}"#,
        )
        .unwrap();
        assert_eq!(difference(&spec, &spec), None);
        let mut other = spec.clone();
        let mut mount = Mount::default();
        mount.set_destination("/other".into());
        other.set_mounts(Some(vec![mount]));
        assert!(difference(&spec, &other).unwrap().starts_with("mounts: is (\"/other\""));
        let mut other = spec.clone();
        other.linux_mut().as_mut().unwrap().set_namespaces(None);
        assert!(difference(&spec, &other).unwrap().starts_with("linux.namespaces: is []"));
    }
}
