//! A config.json to start from, as `runc spec` writes it.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

/// The version of the OCI runtime specification that this runtime follows.
pub const OCI_VERSION: &str = "1.3.0";

/// The user of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// root
    Root,
    /// An unprivileged user, who becomes root in a user namespace.
    Rootless {
        /// The user's id on the host.
        uid: u32,
        /// The group's id on the host.
        gid: u32,
    },
}

/// A configuration in the order in which people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    #[serde(rename = "ociVersion")]
    oci_version: &'static str,
    process: Value,
    root: Value,
    hostname: &'static str,
    mounts: Vec<Value>,
    linux: Value,
}

/// The reason why no config.json was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is one already.
    #[error("File config.json exists. Remove it first")]
    Exists,
    /// The file cannot be written.
    #[error("cannot write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is no JSON.
    #[error("cannot encode the configuration")]
    Json(#[from] serde_json::Error),
}

impl Config {
    /// The same with a cgroup namespace, for hosts that have cgroup v2 only.
    #[must_use]
    pub fn with_cgroup_namespace(mut self) -> Self {
        if let Some(namespaces) = self.linux["namespaces"].as_array_mut() {
            // `runc spec` has the user namespace behind it.
            let users = namespaces.iter().position(|one| one["type"] == "user");
            namespaces.insert(users.unwrap_or(namespaces.len()), json!({"type": "cgroup"}));
        }
        self
    }
}

/// A configuration that runs `sh` with few rights on a read-only root filesystem in `rootfs`, in namespaces of its own.
pub fn default_config(kind: Kind) -> Config {
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    let mut linux = json!({
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    match kind {
        Kind::Root => linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]}),
        Kind::Rootless { uid, gid } => {
            // without privileges nobody could configure a new network, nor set limits
            namespaces.retain(|&kind| kind != "network");
            namespaces.push("user");
            linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
            linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
        }
    }
    linux["namespaces"] = namespaces.into_iter().map(|kind| json!({"type": kind})).collect();
    Config {
        oci_version: OCI_VERSION,
        process: process(),
        root: json!({"path": "rootfs", "readonly": true}),
        hostname: "hiber",
        mounts: mounts(kind),
        linux,
    }
}

fn process() -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "terminal": true,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": true,
    })
}

fn mounts(kind: Kind) -> Vec<Value> {
    let mount = |destination: &str, fs: &str, source: &str, options: &[&str]| match options {
        [] => json!({"destination": destination, "type": fs, "source": source}),
        _ => json!({"destination": destination, "type": fs, "source": source, "options": options}),
    };
    let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    let sys = match kind {
        Kind::Root => {
            devpts.push("gid=5");
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
        }
        // a new sysfs needs a network namespace of one's own, and group 5 a mapping
        Kind::Rootless { .. } => mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]),
    };
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &devpts),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

/// Writes `config` as config.json into the directory `bundle`, indented by tabs.
///
/// # Errors
/// If there is a config.json, or the file cannot be written.
pub fn write(bundle: &Path, config: &Config) -> Result<(), WriteError> {
    let path = bundle.join("config.json");
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    config.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
    text.push(b'\n');
    let opened = OpenOptions::new().write(true).create_new(true).open(&path);
    match opened.and_then(|mut file| file.write_all(&text)) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(WriteError::Exists),
        Err(source) => Err(WriteError::Io { path, source }),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

    fn written(kind: Kind, cgroup2: bool) -> (String, Spec) {
        let dir = tempfile::tempdir().unwrap();
        let config = default_config(kind);
        write(dir.path(), &if cgroup2 { config.with_cgroup_namespace() } else { config }).unwrap();
        let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
        let spec = serde_json::from_str(&text).unwrap();
        (text, spec)
    }

    fn namespaces(spec: &Spec) -> Vec<LinuxNamespaceType> {
        let linux = spec.linux().as_ref().unwrap();
        linux.namespaces().iter().flatten().map(LinuxNamespace::typ).collect()
    }

    #[test]
    fn for_root() {
        use LinuxNamespaceType::*;
        let (text, spec) = written(Kind::Root, false);
        assert!(text.starts_with("{\n\t\"ociVersion\": \"1.3.0\",\n\t\"process\": {\n\t\t"), "{text}");
        assert_eq!(namespaces(&spec), [Pid, Network, Ipc, Uts, Mount]);
        assert_eq!(namespaces(&written(Kind::Root, true).1), [Pid, Network, Ipc, Uts, Mount, Cgroup]);
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.terminal(), Some(true));
        assert_eq!(process.no_new_privileges(), Some(true));
        let caps = process.capabilities().as_ref().unwrap();
        assert_eq!(caps.bounding().as_ref().unwrap().len(), 3);
        assert_eq!(caps.inheritable(), &None);
        assert_eq!(caps.ambient(), &None);
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.masked_paths().as_ref().unwrap().len(), 10);
        let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
        assert_eq!(rules.len(), 1);
        assert!(!rules[0].allow());
        assert_eq!(spec.mounts().as_ref().unwrap().len(), 7);
    }

    #[test]
    fn for_a_user() {
        use LinuxNamespaceType::*;
        let (text, spec) = written(Kind::Rootless { uid: 1000, gid: 100 }, false);
        assert_eq!(namespaces(&spec), [Pid, Ipc, Uts, Mount, User]);
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.resources().is_none());
        let uids = linux.uid_mappings().as_ref().unwrap();
        assert_eq!((uids[0].container_id(), uids[0].host_id(), uids[0].size()), (0, 1000, 1));
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 100);
        assert!(!text.contains("gid="), "{text}");
        let sys =
            spec.mounts().as_ref().unwrap().iter().find(|m| m.destination() == Path::new("/sys")).unwrap();
        assert_eq!(sys.typ().as_deref(), Some("none"));
        assert!(sys.options().as_ref().unwrap().contains(&"rbind".to_owned()));
    }

    #[test]
    fn an_existing_file_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, "mine").unwrap();
        let error = write(dir.path(), &default_config(Kind::Root)).unwrap_err();
        assert_eq!(error.to_string(), "File config.json exists. Remove it first");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        let error = write(&dir.path().join("absent"), &default_config(Kind::Root)).unwrap_err();
        assert!(error.to_string().ends_with("absent/config.json"), "{error}");
    }
}
