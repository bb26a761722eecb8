//! The container's cgroup, and those below: `same/cgroups.c`.

use super::super::row::{Peer, Row, criu, hiber};
use hiber_tests::prelude::*;
use hiber_tests::require::Need;

/// Sets a resource in config.json.
fn resource(config: &mut Value, name: &str, value: Value) {
    config["linux"]["resources"][name] = value;
}

/// The container may change its cgroup.
fn writable(config: &mut Value) {
    for mount in config["mounts"].as_array_mut().into_iter().flatten().filter(|m| m["type"] == "cgroup") {
        mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
    }
}

/// Only there is a cgroup whose processes a container may place by itself.
const V2: &[Need] = &[Need::UnifiedCgroups];

pub(in super::super) const ROWS: &[Row] = &[
    criu("cgroup", "/proc/self/cgroup"),
    hiber("limit-of-processes", "pids.max, of config.json")
        .config(|c| resource(c, "pids", json!({"limit": 333})))
        .needs(&[Need::Controller("pids")]),
    hiber("memory-limit", "memory.max or memory.limit_in_bytes, of config.json")
        .config(|c| resource(c, "memory", json!({"limit": 1 << 30})))
        .needs(&[Need::Controller("memory")]),
    hiber("processor-weight", "cpu.weight or cpu.shares, of config.json")
        .config(|c| resource(c, "cpu", json!({"shares": 555, "quota": 90000, "period": 100_000})))
        .needs(&[Need::Controller("cpu")]),
    hiber("processor-quota", "cpu.max or cpu.cfs_quota_us, of config.json").needs(&[Need::Controller("cpu")]),
    hiber("device-rules", "mknod(2) and open(2) of a device that config.json forbids")
        .config(|c| {
            let rules = json!([
                {"allow": true, "access": "rwm"},
                {"allow": false, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
            ]);
            resource(c, "devices", rules);
        })
        .peers(Peer::Lost, Peer::Kept),
    criu("nested-cgroup", "/proc/self/cgroup").config(writable).needs(V2),
    criu("nested-cgroup-limits", "cgroup.max.depth and cgroup.max.descendants").config(writable).needs(V2),
    criu("threaded-cgroup", "/proc/self/cgroup and cgroup.type").config(writable).needs(V2),
    criu("empty-cgroup", "access(2)").config(writable).needs(V2),
];
