//! A network namespace with loopback alone is not saved but made anew; one with anything else is saved.

use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::fs;
use std::process::Command;

/// Whether the images hold the contents of a network namespace.
fn network_is_saved(c: &Container) -> bool {
    let names = fs::read_dir(c.images()).unwrap().map(|entry| entry.unwrap().file_name());
    names.into_iter().any(|name| name.to_string_lossy().starts_with("ifaddr-"))
}

/// Of a process on the host's side.
fn namespace(pid: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string()
}

#[track_caller]
fn in_network_of(c: &Container, args: &[&str]) {
    let mut command = Command::new("nsenter");
    let status = command.arg(format!("--net=/proc/{}/ns/net", c.pid())).args(args).status();
    assert!(status.is_ok_and(|status| status.success()), "{args:?}");
}

fn listener() -> Bundle {
    Bundle::busybox().edit(|c| {
        c["process"]["args"] = json!(["sh", "-c", "while :; do nc -l -p 80 -e cat; done"]);
        c["linux"]["sysctl"] =
            json!({"net.core.somaxconn": "99", "net.ipv4.ip_unprivileged_port_start": "80"});
    })
}

const ASK: &str = "echo hello | nc -w 2 127.0.0.1 80; cat /proc/sys/net/core/somaxconn";

#[test]
fn loopback_its_listeners_and_sysctls_come_back() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(listener());
    c.run_detached().ok();
    wait_for("the server", || c.sh("cat /proc/net/tcp /proc/net/tcp6").contains(":0050"));
    sleep_and_wake(&c, &[], &[]);
    assert!(!network_is_saved(&c));
    assert_eq!(c.sh(ASK), "hello\n99");
    assert_ne!(namespace(&c.pid().to_string()), namespace("self"));
}

#[test]
fn other_runtimes_make_a_network_namespace_too() {
    require!(Root, Criu, Runc);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    assert!(!network_is_saved(&c));
    let restored = c.in_hands_of(&Runtime::runc());
    restored.restore(&[]).ok();
    assert_ne!(namespace(&restored.pid().to_string()), namespace("self"), "it is in the host's network");
    counts_on(&restored, 3);
}

#[test]
fn loopback_comes_up_after_a_checkpoint_of_runcs() {
    require!(Root, Criu, Runc);
    let c = counter(&Runtime::runc(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let restored = c.in_hands_of(&Runtime::hiber());
    restored.restore(&[]).ok();
    assert!(restored.sh("ip link show lo").contains("LOOPBACK,UP"));
}

#[test]
fn what_was_added_is_saved() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    in_network_of(&c, &["ip", "address", "add", "10.9.8.7/32", "dev", "lo"]);
    sleep_and_wake(&c, &[], &[]);
    assert!(network_is_saved(&c));
    assert!(c.sh("ip address show lo").contains("10.9.8.7"));
}

#[test]
fn sysctls_that_the_container_can_change_are_saved() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().edit(|c| c["linux"]["readonlyPaths"] = json!([]));
    let c = counter(&Runtime::hiber(), bundle);
    c.sh("echo 1 >/proc/sys/net/ipv4/conf/lo/accept_local");
    sleep_and_wake(&c, &[], &[]);
    assert!(network_is_saved(&c));
    assert_eq!(c.sh("cat /proc/sys/net/ipv4/conf/lo/accept_local"), "1");
}

#[test]
fn an_empty_network_namespace_is_had_for_the_asking() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    sleep_and_wake(&c, &["--empty-ns", "network"], &["--empty-ns", "network"]);
    assert!(!c.sh("ip link show lo").contains("LOOPBACK,UP"), "loopback is as CRIU leaves it");
}
