//! containerd and hiber's own shim, through ctr.

use crate::containerd::{Containerd, MAPPED, Shim, a_checkpoint_image_by, a_terminal_by};
use crate::{SECCOMP_AND_7, count, counted_to};
use hiber_tests::prelude::*;
use hiber_tests::{cgroup, command, pty};
use rustix::process::{Pid, Signal};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};

/// The events of containerd about tasks, as `ctr events` prints them.
struct Events {
    ctr: Child,
    log: std::path::PathBuf,
}

impl Events {
    #[track_caller]
    fn of(containerd: &Containerd) -> Self {
        let log = containerd.home.join("events.log");
        let file = fs::File::create(&log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let mut ctr = containerd.command(&["events"]);
        ctr.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        let events = Self { ctr: ctr.spawn().unwrap_or_else(|e| panic!("ctr events: {e}")), log };
        // It says nothing when it is ready; an event that it shows says so.
        wait_for("ctr to show events", || {
            containerd.call(&["namespaces", "label", "default", "a=b"]).ok();
            !events.text().is_empty()
        });
        events
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Topics and contents of the tasks' events so far.
    fn tasks(&self) -> Vec<(String, Value)> {
        let event = |line: &str| {
            let (topic, json) = line.split_once("/tasks/")?.1.split_once(' ')?;
            Some((topic.to_owned(), serde_json::from_str(json).ok()?))
        };
        self.text().lines().filter_map(event).collect()
    }

    /// Waits until the events of this topic are so many, and returns all topics.
    #[track_caller]
    fn wait_for(&self, topic: &str, count: usize) -> Vec<String> {
        let topics = || self.tasks().into_iter().map(|(topic, _)| topic).collect::<Vec<_>>();
        wait_for(&format!("{count} events {topic}"), || {
            topics().iter().filter(|t| *t == topic).count() >= count
        });
        topics()
    }
}

/// The parent of a container's first process: the shim.
fn shim_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
    parent.unwrap_or_else(|| panic!("process {pid} has no parent: {stat:?}"))
}

fn command_line(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// Checks that the shim has ended and left no socket.
#[track_caller]
fn assert_gone(shim: i32, socket: &str) {
    wait_for("the shim to end", || !command_line(shim).contains("containerd-shim-hiber-v2"));
    assert!(!std::path::Path::new(socket).exists(), "{socket} is left");
}

/// The socket in a shim's command line.
fn socket_of(shim: i32) -> String {
    let line = command_line(shim);
    let words: Vec<_> = line.split(' ').collect();
    let at = words.iter().position(|word| *word == "-socket");
    at.map_or_else(|| panic!("no shim: {line}"), |at| words[at + 1].to_owned())
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.ctr.kill();
        let _ = self.ctr.wait();
    }
}

#[test]
fn run_shows_the_output_and_the_exit_code() {
    require!(Root, Program("containerd"), Program("ctr"));
    let containerd = Containerd::new(Shim::Hiber);
    let output = containerd.run(&["--rm", "--seccomp"], "c", &["sh", "-c", SECCOMP_AND_7]);
    assert_eq!(output.exited(7).stdout, "Seccomp:\t2\n");
    let mut streams = containerd.run_command(&["--rm"], "c", &["sh", "-c", "echo err >&2; cat; exit 9"]);
    let mut ctr =
        streams.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // ctr does not tell of the end of its input when that comes before the task is there
    wait_for("the task", || containerd.call(&["tasks", "ls"]).ok().contains("RUNNING"));
    ctr.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = ctr.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout, output.stderr),
        (Some(9), b"in\n".into(), b"err\n".into())
    );
    containerd.run(&["--rm"], "c", &["nosuch"]).fails("executable file not found in $PATH");
    containerd.run(&["--rm"], "c", &["/nosuch"]).fails("no such file or directory");
    containerd.end(&["c"]);
}

