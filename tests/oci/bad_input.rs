//! Each field of config.json with a value that cannot be: refused before anything is set up, with the field's name.
//! Wrong types are tested with the reader (crates/sandbox/tests/config).

use hiber_tests::prelude::*;
use std::process::Stdio;

/// Pointer, value, and what the error begins with; what follows the field is the value or what was expected.
type Row = (&'static str, Value, &'static str);

/// The id that setresuid(2) and chown(2) take for "leave as it is": its owner would be root.
const NO_ID: i64 = 4_294_967_295;

fn process() -> Vec<Row> {
    vec![
        ("", json!(null), "process: is missing"),
        ("/args", json!([]), "process.args: is empty"),
        ("/args", json!(["a\0b"]), "process.args[0]: \"a\\0b\""),
        ("/env", json!(["A"]), "process.env[0]: \"A\": invalid environment variable: missing"),
        ("/env", json!(["=b"]), "process.env[0]: \"=b\": invalid environment variable: name cannot be empty"),
        ("/env", json!(["A=b", "A\0=b"]), "process.env[1]: \"A\\0=b\""),
        ("/cwd", json!(""), "process.cwd: is empty"),
        ("/cwd", json!("tmp"), "process.cwd: tmp"),
        ("/cwd", json!("/a\0"), "process.cwd: \"/a\\0\""),
        ("/user/uid", json!(-1), "process.user.uid: "),
        ("/user/gid", json!(4_294_967_296_i64), "process.user.gid: "),
        ("/user/uid", json!(NO_ID), "process.user.uid: 4294967295 is no id"),
        ("/user/gid", json!(NO_ID), "process.user.gid: 4294967295 is no id"),
        ("/user/additionalGids", json!([1, NO_ID]), "process.user.additionalGids[1]: 4294967295 is no id"),
        ("/user/umask", json!(-1), "process.user.umask: "),
        ("/capabilities/effective", json!(["CAP_SYS_TIME"]), "process.capabilities.effective: CAP_SYS_TIME"),
        ("/user/additionalGids", json!([0, -1]), "process.user.additionalGids[1]: "),
        ("/capabilities/bounding", json!("CAP_KILL"), "process.capabilities.bounding: "),
        ("/rlimits", json!([{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]), "process.rlimits[0].type: "),
        ("/rlimits", json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), "process.rlimits[0].soft: 2"),
        ("/rlimits", json!([{"type": "RLIMIT_CPU", "soft": -1, "hard": 1}]), "process.rlimits[0].soft: "),
        ("/rlimits", json!([{"type": "RLIMIT_CPU", "soft": 1}]), "process.rlimits[0].soft: 1"),
        (
            "/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            "process.rlimits[1].type: RLIMIT_CPU is given twice",
        ),
        ("/oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001"),
        ("/oomScoreAdj", json!(-1001), "process.oomScoreAdj: -1001"),
        ("/consoleSize", json!({"height": -1, "width": 1}), "process.consoleSize.height: "),
    ]
}

