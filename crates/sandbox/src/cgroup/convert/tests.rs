use super::block_io::io_weight;
use super::cpu::{is_list, weight_of_shares};
use super::*;
use crate::cgroup::DeviceRule;

const V1: &str = "\
32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu
34 31 0:31 / /cg/cpuset rw - cgroup cgroup rw,cpuset
35 31 0:32 / /cg/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /cg/devices rw - cgroup cgroup rw,devices
38 31 0:35 / /cg/blkio rw - cgroup cgroup rw,blkio
39 31 0:36 / /cg/pids rw - cgroup cgroup rw,pids
42 31 0:39 / /cg/net rw - cgroup cgroup rw,net_cls,net_prio
43 31 0:40 / /cg/rdma rw - cgroup cgroup rw,rdma
44 31 0:41 / /cg/hugetlb rw - cgroup cgroup rw,hugetlb
";
const V2: &str = "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n";
const OWN: &str = "1:cpu,cpuset,memory,devices,blkio,pids,net_cls,net_prio,rdma,hugetlb:/\n0::/\n";
const ALL: &str = "cpuset cpu io memory hugetlb pids rdma misc";

fn v1() -> Layout {
    Layout::from_text(V1, OWN, "").unwrap()
}
fn v2() -> Layout {
    Layout::from_text(V2, OWN, ALL).unwrap()
}
fn hybrid() -> Layout {
    let no_hugetlb: String =
        V1.lines().filter(|l| !l.contains("hugetlb")).map(|l| format!("{l}\n")).collect();
    Layout::from_text(&(no_hugetlb + V2), OWN, "hugetlb").unwrap()
}

fn limits(layout: &Layout, json: &str) -> Result<Limits> {
    convert(&serde_json::from_str(json).unwrap(), layout)
}

/// The writes as `file=value`, with `?` for optional and `|file=value` for the alternative.
fn writes(layout: &Layout, json: &str) -> Vec<String> {
    let writes = limits(layout, json).unwrap().writes;
    let show = |w: Write| {
        let instead = w.instead.map_or(String::new(), |(f, v)| format!("|{f}={v}"));
        format!("{}{}={}{instead}", w.file, if w.optional { "?" } else { "" }, w.value)
    };
    writes.into_iter().map(show).collect()
}

fn error(layout: &Layout, json: &str) -> String {
    let error = limits(layout, json).unwrap_err().to_string();
    error.strip_prefix("linux.resources.").unwrap_or(&error).to_owned()
}

#[test]
fn memory() {
    let json =
        r#"{"memory":{"limit":1000,"swap":3000,"reservation":500,"swappiness":60,"disableOOMKiller":true}}"#;
    assert_eq!(
        writes(&v1(), json),
        [
            "memory.limit_in_bytes=1000",
            "memory.memsw.limit_in_bytes=3000",
            "memory.soft_limit_in_bytes=500",
            "memory.oom_control=1",
            "memory.swappiness=60"
        ]
    );
    let json = r#"{"memory":{"limit":1000,"swap":3000,"reservation":-1,"checkBeforeUpdate":true}}"#;
    assert_eq!(writes(&v2(), json), ["memory.swap.max=2000", "memory.max=1000", "memory.low=max"]);
    let check = limits(&v2(), json).unwrap().memory_check.unwrap();
    assert_eq!(check, MemoryCheck { limit: Some(1000), swap: Some(3000) });
    assert_eq!(limits(&v1(), json).unwrap().memory_check, None, "v1's kernel refuses by itself");
}

