//! The content of a container's network namespace is restored whole, or refused before anything is stopped.

use crate::failures::{finding, preflight};
use crate::{Network, count, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::process::Command;

const PAIR: &str = "ip link add name va type veth peer name vb;";
const UP: &str = "ip link set va up; ip link set vb up;";

/// Runs commands in a container's network namespace, with the host's programs.
#[track_caller]
pub(crate) fn inside(c: &Container, commands: &str) -> String {
    let mut command = Command::new("nsenter");
    command.args([&format!("--net=/proc/{}/ns/net", c.pid()), "sh", "-ec", commands]);
    let output = hiber_tests::command::run(command, b"");
    output.ok();
    output.stdout.clone()
}

/// As [`inside`], in the network namespace of the first process's first child that has one of its own.
#[track_caller]
pub(crate) fn in_child(c: &Container, commands: &str) -> String {
    let own = std::fs::read_link(format!("/proc/{}/ns/net", c.pid())).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", c.pid())).unwrap();
    let is_inner = |pid: &&str| std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|n| n != own);
    let child = children.split_whitespace().find(is_inner).expect("a child in a namespace of its own");
    let mut command = Command::new("nsenter");
    command.args([&format!("--net=/proc/{child}/ns/net"), "sh", "-ec", commands]);
    let output = hiber_tests::command::run(command, b"");
    output.ok();
    output.stdout.clone()
}

