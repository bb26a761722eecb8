//! The systemd cgroup manager: scopes, slices, properties.

use std::path::PathBuf;
use std::process::Command;

use hiber_tests::cgroup::{hierarchies, places};
use hiber_tests::command;
use hiber_tests::prelude::*;

/// A property of a unit, as systemd tells it.
#[track_caller]
fn property(unit: &str, name: &str) -> String {
    let mut show = Command::new("systemctl");
    show.args(["show", "--value", "--property", name, unit]);
    command::run(show, b"").ok().to_owned()
}

#[track_caller]
fn systemctl(args: &[&str]) {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(args);
    command::run(systemctl, b"").ok();
}

/// A bundle for the scope `t-NAME.scope` in `slice`.
fn in_slice(slice: &str) -> Bundle {
    let bundle = Bundle::busybox().args(["sleep", "1000"]);
    let path = format!("{slice}:t:{}", bundle.name());
    bundle.edit(|c| c["linux"]["cgroupsPath"] = json!(path))
}

fn scope(c: &Container) -> String {
    format!("t-{}.scope", c.id())
}

#[track_caller]
fn running(bundle: Bundle) -> Container {
    let c = Runtime::hiber_with_systemd().container(bundle);
    c.run_detached().ok();
    c
}

/// The scope's directories, in every hierarchy.
fn directories(slice: &str, scope: &str) -> Vec<PathBuf> {
    let all = hierarchies().into_iter().map(|h| h.mount.join(slice).join(scope));
    all.filter(|directory| directory.exists()).collect()
}

/// Checks that neither systemd nor the kernel knows the scope any more.
#[track_caller]
fn assert_gone(c: &Container, slice: &str, scope: &str) {
    wait_for("the unit to go", || property(scope, "LoadState") == "not-found");
    assert_eq!(directories(slice, scope), Vec::<PathBuf>::new());
    c.assert_clean();
}

/// A file of the scope, by its names on v1 and v2.
#[track_caller]
fn read(controller: &str, slice: &str, scope: &str, v1: &str, v2: &str) -> String {
    hiber_tests::cgroup::read(controller, &format!("{slice}/{scope}"), v1, v2)
}

#[test]
fn a_scope_in_the_slice_that_is_asked_for() {
    require!(Root, Systemd);
    let c = running(in_slice("system.slice"));
    let scope = scope(&c);
    assert_eq!(property(&scope, "ActiveState"), "active");
    assert_eq!(property(&scope, "Slice"), "system.slice");
    assert_eq!(property(&scope, "Delegate"), "yes");
    assert_eq!(property(&scope, "Description"), format!("hiber container {}", c.id()));
    let all = places(c.pid());
    assert!(all.iter().all(|place| *place == format!("/system.slice/{scope}")), "{all:?}");
    assert!(c.sh("cat /proc/self/cgroup").lines().all(|l| l.ends_with(":/")), "exec is in the scope, too");
    c.call("pause", &[]).ok();
    assert_eq!(c.status(), "paused");
    c.call("resume", &[]).ok();
    c.delete(&["--force"]).ok();
    assert_gone(&c, "system.slice", &scope);
}

#[test]
fn without_a_path_the_id_names_the_scope() {
    require!(Root, Systemd);
    let c = running(in_slice("").edit(|c| c["linux"]["cgroupsPath"] = json!("")));
    let scope = format!("hiber-{}.scope", c.id());
    assert_eq!(property(&scope, "Slice"), "system.slice");
    c.delete(&["--force"]).ok();
    assert_gone(&c, "system.slice", &scope);
}

#[test]
fn nested_slices() {
    require!(Root, Systemd);
    let c = running(in_slice("hibertest-a-b.slice"));
    let slice = "hibertest.slice/hibertest-a.slice/hibertest-a-b.slice";
    let all = places(c.pid());
    assert!(all.iter().all(|place| *place == format!("/{slice}/{}", scope(&c))), "{all:?}");
    c.delete(&["--force"]).ok();
    assert_gone(&c, slice, &scope(&c));
    systemctl(&["stop", "hibertest.slice"]);
}