fn scheduling() -> Vec<Row> {
    vec![
        ("/scheduler", json!({"policy": "SCHED_NONE"}), "process.scheduler.policy: "),
        ("/scheduler", json!({"nice": 1}), "process.scheduler: "),
        ("/scheduler", json!({"policy": "SCHED_BATCH", "nice": -21}), "process.scheduler.nice: -21"),
        ("/scheduler", json!({"policy": "SCHED_OTHER", "priority": 1}), "process.scheduler.priority: "),
        ("/scheduler", json!({"policy": "SCHED_OTHER", "runtime": 1}), "process.scheduler: "),
        ("/scheduler", json!({"policy": "SCHED_OTHER", "flags": ["X"]}), "process.scheduler.flags[0]: "),
        (
            "/scheduler",
            json!({"policy": "SCHED_DEADLINE", "runtime": 30_000, "deadline": 20_000, "period": 40_000}),
            "process.scheduler.runtime: 30000",
        ),
        (
            "/scheduler",
            json!({"policy": "SCHED_DEADLINE", "runtime": 10_000, "deadline": 50_000, "period": 40_000}),
            "process.scheduler.deadline: 50000",
        ),
        ("/ioPriority", json!({"class": "IOPRIO_CLASS_X", "priority": 0}), "process.ioPriority.class: "),
        ("/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "process.ioPriority.priority: "),
        (
            "/execCPUAffinity",
            json!({"initial": "a"}),
            "process.execCPUAffinity.initial: Invalid execCPUAffinity format: a",
        ),
        (
            "/selinuxLabel",
            json!("system_u:system_r:x:s0"),
            "process.selinuxLabel: not supported: selinux label",
        ),
        ("/execCPUAffinity", json!({"final": "3-1"}), "process.execCPUAffinity.final: 3-1"),
    ]
}

fn top() -> Vec<Row> {
    let hook = |kind: &str, hook: Value| json!({kind: [hook]});
    vec![
        ("/ociVersion", json!("2.0.0"), "ociVersion: \"2.0.0\""),
        ("/ociVersion", json!("one"), "ociVersion: \"one\""),
        ("/hostname", json!("x".repeat(65)), "hostname: "),
        ("/hostname", json!("a\0b"), "hostname: \"a\\0b\""),
        ("/domainname", json!("x".repeat(65)), "domainname: "),
        ("/root", json!(null), "root: is missing"),
        ("/root/path", json!("nowhere"), "root.path: "),
        ("/root/path", json!("config.json"), "root.path: "),
        ("/root/path", json!("/"), "root.path: the host's /"),
        ("/root/path", json!(""), "root.path: "),
        ("/hooks", hook("prestart", json!({"path": "true"})), "hooks.prestart[0].path: true"),
        ("/hooks", hook("createRuntime", json!({"path": ""})), "hooks.createRuntime[0].path: "),
        ("/hooks", hook("createContainer", json!({"path": "true"})), "hooks.createContainer[0].path: true"),
        ("/hooks", hook("startContainer", json!({"args": []})), "hooks.startContainer[0]: "),
        ("/hooks", hook("poststart", json!({"path": "/x", "timeout": 0})), "hooks.poststart[0].timeout: 0"),
        ("/hooks", hook("poststop", json!({"path": "/x", "timeout": -1})), "hooks.poststop[0].timeout: -1"),
        ("/hooks", hook("poststop", json!({"path": "/x\0"})), "hooks.poststop[0].path: \"/x\\0\""),
    ]
}

fn mounts() -> Vec<Row> {
    let m = |mount, words| ("/mounts", json!([mount]), words);
    let map = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    let none = json!([{"containerID": 0, "hostID": 1, "size": 0}]);
    vec![
        m(json!({"type": "tmpfs"}), "mounts[0]: "),
        m(json!({"destination": "", "type": "tmpfs"}), "mounts[0].destination: is empty"),
        m(json!({"destination": "/a", "type": "bind"}), "mounts[0].source: is empty"),
        m(json!({"destination": "/a"}), "mounts[0].source: is empty"),
        m(json!({"destination": "/a", "type": "bind", "source": "/b\0"}), "mounts[0].source: \"/b\\0\""),
        m(
            json!({"destination": "/a", "type": "bind", "source": "/b", "options": ["size=1"]}),
            "mounts[0].options: ",
        ),
        m(json!({"destination": "/a", "type": "tmpfs", "options": ["idmap"]}), "mounts[0].type: "),
        m(
            json!({"destination": "/a", "type": "tmpfs", "options": ["mode=755,uid=4294967295"]}),
            "mounts[0].options: cannot specify uid=4294967295: 4294967295 is no id",
        ),
        m(
            json!({"destination": "/a", "type": "devpts", "options": ["gid=0xffffffff"]}),
            "mounts[0].options: cannot specify gid=0xffffffff: 4294967295 is no id",
        ),
        m(
            json!({"destination": "/a", "type": "tmpfs", "options": ["gid=-1"]}),
            "mounts[0].options: cannot specify gid=-1",
        ),
        m(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nonsense=1"]}),
            "mounts[0].options: \"nonsense=1\" is no option of type cgroup",
        ),
        m(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "options": ["nsdelegate,name=x"]}),
            "mounts[0].options: \"name=x\" is no option of type cgroup2",
        ),
        m(json!({"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}), "mounts[0].options: "),
        m(
            json!({"destination": "/a", "type": "bind", "source": "/b", "uidMappings": map}),
            "mounts[0].gidMappings: ",
        ),
        m(
            json!({"destination": "/a", "type": "bind", "source": "/b", "uidMappings": none, "gidMappings": map}),
            "mounts[0].uidMappings[0].size: 0",
        ),
        m(
            json!({"destination": "/a", "type": "bind", "source": "/b", "options": ["idmap"]}),
            "mounts[0].uidMappings: ",
        ),
        m(json!({"destination": "/proc", "type": "tmpfs"}), "mounts[0].type: only proc"),
        m(json!({"destination": "/proc/self", "type": "tmpfs"}), "mounts[0].destination: /proc/self"),
        m(json!({"destination": "/proc/../proc/self", "type": "tmpfs"}), "mounts[0].destination: "),
    ]
}

fn linux() -> Vec<Row> {
    let device = |edit: Value| {
        let mut device = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3});
        device.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        json!([device])
    };
    vec![
        ("/namespaces", json!([{"type": "galaxy"}]), "linux.namespaces[0].type: "),
        ("/namespaces", json!([{"type": "pid"}, {"type": "pid"}]), "linux.namespaces: duplicated ns"),
        ("/namespaces", json!([{"type": "pid"}]), "linux.namespaces: unable to mask"),
        ("/namespaces/0/path", json!("proc"), "linux.namespaces[0].path: proc"),
        ("/namespaces/0/path", json!("/no/such"), "linux.namespaces[0].path: "),
        ("/namespaces/0/path", json!("/dev/null"), "linux.namespaces[0].path: /dev/null"),
        ("/namespaces/0/path", json!("/proc/self/ns/net"), "linux.namespaces[0].path: /proc/self/ns/net"),
        ("/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}]), "linux.uidMappings: "),
        ("/timeOffsets", json!({"monotonic": {"secs": 1}}), "linux.timeOffsets: "),
        ("/devices", device(json!({"path": "dev/x"})), "linux.devices[0].path: dev/x"),
        ("/devices", device(json!({"type": "x"})), "linux.devices[0].type: "),
        ("/devices", device(json!({"type": "a"})), "linux.devices[0].type: "),
        ("/devices", device(json!({"major": -1})), "linux.devices[0].major: -1"),
        ("/devices", device(json!({"major": 4096})), "linux.devices[0].major: 4096"),
        ("/devices", device(json!({"minor": 1_048_576})), "linux.devices[0].minor: 1048576"),
        ("/devices", device(json!({"uid": -1})), "linux.devices[0].uid: "),
        ("/netDevices", json!({"a/b": {}}), "linux.netDevices: invalid network device name"),
        (
            "/netDevices",
            json!({"eth0": {"name": "x".repeat(16)}}),
            "linux.netDevices: invalid network device name",
        ),
        ("/netDevices", json!({"a": {"name": "c"}, "b": {"name": "c"}}), "linux.netDevices: two devices"),
        ("/cgroupsPath", json!("/a\0b"), "linux.cgroupsPath: "),
        ("/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation: \"sideways\""),
        ("/maskedPaths", json!([""]), "linux.maskedPaths[0]: is empty"),
        ("/readonlyPaths", json!(["/a", ""]), "linux.readonlyPaths[1]: is empty"),
        ("/devices", device(json!({"uid": NO_ID})), "linux.devices[0].uid: 4294967295 is no id"),
        ("/devices", device(json!({"gid": NO_ID})), "linux.devices[0].gid: 4294967295 is no id"),
        ("/sysctl", json!({"kernel.panic": "1"}), "linux.sysctl[\"kernel.panic\"]: "),
        ("/sysctl", json!({"net/../kernel/panic": "1"}), "linux.sysctl[\"net/../kernel/panic\"]: "),
        ("/sysctl", json!({"kernel.hostname": "a"}), "linux.sysctl[\"kernel.hostname\"]: "),
        ("/personality", json!({"domain": "BSD"}), "linux.personality.domain: "),
        ("/personality", json!({"domain": "LINUX", "flags": ["X"]}), "linux.personality.flags"),
        ("/memoryPolicy", json!({"mode": "MPOL_X"}), "linux.memoryPolicy.mode: "),
        ("/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy.nodes: "),
        ("/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "x"}), "linux.memoryPolicy.nodes: "),
        ("/mountLabel", json!("system_u:object_r:x:s0"), "linux.mountLabel: "),
        ("/intelRdt", json!({"closID": "x"}), "linux.intelRdt: "),
    ]
}

/// Of each kind of cgroup: what only v1 or v2 refuses is tested with the conversion.
fn resources() -> Vec<Row> {
    let throttle = json!([{"major": -1, "minor": 0, "rate": 1}]);
    vec![
        ("/memory", json!({"limit": -2}), "linux.resources.memory.limit: -2"),
        ("/memory", json!({"limit": "64M"}), "linux.resources.memory.limit: "),
        ("/memory", json!({"limit": 2, "swap": 1}), "linux.resources.memory.swap: 1"),
        ("/memory", json!({"reservation": -2}), "linux.resources.memory.reservation: -2"),
        ("/memory", json!({"swappiness": 101}), "linux.resources.memory.swappiness: 101"),
        ("/cpu", json!({"shares": -1}), "linux.resources.cpu.shares: "),
        ("/cpu", json!({"idle": 2}), "linux.resources.cpu.idle: 2"),
        ("/cpu", json!({"cpus": "a"}), "linux.resources.cpu.cpus: \"a\""),
        ("/cpu", json!({"mems": "2-1"}), "linux.resources.cpu.mems: \"2-1\""),
        ("/pids", json!({"limit": "max"}), "linux.resources.pids.limit: "),
        ("/blockIO", json!({"weight": 9}), "linux.resources.blockIO.weight: 9"),
        ("/blockIO", json!({"leafWeight": 1001}), "linux.resources.blockIO.leafWeight: 1001"),
        (
            "/blockIO",
            json!({"throttleReadBpsDevice": throttle}),
            "linux.resources.blockIO.throttleReadBpsDevice[0]: ",
        ),
        (
            "/hugepageLimits",
            json!([{"pageSize": "2", "limit": 1}]),
            "linux.resources.hugepageLimits[0].pageSize: ",
        ),
        (
            "/hugepageLimits",
            json!([{"pageSize": "2MB", "limit": -1}]),
            "linux.resources.hugepageLimits[0].limit: -1",
        ),
        ("/network", json!({"classID": -1}), "linux.resources.network.classID: "),
        (
            "/network",
            json!({"priorities": [{"name": "a b", "priority": 1}]}),
            "linux.resources.network.priorities[0].name: ",
        ),
        ("/rdma", json!({"a b": {"hcaHandles": 1}}), "linux.resources.rdma: \"a b\""),
        ("/unified", json!({"../x": "1"}), "linux.resources.unified: \"../x\""),
        ("/unified", json!({"nonsense.max": "1"}), "linux.resources.unified.nonsense.max: "),
        ("/devices", json!([{"allow": false, "access": "xyz"}]), "linux.resources.devices[0].access: "),
        (
            "/devices",
            json!([{"allow": true, "type": "x", "access": "r"}]),
            "linux.resources.devices[0].type: ",
        ),
        (
            "/devices",
            json!([{"allow": false, "major": -2, "access": "r"}]),
            "linux.resources.devices[0].major: -2",
        ),
    ]
}

fn seccomp() -> Vec<Row> {
    let s = |value, words| ("", value, words);
    let call = |call: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]});
    let with_args = |arg: Value| call(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [arg]}));
    vec![
        s(json!({}), "linux.seccomp: "),
        s(json!({"defaultAction": "SCMP_ACT_X"}), "linux.seccomp.defaultAction: "),
        s(json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY"),
        s(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            "linux.seccomp.defaultErrnoRet: 1",
        ),
        s(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["VAX"]}),
            "linux.seccomp.architectures[0]: ",
        ),
        s(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}), "linux.seccomp.flags[0]: "),
        s(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "linux.seccomp.listenerMetadata: ",
        ),
        s(call(json!({"names": [""], "action": "SCMP_ACT_ALLOW"})), "linux.seccomp.syscalls[0].names[0]: "),
        s(call(json!({"action": "SCMP_ACT_ALLOW"})), "linux.seccomp.syscalls[0]: "),
        s(call(json!({"names": ["read"], "action": "X"})), "linux.seccomp.syscalls[0].action: "),
        s(
            call(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.syscalls[0].names[0]: SCMP_ACT_NOTIFY",
        ),
        s(call(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})), "linux.seccomp.listenerPath: "),
        s(
            with_args(json!({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"})),
            "linux.seccomp.syscalls[0].args[0].index: 6",
        ),
        s(with_args(json!({"index": 0, "value": 0, "op": "X"})), "linux.seccomp.syscalls[0].args[0].op: "),
        s(
            with_args(json!({"index": 0, "value": -1, "op": "SCMP_CMP_EQ"})),
            "linux.seccomp.syscalls[0].args[0].value: ",
        ),
    ]
}

/// In a user namespace with ids 0 to 65535.
fn user_namespace() -> Vec<Row> {
    let map = |container: i64, host: i64, size: i64| json!({"containerID": container, "hostID": host, "size": size});
    vec![
        ("/linux/uidMappings", json!([]), "linux.uidMappings: "),
        ("/linux/gidMappings", json!([map(1, 0, 1)]), "linux.gidMappings: "),
        ("/linux/uidMappings", json!([map(0, 100_000, 0)]), "linux.uidMappings[0].size: 0"),
        ("/linux/uidMappings", json!([map(0, 4_294_967_295, 2)]), "linux.uidMappings[0].size: 2"),
        ("/linux/uidMappings", json!([map(0, NO_ID, 1)]), "linux.uidMappings[0].size: 1"),
        (
            "/linux/gidMappings",
            json!([map(0, 100_000, 10), map(NO_ID - 9, 200_000, 10)]),
            "linux.gidMappings[1].size: 10",
        ),
        ("/process/user/uid", json!(NO_ID), "process.user.uid: 4294967295 is no id"),
        ("/linux/gidMappings", json!([map(0, 1, 10), map(5, 100, 10)]), "linux.gidMappings[1]: "),
        ("/linux/gidMappings", json!([map(0, 1, 10), map(10, 5, 10)]), "linux.gidMappings[1]: "),
        ("/process/user/uid", json!(65_536), "process.user.uid: cannot setuid to unmapped uid 65536"),
        ("/process/user/gid", json!(65_536), "process.user.gid: cannot setgid to unmapped gid 65536"),
        (
            "/process/user/additionalGids",
            json!([1, 65_536]),
            "process.user.additionalGids[1]: cannot setgid to unmapped gid 65536",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "tmpfs", "options": ["uid=65536"]}]),
            "mounts[0].options: cannot specify uid=65536",
        ),
        (
            "/mounts",
            json!([{"destination": "/a", "type": "tmpfs", "options": ["uid=0x10000"]}]),
            "mounts[0].options: cannot specify uid=0x10000: the id is not mapped",
        ),
    ]
}

