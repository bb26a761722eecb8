//! Bundles: a scratch directory with a root filesystem of its own and a config.json.

use crate::tools;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// A bundle under construction or in use. Its directory disappears with it.
#[derive(Debug)]
pub struct Bundle {
    name: String,
    directory: TempDir,
    config: Value,
}

impl Bundle {
    /// A bundle that runs busybox; its process is `true` until [`Bundle::args`] says otherwise.
    #[track_caller]
    pub fn busybox() -> Self {
        Self::of(tools::rootfs_busybox())
    }

    /// A bundle that runs redis-server on its loopback, with all its data in memory.
    #[track_caller]
    pub fn redis() -> Self {
        Self::of(tools::rootfs_redis()).args([
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
    }

    /// A bundle with the root filesystem that `hack/rootfs` makes by this name.
    #[track_caller]
    pub fn with_program(name: &str) -> Self {
        let rootfs = tools::rootfs(name);
        Self::of(rootfs.as_deref().map_err(String::as_str))
    }

    #[track_caller]
    fn of(rootfs: Result<&Path, &str>) -> Self {
        let rootfs = rootfs.unwrap_or_else(|e| panic!("no root filesystem: {e}"));
        let name = unique_name();
        let directory = match tempfile::Builder::new().prefix(&format!("{name}-")).tempdir() {
            Ok(directory) => directory,
            Err(e) => panic!("no scratch directory: {e}"),
        };
        // tests run side by side and write: each has its own copy
        let mut copy = std::process::Command::new("cp");
        copy.args(["-a", "--reflink=auto"]).arg(rootfs).arg(directory.path().join("rootfs"));
        crate::command::run(copy, b"").ok();
        let bundle = Self { config: default_config(&name), name, directory };
        bundle.write();
        bundle
    }

    /// The unique name: id of the container, and part of the bundle's and the cgroup's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bundle's directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path inside the bundle's directory.
    pub fn join(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    /// The root filesystem on the host.
    pub fn rootfs(&self) -> PathBuf {
        self.join("rootfs")
    }

    /// The configuration as it was last written.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The directory over the container's cgroup, which belongs to this bundle alone: `/NAME`.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.name)
    }

    /// The container's cgroup: `/NAME/c`.
    pub fn cgroup(&self) -> String {
        format!("/{}/c", self.name)
    }

    /// Changes config.json.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self.write();
        self
    }

    /// Sets the process's arguments.
    #[must_use]
    pub fn args<const N: usize>(self, args: [&str; N]) -> Self {
        self.edit(|c| c["process"]["args"] = json!(args.as_slice()))
    }

    /// Lets the process run a shell script.
    #[must_use]
    pub fn shell(self, script: &str) -> Self {
        self.args(["sh", "-c", script])
    }

    /// Adds a mount.
    #[must_use]
    pub fn mount(self, mount: Value) -> Self {
        self.edit(|c| push(&mut c["mounts"], mount))
    }

    /// Sets the path of a namespace, adding it if the configuration does not have it.
    #[must_use]
    pub fn namespace(self, kind: &str, path: Option<&str>) -> Self {
        self.edit(|c| {
            let list = &mut c["linux"]["namespaces"];
            if let Some(all) = list.as_array_mut() {
                all.retain(|n| n["type"] != kind);
            }
            push(list, path.map_or_else(|| json!({"type": kind}), |p| json!({"type": kind, "path": p})));
        })
    }

    /// Leaves a namespace out.
    #[must_use]
    pub fn without_namespace(self, kind: &str) -> Self {
        self.edit(|c| {
            if let Some(all) = c["linux"]["namespaces"].as_array_mut() {
                all.retain(|n| n["type"] != kind);
            }
        })
    }

    /// Gives the container a user namespace in which 0 to 65535 are `host` and up, and its rootfs to it.
    #[must_use]
    #[track_caller]
    pub fn user_namespace(self, host: u32) -> Self {
        let mut own = std::process::Command::new("chown");
        own.args(["-hR", &format!("{host}:{host}")]).arg(self.rootfs());
        crate::command::run(own, b"").ok();
        let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
        if let Err(e) = fs::set_permissions(self.path(), open) {
            panic!("{}: {e}", self.path().display());
        }
        let mapping = json!([{"containerID": 0, "hostID": host, "size": 65536}]);
        self.namespace("user", None).edit(|c| {
            c["linux"]["uidMappings"] = mapping.clone();
            c["linux"]["gidMappings"] = mapping;
        })
    }

    /// The configuration of `spec --rootless`: a user namespace with the [`PlainUser`]'s own ids, the host's network, no
    /// limits, no cgroup by name. The bundle becomes the user's.
    ///
    /// [`PlainUser`]: crate::user::PlainUser
    #[must_use]
    #[track_caller]
    pub fn rootless(self) -> Self {
        crate::user::give(self.path());
        let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        self.without_namespace("network").namespace("user", None).edit(|c| {
            c["linux"]["uidMappings"] = own(crate::user::UID);
            c["linux"]["gidMappings"] = own(crate::user::GID);
            c["linux"]["cgroupsPath"] = Value::Null;
            c["linux"]["resources"] = Value::Null;
            for mount in c["mounts"].as_array_mut().into_iter().flatten() {
                match mount["type"].as_str() {
                    Some("devpts") => {
                        mount["options"] = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666"]);
                    }
                    Some("sysfs") => {
                        *mount = json!({"destination": "/sys", "source": "/sys",
                            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
                    }
                    _ => {}
                }
            }
        })
    }

    /// Copies what explains a failure to a directory below `$HIBER_KEEP`, if that is set: config.json and
    /// the logs of the runtime and of CRIU, but neither the root filesystem nor memory images.
    fn keep(&self) {
        let Some(top) = std::env::var_os("HIBER_KEEP") else { return };
        let mut copy = std::process::Command::new("sh");
        copy.args(["-c", KEEP, "keep"]).arg(self.path()).arg(Path::new(&top).join(&self.name));
        crate::command::quietly(&mut copy);
    }

    fn write(&self) {
        let file = self.join("config.json");
        if let Err(e) = fs::write(&file, format!("{:#}\n", self.config)) {
            panic!("{}: {e}", file.display());
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
        crate::leaks::clear(&self.name, &self.cgroup_parent());
    }
}

/// Copies files from `$1` to `$2`, keeping their paths.
const KEEP: &str = r#"mkdir -p "$2" && cd "$1" && find . -path ./rootfs -prune -o -type f \
    \( -name '*log' -o -name '*.json' -o -name 'stats-*' \) -exec cp --parents -t "$2" {} +"#;

/// Appends to a JSON array, making it if there is none.
pub fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

/// `ht` with this process's id, a count and some of the clock's bits: short, since socket paths are.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let clock = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_micros());
    format!("ht{}-{}-{clock:05x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The container of `runc spec`, with a cgroup of its own and a cgroup namespace.
fn default_config(name: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "hiber-test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "cgroupsPath": format!("/{name}/c"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
