//! Real programs, checkpointed while they work and restored; their own clients say whether anything was lost.

use crate::network::Linked;
use crate::{Network, count, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use hiber_tests::pty::{ConsoleSocket, read_until, write_all};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes a file into the root filesystem.
#[track_caller]
fn put(bundle: &Bundle, path: &str, text: &str) {
    let file = bundle.rootfs().join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

#[test]
fn redis_with_writes_going_on() {
    require!(Root, Criu, Redis);
    // Each reply is the number of writes so far: one that is lost or done twice shows.
    let script = "redis-server --port 0 --unixsocket /run/redis --save '' --appendonly no & \
                  until redis-cli -s /run/redis ping; do sleep 0.05; done; \
                  redis-cli -s /run/redis -r 100000000 incr writes >/dev/shm/replies & wait";
    let c = Runtime::hiber().container(Bundle::redis().shell(script).edit(|c| {
        for mount in c["mounts"].as_array_mut().into_iter().flatten() {
            if mount["destination"] == "/dev/shm" {
                mount["options"] = json!(["nosuid", "noexec", "nodev", "mode=1777", "size=512m"]);
            }
        }
    }));
    c.run_detached().ok();
    let replies =
        || fs::read_to_string(format!("/proc/{}/root/dev/shm/replies", c.pid())).unwrap_or_default();
    for _ in 0..3 {
        let before = replies().lines().count();
        wait_for("writes", || replies().lines().count() > before + 2000);
        sleep_and_wake(&c, &[], &[]);
        fs::remove_dir_all(c.images()).unwrap();
    }
    let before = replies().lines().count();
    wait_for("further writes", || replies().lines().count() > before + 2000);
    let all = replies();
    // The last line may be half written.
    let whole = all.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for (n, line) in (1..).zip(whole.lines()) {
        assert_eq!(line, n.to_string());
    }
}

const NGINX: &str = "daemon off; worker_processes 2; user root; pid /run/nginx.pid; error_log /dev/null;
events { worker_connections 64; }
http { access_log off; keepalive_requests 1000000; keepalive_timeout 600;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 7077; location / { return 200 \"request $connection_requests\\n\"; } } }";

/// One request over a connection that is kept; the server says the how many-eth it was.
fn request(stream: &mut BufReader<TcpStream>) -> std::io::Result<u64> {
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: nginx\r\n\r\n")?;
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        length = line.strip_prefix("Content-Length: ").map_or(length, |n| n.trim().parse().unwrap());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let text = String::from_utf8(body).unwrap();
    Ok(text.trim().strip_prefix("request ").unwrap().parse().unwrap())
}

#[test]
fn nginx_keeps_its_connections_and_answers_every_request() {
    require!(Root, Criu, Rootfs("nginx"));
    let linked = Linked::new(82);
    let bundle = Bundle::with_program("nginx").namespace("network", Some(&linked.network.path()));
    put(&bundle, "etc/nginx/nginx.conf", NGINX);
    fs::create_dir_all(bundle.rootfs().join("var/log/nginx")).unwrap();
    let c = Runtime::hiber().container(bundle.args(["nginx", "-c", "/etc/nginx/nginx.conf"]));
    c.run_detached().ok();
    let mut clients: Vec<_> = (0..4).map(|_| BufReader::new(linked.connect())).collect();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let end = &end;
                scope.spawn(move || {
                    let mut answers = 0;
                    while !end.load(Ordering::Relaxed) {
                        answers += 1;
                        // The server counts the requests of each connection, too.
                        assert_eq!(request(client).unwrap(), answers);
                    }
                    answers
                })
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(300));
        c.checkpoint(&["--tcp-established"]).ok();
        assert_eq!(c.status(), "gone");
        c.restore(&[]).ok();
        std::thread::sleep(std::time::Duration::from_secs(1));
        end.store(true, Ordering::Relaxed);
        for client in running {
            assert!(client.join().unwrap() > 10);
        }
    });
    // and new ones
    assert_eq!(request(&mut BufReader::new(linked.connect())).unwrap(), 1);
}

/// A program that shows its count as [`crate::COUNT`] does.
#[track_caller]
fn goes_on(bundle: Bundle) {
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 20", || count(&c) >= 20);
    let before = count(&c);
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, before);
    let now = count(&c);
    wait_for("much more", || count(&c) > now + 20);
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn python_with_threads_and_garbage() {
    require!(Root, Criu, Rootfs("python"));
    let program = "
import gc, os, threading, time, queue
todo, done, total = queue.Queue(), queue.Queue(), 0
def work():
    while True:
        n = todo.get()
        cycle = []
        cycle.append(cycle)
        done.put(sum(range(n + 1)))
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
n = 0
while True:
    for i in range(8):
        todo.put(n + i)
    got = sorted(done.get() for _ in range(8))
    assert got == [(n + i) * (n + i + 1) // 2 for i in range(8)], got
    n += 8
    if n % 256 == 0:
        gc.collect()
    with open('/dev/shm/.count', 'w') as f:
        f.write(str(n))
    os.rename('/dev/shm/.count', '/dev/shm/count')
    time.sleep(0.01)
";
    goes_on(Bundle::with_program("python").args(["python3", "-c", program]));
}

#[test]
fn node_with_timers_and_a_server() {
    require!(Root, Criu, Rootfs("node"));
    // It is its own client, over a connection on loopback that is kept.
    let program = "
const http = require('http'), fs = require('fs');
let served = 0, agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const server = http.createServer((q, r) => r.end(String(++served))).listen(8080, '127.0.0.1', ask);
server.keepAliveTimeout = 600000;
function ask() {
  http.get({ port: 8080, host: '127.0.0.1', agent }, r => {
    let text = ''; r.on('data', d => text += d);
    r.on('end', () => {
      if (Number(text) !== served) process.exit(1);
      fs.writeFileSync('/dev/shm/.count', text); fs.renameSync('/dev/shm/.count', '/dev/shm/count');
      setTimeout(ask, 5);
    });
  }).on('error', e => { fs.writeFileSync('/error', String(e)); process.exit(2); });
}";
    let bundle = Bundle::with_program("node").args(["node", "-e", program]);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 20", || count(&c) >= 20);
    let before = count(&c);
    sleep_and_wake(&c, &["--tcp-established"], &[]);
    counts_on(&c, before);
    let now = count(&c);
    wait_for("much more", || count(&c) > now + 20);
    assert!(!c.bundle().rootfs().join("error").exists());
}

#[test]
fn a_java_virtual_machine_that_compiles_and_collects() {
    require!(Root, Criu, Rootfs("java"));
    let program = "
import java.nio.file.*; import java.util.*; import java.util.concurrent.*;
public class Count { public static void main(String[] a) throws Exception {
  var pool = Executors.newFixedThreadPool(4); var map = new ConcurrentHashMap<Integer, byte[]>();
  for (int n = 1; ; n++) { final int k = n;
    Future<Integer> f = pool.submit(() -> { map.put(k % 100, new byte[50000]); int h = 0; for (int i = 0; i < 100000; i++) h = 31 * h + i + k; return h; });
    int h = 0; for (int i = 0; i < 100000; i++) h = 31 * h + i + k;
    if (f.get() != h) System.exit(1);
    Files.writeString(Path.of(\"/dev/shm/.count\"), Integer.toString(n));
    Files.move(Path.of(\"/dev/shm/.count\"), Path.of(\"/dev/shm/count\"), StandardCopyOption.ATOMIC_MOVE);
    Thread.sleep(2); } } }";
    let bundle = Bundle::with_program("java");
    put(&bundle, "Count.java", program);
    let java = "/usr/lib/jvm/default-java/bin/java";
    goes_on(bundle.args([java, "-Xmx256m", "-XX:+UseSerialGC", "/Count.java"]));
}

#[test]
fn postgres_with_a_transaction_open() {
    require!(Root, Criu, UserNamespaces, Rootfs("postgres"));
    // Its server refuses to run as root; in a user namespace of root's, root may save other users' processes.
    let script = "PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); export PATH; cd /tmp
initdb -D /tmp/data -A trust -U postgres --no-sync --locale=C -E UTF8 >/tmp/initdb.log 2>&1 || exit 1
mkfifo /tmp/in; exec 3<>/tmp/in
postgres -D /tmp/data -k /tmp -c listen_addresses= -c jit=off -c fsync=off >/tmp/postgres.log 2>&1 &
until psql -q -h /tmp -U postgres -c 'create table t (n int)'; do sleep 0.1; done 2>/dev/null
psql -q -A -t -h /tmp -U postgres <&3 >/tmp/out 2>&1 &
touch /tmp/ready; wait";
    let bundle = Bundle::with_program("postgres")
        .user_namespace(400_000)
        .shell(script)
        .edit(|c| c["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let file = |name: &str| c.bundle().rootfs().join("tmp").join(name);
    let read = |name: &str| fs::read_to_string(file(name)).unwrap_or_default();
    let end = std::time::Instant::now() + 3 * hiber_tests::PATIENCE;
    while !file("ready").exists() {
        let fine = std::time::Instant::now() < end && c.status() == "running";
        assert!(fine, "{}{}", read("initdb.log"), read("postgres.log"));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let say = |words: &str| fs::write(file("in"), format!("{words}\n")).unwrap();
    say("begin; insert into t select generate_series(1, 1000); select 'in', count(*) from t;");
    wait_for("the transaction", || read("out") == "in|1000\n");
    let others = |c: &Container| {
        let mut ask = c.command("exec", &["--user", "1000:1000"]);
        ask.args([
            "sh",
            "-c",
            "/usr/lib/postgresql/*/bin/psql -A -t -h /tmp -U postgres -c 'select count(*) from t'",
        ]);
        hiber_tests::command::run(ask, b"").ok().to_owned()
    };
    assert_eq!(others(&c), "0", "nobody else sees it yet");
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(others(&c), "0");
    say("insert into t values (1001); commit; select 'out', count(*) from t;");
    wait_for("the commit", || read("out") == "in|1000\nout|1001\n");
    assert_eq!(others(&c), "1001");
}

#[test]
fn a_gibibyte_of_memory() {
    require!(Root, Criu, Rootfs("python"));
    let program = "
import hashlib, os, time
block = os.urandom(1 << 20)
all = bytearray(block * 1024)
def digest():
    h = hashlib.blake2b()
    h.update(all)
    return h.hexdigest()
open('/before', 'w').write(digest())
open('/ready', 'w')
while not os.path.exists('/go'):
    time.sleep(0.05)
open('/.after', 'w').write(digest())
os.rename('/.after', '/after')
time.sleep(1000)
";
    let c = Runtime::hiber().container(Bundle::with_program("python").args(["python3", "-c", program]));
    c.run_detached().ok();
    let file = |name: &str| c.bundle().rootfs().join(name);
    wait_for("the memory", || file("ready").exists());
    sleep_and_wake(&c, &["--no-sync"], &[]);
    fs::write(file("go"), "").unwrap();
    wait_for("the digest", || file("after").exists());
    assert_eq!(fs::read(file("after")).unwrap(), fs::read(file("before")).unwrap());
}

#[test]
fn two_hundred_processes() {
    require!(Root, Criu);
    // half of them sleep, the others pass a word on from one to the next
    let script = "n=0; while [ $n -lt 100 ]; do sleep 10000 & n=$((n+1)); done; \
                  n=0; while [ $n -lt 100 ]; do mkfifo /p$n; n=$((n+1)); done; \
                  n=0; while [ $n -lt 99 ]; do cat <>/p$n >/p$((n+1)) & n=$((n+1)); done; \
                  cat <>/p99 >/dev/shm/out & touch /ready; wait";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    c.run_detached().ok();
    let processes = || c.call("ps", &["--format", "json"]).json().as_array().unwrap().len();
    // touch has ended by then
    wait_for("the processes", || c.bundle().rootfs().join("ready").exists() && processes() == 201);
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(processes(), 201);
    c.sh("echo passed >/p0");
    wait_for("the word to come through", || c.sh("cat /dev/shm/out") == "passed");
}

#[test]
fn a_shell_on_a_terminal() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().args(["sh", "-i"]).edit(|c| c["process"]["terminal"] = json!(true));
    let c = Runtime::hiber().container(bundle);
    let socket = ConsoleSocket::listen(c.bundle().path());
    c.create(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    c.start().ok();
    write_all(&master, "cd /usr; number=41; sleep 1000 &\n");
    write_all(&master, "echo first=$number\n");
    read_until(&master, "first=41");
    c.checkpoint(&[]).ok();
    drop(master);
    c.restore(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    write_all(&master, "echo $PWD has=$((number + 1)); jobs; stty -a | head -1\n");
    let answer = read_until(&master, "speed");
    assert!(answer.contains("/usr has=42") && answer.contains("sleep 1000"), "{answer}");
    // ^C reaches what runs in its foreground, and it alone
    write_all(&master, "cat; echo after\n");
    std::thread::sleep(std::time::Duration::from_millis(300));
    write_all(&master, "\x03");
    // The prompt may come with it, or after. Before, cat could still take the next line along.
    let seen = read_until(&master, "^C");
    if !seen.rsplit("^C").next().unwrap_or_default().contains("# ") {
        read_until(&master, "# ");
    }
    write_all(&master, "echo still=$number\n");
    read_until(&master, "still=41");
}

#[test]
fn a_joined_pid_namespace() {
    require!(Root, Criu);
    let mut holder = Command::new("unshare");
    // Its first process waits for the orphans there, whose numbers are free then.
    holder.args(["--pid", "--fork", "--kill-child", "sh", "-c", "while :; do sleep 0.1; done"]);
    let mut holder = holder.spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", holder.id());
    let child = || fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
    wait_for("the namespace", || !child().is_empty());
    let path = format!("/proc/{}/ns/pid", child());
    let network = Network::new();
    let bundle = Bundle::busybox()
        .shell(crate::COUNT)
        .namespace("pid", Some(&path))
        .namespace("network", Some(&network.path()));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let pid = c.pid();
    c.checkpoint(&[]).ok();
    // Its number is free when the host's process 1 has waited for it.
    wait_for("the number to be free", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    c.restore(&[]).ok();
    let own = fs::read_link(format!("/proc/{}/ns/pid", c.pid())).unwrap();
    assert_eq!(own, fs::read_link(&path).unwrap(), "it is back in the same namespace");
    counts_on(&c, 3);
    c.delete(&["--force"]).ok();
    let _ = holder.kill();
    let _ = holder.wait();
}

/// As `tini -p` does: a signal at its parent's death, and then another program.
const WITH_SIGNAL: &str = r#"
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(argv[1], argv + 1);
	return 1;
}
"#;

#[test]
fn a_parent_death_signal_does_not_end_what_is_restored() {
    require!(Root, Criu, Program("cc"));
    for user_namespace in [false, true] {
        let script = format!(
            "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exec with-signal sh -c '{}'",
            crate::COUNT
        );
        let bundle = Bundle::busybox().shell(&script);
        let bundle = if user_namespace { bundle.user_namespace(100_000) } else { bundle };
        fs::write(bundle.join("with-signal.c"), WITH_SIGNAL).unwrap();
        let (source, program) = (bundle.join("with-signal.c"), bundle.rootfs().join("bin/with-signal"));
        hiber_tests::tools::compile(source.to_str().unwrap(), &program, &["-static"]);
        let c = Runtime::hiber().container(bundle);
        c.run_detached().ok();
        // Its parent has ended before it asks: else it would end here.
        c.sh("touch /dev/shm/go");
        wait_for("a count of 3", || crate::count(&c) >= 3);
        let output = c.checkpoint(&[]);
        output.ok();
        assert!(output.stderr.contains("will not bring back signal 9"), "{output}");
        let before = files(&c);
        let images = c.images().display().to_string();
        let bundle = c.bundle_path();
        let checked =
            c.call("restore", &["--check", "--format", "json", "--image-path", &images, "--bundle", &bundle]);
        let checks = checked.json()["findings"].to_string();
        assert!(checks.contains("parent-death-signal") && checks.contains("signal 9"), "{checks}");
        let output = c.restore(&[]);
        output.ok();
        assert!(output.stderr.contains("signal 9 at the death"), "{output}");
        assert_eq!(files(&c), before, "the images are as they were");
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(c.status(), "running");
        crate::counts_on(&c, 3);
        crate::sleep_and_wake(&c, &[], &[]);
        crate::counts_on(&c, 3);
    }
}

/// The images' names and contents.
fn files(c: &Container) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(c.images())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "img"))
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .collect();
    all.sort();
    all
}
