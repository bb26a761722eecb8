//! Cgroups: limits are written, hold, and go away.

use hiber_tests::cgroup::{self, read};
use hiber_tests::prelude::*;

fn sleeper(resources: Value) -> Container {
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| c["linux"]["resources"] = resources);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    c
}

#[test]
fn every_hierarchy_has_the_container() {
    require!(Root);
    let c = sleeper(json!({}));
    let own = c.bundle().cgroup();
    let all = cgroup::places(c.pid());
    assert!(all.iter().all(|place| *place == own), "{all:?}");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn memory_limit_is_set_and_enforced() {
    require!(Root, Controller("memory"));
    let c = sleeper(json!({"memory": {"limit": 33_554_432, "reservation": 16_777_216}}));
    let cg = c.bundle().cgroup();
    assert_eq!(read("memory", &cg, "memory.limit_in_bytes", "memory.max"), "33554432");
    assert_eq!(read("memory", &cg, "memory.soft_limit_in_bytes", "memory.low"), "16777216");
    // a tmpfs's pages count, and there is no swap to put them
    let output = c.exec(&["dd", "if=/dev/zero", "of=/dev/shm/big", "bs=1M", "count=60"]);
    assert!(!output.status.success(), "{output}");
    assert_eq!(c.status(), "running");
}

#[test]
fn pids_limit_is_set_and_enforced() {
    require!(Root, Controller("pids"));
    let c = sleeper(json!({"pids": {"limit": 8}}));
    assert_eq!(read("pids", &c.bundle().cgroup(), "pids.max", "pids.max"), "8");
    let output =
        c.exec(&["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 >/dev/null 2>&1 & done; wait"]);
    assert!(output.stderr.contains("can't fork"), "{output}");
}

/// Go's reader, and so runc, takes names of members in any case.
#[test]
fn limits_count_whatever_the_case_of_their_names() {
    require!(Root, Controller("pids"), Controller("memory"));
    let c = sleeper(json!({"Pids": {"LIMIT": 8}}));
    let pids = |c: &Container| read("pids", &c.bundle().cgroup(), "pids.max", "pids.max");
    assert_eq!(pids(&c), "8");
    let memory = |c: &Container| read("memory", &c.bundle().cgroup(), "memory.limit_in_bytes", "memory.max");
    let update = c.command("update", &["--resources", "-"]);
    hiber_tests::command::run(update, br#"{"MEMORY": {"Limit": 33554432}, "pids": {"Limit": 9}}"#).ok();
    assert_eq!((memory(&c).as_str(), pids(&c).as_str()), ("33554432", "9"));
    let process = c.bundle().join("process.json");
    let given = json!({"CWD": "/", "ARGS": ["sh", "-c", "id -u; echo $Path"], "User": {"UID": 7, "gid": 8}, "Env": ["Path=1", "PATH=/bin"]});
    std::fs::write(&process, given.to_string()).unwrap();
    assert_eq!(c.call("exec", &["--process", process.to_str().unwrap()]).ok(), "7\n1");
    let c = Runtime::hiber().container(Bundle::busybox().edit(|config| {
        config["linux"]["resources"] = json!({"pids": {"limit": 8}, "PIDS": {"limit": 9}});
    }));
    c.run(&[]).fails("linux.resources: has the member pids also as PIDS");
}

#[test]
fn cpu_weights_and_quotas_are_set() {
    require!(Root, Controller("cpu"));
    let c = sleeper(json!({"cpu": {"shares": 512, "quota": 50_000, "period": 200_000}}));
    let cg = c.bundle().cgroup();
    if cgroup::mount_of("cpu").is_some_and(|h| h.v2) {
        assert_eq!(read("cpu", &cg, "", "cpu.max"), "50000 200000");
    } else {
        assert_eq!(read("cpu", &cg, "cpu.shares", ""), "512");
        assert_eq!(read("cpu", &cg, "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(read("cpu", &cg, "cpu.cfs_period_us", ""), "200000");
    }
}

#[test]
fn cpusets_are_set() {
    require!(Root, Controller("cpuset"));
    let c = sleeper(json!({"cpu": {"cpus": "0", "mems": "0"}}));
    let cg = c.bundle().cgroup();
    assert_eq!(read("cpuset", &cg, "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(read("cpuset", &cg, "cpuset.mems", "cpuset.mems"), "0");
    assert_eq!(c.sh("grep ^Cpus_allowed_list: /proc/1/status"), "Cpus_allowed_list:\t0");
}

#[test]
fn a_limit_that_the_kernel_refuses_is_named_and_undone() {
    require!(Root, Controller("cpuset"));
    let bundle = Bundle::busybox().edit(|c| c["linux"]["resources"] = json!({"cpu": {"cpus": "9999"}}));
    let c = Runtime::hiber().container(bundle);
    c.create(&[]).fails("cpuset.cpus");
    c.assert_clean();
}

#[test]
fn a_path_without_slash_and_none_at_all_are_taken() {
    require!(Root);
    let bundle = Bundle::busybox();
    let relative = format!("{}/c", bundle.name());
    let c = Runtime::hiber().container(bundle.edit(|c| c["linux"]["cgroupsPath"] = json!(relative)));
    c.run(&[]).ok();
    c.assert_clean();
    let bundle = Bundle::busybox().edit(|c| c["linux"]["cgroupsPath"] = Value::Null);
    let c = Runtime::hiber().container(bundle.args(["sleep", "1000"]));
    c.run_detached().ok();
    let all = std::fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    assert!(all.lines().all(|l| l.ends_with(c.id())), "the container's id names its cgroup: {all}");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_path_that_climbs_stays_below_the_hierarchy() {
    require!(Root);
    let bundle = Bundle::busybox();
    let climbing = format!("/../../../{}/c", bundle.name());
    let bundle = bundle.args(["sleep", "1000"]).edit(|c| c["linux"]["cgroupsPath"] = json!(climbing));
    let c = Runtime::hiber().container(bundle);
    let output = c.run_detached();
    if output.status.success() {
        let all = std::fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
        assert!(!all.contains(".."), "{all}");
    }
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn children_cgroups_are_deleted_too() {
    require!(Root, Controller("pids"));
    let c = sleeper(json!({}));
    let hierarchy = cgroup::mount_of("pids").unwrap();
    let child = hierarchy.mount.join(c.bundle().cgroup().trim_start_matches('/')).join("child/grandchild");
    std::fs::create_dir_all(child).unwrap();
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn the_whole_life_on_a_host_with_cgroup_v2_alone() {
    require!(Root);
    let bundle = Bundle::busybox().shell("i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.01; done");
    let c = Runtime::hiber_on_v2().container(bundle);
    c.run_detached().ok();
    let all = std::fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    let unified = format!("0::{}", c.bundle().cgroup());
    assert!(all.lines().any(|l| l == unified), "{all}");
    let count = || std::fs::read_to_string(c.bundle().rootfs().join("count")).unwrap_or_default();
    wait_for("the counter", || !count().is_empty());
    c.call("pause", &[]).ok();
    assert_eq!(c.status(), "paused");
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(count(), before);
    c.call("resume", &[]).ok();
    wait_for("the counter to go on", || count() != before);
    c.exec(&["sh", "-c", "exit 3"]).exited(3);
    assert!(!c.call("ps", &["--format", "json"]).json().as_array().unwrap().is_empty());
    // mknod is a capability away, and the filter says no
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn exec_follows_init_into_a_sub_cgroup() {
    require!(Root, CgroupV2);
    let c = Runtime::hiber_on_v2().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let own = cgroup::hierarchies().into_iter().find(|h| h.v2).unwrap().mount.join(&c.bundle().cgroup()[1..]);
    std::fs::create_dir(own.join("sub")).unwrap();
    std::fs::write(own.join("sub/cgroup.procs"), c.pid().to_string()).unwrap();
    let controllers = std::fs::read_to_string(own.join("cgroup.controllers")).unwrap();
    let controller = controllers.split_whitespace().next().expect("a controller for the container");
    std::fs::write(own.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    assert_eq!(c.sh("grep ^0: /proc/self/cgroup"), "0::/sub");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

/// As a bind of what the host has: mounted anew it would set the whole machine's options back, such as nsdelegate.
#[test]
fn the_hosts_cgroup_namespace_shows_the_whole_hierarchy() {
    require!(Root);
    let options = || -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of_v2 = mounts.lines().filter_map(|line| line.split_once(" - cgroup2 "));
        of_v2.map(|(_, rest)| rest.to_owned()).collect()
    };
    let before = options();
    let bundle = Bundle::busybox().without_namespace("cgroup").args(["sleep", "1000"]);
    let c = Runtime::hiber_on_v2().container(bundle);
    c.run_detached().ok();
    assert_eq!(options(), before);
    let own = c.sh("sed -n 's/^0:://p' /proc/self/cgroup");
    assert_eq!(own, c.bundle().cgroup());
    assert_eq!(c.sh(&format!("grep -c . /sys/fs/cgroup{own}/cgroup.procs")), "2");
    let mount = c.sh("grep ' /sys/fs/cgroup .* cgroup2 ' /proc/self/mountinfo");
    let fields: Vec<&str> = mount.split(' ').collect();
    assert_eq!(fields[3], "/");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(fields[5].split(',').any(|o| o == option), "{mount}");
    }
    c.sh("! mkdir /sys/fs/cgroup/new 2>/dev/null");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_container_that_wants_anothers_cgroup_is_refused_and_does_it_no_harm() {
    require!(Root);
    let c = sleeper(json!({}));
    let taken = c.bundle().cgroup();
    let bundle = Bundle::busybox().edit(|config| config["linux"]["cgroupsPath"] = json!(taken));
    let second = Runtime::hiber().container(bundle);
    second.create(&[]).fails("container's cgroup is not empty");
    second.delete(&["--force"]).ok();
    assert_eq!(c.status(), "running");
}
