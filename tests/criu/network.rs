//! The lock on a container's network while it is saved: done where packets could be lost, spared where none can.

use crate::{Network, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

/// CRIU's NETWORK_LOCK_SKIP (criu/include/cr_options.h).
const SKIP: u64 = 2;

/// The method that the images name, which a restore follows: `network_lock_method` of inventory.proto. The file is two
/// magic numbers, a length and a message whose first members are numbers and short strings.
fn lock_method(c: &Container) -> Option<u64> {
    let bytes = fs::read(c.images().join("inventory.img")).unwrap();
    let mut rest = &bytes[12..];
    while !rest.is_empty() {
        let (key, value) = (varint(&mut rest), varint(&mut rest));
        match (key >> 3, key & 7) {
            (11, 0) => return Some(value),
            (_, 2) => rest = &rest[value as usize..],
            _ => {}
        }
    }
    None
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let length = bytes.iter().take_while(|b| **b >= 0x80).count() + 1;
    let (number, rest) = bytes.split_at(length);
    *bytes = rest;
    number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

#[track_caller]
fn run(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args);
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_network_that_nothing_reaches_is_not_locked() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(lock_method(&c), Some(SKIP));
    counts_on(&c, 3);
}

#[test]
fn connections_that_are_saved_need_the_lock() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    sleep_and_wake(&c, &["--tcp-established"], &["--tcp-established"]);
    assert!(lock_method(&c).is_some_and(|method| method != SKIP));
}

#[test]
fn a_further_interface_needs_the_lock() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let network = format!("--net=/proc/{}/ns/net", c.pid());
    let added = run("nsenter", &[&network, "ip", "link", "add", "name", "br0", "type", "bridge"])
        || run("nsenter", &[&network, "ip", "link", "add", "name", "dummy0", "type", "dummy"]);
    assert!(added, "the kernel has neither bridge nor dummy interfaces");
    c.checkpoint(&[]).ok();
    assert!(lock_method(&c).is_some_and(|method| method != SKIP));
}

#[test]
fn what_is_chosen_is_done() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--network-lock", "iptables"]).ok();
    assert!(lock_method(&c).is_some_and(|method| method != SKIP));
}

/// A container on a veth pair whose other end is ours, in a network namespace of its own.
pub(crate) struct Linked {
    pub(crate) network: Network,
    server: String,
}

impl Linked {
    /// `number` tells the pairs of tests that run side by side apart.
    #[track_caller]
    pub(crate) fn new(number: u8) -> Self {
        let network = Network::new();
        let holder = network.path().split('/').nth(2).unwrap_or_default().to_owned();
        let outside = format!("ht{holder}");
        let inside = format!("--net={}", network.path());
        let (ours, server) = (format!("198.18.{number}.1/30"), format!("198.18.{number}.2"));
        let peer = ["link", "add", &outside, "type", "veth", "peer", "name", "peer0", "netns", &holder];
        assert!(run("ip", &peer));
        assert!(run("ip", &["address", "add", &ours, "dev", &outside]));
        assert!(run("ip", &["link", "set", &outside, "up"]));
        let theirs = format!("{server}/30");
        assert!(run("nsenter", &[&inside, "ip", "address", "add", &theirs, "dev", "peer0"]));
        assert!(run("nsenter", &[&inside, "ip", "link", "set", "peer0", "up"]));
        Self { network, server }
    }

