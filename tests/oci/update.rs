//! `update`: limits of a running container.

use std::io::{Read, Write};

use hiber_tests::cgroup::{self, read};
use hiber_tests::command;
use hiber_tests::prelude::*;

fn sleeper(runtime: &Runtime) -> Container {
    let resources = json!({
        "memory": {"limit": 33_554_432, "reservation": 25_165_824},
        "cpu": {"shares": 100, "quota": 500_000, "period": 1_000_000},
        "pids": {"limit": 20},
    });
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| c["linux"]["resources"] = resources);
    let c = runtime.container(bundle);
    c.run_detached().ok();
    c
}

fn quota(c: &Container) -> (String, String) {
    let cg = c.bundle().cgroup();
    if cgroup::mount_of("cpu").is_some_and(|h| h.v2) {
        let max = read("cpu", &cg, "", "cpu.max");
        let (quota, period) = max.split_once(' ').unwrap();
        return (quota.replace("max", "-1"), period.into());
    }
    (read("cpu", &cg, "cpu.cfs_quota_us", ""), read("cpu", &cg, "cpu.cfs_period_us", ""))
}

fn memory(c: &Container) -> String {
    read("memory", &c.bundle().cgroup(), "memory.limit_in_bytes", "memory.max")
}

#[test]
fn flags_change_what_they_name_and_nothing_else() {
    require!(Root, Controller("memory"), Controller("cpu"), Controller("pids"));
    let c = sleeper(&Runtime::hiber());
    let cg = c.bundle().cgroup();
    c.call("update", &["--memory", "50M"]).ok();
    assert_eq!(memory(&c), "52428800");
    assert_eq!(read("memory", &cg, "memory.soft_limit_in_bytes", "memory.low"), "25165824");
    assert_eq!(quota(&c), ("500000".into(), "1000000".into()));
    c.call("update", &["--cpu-period", "900000"]).ok();
    assert_eq!(quota(&c), ("500000".into(), "900000".into()));
    c.call("update", &["--cpu-quota", "600000"]).ok();
    assert_eq!(quota(&c), ("600000".into(), "900000".into()));
    c.call("update", &["--cpu-quota", "-1"]).ok();
    assert_eq!(quota(&c), ("-1".into(), "900000".into()));
    c.call("update", &["--pids-limit", "0"]).ok();
    assert_eq!(read("pids", &cg, "pids.max", "pids.max"), "1");
    c.call("update", &["--pids-limit", "-1", "--memory", "-1"]).ok();
    assert_eq!(read("pids", &cg, "pids.max", "pids.max"), "max");
    assert_ne!(memory(&c), "52428800");
}

#[test]
fn json_comes_from_standard_input_and_from_files() {
    require!(Root, Controller("memory"), Controller("cpuset"));
    let c = sleeper(&Runtime::hiber());
    let update = |json: &[u8]| command::run(c.command("update", &["-r", "-"]), json);
    update(br#"{"memory": {"limit": 67108864}, "cpu": {"cpus": "0"}}"#).ok();
    assert_eq!(memory(&c), "67108864");
    assert_eq!(read("cpuset", &c.bundle().cgroup(), "cpuset.cpus", "cpuset.cpus"), "0");
    let file = c.bundle().join("update.json");
    let mut f = std::fs::File::create(&file).unwrap();
    f.write_all(br#"{"memory": {"limit": 33554432}}"#).unwrap();
    c.call("update", &["--resources", &file.display().to_string(), "--memory", "1G"]).ok();
    assert_eq!(memory(&c), "33554432", "flags beside --resources are ignored");
    update(br#"{"memory": {"limit": "1G"}}"#).fails("linux.resources.memory.limit: invalid type");
    update(b"{").fails("malformed JSON");
}

#[test]
fn a_refused_limit_leaves_everything_as_it_was() {
    require!(Root, Controller("memory"), Controller("cpuset"), Controller("pids"));
    let c = sleeper(&Runtime::hiber());
    let given = ["--memory", "64M", "--pids-limit", "30", "--cpuset-cpus", "4000"];
    c.call("update", &given).fails("linux.resources.cpu.cpus");
    assert_eq!(memory(&c), "33554432");
    assert_eq!(read("pids", &c.bundle().cgroup(), "pids.max", "pids.max"), "20");
    c.call("update", &["--memory", "lots"]).fails("invalid value for memory");
    c.call("update", &["--cpu-idle", "2"]).fails("linux.resources.cpu.idle");
    c.call("update", &["--l3-cache-schema", "L3:0=f"]).fails("Intel RDT");
    assert_eq!(c.status(), "running");
}

#[test]
fn an_idle_container_has_no_shares_and_the_caller_is_told() {
    require!(Root, Controller("cpu"), Linux(5, 15));
    let c = sleeper(&Runtime::hiber());
    let shares = || read("cpu", &c.bundle().cgroup(), "cpu.shares", "cpu.weight");
    let idle = || read("cpu", &c.bundle().cgroup(), "cpu.idle", "cpu.idle");
    let output = c.call("update", &["--cpu-share", "512", "--cpu-idle", "1"]);
    output.ok();
    assert!(output.stderr.contains("linux.resources.cpu.shares is ignored"), "{output}");
    assert_eq!(idle(), "1");
    c.call("update", &["--cpu-share", "1024", "--cpu-idle", "0"]).ok();
    assert_eq!(idle(), "0");
    let weight = if cgroup::mount_of("cpu").is_some_and(|h| h.v2) { "100" } else { "1024" };
    assert_eq!(shares(), weight);
}

#[test]
fn a_paused_container_stays_paused_and_a_stopped_one_is_refused() {
    require!(Root, Controller("memory"), Controller("pids"));
    let c = sleeper(&Runtime::hiber());
    c.call("pause", &[]).ok();
    c.call("update", &["--pids-limit", "30"]).ok();
    assert_eq!(c.status(), "paused");
    c.call("resume", &[]).ok();
    c.kill("KILL").ok();
    c.wait_stopped();
    c.call("update", &["--pids-limit", "30"]).fails("container not running");
}

#[test]
fn devices_are_neither_lost_nor_won_for_a_moment() {
    require!(Root, Controller("pids"));
    let script = "while :; do head -c 100 /dev/kmsg 2>/dev/null; done";
    let bundle = Bundle::busybox().shell(script).edit(|c| {
        let all = json!(["CAP_SYSLOG"]);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        c["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
        c["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "rwa"}
        ]);
    });
    let c = Runtime::hiber().container(bundle);
    let (created, mut streams) = c.with_pipes("create", &[]);
    created.ok();
    c.start().ok();
    for _ in 0..10 {
        c.call("update", &["--pids-limit", "30"]).ok();
    }
    c.kill("KILL").ok();
    let mut said = String::new();
    streams.stdout.read_to_string(&mut said).unwrap();
    streams.stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}
