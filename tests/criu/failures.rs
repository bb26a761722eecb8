//! Real failures of checkpoints: preflight sees each before, the error names process, cause and remedy, and the
//! container runs on as it was.

use crate::{count, counts_on};
use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

/// A bundle whose process counts, and has a child that makes `kinds` of things that checkpoints stumble over (`odd.c`); it
/// may do all that a container can.
#[track_caller]
pub(crate) fn odd(kinds: &str) -> Bundle {
    let bundle = Bundle::busybox().shell(&format!("odd {kinds} & {}", crate::COUNT)).edit(|c| {
        let all = json!([
            "CAP_SYS_ADMIN",
            "CAP_NET_RAW",
            "CAP_NET_ADMIN",
            "CAP_PERFMON",
            "CAP_BPF",
            "CAP_SYS_PTRACE",
            "CAP_SETUID",
            "CAP_MKNOD"
        ]);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        c["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    });
    hiber_tests::programs::install("odd", &bundle);
    bundle
}

/// Runs it, and waits for its child.
#[track_caller]
pub(crate) fn run_odd(bundle: Bundle) -> Container {
    try_odd(bundle).unwrap_or_else(|why| panic!("{why}"))
}

/// As [`run_odd`]; what was tried, and its errno, where the kernel has no such thing.
#[track_caller]
fn try_odd(bundle: Bundle) -> Result<Container, String> {
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let file = |name: &str| c.bundle().rootfs().join(name);
    wait_for("odd to be ready", || file("ready").exists() || file("failed").exists());
    if let Ok(why) = fs::read_to_string(file("failed")) {
        return Err(why);
    }
    wait_for("a count of 3", || count(&c) >= 3);
    Ok(c)
}

/// The first of these kinds that the kernel has.
#[track_caller]
fn first_odd(kinds: &[&'static str]) -> (Container, &'static str) {
    let mut missing = String::new();
    for kind in kinds {
        match try_odd(odd(kind)) {
            Ok(c) => return (c, kind),
            Err(why) => missing += &why,
        }
    }
    panic!("this kernel has none: {missing}");
}

/// The report of `checkpoint --check`, in JSON.
#[track_caller]
pub(crate) fn preflight(c: &Container, flags: &[&str]) -> Value {
    let images = c.images().display().to_string();
    let all: Vec<_> = ["--check", "--format", "json", "--image-path", &images]
        .into_iter()
        .chain(flags.iter().copied())
        .collect();
    let output = c.call("checkpoint", &all);
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
    let expected = i32::from(report["possible"] != json!(true));
    output.exited(expected);
    report
}

/// The finding of a check.
pub(crate) fn finding<'a>(report: &'a Value, check: &str) -> Option<&'a Value> {
    report["findings"].as_array()?.iter().find(|f| f["check"] == check)
}

/// Checks that preflight finds `check`, that the dump fails with all of `words`, and that the container runs on.
#[track_caller]
pub(crate) fn fails(c: &Container, flags: &[&str], check: &str, words: &[&str]) {
    let before = count(c);
    let report = preflight(c, flags);
    let found = finding(&report, check).unwrap_or_else(|| panic!("no {check} in {report:#}"));
    assert_eq!((&found["severity"], &report["possible"]), (&json!("error"), &json!(false)), "{report:#}");
    let (pid, images) = (c.pid(), c.images());
    let output = c.checkpoint(flags);
    for word in words {
        output.fails(word);
    }
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid), "{output}");
    assert!(!images.join("inventory.img").exists(), "a checkpoint that failed left images");
    counts_on(c, before);
}

/// As [`fails`] for a kind of `odd`, and that the log is where the error says.
#[track_caller]
pub(crate) fn odd_fails(kinds: &str, flags: &[&str], check: &str, words: &[&str]) {
    let c = run_odd(odd(kinds));
    fails(&c, flags, check, &[words, &["log: "]].concat());
    assert!(c.images().join("dump.log").exists(), "the whole log is kept");
}