    fn bundle(&self) -> Bundle {
        Bundle::busybox().namespace("network", Some(&self.network.path()))
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> TcpStream {
        let mut peer = None;
        wait_for("the server", || {
            peer = TcpStream::connect(format!("{}:7077", self.server)).ok();
            peer.is_some()
        });
        let peer = peer.unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        peer
    }
}

#[track_caller]
fn stays_connected(number: u8, flags: &[&str]) {
    let linked = Linked::new(number);
    // From its first connection on nc is cat, on that socket.
    let c = Runtime::hiber().container(linked.bundle().args(["nc", "-l", "-p", "7077", "-e", "cat"]));
    c.run_detached().ok();
    let mut peer = linked.connect();
    let mut echo = |text: &[u8; 4], meanwhile: &dyn Fn()| {
        peer.write_all(text).unwrap();
        meanwhile();
        let mut answer = [0; 4];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, text);
    };
    echo(b"one\n", &|| ());
    c.checkpoint(&[flags, &["--tcp-established"]].concat()).ok();
    assert!(lock_method(&c).is_some_and(|method| method != SKIP));
    // Sent to a container that is no more: without a lock the kernel would answer with a reset.
    echo(b"two\n", &|| {
        std::thread::sleep(Duration::from_millis(300));
        c.restore(&["--tcp-established"]).ok();
    });
    echo(b"end\n", &|| ());
    let rules = ["iptables-save", "nft list ruleset"].map(|list| {
        let mut command = Command::new("nsenter");
        let list = format!("{list} 2>/dev/null || true");
        command.arg(format!("--net={}", linked.network.path())).args(["sh", "-c", &list]);
        hiber_tests::command::run(command, b"").stdout
    });
    assert!(!rules.concat().contains("CRIU"), "the lock is gone: {rules:?}");
}

#[test]
fn a_peer_outside_stays_connected_and_loses_nothing() {
    require!(Root, Criu);
    stays_connected(77, &[]);
}

#[test]
fn with_the_lock_of_iptables() {
    require!(Root, Criu, Program("iptables-restore"));
    stays_connected(78, &["--network-lock", "iptables"]);
}

#[test]
fn with_the_lock_of_nftables() {
    require!(Root, Criu, Nftables);
    stays_connected(79, &["--network-lock", "nftables"]);
}

#[test]
fn memory_goes_to_a_page_server_over_the_network() {
    require!(Root, Criu);
    let linked = Linked::new(80);
    memory_goes_to(&linked.network, &linked.server, &format!("{}:7070", linked.server));
}

#[test]
fn memory_goes_to_a_page_server_over_ipv6() {
    require!(Root, Criu);
    let own = Network::new();
    // hiber and the page server share a network of their own, so that the port is free.
    memory_goes_to(&own, "::1", "[::1]:7070");
}

/// `network` is the page server's; hiber is in it, too, if it is not linked to ours.
#[track_caller]
fn memory_goes_to(network: &Network, address: &str, flag: &str) {
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let images = c.bundle().join("received");
    fs::create_dir(&images).unwrap();
    // The other machine: its network namespace and its directory.
    let inside = format!("--net={}", network.path());
    let mut server = Command::new("nsenter");
    server.arg(&inside).arg(hiber_tests::tools::criu().unwrap());
    server.args(["page-server", "--port", "7070", "--address", address, "--images-dir"]).arg(&images);
    let mut server = server.spawn().unwrap();
    let listening = || {
        let table =
            |name| fs::read_to_string(format!("/proc/{}/net/{name}", server.id())).unwrap_or_default();
        [table("tcp"), table("tcp6")].concat().lines().any(|l| l.contains(":1B9E") && l.contains(" 0A "))
    };
    wait_for("the page server", listening);
    let own = c.images().display().to_string();
    let inner = c.command("checkpoint", &["--image-path", &own, "--page-server", flag]);
    let mut command = if flag.starts_with('[') { Command::new("nsenter") } else { Command::new("env") };
    if flag.starts_with('[') {
        command.arg(&inside);
    }
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    hiber_tests::command::run(command, b"").ok();
    assert!(server.wait().unwrap().success());
    assert_eq!(c.status(), "gone");
    let is_memory = |name: &str| name.starts_with("pages-") || name.starts_with("pagemap-");
    let memory = |directory: &std::path::Path| {
        let all = fs::read_dir(directory).unwrap().flatten();
        all.filter(|e| is_memory(&e.file_name().to_string_lossy())).count()
    };
    assert!(memory(&images) >= 2, "it has arrived there");
    // Both halves together are the checkpoint.
    for entry in fs::read_dir(&images).unwrap().flatten() {
        if is_memory(&entry.file_name().to_string_lossy()) {
            fs::copy(entry.path(), c.images().join(entry.file_name())).unwrap();
        }
    }
    c.restore(&[]).ok();
    counts_on(&c, 3);
}
