//! Arbitrary configurations: whatever they are, the runtime ends in time, does not crash, and leaves nothing.

use hiber_tests::prelude::*;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fastrand::Rng;

fn one_of<T: Clone>(r: &mut Rng, all: &[T]) -> T {
    all[r.usize(..all.len())].clone()
}

/// Some of them, in any order and more than once.
fn some_of<T: Clone>(r: &mut Rng, all: &[T]) -> Vec<T> {
    (0..r.usize(..4)).map(|_| one_of(r, all)).collect()
}

/// Text that is a path, a number, a name or none of them.
const TEXTS: [&str; 12] =
    ["", "/", ".", "..", "../../..", "/proc/self/fd/3", "/dev/null", "a b", "0-3", "-1", "\u{1f4a9}", "%s"];
const PLACES: [&str; 12] = [
    "/a",
    "/a/b",
    "/tmp/../etc/x",
    "/etc/passwd",
    "/dev/x",
    "/proc",
    "/proc/sys",
    "/sys",
    "/",
    "/lib",
    "rel",
    "/a/link",
];
const OPTIONS: [&str; 22] = [
    "ro",
    "rw",
    "nosuid",
    "rro",
    "rnodev",
    "noexec",
    "relatime",
    "rstrictatime",
    "bind",
    "rbind",
    "private",
    "rslave",
    "shared",
    "unbindable",
    "idmap",
    "ridmap",
    "tmpcopyup",
    "nosymfollow",
    "remount",
    "mode=755",
    "size=x",
    "bogus",
];
const CAPABILITIES: [&str; 6] =
    ["CAP_KILL", "CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_SETUID", "CAP_SETPCAP", "CAP_FLY"];

/// A value for a member; mostly of the type that it should have.
fn number(r: &mut Rng) -> Value {
    match r.usize(..8) {
        0 => json!(TEXTS[r.usize(..TEXTS.len())]),
        1 => json!(one_of(r, &[i64::MIN, i64::MAX, -2, 4_294_967_296])),
        n => json!(r.usize(..10_usize.pow(u32::try_from(n).unwrap()))),
    }
}

fn mount(r: &mut Rng) -> Value {
    let kinds = [
        "tmpfs", "bind", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "ext4", "none",
        "",
    ];
    let sources = ["tmpfs", "proc", "rootfs", "config.json", "/dev/null", "/etc/passwd", "/no/such"];
    json!({
        "destination": one_of(r, &PLACES), "type": one_of(r, &kinds), "source": one_of(r, &sources),
        "options": some_of(r, &OPTIONS),
    })
}

fn hook(r: &mut Rng) -> Value {
    let paths = ["/bin/true", "/bin/false", "/no/such", "/etc/passwd", "true"];
    json!({"path": one_of(r, &paths), "args": some_of(r, &TEXTS), "env": ["A=b"], "timeout": 1 + r.usize(..2)})
}

/// Changes one part. Nothing here reaches what is the host's: the root filesystem is the bundle's, the cgroup below the
/// test's, namespaces are new or missing.
fn change(c: &mut Value, r: &mut Rng) {
    match r.usize(..26) {
        field @ ..10 => change_process(&mut c["process"], field, r),
        field @ 10..15 => change_surroundings(c, field, r),
        field => change_linux(c, field, r),
    }
}

fn change_process(process: &mut Value, field: usize, r: &mut Rng) {
    match field {
        0 => process["user"] = json!({"uid": number(r), "gid": number(r), "umask": number(r)}),
        1 => process["args"] = json!(some_of(r, &["true", "false", "sh", "/etc/passwd", "/no/such", ""])),
        2 => process["env"] = json!(some_of(r, &["PATH=", "PATH=/bin", "A=b", "A", "=", "LISTEN_FDS=9"])),
        3 => process["cwd"] = json!(one_of(r, &PLACES)),
        4 => {
            let set = one_of(r, &["bounding", "effective", "permitted", "inheritable", "ambient"]);
            process["capabilities"][set] = json!(some_of(r, &CAPABILITIES));
        }
        5 => {
            let kind =
                one_of(r, &["RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_STACK"]);
            process["rlimits"] = json!([{"type": kind, "soft": r.usize(..100), "hard": number(r)}]);
        }
        6 => process["oomScoreAdj"] = number(r),
        7 => {
            process["scheduler"] = json!({"policy": one_of(r, &["SCHED_OTHER", "SCHED_BATCH", "SCHED_IDLE"]), "nice": number(r)});
        }
        8 => process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": number(r)}),
        _ => process["noNewPrivileges"] = json!(r.usize(..2) == 0),
    }
}

