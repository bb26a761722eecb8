//! Macvlans on devices of the container's own come back as they were; those on devices outside are refused, or moved in again.

use crate::failures::{finding, preflight};
use crate::network_devices::inside;
use crate::{Network, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::process::Command;

/// Two pairs of devices, and a bridge with one end of the second.
const BELOW: &str = "ip link add name va type veth peer name vb; ip link add name vc type veth peer name vd; \
     ip link add name ve type veth peer name vg; ip link add name br0 type bridge; ip link set vd master br0; \
     for d in va vb vc vd ve vg br0; do ip link set $d up; done; ";

/// All that iproute2 tells of the devices of a kind, but for states that change by themselves.
#[track_caller]
fn macvlans(c: &Container) -> String {
    let links = inside(c, "ip -d -o link show type macvlan");
    let plain = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_state = |at: &usize| {
            *at > 0
                && (words[at - 1].ends_with("_timer")
                    || matches!(words[at - 1], "state" | "promiscuity" | "allmulti"))
        };
        (0..words.len()).filter(|at| !is_state(at)).map(|at| words[at]).collect::<Vec<_>>().join(" ")
    };
    let names = links.lines().filter_map(|line| line.split([' ', '@', ':']).nth(2).map(str::to_owned));
    let mut all: Vec<String> = links.lines().map(plain).collect();
    for name in names.collect::<Vec<_>>() {
        // Whether an address is still being checked for others that have it changes by itself.
        let shown = inside(
            c,
            &format!(
                "ip -o address show dev {name}; ip route show dev {name}; ip -6 route show dev {name}; cat /proc/sys/net/ipv4/conf/{name}/rp_filter"
            ),
        );
        all.push(shown.replace(" tentative", "").replace(" nodad", ""));
    }
    all.sort();
    all.join("\n")
}

/// Makes macvlans, and sees that they are the same after each of two restores.
#[track_caller]
fn are_kept(commands: &str) -> Container {
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    inside(&c, &format!("{BELOW}{commands}"));
    let before = macvlans(&c);
    assert!(before.contains("macvlan mode"), "{before}");
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    for _ in 0..2 {
        sleep_and_wake(&c, &[], &[]);
        assert_eq!(macvlans(&c), before);
        counts_on(&c, 3);
    }
    c
}

macro_rules! kept {
    ($($name:ident: $commands:literal;)*) => {
        $(#[test]
        fn $name() {
            require!(Root, Criu, Program("nsenter"), NetworkCommand(
                "ip link add name va type veth; ip link add link va name m0 type macvlan"
            ));
            are_kept($commands);
        })*
    };
}

kept! {
    of_every_mode:
        "ip link add link va name m0 type macvlan mode bridge; ip link add link va name m1 type macvlan mode private; \
         ip link add link va name m2 type macvlan mode vepa; ip link add link ve name m3 type macvlan mode passthru nopromisc; \
         ip link add link vb name m4 type macvlan mode bridge nodst";
    with_addresses_and_routes:
        "ip link add link va name m0 address 02:00:00:00:00:77 mtu 1400 type macvlan mode bridge; \
         ip link set m0 up alias 'a name' txqueuelen 77 multicast off; ip address add 10.9.0.1/24 dev m0 label m0:1; \
         ip address add fd00::1/64 dev m0 nodad; ip route add 10.10.0.0/16 via 10.9.0.2; \
         ip route add 10.11.0.0/16 dev m0 src 10.9.0.1 table 100; ip -6 route add fd01::/64 via fd00::2; \
         echo 2 >/proc/sys/net/ipv4/conf/m0/rp_filter; sleep 2";
    that_are_down: "ip link add link va name m0 type macvlan; ip address add 10.9.0.1/24 dev m0";
    as_ports_of_a_bridge: "ip link add link va name m0 type macvlan mode passthru; ip link set m0 master br0 up";
    on_a_bridge_and_on_another_macvlan:
        "ip link add link br0 name m0 type macvlan mode bridge; ip link add link m0 name m1 type macvlan mode bridge; \
         ip link set m0 up; ip link set m1 up; ip address add 10.9.0.1/24 dev m0; ip address add 10.9.1.1/24 dev m1; sleep 2";
    with_a_short_queue_of_broadcasts: "ip link add link va name m0 type macvlan mode bridge bcqueuelen 3000";
}

/// The work of a container engine in a container.
#[test]
fn in_a_namespace_inside() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        NetworkCommand("ip link add name va type veth; ip link add link va name m0 type macvlan")
    );
    let script = format!("unshare -n sleep 1000 & {}", crate::COUNT);
    let all = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    let bundle = Bundle::busybox().shell(&script).edit(|c| {
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || crate::count(&c) >= 3);
    let in_child = |commands: &str| crate::network_devices::in_child(&c, commands);
    let make = "ip link add name va type veth peer name vb; ip link set va up; ip link set vb up;";
    let shows = "ip -d -o link show type macvlan | grep -o 'm[0-9]@[a-z]*: <[^>]*> mtu [0-9]*'; ip -o -4 address show up";
    in_child(&format!(
        "{make} ip link add link va name m0 type macvlan mode vepa; ip address add 10.9.0.1/24 dev m0; ip link set m0 up"
    ));
    inside(&c, &format!("{make} ip link add link va name m1 mtu 1300 type macvlan"));
    let before = (in_child(shows), inside(&c, shows));
    assert!(before.0.contains("m0@va") && before.1.contains("m1@va"), "{before:?}");
    for _ in 0..2 {
        sleep_and_wake(&c, &[], &[]);
        assert_eq!((in_child(shows), inside(&c, shows)), before);
        crate::counts_on(&c, 3);
    }
}

