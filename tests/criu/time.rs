//! Clocks of time namespaces go on after a restore.

use std::fs;

use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;

#[test]
fn the_clocks_of_a_time_namespace_go_on() {
    require!(Root, Criu, TimeNamespaces);
    let bundle = Bundle::busybox().namespace("time", None).edit(|c| {
        c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 500_000}});
    });
    let c = counter(&Runtime::hiber(), bundle);
    let namespace = || fs::read_link(format!("/proc/{}/ns/time", c.pid())).unwrap();
    let uptime = || c.sh("cut -d' ' -f1 /proc/uptime").parse::<f64>().unwrap();
    let before = uptime();
    assert!(before > 1_000_000.0, "{before}");
    sleep_and_wake(&c, &[], &[]);
    let after = uptime();
    assert!((before..before + 60.0).contains(&after), "{before}, then {after}");
    assert_ne!(namespace(), fs::read_link("/proc/self/ns/time").unwrap(), "it has one of its own again");
    counts_on(&c, 3);
}
