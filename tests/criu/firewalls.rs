//! Firewalls of nftables come back as they were: sets, counters, named objects, and rules of iptables-nft with extensions, which the
//! text that CRIU saves cannot say.

use crate::failures::preflight;
use crate::network_devices::inside;
use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;

/// A firewall's name, how it is made, and how it is read.
struct Row(&'static str, &'static str, &'static str);

const RULES: &str = "iptables-nft-save -c; ip6tables-nft-save -c";

const ROWS: &[Row] = &[
    Row(
        "comments, which are an extension, and counters",
        "iptables-nft -A INPUT -p tcp --dport 22 -m comment --comment 'a door' -c 7 700 -j ACCEPT; \
         iptables-nft -P FORWARD DROP",
        RULES,
    ),
    Row(
        "matches of one protocol, and of all but one",
        "iptables-nft -A INPUT -p tcp -m multiport --dports 1,2 -j ACCEPT; \
         iptables-nft -A INPUT -p tcp -m tcpmss --mss 1:500 -j DROP || true; \
         iptables-nft -A INPUT ! -p udp -m comment --comment x -j ACCEPT; \
         ip6tables-nft -A INPUT -p tcp -m multiport --dports 1,2 -j ACCEPT",
        RULES,
    ),
    Row(
        "targets of extensions, and chains of one's own",
        "iptables-nft -N OWN; iptables-nft -A OWN -j LOG --log-prefix 'x '; iptables-nft -A INPUT -i lo -j OWN; \
         iptables-nft -A OWN -p tcp -j REJECT --reject-with tcp-reset",
        RULES,
    ),
    Row(
        "the rules of a container engine in a container",
        "iptables-nft -t nat -N DOCKER; iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; \
         iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE; \
         iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80; \
         iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        RULES,
    ),
    Row(
        "extensions beside sets, maps and named objects",
        "iptables-nft -A INPUT -m comment --comment x -j ACCEPT; nft add table inet t; \
         nft add counter inet t hits '{ packets 7 bytes 777; }'; nft add quota inet t q '{ over 100 mbytes used 3 mbytes; }'; \
         nft add chain inet t c '{ type filter hook input priority 5; policy accept; }'; nft add chain inet t d; \
         nft add set inet t plain '{ type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }'; \
         nft add set inet t iv '{ type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 10.3.0.0-10.3.0.9, 10.7.0.0/24 }; }'; \
         nft add map inet t v '{ type inet_service : verdict; elements = { 22 : accept, 80 : jump d }; }'; \
         nft add map inet t o '{ type ipv4_addr : counter; elements = { 10.0.0.5 : hits }; }'; \
         nft add rule inet t c tcp dport vmap @v; nft add rule inet t c counter name hits; nft add rule inet t c ip saddr @iv drop; \
         nft add rule inet t c tcp dport '{ 5, 6, 7 }' counter packets 5 bytes 55 accept comment '\"a rule\"'; \
         nft add rule inet t d quota name q",
        "nft list ruleset; iptables-nft-save -c",
    ),
];

/// Without the dates of a listing.
#[track_caller]
fn rules(c: &Container, show: &str) -> String {
    let all = inside(c, show);
    all.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

#[test]
fn with_extensions_of_iptables() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        Program("nft"),
        Program("iptables-nft-save"),
        NetworkCommand(
            "iptables-nft -A INPUT -p tcp -m multiport --dports 1,2 -m comment --comment x -j LOG"
        )
    );
    for Row(name, make, show) in ROWS {
        let c = counter(&Runtime::hiber(), Bundle::busybox());
        inside(&c, make);
        let before = rules(&c, show);
        assert_eq!(preflight(&c, &[])["possible"], json!(true), "{name}");
        for round in 1..=2 {
            sleep_and_wake(&c, &[], &[]);
            assert_eq!(rules(&c, show), before, "{name}, round {round}");
        }
        counts_on(&c, 3);
        c.delete(&["--force"]).ok();
    }
}

/// A program's own namespace has such rules, too.
#[test]
fn in_a_namespace_inside() {
    require!(
        Root,
        Criu,
        Program("nsenter"),
        Program("iptables-nft-save"),
        NetworkCommand("iptables-nft -A INPUT -m comment --comment x -j ACCEPT")
    );
    let script = format!("unshare -n sleep 1000 & {}", crate::COUNT);
    let all = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    let bundle = Bundle::busybox().shell(&script).edit(|c| {
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || crate::count(&c) >= 3);
    let make = "iptables-nft -A INPUT -m comment --comment";
    crate::network_devices::in_child(&c, &format!("{make} inner -j ACCEPT"));
    inside(&c, &format!("{make} outer -j ACCEPT"));
    for _ in 0..2 {
        sleep_and_wake(&c, &[], &[]);
        let inner = crate::network_devices::in_child(&c, "iptables-nft-save");
        let outer = inside(&c, "iptables-nft-save");
        assert!(inner.contains("inner") && !inner.contains("outer"), "{inner}");
        assert!(outer.contains("outer") && !outer.contains("inner"), "{outer}");
        counts_on(&c, 3);
    }
}