/// Addresses, routes and rules, but for what the kernel observes and what it makes by itself.
#[track_caller]
fn network(c: &Container) -> String {
    let all = inside(
        c,
        "ip -o address; ip route; ip -6 route; ip rule; ip -6 rule; ip -o link show type veth | cut -d: -f2",
    );
    let kept = all.lines().filter(|line| !line.contains("fe80::"));
    let plain = |line: &str| {
        let words =
            line.split_whitespace().filter(|word| !matches!(*word, "linkdown" | "nodad" | "tentative"));
        words.take_while(|word| !word.starts_with("valid_lft")).collect::<Vec<_>>().join(" ")
    };
    kept.map(plain).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn is_kept(commands: &str) -> Container {
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    inside(&c, commands);
    let before = network(&c);
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(network(&c), before);
    counts_on(&c, 3);
    c
}

#[test]
fn an_address_on_a_veth_whose_peer_is_down() {
    require!(Root, Criu, Program("nsenter"));
    is_kept(&format!(
        "{PAIR} ip address add 10.9.0.1/24 dev va; ip link set va up; ip route add 10.10.0.0/16 via 10.9.0.2; \
         ip route add 10.11.0.0/16 nexthop via 10.9.0.2 nexthop via 10.9.0.3; ip address add fd00::1/64 dev va"
    ));
}

#[test]
fn an_address_on_a_bridge_that_has_lost_its_last_port() {
    require!(Root, Criu, Program("nsenter"));
    let c = is_kept(&format!(
        "ip link add name br0 type bridge; {PAIR} ip link set va master br0; {UP} ip link set br0 up; \
         ip address add 10.9.0.1/24 dev br0; sleep 1; ip link delete va; sleep 1; \
         ip link show br0 | grep -q 00:00:00:00:00:00"
    ));
    // As idle a bridge, restored, is saved again.
    sleep_and_wake(&c, &[], &[]);
}

#[test]
fn routes_of_every_kind_that_is_kept() {
    require!(Root, Criu, Program("nsenter"));
    is_kept(&format!(
        "{PAIR} {UP} ip address add fd00::1/64 dev va; ip address add 10.9.0.1/24 dev va; sleep 3; \
         ip route add fd01::/64 via fd00::2 src fd00::1; ip -6 route add unreachable fd09::/64; \
         ip route add 10.10.0.0/16 via 10.9.0.2 src 10.9.0.1 metric 7; ip route add blackhole 10.99.0.0/16; \
         ip route add 10.44.0.0/16 dev va scope link mtu 1300; ip route add 10.45.0.0/16 via 10.44.0.1; \
         ip rule add from 10.9.0.7 table main"
    ));
}

#[test]
fn a_tap_without_a_carrier() {
    require!(Root, Criu, Program("nsenter"), NetworkCommand("ip tuntap add dev t0 mode tap"));
    is_kept("ip tuntap add dev t0 mode tap; ip address add 10.9.0.1/24 dev t0; ip link set t0 up");
}

/// Checks that the container is refused before CRIU is asked, and runs on; and that it can be saved without its network.
#[track_caller]
fn is_refused(c: &Container, check: &str, words: &str) {
    let report = preflight(c, &[]);
    let found = finding(&report, check).unwrap_or_else(|| panic!("no {check} in {report:#}"));
    let severity = if check == "network-part" { "loss" } else { "error" };
    assert_eq!((&found["severity"], &report["possible"]), (&json!(severity), &json!(false)), "{report:#}");
    let before = count(c);
    let output = c.checkpoint(&[]);
    output.fails(words).fails("--empty-ns network");
    assert!(!c.images().exists(), "CRIU was not asked");
    assert_eq!(c.status(), "running");
    counts_on(c, before);
    let empty = ["--empty-ns", "network"];
    assert_eq!(preflight(c, &empty)["possible"], json!(true));
    sleep_and_wake(c, &empty, &[]);
    counts_on(c, before);
}

macro_rules! refused {
    ($($name:ident: $commands:literal, $check:literal, $words:literal;)*) => {
        $(#[test]
        fn $name() {
            require!(Root, Criu, Program("nsenter"), NetworkCommand(concat!(
                "ip link add name va type veth peer name vb; ip link set va up; ip link set vb up; ", $commands
            )));
            let c = counter(&Runtime::hiber(), Bundle::busybox());
            inside(&c, &format!("{PAIR} {UP} {}", $commands));
            is_refused(&c, $check, $words);
        })*
    };
}

refused! {
    a_macvtap: "ip link add link va name m0 type macvtap", "network-device", "network device m0 is of kind macvtap";
    a_vxlan: "ip link add name x0 type vxlan id 5 dev va dstport 4789", "network-device",
        "network device x0 is of kind vxlan";
    a_veth_of_a_name_that_criu_needs_twice:
        "ip link add name br0 type bridge; ip link add name p0 type veth; ip link set p0 master br0", "network-device",
        "network device veth0 has a name that CRIU's restore would need";
    a_nexthop_object_beside_a_tun_device:
        "ip address add 10.9.0.1/24 dev va; ip nexthop add id 5 via 10.9.0.2 dev va; ip tuntap add dev t0 mode tun",
        "network-route", "beside a TUN device";
    a_nexthop_object_beside_a_bridge_without_ports:
        "ip link add name br0 type bridge; ip address add 10.9.0.1/24 dev br0; ip link set br0 up; \
         ip nexthop add id 5 via 10.9.0.2 dev br0",
        "network-route", "a bridge without ports";
    a_next_hop_that_is_down:
        "ip route add 10.10.0.0/16 nexthop dev va nexthop dev vb; ip link set vb down", "network-route",
        "leads over a device that is down";
}

#[test]
fn kinds_that_this_machine_lacks() {
    require!(UnifiedCgroups, Root, Criu, Program("nsenter"));
    for (make, words) in [
        ("ip link add link va name i0 type ipvlan", "network device i0 is of kind ipvlan"),
        ("ip link add link va name v0 type vlan id 5", "network device v0 is of kind vlan"),
        ("ip link add name d0 type dummy", "network device d0 is of kind dummy"),
    ] {
        let c = counter(&Runtime::hiber(), Bundle::busybox());
        inside(&c, &format!("{PAIR} {UP} {make}"));
        is_refused(&c, "network-device", words);
    }
}

/// Parts that neither CRIU nor hiber makes again are given up only where that is accepted.
#[test]
fn filters_and_ipsec_are_losses() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        Program("tc"),
        NetworkCommand(
            "ip link add name va type veth; tc qdisc add dev va clsact; \
         tc filter add dev va ingress protocol ip u32 match u32 0 0 flowid :1; \
         ip xfrm policy add src 10.0.0.0/24 dst 10.1.0.0/24 dir out"
        )
    );
    for (commands, words) in [
        (
            "tc qdisc add dev va clsact; tc filter add dev va ingress protocol ip u32 match u32 0 0 flowid :1",
            "there are filters of queueing disciplines",
        ),
        (
            "tc qdisc add dev va root handle 1: htb; tc filter add dev va parent 1: protocol ip u32 match u32 0 0 flowid 1:1",
            "there are filters of queueing disciplines",
        ),
        (
            "ip xfrm policy add src 10.0.0.0/24 dst 10.1.0.0/24 dir out",
            "there are states or policies of IPsec",
        ),
    ] {
        let c = counter(&Runtime::hiber(), Bundle::busybox());
        inside(&c, &format!("{PAIR} {UP} {commands}"));
        is_refused(&c, "network-part", words);
        inside(&c, &format!("{PAIR} {UP} {commands}"));
        sleep_and_wake(&c, &["--accept", "network-part"], &[]);
        counts_on(&c, 3);
    }
}

/// A device `inside` that is moved into a container, whose other end stays in a network namespace of the test's.
struct Pair(Network);

impl Pair {
    #[track_caller]
    fn moved_into(c: &Container, name: &str) -> Self {
        let holder = Network::new();
        let (enter, pid) = (format!("--net={}", holder.path()), c.pid().to_string());
        let mut command = Command::new("nsenter");
        command.args([
            &enter, "ip", "link", "add", "name", "outer", "type", "veth", "peer", "name", name, "netns", &pid,
        ]);
        hiber_tests::command::run(command, b"").ok();
        Self(holder)
    }
}

