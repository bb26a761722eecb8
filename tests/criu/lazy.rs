//! Memory that follows a container later, and containers that are not lost when it does not.

use crate::counts_on;
use crate::network::Linked;
use hiber_tests::pipes::LargePipes;
use hiber_tests::prelude::*;
use std::fs;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Memory of the process, in MiB.
const ALL: usize = 24;

/// A free port, and so the flag's value for it.
fn free_port(host: &str) -> String {
    let listener = TcpListener::bind(format!("{host}:0")).unwrap();
    format!("{host}:{}", listener.local_addr().unwrap().port())
}

/// A redis server that holds [`ALL`] MiB.
fn holder() -> Container {
    let c = Runtime::hiber().container(Bundle::redis());
    c.run_detached().ok();
    wait_for("the server", || c.exec(&["redis-cli", "ping"]).stdout.trim() == "PONG");
    let fill = "for i = 1, ARGV[1] * 16 do redis.call('set', 'k' .. i, string.rep(string.char(64 + i % 26), 65536)) end";
    // redis-cli tells of errors there too, with status 0
    assert_eq!(c.exec(&["redis-cli", "eval", fill, "0", &ALL.to_string()]).ok(), "");
    c
}

/// Whether every value is what [`holder`] wrote.
#[track_caller]
fn holds_all(c: &Container) {
    let wrong = "for i = 1, ARGV[1] * 16 do if redis.call('get', 'k' .. i) ~= string.rep(string.char(64 + i % 26), 65536) \
                 then return i end end return 'none'";
    assert_eq!(c.exec(&["redis-cli", "eval", wrong, "0", &ALL.to_string()]).ok(), "none");
}

/// A checkpoint that serves memory, in the background.
struct Serving {
    child: Child,
    log: PathBuf,
}

impl Serving {
    /// Starts it, and waits until memory can be fetched.
    #[track_caller]
    fn start(c: &Container, address: &str, flags: &[&str]) -> Self {
        let (images, work, log) = (c.images(), c.bundle().join("work"), c.bundle().join("serving-log"));
        let (images, work) = (images.to_str().unwrap(), work.to_str().unwrap());
        // The pipe is the command's standard input, which it may well write to.
        let (mut ready, status) = std::io::pipe().unwrap();
        let first = ["--lazy-pages", "--page-server", address, "--status-fd", "0"];
        let mut command = c.command(
            "checkpoint",
            &[&first[..], &["--image-path", images, "--work-path", work], flags].concat(),
        );
        command.stdin(status).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        drop(command);
        let mut byte = [1];
        let count = ready.read(&mut byte).unwrap();
        assert_eq!((count, byte), (1, [0]), "{}", fs::read_to_string(&log).unwrap());
        assert!(c.images().join("hiber.json").exists(), "the images are there when memory can be fetched");
        Self { child, log }
    }

    #[track_caller]
    fn ends(mut self) -> (bool, String) {
        let status = hiber_tests::command::wait(&mut self.child, "checkpoint --lazy-pages");
        (status.success(), fs::read_to_string(&self.log).unwrap())
    }
}

/// The destination: another bundle of the same machine, with a copy of the images.
#[track_caller]
fn destination(source: &Container, bundle: Bundle) -> Container {
    let c = source.runtime().container(bundle);
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(source.images()).arg(c.images());
    hiber_tests::command::run(copy, b"").ok();
    c
}

#[test]
fn memory_moves_from_one_directory_to_another() {
    require!(Root, Criu, Redis);
    let _pipes = LargePipes::raise();
    let (source, address) = (holder(), free_port("127.0.0.1"));
    let serving = Serving::start(&source, &address, &[]);
    let there = destination(&source, Bundle::redis());
    let pages = fs::read_dir(there.images()).unwrap().flatten();
    let written: u64 = pages
        .filter(|e| e.file_name().to_string_lossy().starts_with("pages-"))
        .map(|e| e.metadata().unwrap().len())
        .sum();
    assert!(written < (ALL as u64) << 19, "memory stays behind: {written} bytes were written");
    let output = there.restore(&["--lazy-pages", "--page-server", &address]);
    output.ok();
    let (success, log) = serving.ends();
    assert!(success, "{log}");
    assert_eq!((source.status(), there.status()), ("gone".into(), "running".into()));
    holds_all(&there);
    let events = fs::read_to_string(there.runtime().root().join(there.id()).join("events")).unwrap();
    assert!(events.contains("memory-arrived"), "{events}");
    assert!(!there.images().join("lazy-pages.socket").exists());
    for c in [source, there] {
        c.delete(&["--force"]).ok();
        c.assert_clean();
    }
}

#[test]
fn memory_moves_over_ipv6_and_only_where_it_was_asked_for() {
    require!(Root, Criu);
    let _pipes = LargePipes::raise();
    let (source, address) = (crate::counter(&Runtime::hiber(), Bundle::busybox()), free_port("[::1]"));
    let serving = Serving::start(&source, &address, &[]);
    let port = address.rsplit_once(':').unwrap().1;
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), "it listens at another address, too");
    // One that only looks does not disturb.
    drop(TcpStream::connect(&address).unwrap());
    let there = destination(&source, Bundle::busybox().shell(crate::COUNT));
    there.restore(&["--lazy-pages", "--page-server", &address]).ok();
    let (success, log) = serving.ends();
    assert!(success, "{log}");
    counts_on(&there, 3);
}

