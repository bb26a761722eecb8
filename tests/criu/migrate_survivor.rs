//! A redis moves to and fro while one of the processes of a migration is killed at random moments, or its link is cut. A client
//! counts in it all the time: one live copy is left each time, with the last write that was acknowledged, and nothing of the other.

use crate::Network;
use crate::migrate::{assert_nothing_below, migrate, migration, named_in, relayed, remembered, resolved};
use hiber_sandbox::plan::NamespaceKind;
use hiber_tests::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many moments; `HIBER_MOMENTS` says otherwise.
const MOMENTS: usize = 14;
/// How much redis holds beside the count, in MiB: enough for rounds, and for memory that arrives while it runs.
const HELD: usize = 40;

/// A process of a migration that is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    /// The link, whose ends notice.
    Link,
    Source,
    Receiver,
    /// A descendant of the source or the receiver that has this among its arguments.
    OfSource(&'static str),
    OfReceiver(&'static str),
}

/// The process that brings the memory: when the container runs already, the container ends with it.
const ARRIVAL: Victim = Victim::OfReceiver("memory-arrival");

const VICTIMS: [Victim; 8] = [
    Victim::Link,
    Victim::Source,
    Victim::Receiver,
    Victim::OfSource("swrk"),
    Victim::OfSource("checkpoint-guard"),
    Victim::OfReceiver("swrk"),
    Victim::OfReceiver("restore-guard"),
    ARRIVAL,
];

/// A client that counts in redis over one connection, and looks for redis in both networks when it is lost.
struct Client {
    goes_on: Arc<AtomicBool>,
    /// The last count that redis has acknowledged.
    acknowledged: Arc<AtomicU64>,
    /// Counts that were asked for; redis may have counted, and could not say so.
    asked: Arc<AtomicU64>,
    fault: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    fn start(networks: [i32; 2]) -> Self {
        let [acknowledged, asked] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let (goes_on, fault) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(None)));
        let (on, known, wanted, wrong) =
            (goes_on.clone(), acknowledged.clone(), asked.clone(), fault.clone());
        let thread = std::thread::spawn(move || {
            let mut connection = None;
            for turn in 0.. {
                if !on.load(SeqCst) {
                    return;
                }
                let Some(open) = connection.take().or_else(|| connect(networks[turn % 2])) else {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                };
                wanted.fetch_add(1, SeqCst);
                let Some(count) = ask(&open, "INCR count") else { continue };
                let before = known.swap(count, SeqCst);
                if count <= before || count > wanted.load(SeqCst) {
                    let asked = wanted.load(SeqCst);
                    let what = format!("the count was {before}, is {count}, and {asked} were asked for");
                    wrong.lock().unwrap().get_or_insert(what);
                }
                connection = Some(open);
            }
        });
        Self { goes_on, acknowledged, asked, fault, thread: Some(thread) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.goes_on.store(false, SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A connection to redis in the network of that process.
fn connect(network: i32) -> Option<TcpStream> {
    let address = ([127, 0, 0, 1], 6379).into();
    let open = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
    let open = hiber_sandbox::inside(network, &[NamespaceKind::Network], open).ok()??;
    open.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    open.set_nodelay(true).ok()?;
    Some(open)
}

/// The number that redis answers.
fn ask(mut to: &TcpStream, command: &str) -> Option<u64> {
    to.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    BufReader::new(to).read_line(&mut answer).ok()?;
    answer.strip_prefix(':')?.trim().parse().ok()
}

/// A receiver that is killed while memory comes has no container yet, and nobody below that root knows of its images.
#[test]
fn what_a_killed_receiver_has_in_memory_is_freed_by_a_delete() {
    require!(Root, Criu, Redis);
    let redis = Traveller::new();
    let (here, there) = (&redis.ends[0], &redis.ends[1]);
    let slow = ["--bandwidth", "1M", "--compress", "none"];
    let mut source = migration(here, there, &slow, &relayed(redis.marks.path(), there));
    source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut source = Spawned::new(&mut source);
    let images = || remembered(there.runtime()).first().map(|path| path.join("images"));
    wait_for("memory", || {
        images().is_some_and(|images| fs::read_dir(images).is_ok_and(|files| files.count() > 0))
    });
    let receiver = redis.find(Victim::Receiver, &source).unwrap();
    // As long as somebody is at it, it stays.
    there.delete(&["--force"]).ok();
    assert!(images().is_some());
    kill_process(receiver, Signal::KILL).unwrap();
    source.wait().unwrap();
    assert_eq!(here.status(), "running");
    assert!(images().is_some_and(|images| images.exists()));
    there.delete(&["--force"]).ok();
    redis.nothing_at(1, "after the delete");
}

/// The source has heard that all is there, and decides: the copy's memory comes without its receiver.
#[test]
fn a_receiver_that_is_killed_before_the_decision_takes_no_memory_along() {
    require!(Root, Criu, Redis, Program("nsenter"));
    let mut redis = Traveller::new();
    let client = Client::start([redis.network(0), redis.network(1)]);
    wait_for("a count", || client.acknowledged.load(SeqCst) > 0);
    let mut source = redis.leave();
    let incoming = redis.ends[1].runtime().root().join(redis.ends[1].id()).join("incoming.json");
    wait_for("the restore", || incoming.exists());
    let pid = redis.find(Victim::Source, &source).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    wait_for("the copy", || fs::read_to_string(&incoming).is_ok_and(|text| text.contains("\"whole\":true")));
    // It says so, and is heard when the source goes on.
    std::thread::sleep(Duration::from_millis(500));
    kill_process(redis.find(Victim::Receiver, &source).unwrap(), Signal::KILL).unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    source.wait().unwrap();
    resolved(&redis.ends[0], &redis.ends[1], "killed in doubt");
    redis.settles(&client, Victim::Receiver, "killed in doubt");
    assert_eq!(redis.at, 1);
}

/// Redis at one of two ends, each with a network of its own.
struct Traveller {
    ends: [Container; 2],
    networks: [Network; 2],
    at: usize,
    marks: tempfile::TempDir,
}

impl Traveller {
    fn new() -> Self {
        let networks = [Network::new(), Network::new()];
        let end = |network: &Network| {
            Runtime::hiber().container(Bundle::redis().namespace("network", Some(&network.path())))
        };
        let ends = [end(&networks[0]), end(&networks[1])];
        let new = Self { ends, networks, at: 0, marks: tempfile::tempdir().unwrap() };
        new.begin();
        new
    }

    fn network(&self, end: usize) -> i32 {
        self.networks[end].0.id().cast_signed()
    }

    /// Redis is started, with what it holds.
    #[track_caller]
    fn begin(&self) {
        let c = &self.ends[self.at];
        c.run_detached().ok();
        wait_for("redis", || connect(self.network(self.at)).is_some());
        let fill = format!(
            "for i = 1, {HELD} do redis.call('SET', 'held:' .. i, string.rep(string.char(64 + i), 1048576)) end return 1"
        );
        c.exec(&["redis-cli", "eval", &fill, "0"]).ok();
    }

    /// Starts a migration whose link can be cut.
    fn leave(&self) -> Spawned {
        let (here, there) = (&self.ends[self.at], &self.ends[1 - self.at]);
        let flags = ["--tcp-close", "--on-miss", "force", "--stall", "10s"];
        let mut source = migration(here, there, &flags, &relayed(self.marks.path(), there));
        source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Spawned::new(&mut source)
    }

    fn find(&self, victim: Victim, source: &Child) -> Option<Pid> {
        let source = Pid::from_raw(source.id().cast_signed());
        let receiver = || named_in(&self.marks.path().join("receiver"));
        match victim {
            Victim::Link => named_in(&self.marks.path().join("relay")),
            Victim::Source => source,
            Victim::Receiver => receiver(),
            Victim::OfSource(word) => below(source?, word),
            Victim::OfReceiver(word) => below(receiver()?, word),
        }
    }

    /// Kills the victim after `wait`, or `then` after it has come into being; whether it was met.
    fn kill(&self, victim: Victim, source: &mut Child, wait: Duration, then: Duration) -> bool {
        std::thread::sleep(wait);
        let mut found = self.find(victim, source);
        while found.is_none() && source.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
            found = self.find(victim, source).inspect(|_| std::thread::sleep(then));
        }
        // It is not buried yet, and has its number still.
        let met = found.filter(|_| source.try_wait().unwrap().is_none());
        met.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }

    /// One end has it, and it runs; the other has nothing.
    #[track_caller]
    fn settles(&mut self, client: &Client, victim: Victim, when: &str) {
        let end = Instant::now() + hiber_tests::patience(hiber_tests::PATIENCE);
        let alive = loop {
            let states = [self.ends[0].status(), self.ends[1].status()];
            let running: Vec<_> = (0..2).filter(|n| states[*n] == "running").collect();
            if running.len() == 1 && !states.iter().any(|state| state == "paused") {
                break Some(running[0]);
            }
            // Without its memory it ended, and says so.
            let there = 1 - self.at;
            if victim == ARRIVAL && states[there] == "stopped" && states[self.at] == "gone" {
                let memory = self.ends[there].state()["memory"].clone();
                assert_eq!(memory["status"], "failed", "{when}: {memory}");
                break None;
            }
            assert!(Instant::now() < end, "{when}: {states:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        let Some(alive) = alive else {
            self.ends[1 - self.at].delete(&[]).ok();
            self.nothing_at(0, when);
            self.nothing_at(1, when);
            return;
        };
        let known = client.acknowledged.load(SeqCst);
        wait_for(when, || client.acknowledged.load(SeqCst) > known || client.fault.lock().unwrap().is_some());
        assert_eq!(*client.fault.lock().unwrap(), None, "{when}");
        // A receiver that was killed could not remove its half.
        self.ends[1 - alive].delete(&["--force"]);
        self.nothing_at(1 - alive, when);
        let c = &self.ends[alive];
        let wrong = format!(
            "for i = 1, {HELD} do if redis.call('GET', 'held:' .. i) ~= string.rep(string.char(64 + i), 1048576) \
             then return i end end return 0"
        );
        assert_eq!(c.exec(&["redis-cli", "eval", &wrong, "0"]).ok(), "0", "{when}");
        let known = client.acknowledged.load(SeqCst);
        let counted = c.exec(&["redis-cli", "get", "count"]).ok().parse::<u64>().unwrap();
        let asked = client.asked.load(SeqCst);
        assert!(
            (known..=asked).contains(&counted),
            "{when}: {counted} are counted, {known} acknowledged, {asked} asked for"
        );
        if victim == Victim::Receiver {
            self.frees(alive, when);
        }
        assert_eq!(remembered(c.runtime()), Vec::<std::path::PathBuf>::new(), "{when}");
        self.at = alive;
    }

    /// A receiver that was killed after the decision has left images, which those free who bring their memory; or, if it was killed
    /// when these had ended, the next command.
    #[track_caller]
    fn frees(&self, end: usize, when: &str) {
        let c = &self.ends[end];
        c.call("wait-memory", &[]).ok();
        let soon = Instant::now() + Duration::from_secs(1);
        while !remembered(c.runtime()).is_empty() && Instant::now() < soon {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !remembered(c.runtime()).is_empty() {
            let _ = writeln!(std::io::stderr(), "{when}: left to the next command");
            let mut delete = c.runtime().command();
            delete.args(["delete", "--force", "nobody"]);
            hiber_tests::command::run(delete, b"").ok();
        }
    }

    #[track_caller]
    fn nothing_at(&self, end: usize, when: &str) {
        let c = &self.ends[end];
        assert_eq!(c.status(), "gone", "{when}");
        c.assert_clean();
        assert_nothing_below(c.runtime(), when);
        let list = "nft list ruleset 2>/dev/null; iptables-save 2>/dev/null | grep CRIU; true";
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net={}", self.networks[end].path())).args(["sh", "-c", list]);
        assert_eq!(hiber_tests::command::run(command, b"").ok(), "", "{when}");
    }
}

/// The descendant of a process that has `word` among its arguments.
pub(crate) fn below(ancestor: Pid, word: &str) -> Option<Pid> {
    let mut left = vec![ancestor.as_raw_nonzero().get()];
    while let Some(pid) = left.pop() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            left.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        if line.split(|b| *b == 0).any(|argument| argument == word.as_bytes()) {
            return Pid::from_raw(pid);
        }
    }
    None
}

/// Moves redis so many times, and kills somebody each time.
#[track_caller]
fn at_random_moments(moments: usize) {
    let seed =
        std::env::var("HIBER_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed);
    let mut redis = Traveller::new();
    let mut client = Client::start([redis.network(0), redis.network(1)]);
    wait_for("the first count", || client.acknowledged.load(SeqCst) > 0);
    let began = Instant::now();
    migrate(&redis.ends[0], &redis.ends[1], &["--tcp-close", "--on-miss", "force"]).ok();
    let mut span = began.elapsed();
    redis.settles(&client, Victim::Link, "undisturbed");
    let (mut met, mut moved, mut stayed) = (0, 0, 0);
    for moment in 0..moments {
        let victim = VICTIMS[random.usize(..VICTIMS.len())];
        let (wait, then) = (span.mul_f64(random.f64()), Duration::from_micros(random.u64(..150_000)));
        let was = redis.at;
        let began = Instant::now();
        let mut source = redis.leave();
        let killed = redis.kill(victim, &mut source, wait, then);
        source.wait().unwrap();
        if !killed {
            // As busy as the machine is now.
            span = began.elapsed();
        }
        let when =
            format!("moment {moment} of HIBER_SEED={seed}, {victim:?} killed ({killed}) after {wait:?}");
        let receiver = redis.find(Victim::Receiver, &source);
        // One whose source is gone has to clean up first.
        wait_for(&format!("{when}: the receiver's end"), || {
            receiver.is_none_or(|pid| rustix::process::test_kill_process(pid).is_err())
        });
        resolved(&redis.ends[was], &redis.ends[1 - was], &when);
        redis.settles(&client, victim, &when);
        met += usize::from(killed);
        if redis.ends[redis.at].status() == "gone" {
            drop(client);
            redis.begin();
            client = Client::start([redis.network(0), redis.network(1)]);
            wait_for("a count", || client.acknowledged.load(SeqCst) > 0);
        } else if redis.at == was {
            stayed += 1;
        } else {
            moved += 1;
        }
    }
    let sum = format!("HIBER_SEED={seed}: {met} of {moments} met; moved {moved}, stayed {stayed}");
    let _ = writeln!(std::io::stderr(), "{sum}");
    assert!(
        met > 0 && (moments < 100 || met * 3 > moments && moved > 0 && stayed > 0),
        "{met} of {moments}; moved {moved}, stayed {stayed}"
    );
}

#[test]
fn one_redis_survives() {
    require!(Root, Criu, Redis, Program("nsenter"));
    let moments = std::env::var("HIBER_MOMENTS").ok().map_or(MOMENTS, |moments| moments.parse().unwrap());
    at_random_moments(moments);
}
