use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::*;

/// A small configuration, changed by `edit`, with a root that exists.
fn plan(edit: impl FnOnce(&mut Value)) -> Result<Plan> {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::create_dir(bundle.path().join("rootfs")).unwrap();
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}]},
    });
    edit(&mut config);
    let spec: Spec = serde_json::from_value(config).unwrap();
    Plan::new(&spec, &Options { id: "box".into(), bundle: bundle.path().into(), ..Options::default() })
}

fn error(edit: impl FnOnce(&mut Value)) -> String {
    plan(edit).unwrap_err().to_string()
}

#[test]
fn a_plan_survives_the_wire() {
    let plan = plan(|c| {
        c["hostname"] = json!("box");
        c["annotations"] = json!({"a": "b"});
        c["hooks"] =
            json!({"createContainer": [{"path": "/a"}, {"path": "/b", "args": ["b"], "timeout": 1}]});
        c["mounts"] = json!([{"destination": "/a", "source": "/a", "options": ["bind", "private"]}]);
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "uts"}));
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
    })
    .unwrap();
    assert_eq!(InitPlan::decode(&plan.init.encode().unwrap()).unwrap(), plan.init);
}

#[test]
fn the_cgroup_namespace_is_made_from_inside() {
    let plan = plan(|_| ()).unwrap();
    let expected =
        [NamespaceKind::Pid, NamespaceKind::Mount, NamespaceKind::Network].map(NamespaceKind::clone_flag);
    assert_eq!(plan.clone_flags(), expected.into_iter().sum::<u64>());
    assert_eq!(plan.init.unshare, [NamespaceKind::Cgroup]);
    assert!(plan.init.loopback && plan.init.second_stage.is_none());
}

#[test]
fn a_joined_pid_namespace_needs_a_second_stage() {
    let plan = plan(|c| c["linux"]["namespaces"][0]["path"] = json!("/proc/self/ns/pid")).unwrap();
    assert_eq!(plan.clone_flags(), 0);
    let expected = NamespaceKind::Mount.clone_flag() | NamespaceKind::Network.clone_flag();
    assert_eq!(plan.init.second_stage, Some(expected));
}

#[test]
fn own_devices_take_the_place_of_default_ones() {
    let plan = plan(|c| {
        c["linux"]["devices"] = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
                                       {"path": "/dev/fifo", "type": "p", "major": 0, "minor": 0}]);
    })
    .unwrap();
    let devices = &plan.init.root.unwrap().devices;
    let nulls: Vec<_> = devices.iter().filter(|d| d.path == Path::new("/dev/null")).collect();
    assert_eq!((nulls.len(), nulls[0].mode), (1, 0o600));
    assert_eq!(devices.len(), DEFAULT_DEVICES.len() + 1);
}

#[test]
fn a_bind_of_dev_brings_its_own_nodes() {
    let plan = plan(|c| {
        c["mounts"] =
            json!([{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}]);
    })
    .unwrap();
    let root = plan.init.root.unwrap();
    assert!(root.devices.is_empty() && !root.own_dev);
}

#[test]
fn mistakes_name_their_field() {
    let of = |edit: fn(&mut Value), field: &str| {
        let message = error(edit);
        assert!(message.starts_with(field), "expected {field}, got {message}");
    };
    of(|c| c["process"]["args"] = json!([]), "process.args");
    of(|c| c["process"]["cwd"] = json!("here"), "process.cwd");
    of(|c| c["process"]["oomScoreAdj"] = json!(1001), "process.oomScoreAdj");
    of(|c| c["root"]["path"] = json!("nowhere"), "root.path");
    of(|c| c["hostname"] = json!("x"), "hostname");
    of(|c| c["linux"]["namespaces"][0]["path"] = json!("relative"), "linux.namespaces[0].path");
    of(|c| c["linux"]["namespaces"][1] = json!({"type": "pid"}), "linux.namespaces");
    of(|c| c["linux"]["namespaces"] = json!([{"type": "user"}]), "linux.uidMappings");
    of(
        |c| c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]),
        "linux.uidMappings",
    );
    of(|c| c["linux"]["rootfsPropagation"] = json!("sideways"), "linux.rootfsPropagation");
    of(|c| c["linux"]["maskedPaths"] = json!(["/a", ""]), "linux.maskedPaths[1]");
    of(|c| c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}}), "linux.timeOffsets");
    of(
        |c| c["linux"]["devices"] = json!([{"path": "x", "type": "c", "major": 1, "minor": 1}]),
        "linux.devices[0].path",
    );
    of(|c| c["hooks"] = json!({"poststop": [{"path": "x"}]}), "hooks.poststop[0].path");
    of(|c| c["hooks"] = json!({"poststop": [{"path": "/x", "timeout": 0}]}), "hooks.poststop[0].timeout");
    of(
        |c| c["process"]["rlimits"] = json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
        "process.rlimits[0].soft",
    );
}

#[test]
fn masks_need_a_mount_namespace() {
    for (field, path) in [("maskedPaths", "/proc/keys"), ("readonlyPaths", "/proc/bus")] {
        let message = error(|c| {
            c["linux"]["namespaces"] = json!([{"type": "pid"}]);
            c["linux"][field] = json!([path]);
        });
        assert!(message.contains("MNT namespace"), "{message}");
    }
}

#[test]
fn options_of_the_hosts_own_mounts() {
    use nix::mount::MsFlags;
    let sorted =
        HostOptions::new(["rbind", "ro", "nosuid", "suid", "index=off", "rprivate", "lowerdir=/a:/b"]);
    assert_eq!(sorted.flags, (MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY).bits());
    assert_eq!(sorted.propagation, [(MsFlags::MS_PRIVATE | MsFlags::MS_REC).bits()]);
    assert_eq!(sorted.data, ["index=off", "lowerdir=/a:/b"]);
}
