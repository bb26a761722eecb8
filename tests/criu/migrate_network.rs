//! Two hosts on one bridge, each a network namespace: the addresses of a container that moves go along, with its connections.

use crate::Network;
use crate::migrate::{assert_gone, migrate, migration, relayed, remembered, resolved};
use hiber_sandbox::plan::NamespaceKind;
use hiber_tests::prelude::*;
use rustix::process::{Signal, kill_process};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

pub(crate) const ADDRESSES: [&str; 2] = ["198.18.90.5", "fd18:90::5"];
/// A hardware address that nobody has.
const OLD: &str = "02:00:00:00:00:99";

/// Two hosts, and a machine of a client's with the bridge that all are at.
pub(crate) struct Lab {
    client: Network,
    pub(crate) hosts: [Network; 2],
    pub(crate) ends: [Container; 2],
}

impl Lab {
    /// The container is at the first of them, with the addresses on a device of its own.
    #[track_caller]
    fn new(bundle: impl Fn() -> Bundle) -> Self {
        Self::with(|host| {
            let runtime = Runtime::hiber_by(["nsenter".to_owned(), format!("--net={}", host.path())]);
            let devices = json!({"plug0": {"name": "eth0"}});
            runtime.container(bundle().edit(|c| c["linux"]["netDevices"] = devices))
        })
    }

    /// `end` makes the container at a host, of which the first has the addresses.
    #[track_caller]
    pub(crate) fn with(end: impl Fn(&Network) -> Container) -> Self {
        let client = Network::new();
        run(
            &client,
            "ip link add name br0 type bridge; ip address add 198.18.90.9/24 dev br0; \
             ip address add fd18:90::9/64 dev br0 nodad; ip link set br0 up",
        );
        let hosts = [Network::new(), Network::new()];
        let ends = [end(&hosts[0]), end(&hosts[1])];
        let new = Self { client, hosts, ends };
        new.plug(0);
        new.give_addresses(0);
        new.ends[0].run_detached().ok();
        new
    }

    /// Gives a host the device that its container is to have: the last one has gone with the container.
    #[track_caller]
    pub(crate) fn plug(&self, host: usize) {
        let holder = self.hosts[host].0.id();
        run(
            &self.client,
            &format!(
                "ip link add name port{host} type veth peer name plug0 netns {holder}; \
                 ip link set port{host} master br0; ip link set port{host} up"
            ),
        );
    }

    #[track_caller]
    pub(crate) fn give_addresses(&self, host: usize) {
        let [four, six] = ADDRESSES;
        let addresses =
            format!("ip address add {four}/24 dev plug0; ip address add {six}/64 dev plug0 nodad");
        run(&self.hosts[host], &addresses);
    }

    pub(crate) fn connect(&self, address: &str) -> Option<TcpStream> {
        let address = std::net::SocketAddr::new(address.parse().unwrap(), 6379);
        let open = || TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok();
        let inside = hiber_sandbox::inside(self.client.0.id().cast_signed(), &[NamespaceKind::Network], open);
        let stream = inside.ok()??;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        Some(stream)
    }

    #[track_caller]
    pub(crate) fn await_server(&self) {
        wait_for("the server", || ADDRESSES.iter().all(|address| self.connect(address).is_some()));
    }

    /// A host that need not ask for the client's hardware address, by which it would tell its own.
    #[track_caller]
    pub(crate) fn know_the_client(&self, host: usize) {
        let hardware = run(&self.client, "ip -o link show br0 | sed 's/.*link.ether \\([^ ]*\\).*/\\1/'");
        for address in ["198.18.90.9", "fd18:90::9"] {
            run(
                &self.hosts[host],
                &format!("ip neigh replace {address} lladdr {hardware} dev plug0 nud permanent"),
            );
        }
    }

    /// The client's neighbours have a hardware address from before.
    pub(crate) fn forget_neighbours(&self) {
        for address in ADDRESSES {
            run(&self.client, &format!("ip neigh replace {address} lladdr {OLD} dev br0 nud stale"));
        }
    }

