//! Limits: written, read back, felt.

use std::path::Path;

use hiber_sandbox::cgroup::{Cgroup, Kind, Limits, OnDenied};

use crate::host::*;

#[test]
fn memory_v1() {
    let Some(layout) = v1_layout("memory") else { return };
    let json = r#"{"memory":{"limit":67108864,"swap":134217728,"reservation":33554432,"swappiness":7}}"#;
    let s = create(&layout, json);
    assert_eq!(s.file("memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(s.file("memory", "memory.memsw.limit_in_bytes"), "134217728");
    assert_eq!(s.file("memory", "memory.soft_limit_in_bytes"), "33554432");
    assert_eq!(s.file("memory", "memory.swappiness"), "7");
    assert_eq!(s.cgroup.stats().unwrap().memory_limit, Some(67_108_864));
    assert_eq!(s.cgroup.oom_count().unwrap(), Some(0));
    // Up and down: each needs the other order of limit and memsw.
    for mb in [200u64, 20, 100] {
        let bytes = mb << 20;
        let json = format!(r#"{{"memory":{{"limit":{bytes},"swap":{bytes}}}}}"#);
        s.cgroup.apply(&limits(&layout, &json)).unwrap();
        assert_eq!(s.file("memory", "memory.limit_in_bytes"), bytes.to_string());
        assert_eq!(s.file("memory", "memory.memsw.limit_in_bytes"), bytes.to_string());
    }
    s.cgroup.apply(&limits(&layout, r#"{"memory":{"limit":-1}}"#)).unwrap();
    assert_eq!(s.cgroup.stats().unwrap().memory_limit, None);
    s.cgroup.apply(&limits(&layout, r#"{"memory":{"disableOOMKiller":true}}"#)).unwrap();
    assert!(s.file("memory", "memory.oom_control").starts_with("oom_kill_disable 1"));
}

#[test]
fn memory_in_use_v1() {
    let Some(layout) = v1_layout("memory") else { return };
    let mut s = create(&layout, "{}");
    // Swap off for this cgroup, so that the kernel cannot make room by swapping.
    s.cgroup.apply(&limits(&layout, r#"{"memory":{"swappiness":0}}"#)).unwrap();
    let child = s.shell("x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ready; read forever; sleep 1000");
    assert_eq!(first_line(child), "ready");
    assert!(s.cgroup.stats().unwrap().memory.unwrap() > 10_000_000);
    let error = s.cgroup.apply(&limits(&layout, r#"{"memory":{"limit":4096}}"#)).unwrap_err().to_string();
    let start = "linux.resources.memory.limit: unable to set memory limit to 4096 (current usage: ";
    assert!(error.starts_with(start) && error.contains(", peak usage: "), "{error}");
}

#[test]
fn a_process_over_its_limit_is_killed_and_counted_v1() {
    let Some(layout) = v1_layout("memory") else { return };
    let mut s = create(&layout, r#"{"memory":{"limit":8388608,"swap":8388608}}"#);
    let output = s.output("exec head -c 100000000 /dev/zero | tail -c 100000000 >/dev/null");
    assert!(!output.status.success() || s.cgroup.oom_count().unwrap() > Some(0));
    assert!(s.cgroup.oom_count().unwrap() > Some(0));
}

#[test]
fn cpu_v1() {
    let Some(layout) = v1_layout("cpu") else { return };
    let s = create(&layout, r#"{"cpu":{"shares":512,"quota":100000,"period":200000,"burst":1000}}"#);
    assert_eq!(s.file("cpu", "cpu.shares"), "512");
    assert_eq!(s.file("cpu", "cpu.cfs_quota_us"), "100000");
    assert_eq!(s.file("cpu", "cpu.cfs_period_us"), "200000");
    assert_eq!(s.file("cpu", "cpu.cfs_burst_us"), "1000");
    s.cgroup.apply(&limits(&layout, r#"{"cpu":{"idle":1}}"#)).unwrap();
    assert_eq!(s.file("cpu", "cpu.idle"), "1");
    // Shares are refused while it is idle, and taken after.
    s.cgroup.apply(&limits(&layout, r#"{"cpu":{"shares":77,"idle":0}}"#)).unwrap();
    assert_eq!(s.file("cpu", "cpu.shares"), "77");
    // A parent's bandwidth bounds the child's: the smaller period is refused before the quota.
    let path = Path::new("/").join(s.cgroup.paths().v1["cpu"].file_name().unwrap()).join("child");
    let child = create_at(&layout, &path, &limits(&layout, r#"{"cpu":{"quota":400000,"period":1000000}}"#));
    child.cgroup.apply(&limits(&layout, r#"{"cpu":{"quota":2000,"period":10000}}"#)).unwrap();
    assert_eq!(child.file("cpu", "cpu.cfs_period_us"), "10000");
    let error = child.cgroup.apply(&limits(&layout, r#"{"cpu":{"quota":9000}}"#)).unwrap_err();
    assert_eq!(error.to_string(), "linux.resources.cpu.quota");
    drop(child);
}

#[test]
fn pids_v1() {
    let Some(layout) = v1_layout("pids") else { return };
    let mut s = create(&layout, r#"{"pids":{"limit":1}}"#);
    assert_eq!(s.file("pids", "pids.max"), "1");
    assert_eq!(s.cgroup.stats().unwrap().pids_limit, Some(1));
    assert!(!s.output("/bin/true; echo").status.success(), "a fork is refused");
    s.cgroup.apply(&limits(&layout, r#"{"pids":{"limit":-1}}"#)).unwrap();
    assert_eq!(s.file("pids", "pids.max"), "max");
    assert_eq!(s.cgroup.stats().unwrap().pids_limit, None);
    assert!(s.output("/bin/true; echo").status.success());
}

#[test]
fn block_io_v1() {
    let Some(layout) = v1_layout("blkio") else { return };
    let disk = std::fs::read_dir("/sys/block").unwrap().find_map(|entry| {
        let number = std::fs::read_to_string(entry.ok()?.path().join("dev")).ok()?;
        number.trim().split_once(':').map(|(a, i)| (a.to_owned(), i.to_owned()))
    });
    let Some((major, minor)) = disk.or_else(|| skip("a block device")) else { return };
    let device = |n| format!(r#"[{{"major":{major},"minor":{minor},"rate":{n}}}]"#);
    let json = format!(
        r#"{{"blockIO":{{"throttleReadBpsDevice":{},"throttleWriteBpsDevice":{},
            "throttleReadIOPSDevice":{},"throttleWriteIOPSDevice":{}}}}}"#,
        device(1001),
        device(1002),
        device(1003),
        device(1004)
    );
    let s = create(&layout, &json);
    for (file, n) in [("read_bps", 1001), ("write_bps", 1002), ("read_iops", 1003), ("write_iops", 1004)] {
        let text = s.file("blkio", &format!("blkio.throttle.{file}_device"));
        assert_eq!(text, format!("{major}:{minor} {n}"));
    }
    let dir = &s.cgroup.paths().v1["blkio"];
    for file in ["blkio.weight", "blkio.bfq.weight"] {
        if dir.join(file).exists() {
            s.cgroup.apply(&limits(&layout, r#"{"blockIO":{"weight":321}}"#)).unwrap();
            assert!(read(dir, file).ends_with("321"));
        }
    }
    // A file that this kernel does not have.
    if !dir.join("blkio.leaf_weight").exists() {
        let error = s.cgroup.apply(&limits(&layout, r#"{"blockIO":{"leafWeight":20}}"#)).unwrap_err();
        let expected = format!(
            "linux.resources.blockIO.leafWeight: not supported: the kernel has no blkio.leaf_weight in cgroup {}",
            dir.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn cpusets_are_filled_from_the_parent_v1() {
    let Some(layout) = v1_layout("cpuset") else { return };
    let base = unique();
    let mut s = create_at(&layout, &base.join("a/b"), &Limits::default());
    let root = &layout.v1()["cpuset"].point;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        assert_eq!(s.file("cpuset", file), read(root, file));
    }
    assert!(s.output("true").status.success(), "a process can enter");
    s.cgroup.apply(&limits(&layout, r#"{"cpu":{"cpus":"0"}}"#)).unwrap();
    assert_eq!(s.file("cpuset", "cpuset.cpus"), "0");
    let allowed = s.output("grep Cpus_allowed_list /proc/self/status");
    assert_eq!(String::from_utf8(allowed.stdout).unwrap().split_whitespace().last(), Some("0"));
    let error = s.cgroup.apply(&limits(&layout, r#"{"cpu":{"cpus":"100000"}}"#)).unwrap_err();
    assert_eq!(error.to_string(), "linux.resources.cpu.cpus");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("write 100000 to /") && source.contains("/cpuset.cpus: "), "{source}");
    drop(s);
    // The parents that were made on the way stay, as with any runtime; this test takes them.
    let parents = layout.resolve(Some(&base), "unused").unwrap();
    Cgroup::open(parents, OnDenied::Fail).unwrap().remove().unwrap();
}

#[test]
fn unified_and_hugepages_on_cgroup2() {
    let Some(layout) = v2_layout() else { return };
    assert_eq!(layout.kind(), Kind::V2);
    let s = create(&layout, r#"{"unified":{"cgroup.max.descendants":"5","cgroup.max.depth":"3"}}"#);
    let dir = s.cgroup.paths().v2.clone().unwrap();
    assert_eq!(read(&dir, "cgroup.max.descendants"), "5");
    assert_eq!(read(&dir, "cgroup.max.depth"), "3");
    let error = s.cgroup.apply(&limits(&layout, r#"{"unified":{"cgroup.nonsense":"5"}}"#)).unwrap_err();
    let expected = format!(
        "linux.resources.unified.cgroup.nonsense: not supported: the kernel has no cgroup.nonsense in cgroup {}",
        dir.display()
    );
    assert_eq!(error.to_string(), expected);
    if layout.controllers().contains("hugetlb") {
        let s = create(&layout, r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#);
        let dir = s.cgroup.paths().v2.clone().unwrap();
        assert_eq!(read(&dir, "hugetlb.2MB.max"), "4194304");
        assert_eq!(read(&dir, "hugetlb.2MB.rsvd.max"), "4194304");
    }
}

#[test]
fn a_hybrid_uses_each_controller_where_it_is() {
    let Some(layout) = layout().filter(|l| l.kind() == Kind::Hybrid) else { return };
    let on_v2 = layout.controllers().contains("hugetlb") && !layout.v1().contains_key("hugetlb");
    if !on_v2 || !layout.v1().contains_key("pids") {
        eprintln!("this hybrid host has no hugetlb on cgroup2 beside pids on v1: nothing to test");
        return;
    }
    let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":2097152}],"pids":{"limit":9}}"#;
    let mut s = create(&layout, json);
    assert_eq!(s.file("pids", "pids.max"), "9");
    assert_eq!(read(s.cgroup.paths().v2.as_ref().unwrap(), "hugetlb.2MB.max"), "2097152");
    assert!(s.output("true").status.success(), "a process can enter every hierarchy");
}
