//! `events`: statistics and notices of the OOM killer.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use hiber_tests::prelude::*;

fn sleeper(runtime: &Runtime, resources: Value) -> Container {
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| c["linux"]["resources"] = resources);
    let c = runtime.container(bundle);
    c.run_detached().ok();
    c
}

/// A running `events` and its lines.
fn follow(c: &Container, flags: &[&str]) -> (Child, impl Iterator<Item = Value>) {
    let mut child = c.command("events", flags).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines.map(|l| serde_json::from_str(&l.unwrap()).unwrap()))
}

#[test]
fn statistics_tell_what_the_container_uses() {
    require!(Root, Controller("memory"), Controller("pids"));
    let limits = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}});
    let c = sleeper(&Runtime::hiber(), limits);
    c.sh("dd if=/dev/zero of=/dev/shm/x bs=1M count=5 2>/dev/null; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    let event = c.call("events", &["--stats"]).json();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(c.id())));
    let data = &event["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 67_108_864);
    let used = data["memory"]["usage"]["usage"].as_u64().unwrap();
    assert!((5 << 20..60 << 20).contains(&used), "{used}");
    assert!(data["memory"]["raw"].as_object().unwrap().len() > 5, "{data}");
    assert_eq!(data["pids"], json!({"current": 1, "limit": 20}));
    let total = data["cpu"]["usage"]["total"].as_u64().unwrap();
    assert!((1_000_000..60_000_000_000).contains(&total), "{total} ns");
    assert!(data["hugetlb"].is_object() && data["intel_rdt"].is_object(), "{data}");
}

#[test]
fn members_are_in_the_order_that_runc_has() {
    require!(Root, Controller("memory"));
    let c = sleeper(&Runtime::hiber(), json!({}));
    let line = c.call("events", &["--stats"]).ok().to_owned();
    let id = c.id();
    assert!(
        line.starts_with(&format!(r#"{{"type":"stats","id":"{id}","data":{{"cpu":{{"usage":{{"total":"#)),
        "{line}"
    );
    let members = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"];
    let at =
        members.map(|name| line.find(&format!(r#""{name}":{{"#)).or(line.find(&format!(r#""{name}":null"#))));
    assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{line}");
}

#[test]
fn the_same_on_a_host_with_cgroup_v2_alone() {
    require!(Root);
    let c = sleeper(&Runtime::hiber_on_v2(), json!({}));
    c.sh("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    let data = c.call("events", &["--stats"]).json()["data"].clone();
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 1_000_000, "{data}");
    assert!(data["cpu"]["usage"]["user"].as_u64().unwrap() > 0, "{data}");
}

#[test]
fn lines_come_each_interval_until_the_container_ends() {
    require!(Root);
    let c = sleeper(&Runtime::hiber(), json!({}));
    let (mut child, mut lines) = follow(&c, &["--interval", "50ms"]);
    for _ in 0..3 {
        assert_eq!(lines.next().unwrap()["type"], "stats");
    }
    c.delete(&["--force"]).ok();
    assert!(child.wait().unwrap().success());
    assert!(lines.all(|l| l["type"] != "oom"), "the end of the cgroup is no OOM");
    c.call("events", &["--stats"]).fails("does not exist");
}

#[test]
fn running_out_of_memory_is_told_at_once() {
    require!(Root, Controller("memory"));
    let c = sleeper(&Runtime::hiber(), json!({"memory": {"limit": 33_554_432}}));
    let (mut child, mut lines) = follow(&c, &["--interval", "100ms"]);
    lines.next().unwrap();
    // tail holds its input in memory until the end
    let output = c.exec(&["sh", "-c", "tail -c 209715200 /dev/zero"]);
    assert!(!output.status.success(), "{output}");
    let event = lines.by_ref().take(100).find(|l| l["type"] == "oom").expect("an OOM event within 10 s");
    assert_eq!(event["id"], c.id());
    c.kill("KILL").ok();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_stopped_container_and_a_wrong_interval_are_refused() {
    require!(Root);
    let c = sleeper(&Runtime::hiber(), json!({}));
    c.call("events", &["--interval", "0s"]).fails("duration interval must be greater than 0");
    c.call("events", &["--interval", "soon"]).fails("invalid value");
    c.kill("KILL").ok();
    c.wait_stopped();
    c.call("events", &["--stats"]).fails("is not running");
}