#[test]
fn tasks() {
    require!(Root, Program("containerd"), Program("ctr"), Controller("memory"));
    let containerd = Containerd::new(Shim::Hiber);
    let events = Events::of(&containerd);
    containerd.counter("c", &["--memory-limit", "67108864"]);
    let own = containerd.cgroup("c");
    assert_eq!(cgroup::read("memory", &own, "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(containerd.exec("c", "echo out; exit 5").exited(5).stdout, "out\n");
    let missing = containerd.call(&["tasks", "exec", "--exec-id", "e", "c", "nosuch"]);
    missing.fails("executable file not found in $PATH");
    let pid = containerd.pid("c");
    assert!(containerd.call(&["tasks", "ps", "c"]).ok().contains(&pid.to_string()));
    let metrics = containerd.call(&["tasks", "metrics", "c"]);
    let metrics = metrics.ok();
    assert!(metrics.contains("67108864") && metrics.contains("pids.current"), "{metrics}");
    containerd.call(&["tasks", "pause", "c"]).ok();
    assert_eq!(containerd.task("c").1, "PAUSED");
    let at = count(pid);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(count(pid), at);
    containerd.call(&["tasks", "resume", "c"]).ok();
    counted_to(pid, at + 1);
    containerd.remove("c");
    let topics = events.wait_for("delete", 1);
    let expected =
        "create start exec-added exec-started exit exec-added paused resumed exit delete".split(' ');
    assert_eq!(topics, expected.collect::<Vec<_>>());
    let exits = events.tasks().into_iter().filter(|(topic, _)| topic == "exit");
    let exits: Vec<_> = exits.map(|(_, e)| (e["id"].clone(), e["exit_status"].clone())).collect();
    assert_eq!(exits, [(json!("e"), json!(5)), (json!("c"), json!(137))]);
    drop(events);
    containerd.end(&["c"]);
}

#[test]
fn a_terminal() {
    require!(Root, Program("containerd"), Program("ctr"));
    a_terminal_by(Shim::Hiber);
}

#[test]
fn a_checkpoint_image_becomes_another_container() {
    require!(Root, Criu, Program("containerd"), Program("ctr"));
    a_checkpoint_image_by(Shim::Hiber, &[]);
}

#[test]
fn a_checkpoint_image_of_a_user_namespace() {
    require!(Root, Criu, Program("containerd"), Program("ctr"), UserNamespaces);
    a_checkpoint_image_by(Shim::Hiber, &MAPPED);
}

#[test]
fn a_restarted_containerd_finds_its_tasks_again() {
    require!(Root, Program("containerd"), Program("ctr"));
    let mut containerd = Containerd::new(Shim::Hiber);
    containerd.counter("c", &[]);
    containerd
        .run(&["--detach"], "d", &["sh", "-c", "while [ ! -e /dev/shm/end ]; do sleep 0.05; done; exit 6"])
        .ok();
    let (pid, ended) = (containerd.pid("c"), containerd.pid("d"));
    containerd.end_server();
    // one ends while nobody is there to be told
    let flag = format!("/proc/{ended}/root/dev/shm/end");
    fs::write(&flag, "").unwrap();
    wait_for("the task to end", || !std::path::Path::new(&flag).exists());
    containerd.serve();
    assert_eq!(containerd.task("c"), (pid, "RUNNING".to_owned()));
    counted_to(pid, count(pid) + 1);
    assert_eq!(containerd.exec("c", "exit 3").exited(3).stdout, "");
    wait_for("the end to be known", || containerd.task("d").1 == "STOPPED");
    let deleted = containerd.call(&["tasks", "delete", "d"]);
    assert!(deleted.stderr.contains("task d exit with non-zero exit code 6"), "{deleted}");
    containerd.call(&["containers", "delete", "d"]).ok();
    let shim = shim_of(pid);
    let socket = socket_of(shim);
    containerd.remove("c");
    assert_gone(shim, &socket);
    containerd.end(&["c", "d"]);
}

#[test]
fn containers_of_a_pod_share_a_shim() {
    require!(Root, Program("containerd"), Program("ctr"));
    let containerd = Containerd::new(Shim::Hiber);
    let pod = ["--annotation", "io.kubernetes.cri.sandbox-id=pod"];
    containerd.counter("c", &pod);
    containerd.counter("d", &pod);
    containerd.counter("alone", &[]);
    let shim = shim_of(containerd.pid("c"));
    assert_eq!(shim_of(containerd.pid("d")), shim);
    assert_ne!(shim_of(containerd.pid("alone")), shim);
    let socket = socket_of(shim);
    // the first one's bundle goes, and the shim serves the other
    containerd.remove("c");
    let pid = containerd.pid("d");
    counted_to(pid, count(pid) + 1);
    assert_eq!(containerd.exec("d", "echo out").ok(), "out");
    containerd.remove("d");
    assert_gone(shim, &socket);
    containerd.remove("alone");
    containerd.end(&["c", "d", "alone"]);
}

#[test]
fn memory_that_runs_out_is_told() {
    require!(Root, Program("containerd"), Program("ctr"), Controller("memory"));
    let containerd = Containerd::new(Shim::Hiber);
    let events = Events::of(&containerd);
    let eat = "dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 0.2; exit 8";
    containerd.run(&["--rm", "--memory-limit", "33554432"], "c", &["sh", "-c", eat]).exited(8);
    let topics = events.wait_for("delete", 1);
    assert_eq!(topics, ["create", "start", "oom", "exit", "delete"]);
    drop(events);
    containerd.end(&["c"]);
}

#[test]
fn logs_go_to_files_and_programs() {
    require!(Root, Program("containerd"), Program("ctr"));
    let containerd = Containerd::new(Shim::Hiber);
    let say = ["sh", "-c", "echo out; echo err >&2"];
    let log = containerd.home.join("logs/file");
    let uri = format!("file://{}", log.display());
    containerd.run(&["--rm", "--log-uri", &uri], "c", &say).ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "out\nerr\n");
    let log = containerd.home.join("program");
    let program = "#!/bin/sh\nexec 5<&-\n{ echo $CONTAINER_ID $CONTAINER_NAMESPACE; /bin/cat <&3; /bin/cat <&4; } >$2\n";
    let program = containerd.home.write("log.sh", program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let uri = format!("binary://{program}?to={}", log.display());
    containerd.run(&["--rm", "--log-uri", &uri], "c", &say).ok();
    assert_eq!(fs::read_to_string(&log).unwrap(), "c default\nout\nerr\n");
    containerd.end(&["c"]);
}

#[test]
fn a_shim_that_is_killed_is_cleared_up_after() {
    require!(Root, Program("containerd"), Program("ctr"));
    let containerd = Containerd::new(Shim::Hiber);
    let events = Events::of(&containerd);
    containerd.counter("c", &[]);
    let shim = shim_of(containerd.pid("c"));
    let socket = socket_of(shim);
    rustix::process::kill_process(Pid::from_raw(shim).unwrap(), Signal::KILL).unwrap();
    let topics = events.wait_for("delete", 1);
    assert_eq!(topics, ["create", "start", "exit", "delete"]);
    assert_eq!(events.tasks()[2].1["exit_status"], 137);
    assert_gone(shim, &socket);
    containerd.call(&["containers", "delete", "c"]).ok();
    drop(events);
    containerd.end(&["c"]);
}

#[test]
fn a_terminal_of_an_exec() {
    require!(Root, Program("containerd"), Program("ctr"));
    let containerd = Containerd::new(Shim::Hiber);
    containerd.counter("c", &[]);
    let (master, terminal) = pty::open();
    let stream = || terminal.try_clone().unwrap();
    let script = "tty; stty size; read -r l; echo got $l; exit 4";
    let mut exec = containerd.command(&["tasks", "exec", "--tty", "--exec-id", "e", "c", "sh", "-c", script]);
    exec.stdin(stream()).stdout(stream()).stderr(stream());
    rustix::termios::tcsetwinsize(
        &terminal,
        rustix::termios::Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 },
    )
    .unwrap();
    let mut child = exec.spawn().unwrap();
    drop(exec);
    pty::read_until(&master, "/dev/pts/");
    pty::write_all(&master, "hello\n");
    pty::read_until(&master, "got hello");
    assert_eq!(command::wait(&mut child, "ctr tasks exec --tty").code(), Some(4));
    containerd.remove("c");
    containerd.end(&["c"]);
}
