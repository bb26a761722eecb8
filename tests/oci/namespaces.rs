//! Namespaces: new ones, joined ones, the host's; and what is set in them.

use hiber_tests::prelude::*;
use std::fs;

fn namespace(pid: impl std::fmt::Display, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

fn sleeper(bundle: Bundle) -> Container {
    let c = Runtime::hiber().container(bundle.args(["sleep", "1000"]));
    c.run_detached().ok();
    c
}

const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

#[test]
fn asked_for_namespaces_are_new_and_others_are_the_hosts() {
    require!(Root);
    let c = sleeper(Bundle::busybox());
    for (_, kind) in KINDS {
        assert_ne!(namespace(c.pid(), kind), namespace("self", kind), "{kind}");
    }
    assert_eq!(namespace(c.pid(), "user"), namespace("self", "user"));
    let bundle =
        KINDS.iter().filter(|k| k.0 != "mount").fold(Bundle::busybox(), |b, k| b.without_namespace(k.0));
    let bundle = bundle.edit(|c| {
        c["hostname"] = Value::Null;
        c["linux"]["readonlyPaths"] = json!([]);
        // without its own network namespace a new sysfs cannot be mounted; nor mqueue without its own ipc
        if let Some(mounts) = c["mounts"].as_array_mut() {
            mounts.retain(|m| m["type"] != "sysfs" && m["type"] != "mqueue" && m["type"] != "cgroup");
        }
    });
    let c = sleeper(bundle);
    for (_, kind) in KINDS.iter().filter(|k| k.0 != "mount") {
        assert_eq!(namespace(c.pid(), kind), namespace("self", kind), "{kind}");
    }
}

#[test]
fn namespaces_are_joined_by_path() {
    require!(Root);
    let first = sleeper(Bundle::busybox());
    let pid = first.pid();
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        let path = format!("/proc/{pid}/ns/{file}");
        let bundle = Bundle::busybox().namespace(kind, Some(&path)).edit(|c| c["hostname"] = Value::Null);
        let second = sleeper(bundle);
        assert_eq!(namespace(second.pid(), file), namespace(pid, file), "{kind}");
        assert_ne!(namespace(second.pid(), "mnt"), namespace(pid, "mnt"));
        second.delete(&["--force"]).ok();
        second.assert_clean();
    }
    assert_eq!(first.status(), "running");
}

#[test]
fn a_namespace_path_of_the_wrong_kind_or_none_is_refused() {
    require!(Root);
    for path in ["/proc/self/ns/uts", "/etc/passwd", "/no/such/path"] {
        let c = Runtime::hiber().container(Bundle::busybox().namespace("network", Some(path)));
        c.create(&[]).fails("linux.namespaces");
        c.assert_clean();
    }
}

#[test]
fn the_same_namespace_twice_is_refused() {
    require!(Root);
    let bundle = Bundle::busybox()
        .edit(|c| hiber_tests::bundle::push(&mut c["linux"]["namespaces"], json!({"type": "uts"})));
    let c = Runtime::hiber().container(bundle);
    c.create(&[]).fails("uts");
    c.assert_clean();
}

#[test]
fn hostname_and_domainname() {
    require!(Root);
    let bundle = Bundle::busybox().edit(|c| {
        c["hostname"] = json!("a-host");
        c["domainname"] = json!("a.domain");
    });
    let c = sleeper(bundle);
    assert_eq!(c.sh("hostname; cat /proc/sys/kernel/domainname"), "a-host\na.domain");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "a-host");
}

#[test]
fn a_hostname_without_its_namespace_is_refused() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().without_namespace("uts"));
    c.create(&[]).fails("uts");
    c.assert_clean();
}

#[test]
fn sysctls_are_set_in_the_container_alone() {
    require!(Root);
    let key = "/proc/sys/net/ipv4/ip_default_ttl";
    let before = fs::read_to_string(key).unwrap();
    let c = sleeper(Bundle::busybox().edit(|c| {
        c["linux"]["sysctl"] = json!({
            "net.ipv4.ip_default_ttl": "33", "kernel.msgmax": "65536", "kernel.shm_rmid_forced": "1"
        });
    }));
    assert_eq!(
        c.sh(&format!("cat {key} /proc/sys/kernel/msgmax /proc/sys/kernel/shm_rmid_forced")),
        "33\n65536\n1"
    );
    assert_eq!(fs::read_to_string(key).unwrap(), before);
}

#[test]
fn sysctls_of_the_host_are_refused() {
    require!(Root);
    for key in ["kernel.printk", "vm.swappiness"] {
        let c =
            Runtime::hiber().container(Bundle::busybox().edit(|c| c["linux"]["sysctl"] = json!({key: "1"})));
        c.create(&[]).fails(key);
        c.assert_clean();
    }
    let bundle = Bundle::busybox()
        .without_namespace("network")
        .edit(|c| c["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "33"}));
    Runtime::hiber().container(bundle).create(&[]).fails("net.ipv4.ip_default_ttl");
}

#[test]
fn loopback_is_up_in_a_new_network_namespace() {
    require!(Root);
    let c = sleeper(Bundle::busybox());
    let flags = c.sh("cat /sys/class/net/lo/flags");
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap();
    assert_eq!(flags & 1, 1, "IFF_UP");
    assert_eq!(c.sh("ls /sys/class/net"), "lo");
}

#[test]
fn the_cgroup_namespace_hides_the_path() {
    require!(Root);
    let c = sleeper(Bundle::busybox());
    let paths = c.sh("cut -d: -f3 /proc/self/cgroup | sort -u");
    assert_eq!(paths, "/");
}

#[test]
fn a_time_namespace_has_its_offsets() {
    require!(Root);
    let bundle = Bundle::busybox().namespace("time", None).edit(|c| {
        c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 500}});
    });
    let c = sleeper(bundle);
    let offsets = fs::read_to_string(format!("/proc/{}/timens_offsets", c.pid())).unwrap();
    let offsets: Vec<Vec<&str>> = offsets.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(offsets, [["monotonic", "500", "0"], ["boottime", "1000000", "0"]]);
    let uptime: f64 = c.sh("cut -d' ' -f1 /proc/uptime").parse().unwrap();
    assert!(uptime > 1_000_000.0, "{uptime}");
}
