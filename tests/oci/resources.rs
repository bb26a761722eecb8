//! Each field of `linux.resources`: on this host's layout it is written and read back, or refused by its name.

use std::fs;
use std::path::PathBuf;

use hiber_tests::cgroup::{self, Hierarchy};
use hiber_tests::prelude::*;

/// A field: what asks for it, and where it shows.
struct Field {
    name: String,
    resources: Value,
    places: Vec<Place>,
}

/// A version of cgroups that has the field: the controller, files of which the kernel has one, and what is in that.
struct Place {
    v2: bool,
    controller: &'static str,
    files: Vec<&'static str>,
    value: String,
}

fn field(name: impl ToString, resources: Value) -> Field {
    Field { name: name.to_string(), resources, places: Vec::new() }
}

impl Field {
    fn on(
        mut self,
        v2: bool,
        controller: &'static str,
        files: &[&'static str],
        value: impl ToString,
    ) -> Self {
        self.places.push(Place { v2, controller, files: files.to_vec(), value: value.to_string() });
        self
    }

    fn v1(self, controller: &'static str, files: &[&'static str], value: impl ToString) -> Self {
        self.on(false, controller, files, value)
    }

    fn v2(self, controller: &'static str, files: &[&'static str], value: impl ToString) -> Self {
        self.on(true, controller, files, value)
    }

    /// The container's directories on this host that have the field's controller.
    fn places(&self, bundle: &Bundle) -> Vec<(PathBuf, &Place)> {
        let all = cgroup::hierarchies();
        let directory = |place: &Place| {
            let has =
                |h: &&Hierarchy| h.v2 == place.v2 && h.controllers.iter().any(|c| c == place.controller);
            Some(all.iter().find(has)?.mount.join(&bundle.cgroup()[1..]))
        };
        self.places.iter().filter_map(|place| Some((directory(place)?, place))).collect()
    }

    fn check(&self) {
        let resources = self.resources.clone();
        let c = Runtime::hiber().container(Bundle::busybox().edit(|c| c["linux"]["resources"] = resources));
        let output = c.create(&[]);
        let places = self.places(c.bundle());
        // A controller may be there without the file, as the kernel was configured.
        let mut all = places
            .iter()
            .flat_map(|(dir, place)| place.files.iter().map(move |file| (dir.join(file), place)));
        let shown = all.find_map(|(file, place)| Some((fs::read_to_string(file).ok()?, &place.value)));
        match shown {
            Some((text, value)) if output.status.success() => {
                let words: Vec<_> = text.split_whitespace().collect();
                assert!(words.join(" ").contains(value.as_str()), "{}: {text:?} lacks {value:?}", self.name);
            }
            _ => {
                // Of several fields of a controller that is missing the first is named.
                let controller = self.name.split('.').next().unwrap();
                output.fails(&format!("linux.resources.{controller}")).fails(": not supported");
                let missing = places.is_empty() || output.stderr.contains("the kernel has no");
                assert!(missing, "{}: {output}", self.name);
            }
        }
        c.delete(&["--force"]).ok();
        c.assert_clean();
    }
}

#[test]
fn cpu() {
    require!(Root);
    let cpu = |value: Value| json!({"cpu": value});
    let fields = [
        field("cpu.shares", cpu(json!({"shares": 512}))).v1("cpu", &["cpu.shares"], 512).v2(
            "cpu",
            &["cpu.weight"],
            59,
        ),
        field("cpu.quota", cpu(json!({"quota": 50_000, "period": 200_000})))
            .v1("cpu", &["cpu.cfs_quota_us"], 50_000)
            .v2("cpu", &["cpu.max"], "50000 200000"),
        field("cpu.period", cpu(json!({"period": 200_000}))).v1("cpu", &["cpu.cfs_period_us"], 200_000).v2(
            "cpu",
            &["cpu.max"],
            "max 200000",
        ),
        field("cpu.burst", cpu(json!({"quota": 50_000, "burst": 10_000})))
            .v1("cpu", &["cpu.cfs_burst_us"], 10_000)
            .v2("cpu", &["cpu.max.burst"], 10_000),
        field("cpu.idle", cpu(json!({"idle": 1}))).v1("cpu", &["cpu.idle"], 1).v2("cpu", &["cpu.idle"], 1),
        field("cpu.cpus", cpu(json!({"cpus": "0"}))).v1("cpuset", &["cpuset.cpus"], 0).v2(
            "cpuset",
            &["cpuset.cpus"],
            0,
        ),
        field("cpu.mems", cpu(json!({"mems": "0"}))).v1("cpuset", &["cpuset.mems"], 0).v2(
            "cpuset",
            &["cpuset.mems"],
            0,
        ),
    ];
    fields.iter().for_each(Field::check);
}

