//! Memory that follows a container later, and containers that are not lost when it does not.

use crate::counts_on;
use crate::network::Linked;
use hiber_tests::pipes::LargePipes;
use hiber_tests::prelude::*;
use std::fs;
use std::io::{Read, Write as _};
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
pub(crate) fn holder() -> Container {
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
pub(crate) fn holds_all(c: &Container) {
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

/// A request of CRIU's protocol for pages.
fn request(command: u16) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&command.to_le_bytes());
    // one page of process 1
    (bytes[8], bytes[24]) = (1, 1);
    bytes
}

fn leave() -> [u8; 32] {
    request(0x1024)
}

/// A connection on which `bytes` were sent.
#[track_caller]
fn says(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// The token of the source's checkpoint.
#[track_caller]
fn token(source: &Container) -> Vec<u8> {
    let text = fs::read_to_string(source.images().join("hiber.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let token = manifest["memoryToken"].as_str().unwrap();
    assert_eq!(token.len(), 64);
    (0..32).map(|at| u8::from_str_radix(&token[2 * at..2 * at + 2], 16).unwrap()).collect()
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
    let serving = Serving::start(&source, &address, &["--page-server-any-peer"]);
    // Not even there is a leave without memory one.
    says(&address, &leave());
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

/// The rules after every migration that fails: the source runs as before, with all its memory, and its checkpoint,
/// which nobody could restore, is gone; at the destination nothing is left.
#[track_caller]
fn nothing_has_happened(source: &Container, there: &Container) {
    wait_for("the source to run on", || source.status() == "running");
    holds_all(source);
    // Without memory it is no checkpoint. If hiber was killed, the guard removes it when the container runs again.
    wait_for("its checkpoint to be gone", || !source.images().join("inventory.img").exists());
    there.assert_clean();
    assert_eq!(there.status(), "gone");
}

#[test]
fn strangers_neither_end_nor_delay_a_migration() {
    require!(Root, Criu, Redis);
    let _pipes = LargePipes::raise();
    let (source, address) = (holder(), free_port("127.0.0.1"));
    let mut serving = Serving::start(&source, &address, &[]);
    let mut wrong = token(&source);
    wrong[31] ^= 1;
    // Silent ones, more than are heard at a time, stay; one has shown nearly all of the token.
    let mut open: Vec<_> = (0..100).map(|_| says(&address, &[])).collect();
    open.push(says(&address, &token(&source)[..31]));
    for words in [&leave()[..], &request(7), &request(0x1023), &[0; 32], &wrong, &[0xff; 4000]] {
        let mut stranger = says(&address, words);
        stranger.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        // Closed, maybe with data unread: nothing of the memory came.
        assert!(matches!(stranger.read(&mut [0; 100]), Ok(0) | Err(_)));
    }
    (0..300).for_each(|_| drop(TcpStream::connect(&address).unwrap()));
    assert!(serving.child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&serving.log).unwrap());
    let there = destination(&source, Bundle::redis());
    there.restore(&["--lazy-pages", "--page-server", &address]).ok();
    let (success, log) = serving.ends();
    assert!(success && log.contains("did not show this checkpoint's token"), "{log}");
    assert!(log.contains("--page-server-any-peer"), "{log}");
    assert_eq!(source.status(), "gone");
    holds_all(&there);
    drop(open);
}

#[test]
fn a_stranger_alone_leaves_the_source_running() {
    require!(Root, Criu, Redis);
    let _pipes = LargePipes::raise();
    for any_peer in [false, true] {
        let (source, address) = (holder(), free_port("127.0.0.1"));
        let flags: &[&str] = if any_peer { &["--page-server-any-peer"] } else { &[] };
        let mut serving = Serving::start(&source, &address, flags);
        for words in [&leave()[..], &[0; 32], &[0xff; 32]] {
            let mut stranger = says(&address, words);
            assert!(matches!(stranger.read(&mut [0; 100]), Ok(0) | Err(_)));
        }
        assert!(serving.child.try_wait().unwrap().is_none(), "it waits for the right one");
        // Asking for pages that are not there, and then leaving
        let mut stranger = says(&address, &[request(7), leave()].concat());
        let _ = stranger.read_to_end(&mut Vec::new());
        if any_peer {
            let (success, log) = serving.ends();
            assert!(!success, "{log}");
        } else {
            assert!(serving.child.try_wait().unwrap().is_none(), "it waits for the right one");
            serving.child.kill().unwrap();
            serving.child.wait().unwrap();
        }
        let there = source.runtime().container(Bundle::busybox());
        nothing_has_happened(&source, &there);
    }
}

#[test]
fn a_leave_before_all_memory_was_asked_for_leaves_the_source_running() {
    require!(Root, Criu, Redis);
    let _pipes = LargePipes::raise();
    let (source, address) = (holder(), free_port("127.0.0.1"));
    let serving = Serving::start(&source, &address, &[]);
    let mut peer = says(&address, &token(&source));
    peer.read_exact(&mut [0]).unwrap();
    peer.write_all(&leave()).unwrap();
    assert!(matches!(peer.read(&mut [0]), Ok(0) | Err(_)), "the leave is not confirmed");
    let (success, log) = serving.ends();
    assert!(!success && log.contains("pages of memory missing: the container runs on"), "{log}");
    let there = source.runtime().container(Bundle::busybox());
    nothing_has_happened(&source, &there);
}

fn children(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default()
}

/// Memory that a restored program has let go of is not asked for, and is no reason to keep the source's container.
#[test]
fn memory_that_nobody_needs_any_more_is_given_up() {
    require!(Root, Criu);
    let _pipes = LargePipes::raise();
    let large = "a=$(head -c 16000000 /dev/zero | tr '\\0' x)\ntouch /dev/shm/filled\nsleep 1000\necho $a\n";
    let bundle = || {
        let bundle = Bundle::busybox().shell(&format!("sh /large.sh & {}", crate::COUNT));
        fs::write(bundle.rootfs().join("large.sh"), large).unwrap();
        bundle
    };
    let (source, address) = (Runtime::hiber().container(bundle()), free_port("127.0.0.1"));
    source.run_detached().ok();
    let filled = || std::path::Path::new(&format!("/proc/{}/root/dev/shm/filled", source.pid())).exists();
    wait_for("a large process", || filled() && crate::count(&source) > 3);
    let serving = Serving::start(&source, &address, &[]);
    let there = destination(&source, bundle());
    // A network that stops after four of its mebibytes, until the process has been killed.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = listener.local_addr().unwrap().to_string();
    let (killed, wait_until_killed) = std::sync::mpsc::channel::<()>();
    let (stops, wait_until_it_stops) = std::sync::mpsc::channel::<()>();
    let network = std::thread::spawn(move || {
        let (near, far) = (listener.accept().unwrap().0, TcpStream::connect(address).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = std::io::copy(&mut &near, &mut &far);
                let _ = far.shutdown(Shutdown::Write);
            });
            let first = std::io::copy(&mut (&far).take(4 << 20), &mut &near).unwrap();
            stops.send(()).unwrap();
            wait_until_killed.recv().unwrap();
            let rest = std::io::copy(&mut &far, &mut &near).unwrap();
            let _ = near.shutdown(Shutdown::Write);
            first + rest
        })
    });
    let (images, path) = (there.images().display().to_string(), there.bundle_path());
    let first = ["--detach", "--image-path", &images, "--bundle", &path];
    let flags = [&first[..], &["--lazy-pages", "--page-server", &between]].concat();
    let mut command = there.command("restore", &flags);
    let log = there.bundle().join("restore-log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let mut restore = command.spawn().unwrap();
    wait_until_it_stops.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(there.status(), "running");
    // Command lines are memory, too, and may not be there yet; it is the child that has one of its own.
    let all = children(&there.pid().to_string());
    let large =
        all.split_whitespace().find(|child| !children(child).is_empty()).unwrap_or_else(|| panic!("{all:?}"));
    assert!(Command::new("kill").args(["-9", large]).status().unwrap().success());
    wait_for("its end", || {
        let stat = fs::read_to_string(format!("/proc/{large}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    killed.send(()).unwrap();
    let ended = hiber_tests::command::wait(&mut restore, "restore --lazy-pages");
    assert!(ended.success(), "{}", fs::read_to_string(&log).unwrap());
    let passed = network.join().unwrap();
    assert!((4 << 20..12 << 20).contains(&passed), "{passed} bytes passed");
    let (success, log) = serving.ends();
    assert!(success, "{log}");
    assert_eq!(source.status(), "gone");
    counts_on(&there, 3);
}

#[test]
fn the_token_is_for_the_owner_of_the_images_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    require!(Root, Criu);
    let _pipes = LargePipes::raise();
    let source = crate::counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    let mut serving = Serving::start(&source, &free_port("127.0.0.1"), &[]);
    let manifest = source.images().join("hiber.json");
    assert_eq!(fs::metadata(&manifest).unwrap().permissions().mode() & 0o777, 0o600);
    let secret: String = token(&source).iter().map(|byte| format!("{byte:02x}")).collect();
    for format in ["json", "table"] {
        let mut command = source.runtime().command();
        command.args(["inspect", "--format", format]).arg(source.images());
        let shown = hiber_tests::command::run(command, b"");
        assert!(!shown.ok().contains(&secret), "{shown}");
    }
    serving.child.kill().unwrap();
    serving.child.wait().unwrap();
    wait_for("the source to run on", || source.status() == "running");
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
    c.checkpoint(&["--page-server", "127.0.0.1:1", "--page-server-any-peer"]).fails("needs --lazy-pages");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    {
        let _pipes = LargePipes::raise();
        c.checkpoint(&["--lazy-pages", "--page-server", &address]).fails("cannot listen there");
    }
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
    let _kept = hiber_tests::pipes::keep();
    let limit: u64 = fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap().trim().parse().unwrap();
    if limit < 4 << 20 {
        hiber_tests::command::run(command, b"").fails("write 4194304 to /proc/sys/fs/pipe-max-size");
    }
    counts_on(&c, 3);
}

#[test]
fn criu_serves_by_itself_only_where_anybody_may_come() {
    require!(Root, Criu);
    let bundle = Bundle::busybox();
    let config = bundle.join("own.conf");
    fs::write(&config, "verbosity 4\n").unwrap();
    let config = config.display().to_string();
    let c = crate::counter(
        &Runtime::hiber(),
        bundle.edit(|c| c["annotations"] = json!({"org.criu.config": config})),
    );
    let address = free_port("127.0.0.1");
    c.checkpoint(&["--lazy-pages", "--page-server", &address]).fails("pass --page-server-any-peer");
    let report = crate::failures::preflight(&c, &["--lazy-pages", "--page-server", &address]);
    let found = crate::failures::finding(&report, "arguments").unwrap_or_else(|| panic!("{report:#}"));
    assert!(found["what"].as_str().unwrap().contains("--page-server-any-peer"), "{report:#}");
    counts_on(&c, 3);
}
