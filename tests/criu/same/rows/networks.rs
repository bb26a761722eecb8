//! Networks of one's own: `same/networks.c`. More is in `network_kept.rs`, which is made by iproute2 from outside.
//! runc restores an empty network.

use super::super::row::{Peer, Row, criu, hiber};
use hiber_tests::prelude::*;

pub(in super::super) const ROWS: &[Row] = &[
    hiber("net-core-somaxconn", "/proc/sys"),
    hiber("net-ipv4-ip-default-ttl", "/proc/sys"),
    hiber("net-ipv4-ip-local-port-range", "/proc/sys"),
    hiber("net-ipv4-ip-local-reserved-ports", "/proc/sys"),
    hiber("net-ipv4-ip-unprivileged-port-start", "/proc/sys"),
    hiber("net-ipv4-tcp-syn-retries", "/proc/sys"),
    hiber("net-ipv4-tcp-fin-timeout", "/proc/sys"),
    hiber("net-ipv6-bindv6only", "/proc/sys"),
    hiber("net-ipv4-neigh-ucast-solicit", "/proc/sys"),
    hiber("net-ipv4-conf-bc-forwarding", "/proc/sys"),
    criu("net-ipv4-ip-forward", "/proc/sys").peers(Peer::Lost, Peer::Kept),
    criu("net-ipv4-ping-group-range", "/proc/sys").peers(Peer::Lost, Peer::Kept),
    criu("net-ipv4-conf-rp-filter", "/proc/sys").peers(Peer::Lost, Peer::Kept),
    criu("net-unix-max-dgram-qlen", "/proc/sys").peers(Peer::Lost, Peer::Kept),
    criu("route-of-the-main-table", "ip route").peers(Peer::Lost, Peer::Kept),
    hiber("routes-of-another-table", "ip route show table 100, and of IPv6"),
    criu("rule-for-ipv4", "ip rule").peers(Peer::Lost, Peer::Kept),
    hiber("rule-for-ipv6", "ip -6 rule"),
    criu("device-address-mtu-flags-and-label", "/sys/class/net, ip address").peers(Peer::Lost, Peer::Kept),
    hiber("device-queue-length", "/sys/class/net"),
    hiber("neighbour-that-is-permanent", "/proc/net/arp"),
    hiber("bridge-and-port-options", "/sys/class/net: ageing, priority, cost, hairpin mode").config(|c| {
        let mounts = c["mounts"].as_array_mut().expect("mounts of config.json");
        let sysfs = mounts.iter_mut().filter(|mount| mount["type"] == "sysfs");
        sysfs.for_each(|mount| mount["options"] = json!(["nosuid", "noexec", "nodev"]));
    }),
    hiber("device-macvlan", "/sys/class/net, ip address, of one on a device of the same network")
        .peers(Peer::Lost, Peer::Fails),
];