#[test]
fn memory_moves_between_network_namespaces() {
    require!(Root, Criu);
    let _pipes = LargePipes::raise();
    let linked = Linked::new(81);
    let source = crate::counter(&Runtime::hiber(), Bundle::busybox());
    let address = "198.18.81.1:7071";
    let serving = Serving::start(&source, address, &[]);
    let there = destination(&source, Bundle::busybox().shell(crate::COUNT));
    // hiber of the other machine, which has its network
    let (images, bundle) = (there.images().display().to_string(), there.bundle_path());
    let flags =
        ["--detach", "--image-path", &images, "--bundle", &bundle, "--lazy-pages", "--page-server", address];
    let inner = there.command("restore", &flags);
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", linked.network.path())).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let log = there.bundle().join("restore-log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    hiber_tests::command::run_detached(command, &log).ok();
    let (success, log) = serving.ends();
    assert!(success, "{log}");
    assert_eq!(source.status(), "gone");
    counts_on(&there, 3);
}

#[test]
fn a_daemon_of_the_users_own_fetches_memory_as_with_runc() {
    require!(Root, Criu);
    let _pipes = LargePipes::raise();
    let (source, address) = (crate::counter(&Runtime::hiber(), Bundle::busybox()), free_port("127.0.0.1"));
    let serving = Serving::start(&source, &address, &[]);
    let there = destination(&source, Bundle::busybox().shell(crate::COUNT));
    let mut daemon = Command::new(hiber_tests::tools::criu().unwrap());
    let port = address.rsplit_once(':').unwrap().1;
    daemon.args(["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", port, "--images-dir"]);
    daemon.arg(there.images()).arg("--work-dir").arg(there.images());
    let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the daemon", || there.images().join("lazy-pages.socket").exists());
    there.restore(&["--lazy-pages"]).ok();
    assert!(hiber_tests::command::wait(&mut daemon, "criu lazy-pages").success());
    assert!(serving.ends().0);
    assert_eq!(source.status(), "gone");
    counts_on(&there, 3);
}

/// What must hold after every migration that fails: the source runs as before, with all its memory, and its checkpoint,
/// which nobody could restore, is gone; at the destination nothing is left.
#[track_caller]
fn nothing_has_happened(source: &Container, there: &Container) {
    wait_for("the source to run on", || source.status() == "running");
    holds_all(source);
    assert!(
        !source.images().join("inventory.img").exists(),
        "its checkpoint has no memory: it is no checkpoint"
    );
    there.assert_clean();
    assert_eq!(there.status(), "gone");
}

#[test]
fn a_restore_that_fails_leaves_the_source_running() {
    require!(Root, Criu, Redis);
    let _pipes = LargePipes::raise();
    let (source, address) = (holder(), free_port("127.0.0.1"));
    let serving = Serving::start(&source, &address, &[]);
    let there = destination(&source, Bundle::redis());
    fs::write(there.bundle().rootfs().join("usr/bin/redis-server"), "another program").unwrap();
    there.restore(&["--lazy-pages", "--page-server", &address]).fails("redis");
    let (success, log) = serving.ends();
    assert!(!success && log.contains("memory"), "{log}");
    nothing_has_happened(&source, &there);
}

#[test]
fn a_connection_that_breaks_kills_the_half_and_leaves_the_source_running() {
    require!(Root, Criu, Redis);
    let _pipes = LargePipes::raise();
    let (source, address) = (holder(), free_port("127.0.0.1"));
    let serving = Serving::start(&source, &address, &[]);
    let there = destination(&source, Bundle::redis());
    // A network that breaks when a quarter has passed.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = listener.local_addr().unwrap().to_string();
    let network = std::thread::spawn(move || {
        let (near, far) = (listener.accept().unwrap().0, TcpStream::connect(address).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| std::io::copy(&mut &near, &mut &far));
            let mut first = (&far).take((ALL as u64) << 18);
            let passed = std::io::copy(&mut first, &mut &near).unwrap();
            for end in [&near, &far] {
                let _ = end.shutdown(Shutdown::Both);
            }
            passed
        })
    });
    let output = there.restore(&["--lazy-pages", "--page-server", &between]);
    assert!(!output.status.success(), "{:?} bytes were all of its memory: {output}", network.join());
    output.fails("the container's memory did not arrive");
    network.join().unwrap();
    let (success, log) = serving.ends();
    assert!(!success && log.contains("memory"), "{log}");
    nothing_has_happened(&source, &there);
}

#[test]
fn a_runtime_that_is_killed_while_it_serves_leaves_the_source_running() {
    require!(Root, Criu, Redis);
    let _pipes = LargePipes::raise();
    let (source, address) = (holder(), free_port("127.0.0.1"));
    let mut serving = Serving::start(&source, &address, &[]);
    serving.child.kill().unwrap();
    serving.child.wait().unwrap();
    let there = source.runtime().container(Bundle::busybox());
    nothing_has_happened(&source, &there);
    source.checkpoint(&[]).ok();
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_frozen() {
    require!(Root, Criu, Program("setpriv"));
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--lazy-pages"]).fails("--lazy-pages needs --page-server");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    c.checkpoint(&["--lazy-pages", "--page-server", &address]).fails("cannot listen there");
    let restored = c.runtime().container(Bundle::busybox());
    c.checkpoint(&["--leave-running"]).ok();
    let images = c.images().display().to_string();
    let nobody = free_port("127.0.0.1");
    restored
        .restore(&["--image-path", &images, "--lazy-pages", "--page-server", &nobody])
        .fails("cannot connect");
    restored.assert_clean();
    // without the right to make large pipes, CRIU would fail at the first request for a page
    let mut command = Command::new("setpriv");
    let inner = c.command("checkpoint", &["--lazy-pages", "--page-server", &nobody, "--image-path", &images]);
    command.args(["--bounding-set", "-sys_resource", "--"]).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let limit: u64 = fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap().trim().parse().unwrap();
    if limit < 4 << 20 {
        hiber_tests::command::run(command, b"").fails("write 4194304 to /proc/sys/fs/pipe-max-size");
    }
    counts_on(&c, 3);
}