macro_rules! odd_failures {
    ($($name:ident: $kinds:literal, $check:literal, [$($word:literal),+];)*) => {
        $(#[test]
        fn $name() {
            require!(Root, Criu, CPrograms);
            odd_fails($kinds, &[], $check, &[$($word),+]);
        })*
    };
}

odd_failures! {
    a_tcp_connection: "tcp", "tcp-connection",
        ["Connected TCP socket", "--tcp-established", "process 2 (odd tcp)", "127.0.0.1:"];
    a_tcp_connection_that_nobody_has_accepted: "tcp-in-flight", "tcp-in-flight",
        ["In-flight connection", "--tcp-skip-in-flight", "process 2 (odd tcp-in-flight)"];
    a_unix_connection_that_nobody_has_accepted_with_data: "unix-in-flight", "unix-in-flight",
        ["in-flight socket", "nobody has accepted yet", "process 2 (odd unix-in-flight)"];
    a_unix_message_with_its_senders_credentials: "unix-ancillary", "unix-ancillary",
        ["Control messages", "tell of their senders", "process 2 (odd unix-ancillary)"];
    a_netlink_socket_in_a_high_group: "netlink-groups", "netlink-groups",
        ["in groups that CRIU cannot save", "process 2 (odd netlink-groups)"];
    a_udp_socket_that_is_corked: "udp-corked", "udp-corked",
        ["corked", "holds back", "process 2 (odd udp-corked)"];
    a_socket_with_a_bpf_program: "socket-filter", "socket-filter",
        ["BPF program attached", "process 2 (odd socket-filter)"];
    a_flock: "flock", "file-lock",
        ["file locks", "--file-locks", "process 2 (odd flock)", "/locked"];
    a_posix_lock: "posix-lock", "file-lock",
        ["file locks", "--file-locks", "process 2 (odd posix-lock)", "POSIX"];
    a_large_deleted_file: "deleted=2000000", "deleted-file-size",
        ["ghost file", "ghost-limit", "process 2 (odd deleted=2000000)", "/tmp/deleted"];
    a_large_deleted_file_that_is_mapped: "deleted-mapped=2000000", "deleted-file-size",
        ["ghost file", "ghost-limit", "/tmp/mapped"];
    a_file_removed_under_one_of_its_names: "removed-with-link", "link-remap",
        ["link remap", "--link-remap", "process 2 (odd removed-with-link)", "/tmp/first"];
    io_uring: "io_uring", "io-uring",
        ["a descriptor that the kernel does not hand over", "deny io_uring_setup", "process 2 (odd io_uring)"];
    a_userfaultfd: "userfaultfd", "file-kind",
        ["userfaultfd", "let it close", "process 2 (odd userfaultfd)"];
    a_perf_event: "perf", "file-kind",
        ["perf_event", "let it close", "process 2 (odd perf)"];
    a_bpf_program: "bpf", "file-kind",
        ["bpf-prog", "let it close", "process 2 (odd bpf)"];
    an_mptcp_socket: "mptcp", "socket-kind",
        ["proto 262", "GODEBUG=multipathtcp=0", "process 2 (odd mptcp)"];
    a_netlink_socket_with_unread_messages: "netlink-unread", "netlink-unread",
        ["data to read", "try again", "process 2 (odd netlink-unread)"];
    a_process_whose_first_thread_has_ended: "zombie-with-threads", "zombie-threads",
        ["Zombies with threads", "(odd), ", " on the host: a process's first thread has ended"];
}

#[test]
fn a_socket_of_a_kind_that_is_not_known() {
    require!(Root, Criu, CPrograms);
    let (c, kind) = first_odd(&["vsock", "alg", "sctp"]);
    fails(
        &c,
        &[],
        "socket-kind",
        &["socket of", "let it close the socket", &format!("process 2 (odd {kind})"), kind],
    );
}

