//! Abilities of cgroup v2 alone, and limits that must be felt.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use hiber_tests::cgroup::{mount_of, read};
use hiber_tests::command;
use hiber_tests::prelude::*;

fn sleeper(resources: Value) -> Container {
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| c["linux"]["resources"] = resources);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    c
}

#[test]
fn a_process_over_its_memory_limit_is_killed_and_state_says_so() {
    require!(Root, Controller("memory"));
    let c = sleeper(json!({"memory": {"limit": 33_554_432, "swap": 33_554_432}}));
    assert!(c.state()["oomKilled"].is_null(), "nobody was killed yet");
    c.exec(&["dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1"]).exited(137);
    assert_eq!((c.status().as_str(), &c.state()["oomKilled"]), ("running", &json!(true)));
    // a container that dies of it says so when it is gone
    let script = "exec dd if=/dev/zero of=/dev/null bs=60M count=1";
    let bundle = Bundle::busybox().shell(script);
    let bundle = bundle.edit(|c| c["linux"]["resources"] = json!({"memory": {"limit": 33_554_432}}));
    let dying = Runtime::hiber().container(bundle);
    dying.run(&["--keep"]).exited(137);
    assert_eq!((dying.status().as_str(), &dying.state()["oomKilled"]), ("stopped", &json!(true)));
    let killed = Runtime::hiber().container(Bundle::busybox().shell("kill -9 $$"));
    killed.run(&["--keep"]);
    assert!(killed.state()["oomKilled"].is_null(), "that was no lack of memory");
}

#[test]
fn a_quota_slows_a_busy_loop() {
    require!(Root, Controller("cpu"));
    let c = sleeper(json!({"cpu": {"quota": 10_000, "period": 100_000}}));
    let throttled = || {
        let stat = read("cpu", &c.bundle().cgroup(), "cpu.stat", "cpu.stat");
        let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|n| n.parse::<u64>().ok()).unwrap_or_else(|| panic!("no nr_throttled in {stat}"))
    };
    let before = throttled();
    c.exec(&["timeout", "1", "sh", "-c", "while :; do :; done"]);
    assert!(throttled() >= before + 3, "{before}, then {}", throttled());
}

#[test]
fn io_limits_slow_a_writer() {
    require!(Root, UnifiedCgroups, Controller("io"));
    let bundle = Bundle::busybox().args(["sleep", "1000"]);
    let device = rustix::fs::stat(bundle.path()).unwrap().st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let io = json!({"throttleWriteBpsDevice": [{"major": major, "minor": minor, "rate": 1_048_576}]});
    let bundle = bundle.edit(|c| c["linux"]["resources"]["blockIO"] = io);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let max = read("io", &c.bundle().cgroup(), "", "io.max");
    assert_eq!(max, format!("{major}:{minor} rbps=max wbps=1048576 riops=max wiops=max"));
    let began = Instant::now();
    c.exec(&["dd", "if=/dev/zero", "of=/file", "bs=1M", "count=3", "oflag=direct"]).ok();
    assert!(began.elapsed() > Duration::from_millis(1800), "3 MiB at 1 MiB/s in {:?}", began.elapsed());
}

/// Runs the runtime's command under strace, and returns the lines with `call`s.
#[track_caller]
fn traced(c: &Container, call: &str, name: &str, flags: &[&str]) -> String {
    let log = c.bundle().join("strace.log");
    let command = c.command(name, flags);
    let mut strace = Command::new("strace");
    strace.args(["--trace", call, "--output"]).arg(&log);
    strace.arg(command.get_program()).args(command.get_args());
    strace.stdin(std::process::Stdio::null());
    command::run_detached(strace, &c.bundle().join("no-log")).ok();
    fs::read_to_string(log).unwrap()
}

#[test]
fn processes_are_born_in_their_cgroup_and_die_with_it() {
    require!(Root, UnifiedCgroups, Program("strace"));
    let bundle = Bundle::busybox().shell("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait");
    let c = Runtime::hiber().container(bundle.without_namespace("pid"));
    let calls = traced(&c, "clone3", "create", &["--bundle", &c.bundle_path()]);
    assert!(calls.contains("CLONE_INTO_CGROUP"), "{calls}");
    c.start().ok();
    let procs = || read("pids", &c.bundle().cgroup(), "", "cgroup.procs").lines().count();
    wait_for("all processes", || procs() == 9);
    let calls = traced(&c, "openat", "delete", &["--force"]);
    assert!(calls.contains("cgroup.kill"), "{calls}");
    c.assert_clean();
}

#[test]
fn devices_are_kept_by_a_program_of_the_cgroup() {
    require!(Root, UnifiedCgroups);
    let rules = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
    ]});
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| {
        c["linux"]["resources"] = rules;
        let all = json!(["CAP_MKNOD", "CAP_SYSLOG"]);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        c["linux"]["devices"] = json!([
            {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11},
            {"path": "/dev/mem", "type": "c", "major": 1, "minor": 1},
        ]);
    });
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    assert!(mount_of("devices").is_none(), "there is no controller that could");
    c.sh("dd if=/dev/kmsg of=/dev/null bs=8k count=1 iflag=nonblock 2>/dev/null; : </dev/kmsg");
    c.exec(&["sh", "-c", ": >/dev/kmsg"]).fails("Operation not permitted");
    c.exec(&["sh", "-c", ": </dev/mem"]).fails("Operation not permitted");
}
