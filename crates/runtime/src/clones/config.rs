//! The configuration of a clone: that of the checkpoint's bundle, without what two containers cannot share.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::options::CloneOptions;
use hiber_sys::userfault::serves_others;

use crate::checkpoint::restore_options::unprivileged_userfaultfd;
use crate::error::{Error, Result};
use crate::host::owned;
use crate::id::ContainerId;
use crate::state::clones::ROOTFS;

const CONFIG: &str = "config.json";
/// The kernel's limit for a host name, in bytes (sethostname(2)).
const MAX_HOSTNAME: usize = 64;

/// The configuration, and the root filesystem of the bundle that it came from.
pub(super) struct CloneConfig {
    json: Value,
    pub(super) root: PathBuf,
}

/// Reads it from `bundle`, whose path is absolute, and changes it.
///
/// # Errors
/// The file cannot be read or understood, or what is asked for does not fit.
pub(super) fn of_clone(
    bundle: &Path,
    id: &ContainerId,
    how: &CloneOptions,
    systemd: bool,
) -> Result<CloneConfig> {
    let path = bundle.join(CONFIG);
    let bytes = std::fs::read(&path).map_err(|e| Error::file(&path, &e))?;
    let wrong = |why: String| Error::File { path: path.clone(), why };
    let mut json: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("is no JSON: {e}")))?;
    let root = json["root"]["path"].as_str().ok_or_else(|| wrong("has no root.path".into()))?;
    let root = bundle.join(root);
    json["root"]["path"] = json!(ROOTFS);
    for mount in json["mounts"].as_array_mut().into_iter().flatten() {
        stay(mount, bundle);
    }
    if let Some(network) = &how.network {
        let network = network.to_str().ok_or_else(|| {
            Error::Invalid(format!("network namespace {}: the path is not UTF-8", network.display()))
        })?;
        let mut kinds = json["linux"]["namespaces"].as_array_mut().into_iter().flatten();
        let namespace = kinds.find(|namespace| namespace["type"] == "network").ok_or_else(|| {
            wrong("linux.namespaces has no network: the clone has the host's, and cannot get another".into())
        })?;
        if namespace["path"].as_str().unwrap_or_default().is_empty() {
            let why = "linux.namespaces has a network of the container's own, which its checkpoint has, too: a clone can join another \
                       one if that container had joined one (a path)";
            return Err(wrong(why.into()));
        }
        namespace["path"] = json!(network);
    }
    if has_new_uts(&json) {
        // An id has one byte for each character.
        let name = id.as_str().get(..MAX_HOSTNAME).unwrap_or(id.as_str());
        json["hostname"] = json!(name);
    }
    if let Some(cgroup) = json["linux"]["cgroupsPath"].as_str().filter(|path| !path.is_empty()) {
        json["linux"]["cgroupsPath"] = json!(beside(cgroup, id.as_str(), systemd));
    }
    if !how.annotations.is_empty() {
        let all = json.as_object_mut().ok_or_else(|| wrong("is no object".into()))?;
        let all = all.entry("annotations").or_insert_with(|| Map::new().into());
        how.annotations.iter().for_each(|(key, value)| all[key] = json!(value));
    }
    Ok(CloneConfig { json, root })
}

impl CloneConfig {
    /// Whether memory may follow its processes (userfaultfd(2)).
    pub(super) fn may_follow(&self) -> bool {
        let mut kinds = self.json["linux"]["namespaces"].as_array().into_iter().flatten();
        let users = kinds.any(|namespace| namespace["type"] == "user");
        serves_others() && (!users || unprivileged_userfaultfd())
    }

    /// Writes it into a bundle.
    pub(super) fn write(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join(CONFIG);
        let bytes =
            serde_json::to_vec(&self.json).map_err(|e| Error::internal("write a configuration", e))?;
        owned::write(&path, &bytes).map_err(|e| Error::file(&path, &e))
    }
}