#[test]
fn a_device_with_state_of_its_own() {
    require!(Root, Criu, CPrograms);
    // fuse, loop-control, kvm, snapshot
    let (c, kind) = first_odd(&["device=229", "device=237", "device=232", "device=231"]);
    let number = kind.replace("device=", "chr 10:");
    fails(
        &c,
        &[],
        "device",
        &[&number, "let it close the device", &format!("process 2 (odd {kind})"), "/dev/odd"],
    );
}

#[test]
fn a_namespace_inside_is_refused_at_once() {
    require!(Root, Criu, CPrograms);
    for kind in ["pid", "uts", "ipc", "user"] {
        let c = run_odd(odd(&format!("{kind}-namespace")));
        let process = format!("(odd {kind}-namespace), ");
        let what = format!(" on the host: its {kind} namespace is not that of the first process");
        fails(&c, &[], "nested-namespace", &[&process, &what, "stop it first"]);
        assert!(!c.images().exists(), "CRIU was not asked");
    }
}

/// CRIU takes it, for it knows that namespace, and restores no such checkpoint.
#[test]
fn a_process_that_was_left_in_a_namespace_of_the_host_is_refused_at_once() {
    require!(Root, Criu, Program("nsenter"));
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    // Its parent ends at once, so that it becomes the first process's child.
    let mut enter = Command::new("nsenter");
    let pid = c.pid().to_string();
    // Its cgroup is the test's: CRIU takes it as the child that it is.
    enter.args(["--target", &pid, "--pid", "--mount", "--ipc", "--net"]);
    enter.args(["sh", "-c", "echo 0 >/dev/null; setsid sleep 1000 >/dev/null 2>&1 </dev/null &"]);
    hiber_tests::command::run(enter, b"").ok();
    let orphan = || {
        let all = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        all.split_whitespace().find_map(|child| {
            let command = fs::read_to_string(format!("/proc/{child}/cmdline")).ok()?;
            command.starts_with("sleep\x001000").then(|| child.to_owned())
        })
    };
    wait_for("the orphan", || orphan().is_some());
    let process = format!("(sleep 1000), {} on the host: ", orphan().unwrap());
    let what = "its uts namespace is not that of the first process";
    fails(&c, &[], "nested-namespace", &[&process, what, "stop it first"]);
}

#[test]
fn what_was_executed_is_named_and_left_out() {
    require!(Root, Criu);
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    assert!(finding(&preflight(&c, &[]), "beside-first").is_none());
    let mut command = c.command("exec", &["--detach"]);
    command.args(["sleep", "1000"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    let report = preflight(&c, &[]);
    let found = finding(&report, "beside-first").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!((&found["severity"], &found["process"]["command"]), (&json!("warning"), &json!("sleep 1000")));
    assert_eq!(report["possible"], json!(true));
    let output = c.checkpoint(&["--leave-running"]);
    output.ok();
    assert!(
        output.stderr.contains("not in the checkpoint: process") && output.stderr.contains("(sleep 1000)"),
        "{output}"
    );
    assert!(c.sh("ps -o args").contains("sleep 1000"), "it runs on with the container");
    crate::sleep_and_wake(&c, &[], &[]);
    assert!(!c.sh("ps -o args").contains("sleep 1000"));
    counts_on(&c, 3);
    let output = c.checkpoint(&[]);
    assert!(!output.stderr.contains("not in the checkpoint"), "{output}");
}

#[test]
fn a_traced_process_is_refused_at_once() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("traced"));
    let start = std::time::Instant::now();
    fails(
        &c,
        &[],
        "traced",
        &[
            "(odd traced), ",
            " on the host: it is traced by process",
            "(odd) of the host",
            "detach the debugger",
        ],
    );
    assert!(start.elapsed() < std::time::Duration::from_secs(8), "CRIU would have tried for ten seconds");
}