#[test]
fn realtime() {
    require!(Root);
    for (name, key, file, value) in [
        ("cpu.realtimePeriod", "realtimePeriod", "cpu.rt_period_us", 900_000),
        ("cpu.realtimeRuntime", "realtimeRuntime", "cpu.rt_runtime_us", 10_000),
    ] {
        let resources = json!({"cpu": {key: value}});
        let bundle = Bundle::busybox().edit(|c| c["linux"]["resources"] = resources);
        let v1 = cgroup::mount_of("cpu").filter(|h| !h.v2).map(|h| h.mount);
        // A cgroup can have only what its parent has.
        let parent = v1.map(|mount| mount.join(&bundle.cgroup_parent()[1..]));
        if let Some(parent) = &parent {
            fs::create_dir(parent).unwrap();
            let _ = fs::write(parent.join("cpu.rt_runtime_us"), "20000");
        }
        let c = Runtime::hiber().container(bundle);
        let output = c.create(&[]);
        match parent.filter(|parent| parent.join(file).exists()) {
            Some(parent) => {
                output.ok();
                let text = fs::read_to_string(parent.join("c").join(file)).unwrap();
                assert_eq!(text.trim(), value.to_string(), "{name}");
            }
            None => drop(output.fails(&format!("linux.resources.{name}: not supported"))),
        }
    }
}

#[test]
fn memory() {
    require!(Root);
    const MB: u64 = 1 << 20;
    let memory = |value: Value| json!({"memory": value});
    let fields = [
        field("memory.limit", memory(json!({"limit": 64 * MB})))
            .v1("memory", &["memory.limit_in_bytes"], 64 * MB)
            .v2("memory", &["memory.max"], 64 * MB),
        field("memory.reservation", memory(json!({"reservation": 32 * MB})))
            .v1("memory", &["memory.soft_limit_in_bytes"], 32 * MB)
            .v2("memory", &["memory.low"], 32 * MB),
        // v1 counts memory and swap together, as config.json does; v2 swap alone.
        field("memory.swap", memory(json!({"limit": 64 * MB, "swap": 96 * MB})))
            .v1("memory", &["memory.memsw.limit_in_bytes"], 96 * MB)
            .v2("memory", &["memory.swap.max"], 32 * MB),
        field("memory.disableOOMKiller", memory(json!({"disableOOMKiller": true}))).v1(
            "memory",
            &["memory.oom_control"],
            "oom_kill_disable 1",
        ),
        field("memory.swappiness", memory(json!({"swappiness": 7}))).v1("memory", &["memory.swappiness"], 7),
    ];
    fields.iter().for_each(Field::check);
}

#[test]
fn a_limit_below_the_memory_in_use_is_refused_where_it_would_kill() {
    require!(Root, Controller("memory"));
    // On a hybrid host memory is counted from the first limit on.
    let limited = Bundle::busybox().edit(|c| c["linux"]["resources"] = json!({"memory": {"limit": 1 << 30}}));
    let c = Runtime::hiber().container(limited.args(["sleep", "1000"]));
    c.run_detached().ok();
    c.sh("dd if=/dev/zero of=/dev/shm/big bs=1M count=8 2>/dev/null");
    let mut update = c.runtime().command();
    update.args(["update", "--resources", "-", c.id()]);
    let resources =
        json!({"memory": {"limit": 1 << 20, "swap": 1 << 20, "checkBeforeUpdate": true}}).to_string();
    let output = hiber_tests::command::run(update, resources.as_bytes());
    // v1's kernel refuses it by itself.
    let v2 = cgroup::mount_of("memory").is_some_and(|h| h.v2);
    output.fails(if v2 { "rejecting memory" } else { "unable to set memory limit" });
    assert_eq!(c.status(), "running");
}

