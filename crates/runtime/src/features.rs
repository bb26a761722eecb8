//! The answer of `hiber features`: the Features structure of the OCI runtime specification (features.md). Clients may rely on the
//! answer, so each part of the runtime reports its own features. Unreported ones are left out, which the specification reads as
//! "unknown".

use hiber_sandbox::{plan, seccomp};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::CRIU_CONFIG;
use crate::spec::OCI_VERSION;

/// The built-in features, whether or not this host has them. The lists belong to the code that understands them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Built {
    /// Names of hooks: `createRuntime`.
    pub hooks: Option<Vec<String>>,
    /// Mount options that are no filesystem's own: `rbind`.
    pub mount_options: Option<Vec<String>>,
    /// Kinds of namespaces, as in config.json: `mount`.
    pub namespaces: Option<Vec<String>>,
    /// Names of capabilities: `CAP_KILL`; see [`known_capabilities`].
    pub capabilities: Option<Vec<String>>,
    /// Cgroups.
    pub cgroup: Option<Cgroup>,
    /// Seccomp filters.
    pub seccomp: Option<Seccomp>,
    /// AppArmor profiles.
    pub apparmor: Option<bool>,
    /// SELinux labels.
    pub selinux: Option<bool>,
    /// Intel RDT: `linux.intelRdt`.
    pub intel_rdt: Option<bool>,
    /// Id-mapped mounts.
    pub idmap_mounts: Option<bool>,
    /// `linux.netDevices`.
    pub net_devices: Option<bool>,
    /// `linux.memoryPolicy`: modes and flags.
    pub memory_policy: Option<(Vec<String>, Vec<String>)>,
    /// `checkpoint` and `restore` by CRIU.
    pub checkpoint: bool,
    /// Annotations of config.json that give power over the host to whoever writes them; a final `.`
    /// makes it a prefix.
    pub unsafe_annotations: Vec<String>,
}

/// Which cgroups are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Cgroup {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
    /// Made by systemd.
    pub systemd: bool,
    /// Made by a user's systemd.
    pub systemd_user: bool,
    /// The rdma controller.
    pub rdma: bool,
}