/// A container with the directory `outside` of its bundle at /outside, in which `bind` makes a socket.
#[track_caller]
fn with_outside<S>(
    kind: &str,
    change: impl FnOnce(Bundle) -> Bundle,
    bind: impl FnOnce(&Path) -> S,
) -> (Container, S) {
    let bundle =
        odd(kind).mount(json!({"destination": "/outside", "source": "outside", "options": ["bind"]}));
    fs::create_dir(bundle.join("outside")).unwrap();
    let socket = bind(&bundle.join("outside/socket"));
    (run_odd(change(bundle)), socket)
}

#[test]
fn a_stream_to_a_socket_outside() {
    require!(Root, Criu, CPrograms);
    let (c, listener) = with_outside("unix-stream", |b| b, |path| UnixListener::bind(path).unwrap());
    let _connection = listener.accept().unwrap();
    fails(
        &c,
        &[],
        "unix-peer",
        &["External socket", "(odd unix-stream)", "unix socket outside", "/outside/socket"],
    );
    fails(
        &c,
        &["--ext-unix-sk"],
        "unix-peer",
        &["half of stream", "datagram sockets only", "(odd unix-stream)"],
    );
}

#[test]
fn a_datagram_socket_outside() {
    require!(Root, Criu, CPrograms);
    // CRIU sees sockets of the container's network namespace only.
    let (c, _socket) = with_outside("unix-datagram", |b| b, |path| UnixDatagram::bind(path).unwrap());
    fails(
        &c,
        &["--ext-unix-sk"],
        "unix-peer",
        &["without peer", "another network namespace", "(odd unix-datagram)"],
    );
    let (c, _socket) = with_outside(
        "unix-datagram",
        |b| b.without_namespace("network"),
        |path| UnixDatagram::bind(path).unwrap(),
    );
    fails(&c, &[], "unix-datagram", &["External socket", "--ext-unix-sk", "(odd unix-datagram)"]);
    assert_eq!(preflight(&c, &["--ext-unix-sk"])["possible"], json!(true));
    c.checkpoint(&["--ext-unix-sk", "--leave-running"]).ok();
}

#[test]
fn a_terminal_from_outside() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell(crate::COUNT));
    let (_master, terminal) = hiber_tests::pty::open();
    let mut command = c.command("run", &["--detach", "--bundle", &c.bundle_path()]);
    command.stdin(terminal).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    wait_for("a count of 3", || count(&c) >= 3);
    fails(
        &c,
        &[],
        "terminal",
        &["--shell-job", "descriptor 0 is a terminal outside the container", "/dev/pts/"],
    );
    assert_eq!(preflight(&c, &["--shell-job"])["possible"], json!(true));
}

#[test]
fn a_file_outside() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox().shell(crate::COUNT));
    let log = fs::File::create(c.bundle().join("outside.log")).unwrap();
    let mut command = c.command("run", &["--detach", "--bundle", &c.bundle_path()]);
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    wait_for("a count of 3", || count(&c) >= 3);
    fails(
        &c,
        &[],
        "outside-file",
        &["Can't lookup mount", "descriptor 1 is a file outside", "outside.log", "/dev/null"],
    );
}

#[test]
fn a_mount_that_the_configuration_does_not_name() {
    require!(Root, Criu, Program("mount"));
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    fs::create_dir(c.bundle().rootfs().join("added")).unwrap();
    // From outside, as an administrator does it: the host's /proc/sys is not the container's.
    let mut mount = Command::new("nsenter");
    mount.args(["--mount", &format!("--target={}", c.pid()), "mount", "-t", "ramfs", "ramfs", "/added"]);
    hiber_tests::command::run(mount, b"").ok();
    fails(&c, &[], "mount", &["unsupported", "a mount of type ramfs", "/added", "unmount it"]);
}

