//! Cgroups on the real kernel: every test makes a cgroup of its own, in whatever hierarchies this
//! host has, and reads the kernel's answer back. They need root.
#![allow(clippy::print_stderr, clippy::disallowed_methods)] // says why it skips; the host's own files

use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hiber_sandbox::cgroup::{
    Access, Cgroup, CgroupPaths, DeviceKind, DeviceRule, Kind, Layout, Limits, OnDenied, device_filter,
};
use hiber_sandbox::sys::bpf;
use rustix::process::Signal;

/// Says what a test needs; in CI that is a failure.
fn skip<T>(missing: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "this test needs {missing}");
    eprintln!("skipped: this test needs {missing}");
    None
}

fn layout() -> Option<Layout> {
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    Layout::detect().map_or_else(|e| skip(&format!("cgroups ({e})")), Some)
}

/// This host, seen as one that has its cgroup2 mount alone.
fn v2_layout() -> Option<Layout> {
    let whole = layout()?;
    let Some(mount) = whole.v2() else { return skip("a cgroup2 mount") };
    let mountinfo =
        format!("1 0 0:1 {} {} rw - cgroup2 cgroup2 rw\n", mount.root.display(), mount.point.display());
    let controllers = read(&mount.point, "cgroup.controllers");
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    Some(Layout::from_text(&mountinfo, &own, &controllers).unwrap())
}

/// The layout of a host with this v1 controller.
fn v1_layout(controller: &str) -> Option<Layout> {
    let layout = layout()?;
    if layout.v1().contains_key(controller) {
        return Some(layout);
    }
    eprintln!("this host has no v1 controller {controller}: nothing to test");
    None
}

/// A cgroup that is killed and removed with the test, whatever happens.
struct Scratch {
    cgroup: Cgroup,
    children: Vec<Child>,
}

fn unique() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("/hiber-test-{}-{n}", std::process::id()).into()
}

fn limits(layout: &Layout, json: &str) -> Limits {
    Limits::from_spec(&serde_json::from_str(json).unwrap(), layout, None).unwrap()
}

fn create(layout: &Layout, json: &str) -> Scratch {
    create_at(layout, &unique(), &limits(layout, json))
}

fn create_at(layout: &Layout, path: &Path, limits: &Limits) -> Scratch {
    let paths = layout.resolve(Some(path), "unused").unwrap();
    let cgroup = Cgroup::create(layout, &paths, limits, OnDenied::Fail).unwrap();
    Scratch { cgroup, children: Vec::new() }
}

impl Scratch {
    /// Starts a shell that waits for a line, moves it into the cgroup, and lets it go on.
    fn shell(&mut self, script: &str) -> &mut Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go\n{script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let moved = self.cgroup.add_pid(child.id());
        let mut go = child.stdin.take().unwrap();
        self.children.push(child);
        moved.unwrap();
        go.write_all(b"\n").unwrap();
        self.children.last_mut().unwrap()
    }

    /// What a script in the cgroup says, when it has ended.
    fn output(&mut self, script: &str) -> Output {
        self.shell(script);
        self.children.pop().unwrap().wait_with_output().unwrap()
    }

    fn file(&self, controller: &str, file: &str) -> String {
        read(&self.cgroup.paths().v1[controller], file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let killed = self.cgroup.kill(Signal::KILL);
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let removed = self.cgroup.remove();
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
            assert!(!self.cgroup.exists());
        }
    }
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file))
        .unwrap_or_else(|e| panic!("{dir:?} {file}: {e}"))
        .trim()
        .to_owned()
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

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
fn the_life_of_a_cgroup() {
    let Some(layout) = layout() else { return };
    let mut s = create(&layout, "{}");
    assert!(s.cgroup.exists());
    assert_eq!(s.cgroup.created().len(), s.cgroup.paths().v1.len() + usize::from(layout.v2().is_some()));
    assert_eq!(s.cgroup.pids().unwrap(), [0; 0]);
    let child = s.shell("sleep 1000 & echo $!; wait");
    let (parent, grandchild) = (child.id(), first_line(child).parse::<u32>().unwrap());
    let mut pids = s.cgroup.pids().unwrap();
    pids.sort_unstable();
    let mut expected = [parent, grandchild];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    let own = std::fs::read_to_string(format!("/proc/{grandchild}/cgroup")).unwrap();
    let name = s.cgroup.created()[0].file_name().unwrap().to_str().unwrap();
    assert!(own.lines().all(|line| line.ends_with(name)), "in every hierarchy: {own}");
    // Persisted paths reach the same cgroup.
    let json = serde_json::to_string(s.cgroup.paths()).unwrap();
    let reopened = Cgroup::open(serde_json::from_str(&json).unwrap(), OnDenied::Fail).unwrap();
    assert_eq!(reopened.pids().unwrap().len(), 2);
    // Another container cannot have it.
    let error = Cgroup::create(&layout, s.cgroup.paths(), &Limits::default(), OnDenied::Fail).unwrap_err();
    assert!(error.to_string().ends_with("container's cgroup is not empty: 2 process(es) found"), "{error}");
    assert!(reopened.remove().is_err(), "busy");
    reopened.kill(Signal::KILL).unwrap();
    assert_eq!(s.cgroup.pids().unwrap(), [0; 0]);
    s.children.pop().unwrap().wait().unwrap();
    reopened.remove().unwrap();
    reopened.remove().unwrap();
    assert!(!s.cgroup.exists());
    assert_eq!(reopened.pids().unwrap(), [0; 0]);
    assert!(!reopened.frozen().unwrap());
    assert!(reopened.freeze().is_err());
    reopened.thaw().unwrap();
}