#[test]
fn limits_are_systemd_s_and_the_kernel_s() {
    require!(
        Root,
        Systemd,
        Controller("memory"),
        Controller("pids"),
        Controller("cpu"),
        Controller("cpuset")
    );
    let c = running(in_slice("system.slice").edit(|c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
        c["linux"]["resources"]["pids"] = json!({"limit": 50});
        c["linux"]["resources"]["cpu"] =
            json!({"shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0"});
    }));
    let scope = scope(&c);
    let read = |controller, v1, v2| read(controller, "system.slice", &scope, v1, v2);
    let v2 = |controller| hiber_tests::cgroup::mount_of(controller).is_some_and(|h| h.v2);
    let memory = if v2("memory") { "MemoryMax" } else { "MemoryLimit" };
    assert_eq!(property(&scope, memory), "67108864");
    assert_eq!(property(&scope, "TasksMax"), "50");
    assert_eq!(property(&scope, "CPUQuotaPerSecUSec"), "250ms");
    assert_eq!(property(&scope, "CPUQuotaPeriodUSec"), "200ms");
    if v2("cpu") {
        assert_eq!(property(&scope, "AllowedCPUs"), "0");
        assert_eq!(read("cpu", "", "cpu.max"), "50000 200000");
        assert_eq!(property(&scope, "CPUWeight"), read("cpu", "", "cpu.weight"));
    } else {
        assert_eq!(property(&scope, "CPUShares"), "512");
        assert_eq!(read("cpu", "cpu.cfs_quota_us", ""), "50000");
    }
    assert_eq!(read("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    c.call("update", &["--memory", "100M", "--pids-limit", "60"]).ok();
    assert_eq!((property(&scope, memory), property(&scope, "TasksMax")), ("104857600".into(), "60".into()));
    // The quota stays, in another period.
    c.call("update", &["--cpu-period", "100000"]).ok();
    assert_eq!(property(&scope, "CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(property(&scope, "CPUQuotaPeriodUSec"), "100ms");
    // what systemd does not know would be lost here
    systemctl(&["daemon-reload"]);
    if v2("cpu") {
        assert_eq!(read("cpu", "", "cpu.max"), "50000 100000");
    } else {
        assert_eq!(read("cpu", "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(read("cpu", "cpu.cfs_period_us", ""), "100000");
    }
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), "104857600");
    assert_eq!(read("pids", "pids.max", "pids.max"), "60");
}

/// systemd shows the period and sets its own 100 ms wherever there is no quota (`cgroup_cpu_adjust_period`, v252): the
/// period counts from the next quota on.
#[test]
fn a_period_without_a_quota_counts_with_the_next_quota() {
    require!(Root, Systemd, Controller("cpu"));
    let c = running(in_slice("system.slice"));
    let scope = scope(&c);
    let in_force = || {
        let read = |v1, v2| read("cpu", "system.slice", &scope, v1, v2);
        match hiber_tests::cgroup::mount_of("cpu").is_some_and(|h| h.v2) {
            true => read("", "cpu.max"),
            false => {
                let quota = read("cpu.cfs_quota_us", "").replace("-1", "max");
                format!("{quota} {}", read("cpu.cfs_period_us", ""))
            }
        }
    };
    c.call("update", &["--cpu-period", "50000"]).ok();
    assert_eq!(property(&scope, "CPUQuotaPerSecUSec"), "infinity");
    assert_eq!(property(&scope, "CPUQuotaPeriodUSec"), "50ms");
    assert_eq!(in_force(), "max 50000");
    systemctl(&["daemon-reload"]);
    assert_eq!(in_force(), "max 100000");
    c.call("update", &["--cpu-quota", "25000"]).ok();
    for when in ["after the quota", "after a reload"] {
        assert_eq!(property(&scope, "CPUQuotaPerSecUSec"), "500ms", "{when}");
        assert_eq!(in_force(), "25000 50000", "{when}");
        systemctl(&["daemon-reload"]);
    }
}

#[test]
fn device_rules_outlive_a_reload_of_systemd() {
    require!(Root, Systemd);
    let bundle = in_slice("system.slice").edit(|c| {
        c["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    });
    let c = running(bundle);
    assert_eq!(property(&scope(&c), "DevicePolicy"), "strict");
    for reload in [false, true] {
        if reload {
            systemctl(&["daemon-reload"]);
        }
        c.sh("head -c 1 /dev/zero >/dev/null && : >/dev/ptmx");
        c.exec(&["head", "-c", "1", "/dev/kmsg"]).fails("Operation not permitted");
    }
}

#[test]
fn a_scope_ends_with_its_container() {
    require!(Root, Systemd);
    let c = Runtime::hiber_with_systemd().container(in_slice("system.slice").shell("exit 3"));
    c.run(&[]).exited(3);
    assert_gone(&c, "system.slice", &scope(&c));
    // and the name can be had again
    c.run(&["--keep"]).exited(3);
    assert_eq!(c.status(), "stopped");
    c.delete(&[]).ok();
    assert_gone(&c, "system.slice", &scope(&c));
}

#[test]
fn annotations_become_properties() {
    require!(Root, Systemd);
    let with = |name: &str, value: &str| {
        let key = format!("org.systemd.property.{name}");
        in_slice("system.slice").edit(|c| c["annotations"] = json!({key: value}))
    };
    let c = running(with("TimeoutStopSec", "uint64 77"));
    assert_eq!(property(&scope(&c), "TimeoutStopUSec"), "1min 17s");
    let c = Runtime::hiber_with_systemd().container(with("Descr", "'x'"));
    c.create(&[]).fails(&format!("systemd: unit {}: ", scope(&c))).fails("Descr");
    assert_gone(&c, "system.slice", &scope(&c));
    let c = Runtime::hiber_with_systemd().container(with("Description", "[1"));
    c.create(&[]).fails("annotations.org.systemd.property.Description: ").fails("in an array");
    c.assert_clean();
}

#[test]
fn a_limit_that_only_the_kernel_refuses_leaves_no_scope() {
    require!(Root, Systemd, Controller("cpuset"));
    let bundle = in_slice("system.slice").edit(|c| c["linux"]["resources"]["cpu"] = json!({"mems": "63"}));
    let c = Runtime::hiber_with_systemd().container(bundle);
    c.create(&[]).fails("cpuset.mems");
    assert_gone(&c, "system.slice", &scope(&c));
}

#[test]
fn a_name_that_is_taken_stays_with_its_owner() {
    require!(Root, Systemd, Program("systemd-run"));
    let c = Runtime::hiber_with_systemd().container(in_slice("system.slice"));
    let scope = scope(&c);
    let unit = format!("--unit={scope}");
    let mut other = Command::new("systemd-run");
    other.args(["--quiet", "--scope", "--slice=hibertest.slice", &unit, "sleep", "1000"]);
    let mut other = other.spawn().unwrap();
    wait_for("the other scope", || property(&scope, "ActiveState") == "active");
    let refused = c.create(&[]);
    c.delete(&["--force"]);
    let alive = property(&scope, "ActiveState");
    systemctl(&["stop", &scope]);
    other.wait().unwrap();
    refused.fails(&format!("systemd: unit {scope}: ")).fails("already");
    assert_eq!(alive, "active");
    c.assert_clean();
}

#[test]
fn failures_leave_nothing() {
    require!(Root, Systemd);
    let c = Runtime::hiber_with_systemd().container(in_slice("system.slice").args(["/no/such/program"]));
    c.run(&[]).fails("no such file or directory");
    assert_gone(&c, "system.slice", &scope(&c));
    for (path, words) in [
        ("/a/b", "for systemd cgroups, got"),
        ("a:b:c", "has an invalid slice name: a"),
        ("a.slice:b:c/d", "b-c/d.scope"),
    ] {
        let bundle = Bundle::busybox().edit(|c| c["linux"]["cgroupsPath"] = json!(path));
        let c = Runtime::hiber_with_systemd().container(bundle);
        c.create(&[]).fails("linux.cgroupsPath: ").fails(words);
        c.assert_clean();
    }
}

/// Runs `create` in a mount namespace of its own, after `change` there.
#[track_caller]
fn create_where(change: &str, c: &Container) -> command::Output {
    let log = c.bundle().join("log");
    let create = c.command("create", &["--bundle", &c.bundle_path()]);
    let script = format!("{change}; exec \"$@\" </dev/null >/dev/null 2>\"$0\"");
    let mut changed = Command::new("unshare");
    changed.args(["--mount", "sh", "-euc", &script]).arg(&log);
    changed.arg(create.get_program()).args(create.get_args());
    command::run_detached(changed, &log)
}

#[test]
fn the_message_bus_does_where_systemd_s_own_socket_cannot_be_had() {
    require!(Root, Systemd);
    let c = Runtime::hiber_with_systemd().container(in_slice("system.slice"));
    create_where("mount --bind /dev/null /run/systemd/private", &c).ok();
    assert_eq!(property(&scope(&c), "ActiveState"), "active");
    c.start().ok();
    c.delete(&["--force"]).ok();
    assert_gone(&c, "system.slice", &scope(&c));
    let both =
        "for socket in systemd/private dbus/system_bus_socket; do mount --bind /dev/null /run/$socket; done";
    create_where(both, &c).fails("no connection to systemd").fails("/run/dbus/system_bus_socket");
    c.assert_clean();
}

#[test]
fn where_systemd_does_not_run_that_is_said() {
    require!(Root);
    let c = Runtime::hiber_with_systemd().container(in_slice("system.slice"));
    let output = create_where("[ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd", &c);
    output.fails("--systemd-cgroup: not supported: systemd does not run here");
    c.assert_clean();
}