#[test]
fn a_process_of_another_user_without_the_capability() {
    require!(Root, Criu, CPrograms, Program("setpriv"));
    let bundle = odd("user=1000");
    // where it writes that it is ready
    fs::set_permissions(bundle.rootfs(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let c = run_odd(bundle);
    let images = c.images().display().to_string();
    let run = |flags: &[&str]| {
        let own = c.command("checkpoint", &[&["--image-path", &images], flags].concat());
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_resource"]).arg(own.get_program()).args(own.get_args());
        command.envs(own.get_envs().filter_map(|(k, v)| Some((k, v?))));
        hiber_tests::command::run(command, b"")
    };
    let check = run(&["--check"]);
    let said = &check.exited(1).stdout;
    assert!(said.contains("other-user: process 2 (odd user=1000), "), "{check}");
    assert!(said.contains(" on the host: it runs as user 1000"), "{check}");
    let output = run(&[]);
    output.fails("rlimit").fails("CAP_SYS_RESOURCE").fails("process 2 (odd user=1000)");
    assert_eq!(c.status(), "running");
    counts_on(&c, 3);
}

/// Runs `checkpoint` where `program`, wherever it is, cannot be executed.
#[track_caller]
fn without_program(c: &Container, program: &str, flags: &[&str]) -> Output {
    let images = c.images().display().to_string();
    let own = c.command("checkpoint", &[&["--image-path", &images], flags].concat());
    let mut command = Command::new("unshare");
    let hide =
        "p=$(command -v \"$1\") && mount --bind /dev/null \"$(readlink -f \"$p\")\"; shift; exec \"$@\"";
    command.args(["--mount", "sh", "-c", hide, "sh", program]).arg(own.get_program()).args(own.get_args());
    command.envs(own.get_envs().filter_map(|(k, v)| Some((k, v?))));
    hiber_tests::command::run(command, b"")
}

#[test]
fn a_network_lock_without_its_program() {
    require!(Root, Criu, Program("iptables-restore"), Program("unshare"));
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    let lock = ["--tcp-established", "--network-lock", "iptables"];
    let check = without_program(&c, "iptables-restore", &[&lock[..], &["--check"]].concat());
    assert!(check.exited(1).stdout.contains("CRIU needs iptables-restore to lock the network"), "{check}");
    assert!(check.stdout.contains("install iptables, or pass --network-lock nftables or skip"), "{check}");
    let output = without_program(&c, "iptables-restore", &lock);
    output.fails("iptables").fails("install iptables");
    assert_eq!(c.status(), "running");
    counts_on(&c, 3);
}

#[test]
fn deleted_stopped_and_ended_is_no_failure() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("deleted=70000 stopped packet"));
    let report = preflight(&c, &[]);
    assert_eq!(report["possible"], json!(true), "{report:#}");
    for (check, path) in [("deleted-file", json!("/tmp/deleted")), ("stopped", Value::Null)] {
        let found = finding(&report, check).unwrap_or_else(|| panic!("no {check} in {report:#}"));
        assert_eq!((&found["severity"], &found["path"]), (&json!("info"), &path));
    }
    assert!(report["bytes"].as_u64().unwrap() > 65_536, "{report:#}");
    c.checkpoint(&["--leave-running"]).ok();
}

#[test]
fn memory_is_told_and_its_space_needed() {
    require!(Root, Criu, CPrograms, Program("mount"));
    let c = run_odd(odd("memory=20000000"));
    let small = c.bundle().join("small");
    fs::create_dir(&small).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&small);
    hiber_tests::command::run(mount, b"").ok();
    let report = preflight(&c, &[]);
    let bytes = report["bytes"].as_u64().unwrap();
    assert!((20_000_000..30_000_000).contains(&bytes), "{report:#}");
    assert!(report["milliseconds"].as_u64().unwrap() > 50, "{report:#}");
    let path = small.join("images").display().to_string();
    let output = c.call("checkpoint", &["--check", "--image-path", &path]);
    assert!(output.exited(1).stdout.contains("space: 1"), "{output}");
    c.call_detached("checkpoint", &["--image-path", &path])
        .fails("No space left on device")
        .fails("free space where the images");
    assert_eq!(c.status(), "running");
    let left: Vec<_> = fs::read_dir(small.join("images")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name == "dump.log"), "images of a failed checkpoint: {left:?}");
    counts_on(&c, 3);
}
