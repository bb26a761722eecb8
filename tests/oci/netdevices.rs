//! Network devices of the host that move into a container.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use hiber_tests::prelude::*;

/// A device on the host without a use; removed when dropped, if it is still there.
struct Dummy(String);

impl Dummy {
    /// None where the kernel has neither sort of such devices.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("htd{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dummy = Self(name);
        let made = ip(&["link", "add", &dummy.0, "type", "dummy"])
            || ip(&["tuntap", "add", "dev", &dummy.0, "mode", "tap"]);
        made.then_some(dummy)
    }
}

impl Drop for Dummy {
    fn drop(&mut self) {
        ip(&["link", "del", "dev", &self.0]);
    }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).output().is_ok_and(|o| o.status.success())
}

fn bundle(device: &Dummy, settings: Value) -> Bundle {
    Bundle::busybox().edit(|c| c["linux"]["netDevices"] = json!({ device.0.clone(): settings }))
}

fn shown(bundle: Bundle, name: &str) -> Output {
    Runtime::hiber().container(bundle.args(["ip", "address", "show", "dev", name])).run(&[])
}

#[test]
fn a_device_moves_with_address_mac_and_mtu_under_a_new_name() {
    require!(Root);
    let Some(d) = Dummy::new() else { return };
    assert!(ip(&["link", "set", "mtu", "1400", "address", "00:11:22:33:44:55", "dev", &d.0]));
    assert!(ip(&["address", "add", "169.254.169.77/32", "dev", &d.0]));
    assert!(ip(&["address", "add", "127.0.0.33/8", "scope", "host", "dev", &d.0]));
    assert!(ip(&["address", "add", "fd00::77/64", "dev", &d.0]));
    let output = shown(bundle(&d, json!({"name": "inside0"})), "inside0");
    let text = output.ok();
    for part in ["mtu 1400", "ether 00:11:22:33:44:55", "169.254.169.77/32", "fd00::77/64", ",UP"] {
        assert!(text.contains(part), "{part}: {output}");
    }
    assert!(!text.contains("127.0.0.33"), "an address of host scope stays: {output}");
    assert!(!ip(&["link", "show", "dev", &d.0]), "the device is gone from the host");
}

#[test]
fn a_joined_pid_namespace_and_a_user_namespace_are_no_hindrance() {
    require!(Root);
    let Some(d) = Dummy::new() else { return };
    shown(bundle(&d, json!({})).namespace("pid", Some("/proc/self/ns/pid")), &d.0).ok();
    let Some(d) = Dummy::new() else { return };
    shown(bundle(&d, json!({})).user_namespace(100_000), &d.0).ok();
}

#[test]
fn what_cannot_move_is_refused_by_name() {
    require!(Root);
    let with = |devices: Value| Bundle::busybox().edit(|c| c["linux"]["netDevices"] = devices);
    let run = |bundle: Bundle| {
        let c = Runtime::hiber().container(bundle);
        let output = c.run(&[]);
        c.assert_clean();
        output
    };
    run(with(json!({"nosuchdev0": {}}))).fails("link not found for interface nosuchdev0");
    run(with(json!({"a/b": {}}))).fails("linux.netDevices: invalid network device name");
    run(with(json!({"a": {"name": "sixteen-letters-"}}))).fails("invalid network device name");
    run(with(json!({"a": {"name": "c"}, "b": {"name": "c"}}))).fails("two devices are to be named");
    run(with(json!({"a": {}})).without_namespace("network")).fails("without a NET namespace");
}