/// The source of a bind mount may be relative to the bundle.
fn stay(mount: &mut Value, bundle: &Path) {
    let binds = |option: &Value| option == "bind" || option == "rbind";
    let bind =
        mount["type"] == "bind" || mount["options"].as_array().is_some_and(|all| all.iter().any(binds));
    let source = mount["source"].as_str().map(Path::new).filter(|source| bind && source.is_relative());
    if let Some(source) = source.and_then(|source| bundle.join(source).to_str().map(str::to_owned)) {
        mount["source"] = json!(source);
    }
}

fn has_new_uts(json: &Value) -> bool {
    let all = json["linux"]["namespaces"].as_array();
    all.is_some_and(|all| {
        all.iter().any(|one| one["type"] == "uts" && one["path"].as_str().unwrap_or_default().is_empty())
    })
}

/// A cgroup with another name, in the same place: `/pod/web` or, by systemd, `SLICE:PREFIX:NAME`.
fn beside(cgroup: &str, name: &str, systemd: bool) -> String {
    let separator = if systemd { ':' } else { '/' };
    match cgroup.trim_end_matches('/').rsplit_once(separator) {
        Some((parent, _)) => format!("{parent}{separator}{name}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(json: Value, how: &CloneOptions, systemd: bool) -> Result<Value> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG), json.to_string()).unwrap();
        of_clone(dir.path(), &"web-2".parse().unwrap(), how, systemd).map(|config| config.json)
    }

    #[test]
    fn what_two_containers_cannot_share_is_replaced_and_all_else_stays() {
        let json = json!({
            "root": {"path": "root"}, "hostname": "web", "x-vendor": [1],
            "mounts": [
                {"destination": "/data", "type": "bind", "source": "data"},
                {"destination": "/proc", "type": "proc", "source": "proc"},
            ],
            "linux": {"cgroupsPath": "/pod/web", "namespaces": [{"type": "uts"}, {"type": "network", "path": "/run/netns/1"}]},
        });
        let how =
            CloneOptions::default().network("/run/netns/2").annotations([("k".to_owned(), "v".to_owned())]);
        let json = changed(json, &how, false).unwrap();
        assert_eq!(json["root"], json!({"path": "rootfs"}));
        assert!(json["mounts"][0]["source"].as_str().unwrap().ends_with("/data"));
        assert_eq!(json["mounts"][1]["source"], "proc");
        assert_eq!(json["hostname"], "web-2");
        assert_eq!(json["linux"]["cgroupsPath"], "/pod/web-2");
        assert_eq!(json["linux"]["namespaces"][1]["path"], "/run/netns/2");
        assert_eq!((&json["annotations"]["k"], &json["x-vendor"]), (&json!("v"), &json!([1])));
    }

    #[test]
    fn a_name_that_is_shared_with_others_stays() {
        let shared = json!({"type": "uts", "path": "/proc/1/ns/uts"});
        let json =
            json!({"root": {"path": "r"}, "linux": {"namespaces": [shared], "cgroupsPath": "a.slice:p:web"}});
        let json = changed(json, &CloneOptions::default(), true).unwrap();
        assert_eq!(json["hostname"], Value::Null);
        assert_eq!(json["linux"]["cgroupsPath"], "a.slice:p:web-2");
    }

    #[test]
    fn a_network_for_a_container_that_has_none_is_refused() {
        let json = json!({"root": {"path": "r"}, "linux": {"namespaces": []}});
        let error = changed(json, &CloneOptions::default().network("/n"), false).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces has no network"), "{error}");
        let json = json!({"root": {"path": "r"}, "linux": {"namespaces": [{"type": "network"}]}});
        let error = changed(json, &CloneOptions::default().network("/n"), false).unwrap_err().to_string();
        assert!(error.contains("of the container's own"), "{error}");
        let error = changed(json!({}), &CloneOptions::default(), false).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("root.path"), "{error}");
    }
}