    /// Without a question of the client's.
    #[track_caller]
    pub(crate) fn neighbours_are_told(&self) {
        let told = || {
            let known = run(&self.client, "ip neigh show dev br0");
            let of = |address: &str| {
                let line = known.lines().find(|line| line.split(' ').next() == Some(address));
                line.is_some_and(|line| line.contains("lladdr") && !line.contains(OLD))
            };
            ADDRESSES.iter().all(|address| of(address))
        };
        wait_for("announcements", told);
    }
}

#[track_caller]
pub(crate) fn run(network: &Network, commands: &str) -> String {
    let mut command = Command::new("nsenter");
    command.args([&format!("--net={}", network.path()), "sh", "-ec", commands]);
    hiber_tests::command::run(command, b"").ok().to_owned()
}

pub(crate) fn redis() -> Bundle {
    Bundle::redis().edit(|c| {
        let args = [
            "redis-server",
            "--save",
            "",
            "--appendonly",
            "no",
            "--protected-mode",
            "no",
            "--bind",
            "0.0.0.0",
            "::",
        ];
        c["process"]["args"] = json!(args);
    })
}

/// The next number, over a connection that was opened before.
pub(crate) fn next(stream: &mut TcpStream) -> std::io::Result<u64> {
    stream.write_all(b"INCR count\r\n")?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    let number = String::from_utf8_lossy(&answer);
    number.trim().trim_start_matches(':').parse().map_err(|_| std::io::Error::other(number.into_owned()))
}

/// Ends the clients, also where the test has failed.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Clients that count by turns over two connections, one of each family, while `work` is done; each number must follow the last.
#[track_caller]
pub(crate) fn counting(lab: &Lab, work: impl FnOnce(&AtomicU64)) {
    let mut streams = ADDRESSES.map(|address| lab.connect(address).unwrap());
    let (done, counted) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let first = next(&mut streams[0]).unwrap();
            for expected in first + 1.. {
                let number = next(&mut streams[expected as usize % 2]);
                assert!(number.as_ref().is_ok_and(|number| *number == expected), "{expected}: {number:?}");
                counted.fetch_add(1, SeqCst);
                if done.load(SeqCst) {
                    return;
                }
            }
        });
        let end = End(&done);
        work(&counted);
        drop(end);
        client.join().unwrap();
    });
}

#[track_caller]
pub(crate) fn goes_on(counted: &AtomicU64, when: &str) {
    let before = counted.load(SeqCst);
    wait_for(when, || counted.load(SeqCst) > before + 20);
}

#[test]
fn the_addresses_and_connections_of_a_redis_go_along() {
    require!(Root, Criu, Redis, Program("nsenter"), NetworkCommand("ip link add name br0 type bridge"));
    let lab = Lab::new(redis);
    lab.await_server();
    counting(&lab, |counted| {
        for turn in 0..4 {
            let (here, there) = (turn % 2, (turn + 1) % 2);
            goes_on(counted, "before");
            lab.plug(there);
            lab.forget_neighbours();
            let when = [&["--on-miss", "force"][..], &["--post-copy"]][turn / 2];
            migrate(&lab.ends[here], &lab.ends[there], &[&["--tcp-established"], when].concat()).ok();
            lab.neighbours_are_told();
            goes_on(counted, "over the same connections");
            assert_gone(&lab.ends[here]);
        }
    });
    let inside = format!("--net=/proc/{}/ns/net", lab.ends[0].pid());
    let mut list = Command::new("nsenter");
    list.args([&inside, "nft", "list", "ruleset"]);
    let rules = hiber_tests::command::run(list, b"").stdout;
    assert!(!rules.contains("hiber") && !rules.contains("drop"), "{rules}");
}

