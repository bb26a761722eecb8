//! The annotations by which engines recognise the image of a checkpoint. docs/archives.md has the list, with sources.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;
use rustix::system::uname;

/// The keys of checkpointctl's library, CRI-O and containerd begin so, and those of podman.
const COMMON: &str = "org.criu.checkpoint.";
const PODMAN: &str = "io.podman.annotations.checkpoint.";
/// By this CRI-O knew checkpoints before the common ones.
const CRI_O: &str = "io.kubernetes.cri-o.annotations.checkpoint.name";
const CREATED: &str = "org.opencontainers.image.created";

/// Annotations of a container's configuration that engines set, and where checkpoints have them.
const OF_PODS: [(&[&str], &str); 4] = [
    (&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"], "pod.name"),
    (&["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"], "pod.id"),
    (&["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"], "pod.namespace"),
    (&["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"], "pod.uid"),
];
const CONTAINER_NAMES: [&str; 3] =
    ["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "io.podman.annotations.name"];

/// The origin of a checkpoint.
pub(in crate::archive) struct Origin<'a> {
    pub(in crate::archive) id: &'a str,
    pub(in crate::archive) spec: &'a Spec,
    /// The name of the container's image; empty if unknown.
    pub(in crate::archive) image: &'a str,
    /// In RFC 3339.
    pub(in crate::archive) created: &'a str,
    /// The version of CRIU, if it is known.
    pub(in crate::archive) criu: Option<&'a str>,
}

/// All annotations of the image.
pub(in crate::archive) fn annotations(of: &Origin<'_>) -> BTreeMap<String, String> {
    let given = of.spec.annotations().as_ref();
    let first = |keys: &[&str]| keys.iter().find_map(|key| given?.get(*key).cloned());
    let name = first(&CONTAINER_NAMES).unwrap_or_else(|| of.id.to_owned());
    let system = uname();
    let release = system.release().to_string_lossy().into_owned();
    let cgroup = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1" };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let both = [
        ("rootfsImageName", of.image.to_owned()),
        ("runtime.name", "hiber".to_owned()),
        ("runtime.version", version.clone()),
        ("criu.version", of.criu.unwrap_or_default().to_owned()),
        ("host.arch", architecture().to_owned()),
        ("host.kernel", release),
        ("cgroup.version", cgroup.to_owned()),
    ];
    let mut all = BTreeMap::from([
        (format!("{COMMON}engine.name"), "hiber".to_owned()),
        (format!("{COMMON}engine.version"), version),
        (format!("{COMMON}container.name"), name.clone()),
        (format!("{PODMAN}name"), name.clone()),
        (format!("{PODMAN}rawImageName"), of.image.to_owned()),
        (CRI_O.to_owned(), name),
        (CREATED.to_owned(), of.created.to_owned()),
    ]);
    for (key, value) in both {
        all.insert(format!("{COMMON}{key}"), value.clone());
        all.insert(format!("{PODMAN}{key}"), value);
    }
    for (keys, to) in OF_PODS {
        first(keys).and_then(|value| all.insert(format!("{COMMON}{to}"), value));
    }
    all.retain(|_, value| !value.is_empty());
    all
}

/// This machine's, as Go calls it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