/// Whether a process is scheduled: its CPU time grows.
fn runs(pid: u32) -> bool {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
        fields.skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum::<u64>()
    };
    let (start, begin) = (ticks(), Instant::now());
    while begin.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(20));
        if ticks() > start {
            return true;
        }
    }
    false
}

fn freeze_and_kill(layout: &Layout) {
    let mut s = create(layout, "{}");
    let pid = s.shell("trap 'echo got; exit 7' TERM; while :; do :; done").id();
    assert!(runs(pid));
    s.cgroup.freeze().unwrap();
    assert!(s.cgroup.frozen().unwrap());
    assert!(!runs(pid));
    s.cgroup.freeze().unwrap();
    // A signal to a paused container waits for it to be resumed.
    s.cgroup.kill(Signal::TERM).unwrap();
    assert!(s.cgroup.frozen().unwrap());
    s.cgroup.thaw().unwrap();
    assert!(!s.cgroup.frozen().unwrap());
    let output = s.children.pop().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"got\n".as_slice()));
    // An empty one that is frozen would freeze a container at its start.
    s.cgroup.freeze().unwrap();
    let error = Cgroup::create(layout, s.cgroup.paths(), &Limits::default(), OnDenied::Fail).unwrap_err();
    assert!(error.to_string().ends_with("container's cgroup unexpectedly frozen"), "{error}");
    s.cgroup.thaw().unwrap();
    // SIGKILL ends frozen processes, too.
    s.shell("sleep 1000 & sleep 1000");
    s.cgroup.freeze().unwrap();
    s.cgroup.kill(Signal::KILL).unwrap();
    assert_eq!(s.cgroup.pids().unwrap(), [0; 0]);
}

#[test]
fn freezing_and_killing() {
    let Some(layout) = layout() else { return };
    freeze_and_kill(&layout);
}

#[test]
fn freezing_and_killing_v2() {
    let Some(layout) = v2_layout() else { return };
    freeze_and_kill(&layout);
}

/// A process that forever starts its successor and ends: a list of pids is stale once it is read.
/// Only who freezes first reaches it with one signal.
fn kill_what_forks(layout: &Layout, signal: Signal) {
    let mut s = create(layout, "{}");
    // It ends by itself if the test fails.
    s.shell("f() { [ $1 -gt 0 ] && ( ( f $(($1 - 1)) ) & ); exit; }; f 20000");
    let mut seen = std::collections::BTreeSet::new();
    let begin = Instant::now();
    while seen.len() < 5 && begin.elapsed() < Duration::from_secs(5) {
        seen.extend(s.cgroup.pids().unwrap());
    }
    assert!(seen.len() >= 5, "it forks: {seen:?}");
    s.cgroup.kill(signal).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(s.cgroup.pids().unwrap(), [0; 0]);
}

#[test]
fn kill_reaches_processes_that_fork() {
    let Some(layout) = layout() else { return };
    kill_what_forks(&layout, Signal::KILL);
    for _ in 0..8 {
        kill_what_forks(&layout, Signal::TERM);
    }
}

#[test]
fn kill_reaches_processes_that_fork_v2() {
    let Some(layout) = v2_layout() else { return };
    kill_what_forks(&layout, Signal::KILL);
    for _ in 0..8 {
        kill_what_forks(&layout, Signal::TERM);
    }
}