fn change_surroundings(c: &mut Value, field: usize, r: &mut Rng) {
    match field {
        10 | 11 => hiber_tests::bundle::push(&mut c["mounts"], mount(r)),
        12 => drop(c["mounts"].as_array_mut().map(std::vec::Vec::pop)),
        13 => c["hostname"] = json!(one_of(r, &TEXTS)),
        _ => {
            let kinds =
                ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
            c["hooks"][one_of(r, &kinds)] = json!([hook(r)]);
        }
    }
}

fn change_linux(c: &mut Value, field: usize, r: &mut Rng) {
    match field {
        15 => {
            let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
            if !namespaces.is_empty() {
                namespaces.remove(r.usize(..namespaces.len()));
            }
        }
        16 => {
            let kind = one_of(r, &["time", "user", "pid", "galaxy"]);
            hiber_tests::bundle::push(&mut c["linux"]["namespaces"], json!({"type": kind}));
        }
        17 => {
            let map =
                json!([{"containerID": 0, "hostID": 100_000 + r.usize(..10), "size": 1 + r.usize(..70_000)}]);
            (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
        }
        18 => {
            let node = json!({"path": one_of(r, &PLACES), "type": one_of(r, &["c", "b", "p", "u"]), "major": number(r), "minor": 3});
            hiber_tests::bundle::push(&mut c["linux"]["devices"], node);
        }
        19 => c["linux"]["maskedPaths"] = json!(some_of(r, &PLACES)),
        20 => c["linux"]["readonlyPaths"] = json!(some_of(r, &PLACES)),
        21 => c["linux"]["rootfsPropagation"] = json!(one_of(r, &["private", "rslave", "unbindable", "x"])),
        22 => {
            let action = one_of(
                r,
                &[
                    "SCMP_ACT_ERRNO",
                    "SCMP_ACT_KILL",
                    "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_ALLOW",
                    "SCMP_ACT_TRAP",
                ],
            );
            let names = some_of(r, &["execve", "mmap", "write", "exit_group", "bogus", "socket"]);
            let rule = json!({"names": names, "action": action});
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        }
        23 => {
            let (controller, member) =
                one_of(r, &[("memory", "limit"), ("pids", "limit"), ("cpu", "shares"), ("cpu", "quota")]);
            c["linux"]["resources"][controller][member] = number(r);
        }
        24 => {
            c["linux"]["sysctl"] =
                json!({one_of(r, &["net.ipv4.ip_forward", "kernel.msgmax", "kernel.panic", "../x"]): "1"});
        }
        _ => c["root"]["readonly"] = json!(r.usize(..2) == 0),
    }
}

#[test]
fn nothing_crashes_hangs_or_leaks() {
    require!(Root, UserNamespaces);
    let (mut random, began) = (Rng::with_seed(20_261_122), Instant::now());
    let mut bundle = Bundle::busybox();
    std::os::unix::fs::symlink("/etc", bundle.rootfs().join("tmp/link")).unwrap();
    let (good, runtime) = (bundle.config().clone(), Runtime::hiber());
    let (mut ran, mut refused) = (0, 0);
    for round in 0..120 {
        if began.elapsed() > Duration::from_secs(20) {
            break;
        }
        bundle = bundle.edit(|config| {
            *config = good.clone();
            (0..=random.usize(..4)).for_each(|_| change(config, &mut random));
        });
        let path = bundle.path().display().to_string();
        let log = bundle.join("log");
        let _ = std::fs::remove_file(&log);
        let mut command = runtime.command();
        command.arg("--log").arg(&log).args(["run", "--bundle", &path, bundle.name()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // is killed, and fails the test, after a minute
        let start = Instant::now();
        let output = hiber_tests::command::run_detached(command, &log);
        let said = output.stderr.as_str();
        let context = || format!("round {round}: {output}\n{}", bundle.config());
        assert!(start.elapsed() < Duration::from_secs(15), "{}", context());
        // 101 is a panic, no code a signal to the runtime itself
        assert!(output.status.code().is_some_and(|code| code != 101), "{}", context());
        assert!(!said.contains("panicked"), "{}", context());
        match said.contains("level=error") {
            true => refused += 1,
            false => ran += 1,
        }
        assert!(
            said.contains("level=error") || output.status.code() != Some(1) || is_false(&bundle),
            "{}",
            context()
        );
        let left = std::fs::read_dir(runtime.root()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{}", context());
        hiber_tests::leaks::assert_none(bundle.name(), &bundle.cgroup_parent(), runtime.root());
        hiber_tests::leaks::clear(bundle.name(), &bundle.cgroup_parent());
    }
    assert!(ran > 10 && refused > 10, "{ran} ran, {refused} were refused");
}

/// Whether the container's own program fails with 1.
fn is_false(bundle: &Bundle) -> bool {
    bundle.config()["process"]["args"][0] != "true"
}