#[track_caller]
fn is_refused(c: &Container, check: &str, words: &str) {
    let report = preflight(c, &[]);
    assert!(finding(&report, check).is_some(), "no {check} in {report:#}");
    c.checkpoint(&[]).fails(words).fails("--empty-ns network");
    assert!(!c.images().exists(), "CRIU was not asked");
    assert_eq!(c.status(), "running");
    let empty = ["--empty-ns", "network"];
    sleep_and_wake(c, &empty, &[]);
    counts_on(c, 3);
}

#[test]
fn a_device_below_that_is_outside() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        NetworkCommand("ip link add name va type veth; ip link add link va name m0 type macvlan")
    );
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let holder = Network::new();
    let mut command = Command::new("nsenter");
    let make = format!(
        "ip link add name va type veth; ip link add link va name m0 netns {} type macvlan mode bridge",
        c.pid()
    );
    command.args([&format!("--net={}", holder.path()), "sh", "-ec", &make]);
    hiber_tests::command::run(command, b"").ok();
    is_refused(&c, "network-device", "network device m0 is a macvlan on a device outside");
}

#[test]
fn of_a_user_namespace() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        UserNamespaces,
        NetworkCommand("ip link add name va type veth; ip link add link va name m0 type macvlan")
    );
    let c = counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    inside(&c, "ip link add name va type veth; ip link add link va name m0 type macvlan");
    is_refused(&c, "network-device", "network device m0 is a macvlan, which a restore cannot make in a user");
}

#[test]
fn that_take_packets_by_their_senders() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        NetworkCommand("ip link add name va type veth; ip link add link va name m0 type macvlan mode source")
    );
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    inside(
        &c,
        "ip link add name va type veth; ip link add link va name m0 type macvlan mode source; \
         ip link set link va dev m0 type macvlan macaddr add 02:00:00:00:00:09",
    );
    is_refused(&c, "network-part", "network device m0 is a macvlan that takes packets by their senders");
}

#[test]
fn of_the_configuration_are_moved_in_again() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        NetworkCommand("ip link add name va type veth; ip link add link va name m0 type macvlan")
    );
    let id = std::process::id();
    let (below, ours) = (format!("hb{id}"), format!("hv{id}"));
    let host = |commands: &str| {
        let mut command = Command::new("sh");
        command.args(["-ec", commands]);
        hiber_tests::command::run(command, b"")
    };
    let gone = || {
        wait_for("the macvlan to go with the namespace", || {
            host(&format!("! ip -o link show type macvlan | grep -q '@{below}'")).status.success()
        });
    };
    let make = format!("ip link add link {below} name {ours} type macvlan mode bridge");
    host(&format!("ip link add name {below} type veth peer name hc{id}; ip link set {below} up")).ok();
    host(&format!("{make}; ip address add 198.18.73.1/24 dev {ours}")).ok();
    let bundle = Bundle::busybox().edit(|c| c["linux"]["netDevices"] = json!({&ours: {"name": "eth0"}}));
    let c = counter(&Runtime::hiber(), bundle);
    inside(&c, "ip link set eth0 mtu 1400; ip address add fd73::1/64 dev eth0 nodad");
    let shows = || {
        let all = inside(
            &c,
            "ip -d -o link show eth0 | grep -oE ' mtu [0-9]+|macvlan mode [a-z]+|link/ether [0-9a-f:]+'; ip -o address show dev eth0 scope global",
        );
        all.replace(" nodad", "").replace("LOWER_UP", "")
    };
    let before = shows();
    assert!(before.contains("macvlan mode bridge") && before.contains("198.18.73.1/24"), "{before}");
    for _ in 0..2 {
        c.checkpoint(&[]).ok();
        gone();
        c.restore(&[]).fails("linux.netDevices").fails(&ours);
        assert_eq!(c.status(), "gone");
        host(&make).ok();
        c.restore(&[]).ok();
        assert_eq!(shows(), before);
        counts_on(&c, 3);
    }
    c.delete(&["--force"]).ok();
    host(&format!("ip link delete {below}")).ok();
}

/// CRIU runs the program that CR_IP_TOOL names, which makes no macvlan.
#[test]
fn are_missed_where_another_ip_is_run() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        NetworkCommand("ip link add name va type veth; ip link add link va name m0 type macvlan")
    );
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    inside(&c, "ip link add name va type veth; ip link add link va name m0 type macvlan");
    let real = inside(&c, "command -v ip");
    c.checkpoint(&[]).ok();
    let other = c.bundle().join("other-ip");
    std::fs::write(&other, format!("#!/bin/sh\nexec {} \"$@\"\n", real.trim())).unwrap();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (images, bundle) = (c.images().display().to_string(), c.bundle_path());
    let mut restore = c.command("restore", &["--detach", "--image-path", &images, "--bundle", &bundle]);
    restore.env("CR_IP_TOOL", &other);
    hiber_tests::command::run(restore, b"").fails("were not made").fails("CR_IP_TOOL");
    assert_eq!(c.status(), "gone");
    c.restore(&[]).ok();
    counts_on(&c, 3);
}