/// The numbers of a disk of this machine.
fn disk() -> (u64, u64) {
    let numbers = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    fs::read_dir("/sys/block").unwrap().flatten().find_map(numbers).expect("a block device")
}

#[test]
fn block_devices() {
    require!(Root);
    let (major, minor) = disk();
    let throttles = [
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps", 1_000_001),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps", 1_000_002),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops", 1003),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops", 1004),
    ];
    for (key, file, word, rate) in throttles {
        let resources = json!({"blockIO": {key: [{"major": major, "minor": minor, "rate": rate}]}});
        let throttle = field(format!("blockIO.{key}[0]"), resources).v1(
            "blkio",
            &[file],
            format!("{major}:{minor} {rate}"),
        );
        throttle.v2("io", &["io.max"], format!("{word}={rate}")).check();
    }
    let weights = ["blkio.weight", "blkio.bfq.weight"];
    field("blockIO.weight", json!({"blockIO": {"weight": 321}}))
        .v1("blkio", &weights, 321)
        .v2("io", &["io.bfq.weight"], 321)
        .v2("io", &["io.weight"], 3142)
        .check();
    field("blockIO.leafWeight", json!({"blockIO": {"leafWeight": 321}}))
        .v1("blkio", &["blkio.leaf_weight"], 321)
        .check();
}

#[test]
fn the_others() {
    require!(Root);
    const PAGE: u64 = 2 << 20;
    let fields = [
        field("pids.limit", json!({"pids": {"limit": 8}})).v1("pids", &["pids.max"], 8).v2(
            "pids",
            &["pids.max"],
            8,
        ),
        field("hugepageLimits[0]", json!({"hugepageLimits": [{"pageSize": "2MB", "limit": PAGE}]}))
            .v1("hugetlb", &["hugetlb.2MB.limit_in_bytes"], PAGE)
            .v2("hugetlb", &["hugetlb.2MB.max"], PAGE),
        field("network.classID", json!({"network": {"classID": 0x0010_0001}})).v1(
            "net_cls",
            &["net_cls.classid"],
            0x0010_0001,
        ),
        field("network.priorities[0]", json!({"network": {"priorities": [{"name": "lo", "priority": 5}]}}))
            .v1("net_prio", &["net_prio.ifpriomap"], "lo 5"),
    ];
    fields.iter().for_each(Field::check);
    if cgroup::mount_of("rdma").is_none() {
        field("rdma.mlx5_1", json!({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}}})).check();
    }
}

#[test]
fn unified_files_are_written_on_cgroup_v2_and_refused_without() {
    require!(Root, CgroupV2);
    let bundle =
        |unified: Value| Bundle::busybox().edit(|c| c["linux"]["resources"] = json!({"unified": unified}));
    let c = Runtime::hiber_on_v2()
        .container(bundle(json!({"cgroup.max.descendants": "5", "cgroup.max.depth": "3"})));
    c.create(&[]).ok();
    let hierarchy = cgroup::hierarchies().into_iter().find(|h| h.v2).unwrap();
    let dir = hierarchy.mount.join(&c.bundle().cgroup()[1..]);
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
    assert_eq!((read("cgroup.max.descendants"), read("cgroup.max.depth")), ("5".into(), "3".into()));
    c.delete(&["--force"]).ok();
    c.assert_clean();
    for (name, words) in
        [("cgroup.nonsense", "the kernel has no cgroup.nonsense"), ("no.such", "not available")]
    {
        let c = Runtime::hiber_on_v2().container(bundle(json!({name: "1"})));
        c.create(&[]).fails(&format!("linux.resources.unified.{name}")).fails(words);
        c.assert_clean();
    }
}

#[test]
fn huge_pages_are_limited_under_any_spelling() {
    require!(Root, Controller("hugetlb"));
    for (key, size) in [("pageSize", "2MB"), ("pagesize", "2MB"), ("pageSize", "2mb")] {
        let resources = json!({"hugepageLimits": [{key: size, "limit": 4 << 20}]});
        let c = Runtime::hiber().container(Bundle::busybox().edit(|c| c["linux"]["resources"] = resources));
        c.create(&[]).ok();
        let cg = c.bundle().cgroup();
        let shown = cgroup::read("hugetlb", &cg, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max");
        assert_eq!(shown, (4 << 20).to_string(), "{key} {size}");
    }
}
