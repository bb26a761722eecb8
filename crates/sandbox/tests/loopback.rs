//! Tests of [`is_alone`], in network namespaces of the tests' own.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

use std::path::Path;
use std::process::Command;

use hiber_sandbox::loopback::{Loopback, is_alone, make};
use hiber_sandbox::plan::NamespaceKind;
use hiber_sys::process::unshare;

/// Runs `work` with a thread's number in a network namespace of its own; `None` without the right to make one.
fn in_namespace<T: Send>(work: impl FnOnce(i32) -> T + Send) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("skipped: this test needs root");
        return None;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(NamespaceKind::Network.clone_flag(), "for a test").unwrap();
            work(rustix::thread::gettid().as_raw_nonzero().get())
        });
        Some(thread.join().unwrap())
    })
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.expect(command).success(), "{command}");
}

#[test]
fn what_create_makes_is_alone() {
    in_namespace(|tid| {
        assert!(!is_alone(tid).unwrap(), "loopback is down");
        make(tid, Loopback::Up, [(Path::new("net/ipv4/ip_unprivileged_port_start"), "80")].into_iter())
            .unwrap();
        assert!(is_alone(tid).unwrap());
        let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
        assert_eq!(start.trim(), "80");
    });
}

#[test]
fn anything_added_is_seen() {
    for change in [
        "ip link add name x type veth peer name y",
        "ip link set dev lo mtu 1400",
        "ip address add 10.9.8.7/32 dev lo",
        "ip route add 10.1.0.0/16 dev lo",
        "ip rule add from 10.0.0.1 lookup 100",
        "ip -6 rule add from fd00::1 lookup 100",
        "ip rule del lookup default",
        "nft add table inet t",
        "iptables-legacy -A INPUT -j DROP",
    ] {
        in_namespace(|tid| {
            make(tid, Loopback::Up, std::iter::empty()).unwrap();
            run(change);
            assert!(!is_alone(tid).unwrap(), "{change}");
        });
    }
}

#[test]
fn a_sysctl_that_does_not_exist_is_named() {
    in_namespace(|tid| {
        let error = make(tid, Loopback::Left, [(Path::new("net/no/such"), "1")].into_iter()).unwrap_err();
        let text = hiber_sandbox::error::chain(&error);
        assert!(text.contains("net/no/such"), "{text}");
    });
}
