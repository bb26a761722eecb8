//! Parts that CRIU leaves out of a network namespace of the container's own are there again after a restore: each row is made by
//! iproute2 from outside, and read before and after three rounds.

use crate::failures::preflight;
use crate::network_devices::inside;
use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;

/// The devices for each row.
const DEVICES: &str = "ip link add name va type veth peer name vb; ip link add name vc type veth peer name vd; \
     ip link add name br0 type bridge; ip link set vc master br0; \
     for d in va vb vc vd br0; do ip link set $d up; done; \
     ip address add 10.9.0.1/24 dev va; ip address add fd00::1/64 dev va nodad; ip address add 10.8.0.1/24 dev br0";

/// The name of a property, how it is made, and how it is read. The last decides about routes.
struct Row(&'static str, &'static str, &'static str);

const ROWS: &[Row] = &[
    Row(
        "a route of another table",
        "ip route add 10.10.0.0/16 via 10.9.0.2 table 100",
        "ip route show table 100",
    ),
    Row(
        "routes by a route that is only in their table, with options",
        "ip route add 10.13.0.0/16 dev va table 101 scope link mtu 1300 metric 3 proto 99 src 10.9.0.1; \
         ip route add 10.12.0.0/16 via 10.13.0.1 dev va table 70000 onlink; ip route add throw 10.97.0.0/16 table 101; \
         ip route add 10.96.0.0/16 via inet6 fd00::2 dev va table 101; \
         ip route add table 101 10.95.0.0/16 nexthop via 10.9.0.2 weight 3 nexthop via 10.9.0.3",
        "ip route show table 101; ip route show table 70000",
    ),
    Row(
        "routes of another table for IPv6",
        "ip -6 route add fd01::/64 via fd00::2 table 200 metric 5; ip -6 route add unreachable fd09::/64 table 200; \
         ip -6 route add fd02::/64 table 200 nexthop via fd00::2 nexthop via fd00::3 weight 2; \
         ip -6 route add default via fd00::2 table 200 pref high",
        "ip -6 route show table 200",
    ),
    Row(
        "a local route",
        "ip route add local 10.98.0.0/16 dev lo table local",
        "ip route show table local 10.98.0.0/16",
    ),
    Row(
        "nexthop objects, and routes by them in the main table and in another",
        "ip nexthop add id 5 via 10.9.0.2 dev va; ip nexthop add id 6 via fd00::9 dev va proto 44; \
         ip nexthop add id 7 blackhole; ip nexthop add id 8 via 10.44.0.8 dev va onlink; \
         ip nexthop add id 20 group 5,3/8,9; ip route add 10.66.0.0/16 nhid 20; \
         ip route add 10.67.0.0/16 nhid 5 table 100; ip -6 route add fd66::/64 nhid 6",
        "ip nexthop; ip route show 10.66.0.0/16; ip route show table 100; ip -6 route show fd66::/64",
    ),
    Row(
        "neighbours that are permanent",
        "ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:01 dev va nud permanent; \
         ip neigh add 10.9.0.3 lladdr 02:00:00:00:00:03 dev va nud noarp; \
         ip -6 neigh add fd00::5 lladdr 02:00:00:00:00:05 dev va nud permanent router",
        "ip neigh show dev va nud permanent; ip neigh show dev va nud noarp to 10.9.0.3",
    ),
    Row(
        "neighbours that are answered for",
        "ip neigh add proxy 10.9.0.77 dev va; ip -6 neigh add proxy fd00::77 dev va",
        "ip neigh show proxy; ip -6 neigh show proxy",
    ),
    Row(
        "static entries of a bridge, and an address of a device beside its own",
        "bridge fdb add 02:00:00:00:00:09 dev vc master static; bridge fdb add 02:00:00:00:00:0b dev vc self",
        "bridge fdb show dev vc | grep 02:00:00",
    ),
    Row(
        "queueing disciplines and classes",
        "tc qdisc add dev va root handle 1: htb default 10; \
         tc class add dev va parent 1: classid 1:10 htb rate 10mbit ceil 20mbit burst 15k; \
         tc class add dev va parent 1: classid 1:20 htb rate 5mbit prio 3; \
         tc class add dev va parent 1:20 classid 1:21 htb rate 1mbit; \
         tc qdisc add dev va parent 1:21 handle 20: tbf rate 1mbit burst 10k latency 50ms; \
         tc qdisc add dev vb root pfifo limit 55; tc qdisc add dev vd ingress; tc qdisc add dev vc clsact; \
         tc qdisc add dev br0 root tbf rate 3mbit burst 20k limit 30k",
        // without htb's count of packets that passed no class
        "(tc qdisc | sort; tc class show dev va) | sed 's/direct_packets_stat [0-9]*//'",
    ),
    Row(
        "the length of a queue, a group, an alias and another name",
        "ip link set va txqueuelen 77; ip link set va alias hello; ip link set va group 5; \
         ip link property add dev va altname altva1",
        "ip link show va",
    ),
    Row(
        "a bridge's options and its port's",
        "ip link set br0 type bridge priority 100 ageing_time 1000 forward_delay 400 mcast_snooping 0 group_fwd_mask 8; \
         ip link set vc type bridge_slave hairpin on cost 7 guard on learning off isolated on",
        "ip -d link show br0 | grep -o 'forward_delay.*vlan_f\\|group_fwd_mask [0-9]* \\|mcast_snooping .'; \
         ip -d link show vc | grep -o 'cost.*learning [a-z]*\\|isolated [a-z]*'",
    ),
    Row(
        "labels of addresses",
        "ip addrlabel add prefix fd00::/8 label 99; ip addrlabel delete prefix 2002::/16 label 2",
        "ip addrlabel",
    ),
    Row(
        "how addresses are made of a device's",
        "ip link set vd addrgenmode none",
        "ip -d link show vd | grep -o 'addrgenmode [a-z]*'",
    ),
    Row(
        "a sysctl of IPv4",
        "echo 55 >/proc/sys/net/ipv4/ip_default_ttl",
        "cat /proc/sys/net/ipv4/ip_default_ttl",
    ),
    Row(
        "a sysctl of all sockets",
        "echo 5000 >/proc/sys/net/core/somaxconn",
        "cat /proc/sys/net/core/somaxconn",
    ),
    Row(
        "sysctls that bound each other",
        "echo 80 >/proc/sys/net/ipv4/ip_unprivileged_port_start; \
         echo 500 600 >/proc/sys/net/ipv4/ip_local_port_range; \
         echo 8080,9000-9010 >/proc/sys/net/ipv4/ip_local_reserved_ports",
        "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ip_local_port_range ip_local_reserved_ports",
    ),
    Row("forwarding", "echo 1 >/proc/sys/net/ipv4/ip_forward", "cat /proc/sys/net/ipv4/ip_forward"),
    Row(
        "a sysctl of a device",
        "echo 1 >/proc/sys/net/ipv4/conf/va/bc_forwarding",
        "cat /proc/sys/net/ipv4/conf/va/bc_forwarding",
    ),
    Row(
        "sysctls of neighbours",
        "echo 99 >/proc/sys/net/ipv4/neigh/va/ucast_solicit; echo 97 >/proc/sys/net/ipv6/neigh/va/ucast_solicit",
        "cat /proc/sys/net/ipv[46]/neigh/va/ucast_solicit",
    ),
    Row(
        "rules for IPv6, of which one of the kernel's is not there",
        "ip -6 rule add from fd00::/8 table 200 pref 100; \
         ip -6 rule add fwmark 0x5/0xff table 200 pref 101 suppress_prefixlength 4; \
         ip -6 rule add not iif va oif vb ipproto tcp dport 80-90 uidrange 5-6 goto 200 pref 102; \
         ip -6 rule add pref 200 blackhole tos 0x10; ip -6 rule delete pref 32766",
        "ip -6 rule",
    ),
    Row(
        "hardware addresses of multicast, of which one is a group's, too",
        "ip maddress add 01:00:5e:00:00:77 dev va; ip maddress add 33:33:00:00:00:01 dev vb",
        "ip maddress show | grep static",
    ),
    Row(
        "the source and a key of segment routing",
        "ip sr tunsrc set fd00::5; printf 'abc\\nabc\\n' | ip sr hmac set 17 sha256 >/dev/null",
        "ip sr tunsrc show; ip sr hmac show",
    ),
    Row(
        "namespaces of IOAM, and a schema",
        "ip ioam namespace add 7 data 9 wide 77; ip ioam namespace add 8; ip ioam schema add 3 hello; \
         ip ioam namespace set 7 schema 3",
        "(ip ioam namespace show; ip ioam schema show) | sort",
    ),
];

#[test]
fn what_criu_leaves_out() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        Program("tc"),
        Program("bridge"),
        NetworkCommand(
            "ip link add name va type veth peer name vb; ip link set va up; ip link set vb up; \
         ip address add 10.9.0.1/24 dev va; ip nexthop add id 5 via 10.9.0.2 dev va; \
         ip -6 rule add from fd00::/8 ipproto tcp dport 80-90 table 200; tc qdisc add dev va root handle 1: htb; \
         tc class add dev va parent 1: classid 1:10 htb rate 10mbit; tc qdisc add dev vb clsact; \
         tc qdisc add dev vb root tbf rate 3mbit burst 20k limit 30k; ip link property add dev va altname a1; \
         ip link add name br0 type bridge; ip link set va master br0; ip link set va type bridge_slave isolated on"
        )
    );
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    inside(&c, DEVICES);
    for Row(_, make, _) in ROWS {
        inside(&c, make);
    }
    let read = || ROWS.iter().map(|Row(name, _, read)| (*name, inside(&c, read))).collect::<Vec<_>>();
    let before = read();
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    for round in 1..=3 {
        sleep_and_wake(&c, &[], &[]);
        for ((name, before), (_, after)) in before.iter().zip(read()) {
            assert_eq!(&after, before, "{name}, round {round}");
        }
    }
    counts_on(&c, 3);
}