#[test]
fn children_are_listed_killed_and_removed() {
    let Some(layout) = layout() else { return };
    let mut s = create(&layout, "{}");
    let pid = s.shell("sleep 1000").id();
    for (name, dir) in &s.cgroup.paths().v1 {
        std::fs::create_dir_all(dir.join("inner/most")).unwrap();
        if name != "cpuset" {
            std::fs::write(dir.join("inner/most/cgroup.procs"), pid.to_string()).unwrap();
        }
    }
    if let Some(dir) = &s.cgroup.paths().v2 {
        std::fs::create_dir_all(dir.join("inner/most")).unwrap();
        std::fs::write(dir.join("inner/most/cgroup.procs"), pid.to_string()).unwrap();
    }
    let listed = s.cgroup.pids().unwrap();
    assert!(!listed.is_empty() && listed.contains(&pid), "{listed:?}");
    s.cgroup.kill(Signal::KILL).unwrap();
    s.cgroup.remove().unwrap();
    assert!(!s.cgroup.exists());
}

#[test]
fn a_failed_create_leaves_nothing() {
    let Some(layout) = v1_layout("cpuset") else { return };
    let paths = layout.resolve(Some(&unique().join("a")), "unused").unwrap();
    let wrong = limits(&layout, r#"{"cpu":{"cpus":"100000"}}"#);
    Cgroup::create(&layout, &paths, &wrong, OnDenied::Fail).unwrap_err();
    for path in paths.v1.values().chain(&paths.v2) {
        assert!(!path.parent().unwrap().exists(), "{path:?}");
    }
}

#[test]
fn what_is_no_cgroup_is_left_alone() {
    let Some(layout) = layout() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("child")).unwrap();
    let remove = |path: &Path| {
        let paths = CgroupPaths { v2: Some(path.to_owned()), ..CgroupPaths::default() };
        Cgroup::open(paths, OnDenied::Fail).and_then(|cgroup| cgroup.remove())
    };
    assert!(remove(&dir.path().join("child")).is_err());
    assert!(dir.path().join("child").exists());
    let s = create(&layout, "{}");
    let cgroup = &s.cgroup.created()[0];
    // A cgroup with a mount on it, as another mount namespace sees it: there, rmdir would not
    // answer EBUSY but detach the mount.
    let mut holder = Command::new("unshare")
        .args([
            "-m",
            "sh",
            "-c",
            "mount --make-rprivate / && mount --bind \"$0\" \"$0\" && echo ok && read x",
        ])
        .arg(cgroup)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut holder), "ok");
    let seen = format!("/proc/{}/root{}", holder.id(), cgroup.display());
    let refused = remove(Path::new(&seen));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(refused.unwrap_err().to_string().ends_with(": device or resource busy"));
    assert!(cgroup.exists());
    assert!(remove(Path::new("a/b")).unwrap_err().to_string().contains("read the container's cgroup paths"));
    let dots = s.cgroup.created()[0].join("../y");
    assert!(remove(&dots).is_err());
}

/// zero may be read and character devices made; full and block devices are out of reach.
fn check_devices(s: &mut Scratch) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; t() {{ \"$@\" >/dev/null 2>&1 && echo yes || echo no; }}
         t head -c1 /dev/zero; t head -c1 /dev/full; t mknod blk b 7 99; t mknod chr c 1 7; t head -c1 chr",
        dir.path().display()
    );
    let output = s.output(&script);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "yes\nno\nno\nyes\nno\n");
}

/// null (for redirections), zero, and making character devices; not full.
fn device_limits(layout: &Layout) -> Limits {
    let json = r#"{"devices":[{"allow":false,"access":"rwm"}]}"#;
    let rules = [
        DeviceRule::allow_char(None, None, Access::MKNOD),
        DeviceRule::allow_char(Some(1), Some(3), Access::ALL),
        DeviceRule::allow_char(Some(1), Some(5), Access::READ),
    ];
    Limits::from_spec(&serde_json::from_str(json).unwrap(), layout, Some(&rules)).unwrap()
}

#[test]
fn devices_v1() {
    let Some(layout) = v1_layout("devices") else { return };
    let mut s = create_at(&layout, &unique(), &device_limits(&layout));
    let text = s.file("devices", "devices.list");
    let mut list: Vec<_> = text.lines().collect();
    list.sort_unstable();
    assert_eq!(list, ["c *:* m", "c 1:3 rwm", "c 1:5 r"]);
    check_devices(&mut s);
    // An update takes zero and gives full.
    let mut changed = device_limits(&layout);
    let full = DeviceRule::allow_char(Some(1), Some(7), Access::READ);
    *changed.devices.as_mut().unwrap().last_mut().unwrap() = full;
    s.cgroup.apply(&changed).unwrap();
    assert!(s.output("head -c1 /dev/full >/dev/null && ! head -c1 /dev/zero").status.success());
}