/// Puts a value at a place whose parents need not be there.
fn put(config: &mut Value, pointer: &str, value: Value) {
    let mut at = config;
    for step in pointer.split('/').skip(1) {
        at = match step.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[step],
        };
    }
    *at = value;
}

/// Creates a container from each changed configuration, and returns what was not refused as it should be.
fn tried(mut bundle: Bundle, below: &str, rows: Vec<Row>) -> Vec<String> {
    let (good, runtime) = (bundle.config().clone(), Runtime::hiber());
    let mut wrong = Vec::new();
    for (pointer, value, words) in rows {
        let place = format!("{below}{pointer}");
        bundle = bundle.edit(|config| {
            *config = good.clone();
            put(config, &place, value.clone());
        });
        let path = bundle.path().display().to_string();
        let log = bundle.join("log");
        let _ = std::fs::remove_file(&log);
        let mut command = runtime.command();
        command.arg("--log").arg(&log).args(["create", "--bundle", &path, bundle.name()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let output = hiber_tests::command::run_detached(command, &log);
        let said = output.stderr.lines().find(|l| l.contains("level=error")).unwrap_or_default();
        let message = said.split("msg=").nth(1).unwrap_or_default();
        let message = serde_json::from_str(message).unwrap_or_else(|_| message.to_owned());
        if output.status.code() != Some(1) || !message.starts_with(words) {
            wrong.push(format!("{place} = {value}: expected {words:?}, got {} {message:?}", output.status));
            runtime.run(&["delete", "--force", bundle.name()]);
            hiber_tests::leaks::clear(bundle.name(), &bundle.cgroup_parent());
            continue;
        }
        let left = std::fs::read_dir(runtime.root()).map_or(0, Iterator::count);
        let cgroups = hiber_tests::cgroup::directories(&bundle.cgroup_parent());
        if left > 0 || !cgroups.is_empty() {
            wrong.push(format!("{place} = {value} left {left} states and {cgroups:?}"));
        }
    }
    wrong
}

#[track_caller]
fn assert_refused(below: &str, rows: Vec<Row>) {
    let wrong = tried(Bundle::busybox(), below, rows);
    assert!(wrong.is_empty(), "{} were not refused as they should be:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn of_the_container() {
    require!(Root);
    assert_refused("", top());
    assert_refused("/process", process());
    assert_refused("/process", scheduling());
    assert_refused("", mounts());
}

#[test]
fn of_linux() {
    require!(Root);
    assert_refused("/linux", linux());
    assert_refused("/linux/seccomp", seccomp());
}

#[test]
fn of_resources() {
    require!(Root);
    assert_refused("/linux/resources", resources());
}

#[test]
fn of_user_namespaces() {
    require!(Root, UserNamespaces);
    let wrong = tried(Bundle::busybox().user_namespace(100_000), "", user_namespace());
    assert!(wrong.is_empty(), "{} were not refused as they should be:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_has_no_effect_is_warned_of() {
    require!(Root);
    let rows = [
        (
            "/process/capabilities/bounding",
            json!(["CAP_KILL", "CAP_FLY"]),
            "process.capabilities: ignoring unknown or unavailable capabilities: [CAP_FLY]",
        ),
        ("/process/capabilities/ambient", json!(["CAP_CHOWN"]), "can't raise ambient capability CAP_CHOWN"),
        ("/linux/resources/memory", json!({"kernel": 1}), "linux.resources.memory.kernel"),
    ];
    for (pointer, value, words) in rows {
        let c = Runtime::hiber().container(Bundle::busybox().edit(|config| put(config, pointer, value)));
        let output = c.run(&[]);
        output.ok();
        let warning = output.stderr.lines().find(|line| line.contains("level=warning"));
        assert!(warning.is_some_and(|line| line.contains(words)), "{words}: {output}");
    }
}