#[test]
fn swap() {
    for (limit, swap, on_v1, on_v2) in [
        (-1, 0, vec!["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes?=-1"], "memory.swap.max?=max"),
        (9, -1, vec!["memory.limit_in_bytes=9", "memory.memsw.limit_in_bytes=-1"], "memory.swap.max?=max"),
        (-1, 9, vec!["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=9"], "memory.swap.max=9"),
        (9, 9, vec!["memory.limit_in_bytes=9", "memory.memsw.limit_in_bytes=9"], "memory.swap.max?=0"),
        (9, 0, vec!["memory.limit_in_bytes=9"], "memory.max=9"),
    ] {
        let json = format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#);
        assert_eq!(writes(&v1(), &json), on_v1, "{json}");
        assert_eq!(writes(&v2(), &json)[0], on_v2, "{json}");
    }
    assert_eq!(writes(&v1(), r#"{"memory":{"swap":9}}"#), ["memory.memsw.limit_in_bytes=9"]);
}

#[test]
fn memory_mistakes() {
    for (layout, json, expected) in [
        (v1(), r#"{"limit":-2}"#, "memory.limit: -2: expected bytes, or -1 for no limit"),
        (v1(), r#"{"reservation":-5}"#, "memory.reservation: -5: expected bytes, or -1 for no limit"),
        (
            v1(),
            r#"{"limit":10,"swap":9}"#,
            "memory.swap: 9: expected at least linux.resources.memory.limit, 10: it counts both",
        ),
        (
            v2(),
            r#"{"swap":9}"#,
            "memory.swap: 9: cgroup v2 limits swap alone, so linux.resources.memory.limit is needed",
        ),
        (v1(), r#"{"swappiness":101}"#, "memory.swappiness: 101: expected 0 to 100"),
        (v2(), r#"{"swappiness":1}"#, "memory.swappiness: not supported: cgroup v2 has no such limit"),
        (
            v2(),
            r#"{"disableOOMKiller":true}"#,
            "memory.disableOOMKiller: not supported: cgroup v2 has no such limit",
        ),
    ] {
        assert_eq!(error(&layout, &format!(r#"{{"memory":{json}}}"#)), expected);
    }
    assert_eq!(writes(&v2(), r#"{"memory":{"disableOOMKiller":false,"kernel":7,"limit":0}}"#), [""; 0]);
}

#[test]
fn cpu() {
    let json = r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":10,"idle":0,"cpus":"0-1,3","mems":"0",
        "realtimeRuntime":5,"realtimePeriod":10}}"#;
    assert_eq!(
        writes(&v1(), json),
        [
            "cpu.idle?=0",
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_burst_us=10",
            "cpu.cfs_quota_us=50000",
            "cpu.rt_period_us=10",
            "cpu.rt_runtime_us=5",
            "cpuset.cpus=0-1,3",
            "cpuset.mems=0"
        ]
    );
    let json = r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":10,"idle":0}}"#;
    assert_eq!(
        writes(&v2(), json),
        ["cpu.idle?=0", "cpu.weight=100", "cpu.max.burst=10", "cpu.max=50000 100000"]
    );
    assert_eq!(writes(&v2(), r#"{"cpu":{"quota":5000}}"#), ["cpu.max=5000"]);
    assert_eq!(writes(&v2(), r#"{"cpu":{"quota":-1}}"#), ["cpu.max=max"]);
    assert_eq!(writes(&v2(), r#"{"cpu":{"period":5000}}"#), ["cpu.max=max 5000"]);
    assert_eq!(writes(&v2(), r#"{"cpu":{"idle":1,"shares":5}}"#), ["cpu.idle=1"]);
    assert_eq!(writes(&v2(), r#"{"cpu":{"shares":0,"quota":0,"period":0,"cpus":""}}"#), [""; 0]);
}

#[test]
fn shares_and_weights() {
    // The fixed points, and values from the discussion in kubernetes/kubernetes#131216.
    for (shares, weight) in
        [(0, 0), (1, 1), (2, 1), (102, 17), (1000, 99), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)]
    {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    assert!((2..262_144).all(|s| weight_of_shares(s) <= weight_of_shares(s + 1)));
    assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
}

#[test]
fn cpu_mistakes() {
    for (layout, json, expected) in [
        (v1(), r#"{"shares":1}"#, "cpu.shares: 1: the minimum allowed cpu-shares is 2"),
        (v1(), r#"{"shares":262145}"#, "cpu.shares: 262145: the maximum allowed cpu-shares is 262144"),
        (v1(), r#"{"idle":2}"#, "cpu.idle: 2: expected 0 or 1"),
        (v2(), r#"{"realtimePeriod":9}"#, "cpu.realtimePeriod: not supported: cgroup v2 has no such limit"),
        (v1(), r#"{"cpus":"0-"}"#, "cpu.cpus: \"0-\": expected numbers and ranges, such as \"0-3,7\""),
        (v1(), r#"{"mems":"3-1"}"#, "cpu.mems: \"3-1\": expected numbers and ranges, such as \"0-3,7\""),
    ] {
        assert_eq!(error(&layout, &format!(r#"{{"cpu":{json}}}"#)), expected);
    }
    assert!(["0", "0-3", "0, 2-3", "0-7:1/2"].into_iter().all(is_list));
    assert!(!["", ",", "a", "1-2-3", "0\n1", "0-7:1"].into_iter().any(is_list));
}

#[test]
fn pids() {
    for (limit, value) in [(-1, "max"), (0, "1"), (7, "7")] {
        let json = format!(r#"{{"pids":{{"limit":{limit}}}}}"#);
        assert_eq!(writes(&v1(), &json), [format!("pids.max={value}")]);
        assert_eq!(writes(&v2(), &json), [format!("pids.max={value}")]);
    }
}

const BLOCK_IO: &str = r#"{"blockIO":{"weight":10,
    "weightDevice":[{"major":8,"minor":0,"weight":1000}],
    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],
    "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":2}],
    "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":3}],
    "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#;

#[test]
fn block_io() {
    assert_eq!(
        writes(&v1(), BLOCK_IO),
        [
            "blkio.weight=10|blkio.bfq.weight=10",
            "blkio.weight_device=8:0 1000|blkio.bfq.weight_device=8:0 1000",
            "blkio.throttle.read_bps_device=8:0 1",
            "blkio.throttle.write_bps_device=8:0 2",
            "blkio.throttle.read_iops_device=8:0 3",
            "blkio.throttle.write_iops_device=8:0 0"
        ]
    );
    assert_eq!(
        writes(&v2(), BLOCK_IO),
        [
            "io.bfq.weight=10|io.weight=1",
            "io.bfq.weight=8:0 1000|io.weight=8:0 10000",
            "io.max=8:0 rbps=1",
            "io.max=8:0 wbps=2",
            "io.max=8:0 riops=3",
            "io.max=8:0 wiops=max"
        ]
    );
    assert_eq!(
        writes(
            &v1(),
            r#"{"blockIO":{"leafWeight":11,"weightDevice":[{"major":8,"minor":1,"leafWeight":12}]}}"#
        ),
        ["blkio.leaf_weight=11", "blkio.leaf_weight_device=8:1 12"]
    );
    for (layout, json, expected) in [
        (v1(), r#"{"weight":9}"#, "blockIO.weight: 9: expected 10 to 1000"),
        (v2(), r#"{"leafWeight":10}"#, "blockIO.leafWeight: not supported: cgroup v2 has no such limit"),
        (
            v1(),
            r#"{"throttleReadIOPSDevice":[{"major":-1,"minor":0,"rate":1}]}"#,
            "blockIO.throttleReadIOPSDevice[0]: -1:0: expected the numbers of a block device",
        ),
    ] {
        assert_eq!(error(&layout, &format!(r#"{{"blockIO":{json}}}"#)), expected);
    }
}

#[test]
fn hugepages_use_the_hierarchy_that_has_them() {
    let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":9}]}"#;
    let on_v2 = ["hugetlb.2MB.max=9", "hugetlb.2MB.rsvd.max?=9"];
    assert_eq!(writes(&v1(), json), ["hugetlb.2MB.limit_in_bytes=9", "hugetlb.2MB.rsvd.limit_in_bytes?=9"]);
    assert_eq!(writes(&v2(), json), on_v2);
    assert_eq!(writes(&hybrid(), json), on_v2);
    let hybrid = limits(&hybrid(), json).unwrap();
    assert_eq!(hybrid.v2_controllers().collect::<Vec<_>>(), ["hugetlb", "hugetlb"]);
    assert_eq!(writes(&v2(), &json.replace("2MB", "2mb")), on_v2);
    for size in ["", "2", "MB", "02MB", "../2MB", "2m"] {
        let json = format!(r#"{{"hugepageLimits":[{{"pageSize":"{size}","limit":9}}]}}"#);
        assert!(error(&v1(), &json).starts_with("hugepageLimits[0].pageSize: "), "{size}");
    }
    let negative = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#;
    assert_eq!(error(&v1(), negative), "hugepageLimits[0].limit: -1: expected a number of bytes");
}

#[test]
fn network_and_rdma() {
    let json = r#"{"network":{"classID":7,"priorities":[{"name":"eth0","priority":3}]},
        "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":9},"a":{"hcaObjects":1}}}"#;
    assert_eq!(
        writes(&v1(), json),
        [
            "net_cls.classid=7",
            "net_prio.ifpriomap=eth0 3",
            "rdma.max=a hca_object=1",
            "rdma.max=mlx5_1 hca_handle=3 hca_object=9"
        ]
    );
    assert_eq!(error(&v2(), json), "network.classID: not supported: cgroup v2 has no such limit");
    let bad = r#"{"network":{"priorities":[{"name":"a b","priority":3}]}}"#;
    assert_eq!(error(&v1(), bad), "network.priorities[0].name: \"a b\": expected an interface's name");
}

#[test]
fn an_idle_cgroup_gets_no_weight() {
    assert_eq!(writes(&v2(), r#"{"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#), ["cpu.idle=1"]);
    assert_eq!(
        writes(&v2(), r#"{"unified":{"cpu.idle":"0","cpu.weight":"8"}}"#),
        ["cpu.idle=0", "cpu.weight=8"]
    );
    for layout in [v1(), v2()] {
        assert_eq!(writes(&layout, r#"{"cpu":{"idle":1,"shares":200}}"#), ["cpu.idle=1"]);
    }
}

#[test]
fn unified() {
    let json =
        r#"{"unified":{"memory.high":"9","io.max":"8:0 rbps=1\n8:0 wbps=2\n","cgroup.max.depth":"3"}}"#;
    assert_eq!(
        writes(&v2(), json),
        ["cgroup.max.depth=3", "io.max=8:0 rbps=1", "io.max=8:0 wbps=2", "memory.high=9"]
    );
    assert_eq!(
        error(&v1(), json),
        "unified.cgroup.max.depth: invalid configuration: there is no cgroup v2 on this host"
    );
    assert_eq!(
        error(&hybrid(), r#"{"unified":{"memory.min":"1"}}"#),
        "unified.memory.min: invalid configuration: controller \"memory\" is not on cgroup v2 here"
    );
    assert_eq!(
        error(&v2(), r#"{"unified":{"bad.key":"1"}}"#),
        "unified.bad.key: controller \"bad\" not available"
    );
    for key in ["../cgroup.procs", "memory.max/../x", "memory", ".max", "memory.", "/a.b", "..", "a/b.c"] {
        let json = format!(r#"{{"unified":{{"{key}":"1"}}}}"#);
        assert!(error(&v2(), &json).starts_with(&format!("unified: {key:?}: expected")), "{key}");
    }
}

#[test]
fn a_missing_controller_matters_only_if_a_limit_needs_it() {
    let bare = Layout::from_text(V2, OWN, "").unwrap();
    for json in ["{}", r#"{"memory":{"limit":0},"cpu":{"cpus":"","shares":0},"blockIO":{"weight":0}}"#] {
        assert_eq!(writes(&bare, json), [""; 0]);
    }
    for (json, expected) in [
        (
            r#"{"memory":{"limit":5}}"#,
            r#"memory.limit: not supported: this host has no cgroup controller "memory""#,
        ),
        (r#"{"cpu":{"quota":5}}"#, r#"cpu.quota: not supported: this host has no cgroup controller "cpu""#),
        (
            r#"{"pids":{"limit":5}}"#,
            r#"pids.limit: not supported: this host has no cgroup controller "pids""#,
        ),
        (
            r#"{"blockIO":{"weight":50}}"#,
            r#"blockIO.weight: not supported: this host has no cgroup controller "io""#,
        ),
    ] {
        assert_eq!(error(&bare, json), expected);
    }
}

#[test]
fn limits_survive_json() {
    let mut limits = limits(&v1(), BLOCK_IO).unwrap();
    limits.devices = Some(DeviceRule::defaults());
    let json = serde_json::to_string(&limits).unwrap();
    assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
}

#[test]
fn device_rules_and_defaults() {
    let resources: LinuxResources = serde_json::from_str(
        r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"access":"rw"},
            {"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]}"#,
    )
    .unwrap();
    let defaults = DeviceRule::defaults();
    assert_eq!(Limits::from_spec(&resources, &v1(), None).unwrap().devices, None);
    let rules = Limits::from_spec(&resources, &v2(), Some(&defaults)).unwrap().devices.unwrap();
    assert_eq!(rules.len(), 3 + defaults.len(), "none of them is without effect");
    // v1 cannot punch the hole; v2 can.
    let error = Limits::from_spec(&resources, &v1(), Some(&defaults)).unwrap_err().to_string();
    assert!(
        error.contains("cannot make rule \"c 1:11 w\" an exception to wildcard rule \"c 1:* rw\""),
        "{error}"
    );
}
