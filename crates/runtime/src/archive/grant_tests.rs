//! Configurations of ordinary containers, and of others.

use serde_json::{Value, json};

use super::*;

/// An ordinary container, as engines run it.
fn ordinary() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh"],
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_SETUID"]}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/own", "type": "bind", "source": "/x", "options": ["rbind"]}
        ],
        "annotations": {"io.podman.annotations.init": "FALSE"},
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
            ],
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"}
            ]},
            "devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/acpi"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

fn judged(config: Value) -> Vec<String> {
    let spec: Spec = serde_json::from_value(config).unwrap();
    beyond(&spec, |mount| mount.destination() == Path::new("/own"))
}

#[test]
fn an_ordinary_container_asks_for_nothing_more() {
    assert_eq!(judged(ordinary()), [""; 0]);
}

type Row = (&'static str, Value, &'static [&'static str]);

fn process_and_mounts() -> Vec<Row> {
    vec![
        (
            "/process/capabilities/bounding",
            json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]),
            &["process.capabilities: SYS_ADMIN"],
        ),
        ("/process/capabilities/permitted", json!(["CAP_SYS_PTRACE"]), &["process.capabilities: SYS_PTRACE"]),
        ("/process/oomScoreAdj", json!(-5), &["process.oomScoreAdj: is below 0"]),
        ("/process/selinuxLabel", json!("a:b:spc_t:s0"), &["process.selinuxLabel: a:b:spc_t:s0"]),
        (
            "/mounts/1",
            json!({"destination": "/h", "type": "bind", "source": "/etc"}),
            &["mounts: /h is bind of /etc"],
        ),
        (
            "/mounts/1",
            json!({"destination": "/h", "type": "none", "source": "/etc", "options": ["rbind"]}),
            &["mounts: /h is none of /etc"],
        ),
        (
            "/mounts/1",
            json!({"destination": "/h", "type": "tmpfs", "source": "/etc", "options": ["bind"]}),
            &["mounts: /h is tmpfs of /etc"],
        ),
        (
            "/mounts/1",
            json!({"destination": "/h", "type": "ext4", "source": "/dev/vda"}),
            &["mounts: /h is ext4 of /dev/vda"],
        ),
    ]
}

fn linux() -> Vec<Row> {
    vec![
        ("/linux/namespaces/0", json!({"type": "cgroup"}), &["linux.namespaces: the host's Pid"]),
        (
            "/linux/namespaces/1",
            json!({"type": "network", "path": "/run/netns/x"}),
            &["linux.namespaces: Network at /run/netns/x"],
        ),
        (
            "/linux/devices/0",
            json!({"path": "/dev/vda", "type": "b", "major": 254, "minor": 0}),
            &["linux.devices: /dev/vda"],
        ),
        (
            "/linux/devices/0",
            json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 1}),
            &["linux.devices: /dev/null"],
        ),
        (
            "/linux/resources/devices/1",
            json!({"allow": true}),
            &["linux.resources.devices: allows a *:* rwm"],
        ),
        (
            "/linux/resources/devices/2",
            json!({"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"}),
            &["linux.resources.devices: allows b 8:0 r"],
        ),
        (
            "/linux/maskedPaths",
            json!(["/proc/kcore", "/proc/keys", "/sys/firmware"]),
            &["linux.maskedPaths: /proc/timer_list not among them"],
        ),
        (
            "/linux/readonlyPaths",
            json!([]),
            &["linux.readonlyPaths: /proc/sys, /proc/sysrq-trigger not among them"],
        ),
        ("/linux/rootfsPropagation", json!("rshared"), &["linux.rootfsPropagation: is shared"]),
    ]
}

#[test]
fn whatever_is_more_is_named() {
    for (place, value, expected) in process_and_mounts().into_iter().chain(linux()) {
        let mut config = ordinary();
        let (parent, name) = place.rsplit_once('/').unwrap();
        match (config.pointer_mut(parent).unwrap(), name.parse::<usize>()) {
            (Value::Array(list), Ok(at)) => list[at] = value,
            (parent, _) => parent[name] = value,
        }
        assert_eq!(judged(config), expected, "{place}");
    }
    for key in ["org.criu.config", "org.systemd.property.ExecStop"] {
        let mut config = ordinary();
        config["annotations"][key] = json!("x");
        assert_eq!(judged(config), [format!("annotations.{key}: is obeyed")]);
    }
    let mut config = ordinary();
    config["hooks"] = json!({"prestart": [{"path": "/bin/x"}]});
    assert_eq!(judged(config), ["hooks: programs of this host's"]);
    let mut config = ordinary();
    config.as_object_mut().unwrap().remove("linux");
    assert_eq!(judged(config), ["linux: is missing, and with it all namespaces"]);
}