#[test]
fn a_veth_whose_other_end_is_outside() {
    require!(Root, Criu, Program("nsenter"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let pair = Pair::moved_into(&c, "eth0");
    inside(&c, "ip address add 10.9.0.1/24 dev eth0; ip link set eth0 up");
    assert!(pair.0.path().starts_with("/proc/"));
    is_refused(
        &c,
        "network-device",
        "network device eth0 is a veth whose other end is in a network namespace outside",
    );
}

#[test]
fn a_veth_of_the_configuration_is_moved_in_again() {
    require!(Root, Criu, Program("nsenter"));
    let id = std::process::id();
    let (ours, theirs) = (format!("hn{id}"), format!("hm{id}"));
    let host = |commands: &str| {
        let mut command = Command::new("sh");
        command.args(["-ec", commands]);
        hiber_tests::command::run(command, b"")
    };
    // The kernel takes a network namespace, and with it the pair, apart some time after its last process.
    let pair_gone = || {
        wait_for("the pair to go with the namespace", || {
            host(&format!("! ip link show {ours}")).status.success()
        });
    };
    let make = format!("ip link add name {ours} type veth peer name {theirs}; ip link set {ours} up");
    host(&format!("{make}; ip address add 198.18.71.1/24 dev {theirs}")).ok();
    let bundle = Bundle::busybox().edit(|c| c["linux"]["netDevices"] = json!({&theirs: {"name": "eth0"}}));
    let c = counter(&Runtime::hiber(), bundle);
    let before = network(&c);
    assert!(before.contains("eth0") && before.contains("198.18.71.1/24"), "{before}");
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    c.checkpoint(&[]).ok();
    c.restore(&[]).fails("linux.netDevices").fails(&theirs);
    assert_eq!(c.status(), "gone");
    pair_gone();
    host(&make).ok();
    c.restore(&[]).ok();
    let plain =
        |text: &str| text.lines().map(|l| l.split('@').next().unwrap_or(l).to_owned()).collect::<Vec<_>>();
    assert_eq!(plain(&network(&c)), plain(&before));
    counts_on(&c, 3);
    assert!(inside(&c, "ip -o link show eth0").contains("LOWER_UP"), "it is connected");
    c.delete(&["--force"]).ok();
    pair_gone();
}

/// As with runc: a joined network is not saved, so that the device never leaves it.
#[test]
fn a_veth_that_was_moved_into_a_joined_network_stays_there() {
    require!(Root, Criu, Program("nsenter"));
    let (id, joined) = (std::process::id(), Network::new());
    let (ours, theirs) = (format!("hj{id}"), format!("hk{id}"));
    let host = |commands: &str| {
        let mut command = Command::new("sh");
        command.args(["-ec", commands]);
        hiber_tests::command::run(command, b"").ok();
    };
    host(&format!(
        "ip link add name {ours} type veth peer name {theirs}; ip address add 198.18.72.1/24 dev {theirs}"
    ));
    let bundle = Bundle::busybox().namespace("network", Some(&joined.path()));
    let bundle = bundle.edit(|c| c["linux"]["netDevices"] = json!({&theirs: {"name": "eth0"}}));
    let c = counter(&Runtime::hiber(), bundle);
    let shows = || inside(&c, "ip -o address show dev eth0");
    let before = shows();
    assert!(before.contains("198.18.72.1/24"), "{before}");
    for _ in 0..2 {
        sleep_and_wake(&c, &[], &[]);
        assert!(shows().contains("198.18.72.1/24"));
        counts_on(&c, 3);
    }
    c.checkpoint(&[]).ok();
    host(&format!("ip link delete {ours}"));
    c.restore(&[]).fails("linux.netDevices").fails("eth0").fails(&joined.path());
    assert_eq!(c.status(), "gone");
}

/// The work of docker in a container: a network namespace inside, linked to the container's.
#[test]
fn a_veth_into_a_namespace_inside() {
    require!(Root, Criu, Program("nsenter"));
    let script = format!("unshare -n sleep 1000 & {}", crate::COUNT);
    let all = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    let bundle = Bundle::busybox().shell(&script).edit(|c| {
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", c.pid())).unwrap();
    let own = std::fs::read_link(format!("/proc/{}/ns/net", c.pid())).unwrap();
    let is_inner = |pid: &&str| std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|n| n != own);
    let child =
        children.split_whitespace().find(is_inner).expect("a child in a namespace of its own").to_owned();
    inside(
        &c,
        &format!("ip link add name outer type veth peer name inner netns {child}; ip link set outer up"),
    );
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    sleep_and_wake(&c, &[], &[]);
    assert!(inside(&c, "ip -o link").contains("outer"));
    counts_on(&c, 3);
}

/// A configuration for CRIU may say what becomes of such a device, so that only a restore can tell.
#[test]
fn a_restore_without_the_other_end_says_what_failed_and_what_rescues_the_checkpoint() {
    require!(Root, Criu, Program("nsenter"));
    let bundle = Bundle::busybox();
    let config = bundle.join("criu.conf");
    std::fs::write(&config, "").unwrap();
    let bundle = bundle.edit(|c| c["annotations"] = json!({"org.criu.config": config}));
    let c = counter(&Runtime::hiber(), bundle);
    let _pair = Pair::moved_into(&c, "eth0");
    inside(&c, "ip link set eth0 up");
    c.checkpoint(&[]).ok();
    let failed = c.restore(&[]);
    failed.fails("Unknown peer net namespace").fails("-16 reported by netlink: Device or resource busy");
    failed.fails("pass --empty-ns network to restore");
    c.restore(&["--empty-ns", "network"]).ok();
    counts_on(&c, 3);
}