#[test]
fn a_copy_that_may_never_run_answers_nobody() {
    require!(Root, Criu, Redis, Program("nsenter"), NetworkCommand("ip link add name br0 type bridge"));
    let lab = Lab::new(redis);
    lab.await_server();
    let (here, there) = (&lab.ends[0], &lab.ends[1]);
    let marks = tempfile::tempdir().unwrap();
    let mut met = 0;
    counting(&lab, |counted| {
        for round in 0..8 {
            lab.plug(1);
            let flags = ["--tcp-established", "--on-miss", "force", "--stall", "3s"];
            let mut source = migration(here, there, &flags, &relayed(marks.path(), there));
            source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut source = Spawned::new(&mut source);
            // Its network is there, with the addresses, and soon unlocked.
            wait_for("the copy's network", || {
                there.runtime().root().join(there.id()).join("incoming.json").exists()
                    && !run(&lab.hosts[1], "ip -o link").contains("plug0")
                    || source.try_wait().unwrap().is_some()
            });
            std::thread::sleep(Duration::from_millis(round * 12));
            let source_pid = rustix::process::Pid::from_raw(source.id().cast_signed()).unwrap();
            let undecided = remembered(here.runtime()).iter().any(|path| {
                std::fs::read_to_string(path.join("record.json"))
                    .is_ok_and(|record| record.contains("\"open\""))
            });
            if undecided && source.try_wait().unwrap().is_none() {
                let _ = kill_process(source_pid, Signal::KILL);
            }
            source.wait().unwrap();
            let stayed = here.status() == "running";
            if !stayed {
                // The decision came first.
                wait_for("the copy", || there.status() == "running");
                goes_on(counted, "there");
                lab.plug(0);
                migrate(there, here, &["--tcp-established", "--on-miss", "force"]).ok();
                continue;
            }
            met += 1;
            goes_on(counted, "here, beside a copy that nobody has decided about");
            resolved(here, there, "resolved");
            there.delete(&["--force"]);
            assert_gone(there);
            // As long as the copy's end of the pair is taken apart.
            wait_for("the port to go", || !run(&lab.client, "ip -o link").contains("port1"));
            goes_on(counted, "here, alone");
        }
    });
    assert!(met > 0, "no moment was met");
}

#[test]
fn a_long_download_goes_on() {
    require!(Root, Criu, Program("nsenter"), NetworkCommand("ip link add name br0 type bridge"));
    const LENGTH: usize = 48 << 20;
    let byte = |at: usize| (at % 251) as u8;
    let lab = Lab::new(|| {
        let bundle = Bundle::busybox().args(["httpd", "-f", "-p", "6379", "-h", "/www"]);
        std::fs::create_dir(bundle.rootfs().join("www")).unwrap();
        let content: Vec<u8> = (0..LENGTH).map(byte).collect();
        std::fs::write(bundle.rootfs().join("www/long"), content).unwrap();
        bundle
    });
    lab.await_server();
    let mut stream = lab.connect(ADDRESSES[1]).unwrap();
    stream.write_all(b"GET /long HTTP/1.0\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.") && head.windows(5).any(|w| w == b" 200 "), "{head:?}");
    let mut read = 0;
    let mut part = vec![0; 1 << 18];
    for turn in 0.. {
        let length = stream.read(&mut part).unwrap();
        assert!(part[..length].iter().zip(read..).all(|(b, at)| *b == byte(at)), "at {read}");
        read += length;
        if length == 0 {
            break;
        }
        // Two journeys, both in the midst of it.
        if turn == 4 || turn == 40 {
            let (here, there) = if turn == 4 { (0, 1) } else { (1, 0) };
            lab.plug(there);
            migrate(&lab.ends[here], &lab.ends[there], &["--tcp-established"]).ok();
            assert!(read < LENGTH / 2, "{read}: it was in the midst");
        }
    }
    assert_eq!(read, LENGTH);
}

#[test]
fn connections_that_are_closed_are_told_so_at_both_ends() {
    require!(Root, Criu, Redis, Program("nsenter"), NetworkCommand("ip link add name br0 type bridge"));
    let lab = Lab::new(redis);
    lab.await_server();
    let mut stream = lab.connect(ADDRESSES[0]).unwrap();
    assert_eq!(next(&mut stream).unwrap(), 1);
    lab.plug(1);
    migrate(&lab.ends[0], &lab.ends[1], &["--tcp-close"]).ok();
    // An end of the stream, or a reset, and at once.
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let said = stream.read(&mut [0; 16]);
    let closed = said.as_ref().map_or_else(|e| e.kind() == std::io::ErrorKind::ConnectionReset, |n| *n == 0);
    assert!(closed, "{said:?}");
    let redis = &lab.ends[1];
    wait_for("redis to notice", || {
        redis.exec(&["redis-cli", "info", "clients"]).ok().contains("connected_clients:1\r")
    });
    assert_eq!(next(&mut lab.connect(ADDRESSES[1]).unwrap()).unwrap(), 2);
}