#[test]
fn endpoints_and_limits_of_mptcp() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        NetworkCommand("ip link set lo up; ip mptcp endpoint add 127.0.0.1 id 5 signal")
    );
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    inside(
        &c,
        "ip link add name va type veth peer name vb; ip link set va up; ip link set vb up; \
         ip address add 10.9.0.1/24 dev va; ip address add fd00::1/64 dev va nodad; \
         ip mptcp endpoint add 10.9.0.1 dev va id 5 signal port 5000; \
         ip mptcp endpoint add fd00::1 id 9 subflow backup fullmesh; \
         ip mptcp limits set subflow 4 add_addr_accepted 3",
    );
    let read = || inside(&c, "ip mptcp endpoint show; ip mptcp limits");
    let before = read();
    assert_eq!(before.lines().count(), 3, "{before}");
    for round in 1..=2 {
        sleep_and_wake(&c, &[], &[]);
        assert_eq!(read(), before, "round {round}");
    }
    counts_on(&c, 3);
}

#[test]
fn queueing_disciplines_that_this_machine_lacks() {
    const EACH: [&str; 4] = [
        "tc qdisc add dev va root handle 5: fq_codel limit 100 target 7ms interval 90ms flows 64 noecn",
        "tc qdisc add dev va root handle 5: fq limit 500 flow_limit 40 maxrate 5mbit nopacing",
        "tc qdisc add dev va root handle 5: prio bands 4 priomap 1 2 2 2 1 2 0 0 1 1 1 1 1 1 1 3; \
         tc qdisc add dev va parent 5:2 handle 50: pfifo limit 9",
        "tc qdisc add dev va root handle 5: pfifo_fast",
    ];
    require!(UnifiedCgroups, Root, Criu, Program("nsenter"), Program("tc"));
    for make in EACH {
        let c = counter(&Runtime::hiber(), Bundle::busybox());
        inside(&c, "ip link add name va type veth peer name vb; ip link set va up; ip link set vb up");
        inside(&c, make);
        let before = inside(&c, "tc qdisc show dev va");
        for round in 1..=2 {
            sleep_and_wake(&c, &[], &[]);
            assert_eq!(inside(&c, "tc qdisc show dev va"), before, "{make}, round {round}");
        }
        counts_on(&c, 3);
    }
}