#[test]
fn devices_v2() {
    let Some(layout) = v2_layout() else { return };
    let limits = device_limits(&layout);
    let mut s = create_at(&layout, &unique(), &limits);
    check_devices(&mut s);
    let dir = s.cgroup.v2_dir_fd().unwrap().unwrap();
    let before = bpf::query(dir.as_fd()).unwrap();
    assert_eq!(before.len(), 1);
    // An update replaces the program.
    let mut changed = limits;
    changed.devices.as_mut().unwrap().push(DeviceRule::allow_char(Some(1), Some(7), Access::READ));
    s.cgroup.apply(&changed).unwrap();
    let after = bpf::query(dir.as_fd()).unwrap();
    assert_eq!(after.len(), 1);
    assert_ne!(before, after);
    assert!(s.output("head -c1 /dev/full >/dev/null && head -c1 /dev/zero").status.success());
    // Several programs become one again.
    let all = DeviceRule { kind: DeviceKind::All, ..DeviceRule::allow_char(None, None, Access::ALL) };
    let extra = bpf::load_cgroup_device(&device_filter(&[all])).unwrap();
    bpf::attach(dir.as_fd(), extra.as_fd(), None).unwrap();
    assert_eq!(bpf::query(dir.as_fd()).unwrap().len(), 2);
    s.cgroup.apply(&changed).unwrap();
    assert_eq!(bpf::query(dir.as_fd()).unwrap().len(), 1);
}

#[test]
fn the_verifier_takes_every_filter() {
    if layout().is_none() {
        return;
    }
    let mut rules = DeviceRule::defaults();
    for n in 0..400u32 {
        let access = Access::parse(["r", "w", "m", "rw", "rwm"][n as usize % 5]).unwrap();
        let mut rule = DeviceRule::allow_char(Some(n), (n % 3 != 0).then_some(u32::MAX - n), access);
        rule.allow = n % 2 == 0;
        rules.push(rule);
        if n % 40 == 0 {
            bpf::load_cgroup_device(&device_filter(&rules)).unwrap();
        }
    }
    bpf::load_cgroup_device(&device_filter(&[])).unwrap();
    // And what it refuses is explained.
    let error = bpf::load_cgroup_device(&[bpf::Insn::exit()]).unwrap_err();
    assert!(error.args.contains("R0 !read_ok"), "{error}");
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
fn a_hierarchy_that_cannot_be_written_is_skipped_if_asked() {
    let Some(layout) = v1_layout("pids") else { return };
    // A read-only bind mount of the pids hierarchy, as a rootless container may see it.
    let dir = tempfile::tempdir().unwrap();
    let script = "mount --make-rprivate / && mount --bind \"$0\" \"$1\" && mount -o remount,bind,ro \"$1\" \
                  && echo ok && read x";
    let mut holder = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .args([layout.v1()["pids"].point.as_os_str(), dir.path().as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(first_line(&mut holder), "ok");
    let seen = format!("/proc/{}/root{}", holder.id(), dir.path().display());
    let mountinfo = format!("1 0 0:1 / {seen} rw - cgroup cgroup rw,pids\n");
    let read_only = Layout::from_text(&mountinfo, "1:pids:/\n", "").unwrap();
    let paths = read_only.resolve(Some(&unique()), "unused").unwrap();
    let limited = limits(&read_only, r#"{"pids":{"limit":5}}"#);
    let failed = Cgroup::create(&read_only, &paths, &Limits::default(), OnDenied::Fail);
    let skipped = Cgroup::create(&read_only, &paths, &Limits::default(), OnDenied::Skip);
    let limited = Cgroup::create(&read_only, &paths, &limited, OnDenied::Skip);
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let failed = failed.unwrap_err();
    let source = std::error::Error::source(&failed).unwrap().to_string();
    assert!(source.starts_with("mkdir ") && source.ends_with(": read-only file system"), "{source}");
    assert_eq!(*skipped.unwrap().paths(), CgroupPaths::default());
    assert_eq!(
        limited.unwrap_err().to_string(),
        "linux.resources.pids.limit: not supported: cannot set pids limit: container could not join or create cgroup"
    );
}

#[test]
fn clone_into_cgroup_is_for_v2_alone() {
    let Some(hybrid) = layout().filter(|l| l.kind() == Kind::Hybrid) else { return };
    assert!(create(&hybrid, "{}").cgroup.v2_dir_fd().unwrap().is_none());
    let s = create(&v2_layout().unwrap(), "{}");
    let fd = s.cgroup.v2_dir_fd().unwrap().unwrap();
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert_eq!(Some(&link), s.cgroup.paths().v2.as_ref());
}