/// Which seccomp filters are understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Seccomp {
    /// `SCMP_ACT_ALLOW` and others.
    pub actions: Vec<String>,
    /// `SCMP_CMP_EQ` and others.
    pub operators: Vec<String>,
    /// `SCMP_ARCH_X86_64` and others.
    pub archs: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_LOG` and others.
    pub known_flags: Vec<String>,
    /// Those of them that this kernel takes.
    pub supported_flags: Vec<String>,
}

/// This program's own annotations.
pub fn built() -> Built {
    fn words<S: ToString>(list: impl IntoIterator<Item = S>) -> Vec<String> {
        list.into_iter().map(|word| word.to_string()).collect()
    }
    Built {
        hooks: Some(words(plan::HOOKS)),
        mount_options: Some(words(plan::MOUNT_OPTIONS)),
        namespaces: Some(words(plan::NamespaceKind::ALL.map(plan::NamespaceKind::as_str))),
        capabilities: Some(known_capabilities()),
        cgroup: Some(Cgroup { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true }),
        seccomp: Some(Seccomp {
            actions: words(seccomp::known_actions()),
            operators: words(seccomp::known_operators()),
            archs: words(seccomp::known_archs()),
            known_flags: words(seccomp::known_flags()),
            supported_flags: words(seccomp::supported_flags()),
        }),
        apparmor: Some(true),
        selinux: Some(true),
        intel_rdt: Some(true),
        idmap_mounts: Some(true),
        net_devices: Some(true),
        memory_policy: Some((words(plan::MEMORY_MODES), words(plan::MEMORY_FLAGS))),
        checkpoint: true,
        unsafe_annotations: words([hiber_sandbox::cgroup::ANNOTATION_PREFIX, CRIU_CONFIG]),
    }
}

/// The capabilities that config.json may name.
pub fn known_capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(caps::Capability::index);
    all.iter().map(ToString::to_string).collect()
}

/// The document, in the order in which people read it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks: &'a Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_options: &'a Option<Vec<String>>,
    linux: Map<String, Value>,
    annotations: Map<String, Value>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    potentially_unsafe_config_annotations: &'a [String],
}

/// The document as JSON.
///
/// # Errors
/// None that serde_json is known to give.
pub fn document(built: &Built) -> serde_json::Result<String> {
    let mut annotations = Map::new();
    if built.checkpoint {
        // defined by runc, for other runtimes too (its types/features package)
        annotations.insert("org.opencontainers.runc.checkpoint.enabled".into(), "true".into());
    }
    let document = Document {
        oci_version_min: "1.0.0",
        oci_version_max: OCI_VERSION,
        hooks: &built.hooks,
        mount_options: &built.mount_options,
        linux: linux(built)?,
        annotations,
        potentially_unsafe_config_annotations: &built.unsafe_annotations,
    };
    serde_json::to_string_pretty(&document).map(|json| json + "\n")
}

fn linux(built: &Built) -> serde_json::Result<Map<String, Value>> {
    let seccomp = built.seccomp.as_ref().map(serde_json::to_value).transpose()?.map(|mut seccomp| {
        seccomp["enabled"] = true.into();
        seccomp
    });
    let enabled = |is: Option<bool>| is.map(|is| json!({"enabled": is}));
    let rdt = |is: Option<bool>| is.map(|is| json!({"enabled": is, "schemata": is, "monitoring": is}));
    let memory = built.memory_policy.as_ref().map(|(modes, flags)| json!({"modes": modes, "flags": flags}));
    let parts = [
        ("namespaces", built.namespaces.as_ref().map(|names| json!(names))),
        ("capabilities", built.capabilities.as_ref().map(|names| json!(names))),
        ("cgroup", built.cgroup.map(|cgroup| json!(cgroup))),
        ("seccomp", seccomp),
        ("apparmor", enabled(built.apparmor)),
        ("selinux", enabled(built.selinux)),
        ("intelRdt", rdt(built.intel_rdt)),
        ("memoryPolicy", memory),
        ("mountExtensions", enabled(built.idmap_mounts).map(|idmap| json!({"idmap": idmap}))),
        ("netDevices", enabled(built.net_devices)),
    ];
    Ok(parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Features, LinuxNamespaceType, LinuxSeccompAction};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn what_nobody_says_is_left_out() {
        let value: Value = serde_json::from_str(&document(&Built::default()).unwrap()).unwrap();
        let empty =
            json!({"ociVersionMin": "1.0.0", "ociVersionMax": "1.3.0", "linux": {}, "annotations": {}});
        assert_eq!(value, empty);
    }

    #[test]
    fn others_read_it() {
        let built = Built {
            hooks: Some(words(&["prestart", "poststop"])),
            mount_options: Some(words(&["ro"])),
            namespaces: Some(words(&["pid", "time"])),
            capabilities: Some(known_capabilities()),
            cgroup: Some(Cgroup { v1: true, v2: true, systemd: false, systemd_user: false, rdma: false }),
            seccomp: Some(Seccomp {
                actions: words(&["SCMP_ACT_KILL"]),
                operators: words(&["SCMP_CMP_EQ"]),
                archs: words(&["SCMP_ARCH_X86_64"]),
                known_flags: words(&["SECCOMP_FILTER_FLAG_LOG"]),
                supported_flags: vec![],
            }),
            apparmor: Some(true),
            intel_rdt: Some(true),
            idmap_mounts: Some(true),
            memory_policy: Some((words(&["MPOL_BIND"]), vec![])),
            checkpoint: true,
            unsafe_annotations: words(&["org.criu.config"]),
            ..Built::default()
        };
        let read: Features = serde_json::from_str(&document(&built).unwrap()).unwrap();
        assert_eq!(read.hooks(), &built.hooks);
        assert_eq!(
            read.annotations().as_ref().unwrap()["org.opencontainers.runc.checkpoint.enabled"],
            "true"
        );
        assert_eq!(read.potentially_unsafe_config_annotations(), &Some(built.unsafe_annotations));
        let linux = read.linux().as_ref().unwrap();
        assert_eq!(
            linux.namespaces().as_deref(),
            Some(&[LinuxNamespaceType::Pid, LinuxNamespaceType::Time][..])
        );
        assert!(linux.capabilities().as_ref().unwrap().contains(&"CAP_CHECKPOINT_RESTORE".to_owned()));
        let cgroup = linux.cgroup().as_ref().unwrap();
        assert_eq!((*cgroup.v1(), *cgroup.systemd_user()), (Some(true), Some(false)));
        let seccomp = linux.seccomp().as_ref().unwrap();
        assert_eq!(seccomp.enabled(), &Some(true));
        assert_eq!(seccomp.actions().as_deref(), Some(&[LinuxSeccompAction::ScmpActKill][..]));
        assert_eq!(seccomp.known_flags().as_ref().unwrap().len(), 1);
        assert_eq!(linux.apparmor().as_ref().unwrap().enabled(), &Some(true));
        assert!(linux.selinux().is_none());
        assert_eq!(linux.intel_rdt().as_ref().unwrap().monitoring(), &Some(true));
        assert_eq!(linux.memory_policy().as_ref().unwrap().modes().as_ref().unwrap().len(), 1);
        assert_eq!(
            linux.mount_extensions().as_ref().unwrap().idmap().as_ref().unwrap().enabled(),
            &Some(true)
        );
    }
}
