//! podman and its conmon: containers as people use them. Checkpoints are in `podman_checkpoint`.

use crate::home::{Home, IMAGE};
use crate::{COUNT, SECCOMP_AND_7, counted_to};
use hiber_tests::prelude::*;
use hiber_tests::{cgroup, command, pty, tools};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The limits that podman would raise for every container to values that root may not have here.
pub(crate) const ULIMITS: [&str; 2] = ["nofile=1024:1024", "nproc=1024:1024"];

/// podman with a private storage that holds the busybox image. It takes all containers with it when
/// dropped.
pub(crate) struct Podman(Home);

impl Podman {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let home = Home::new();
        // file locks: the other kind is one shared memory for all podmans of the machine
        let conf = format!(
            "[engine]\nevents_logger = \"file\"\nlock_type = \"file\"\ntmp_dir = \"{}\"\n",
            home.path("tmp")
        );
        home.write("containers.conf", &conf);
        let podman = Self(home);
        podman.call(&["load", "--quiet", "--input", &podman.0.image()]).ok();
        podman
    }

    pub(crate) fn home(&self) -> &Home {
        &self.0
    }

    /// `podman`, with the private storage.
    pub(crate) fn client(&self) -> Command {
        let mut command = self.0.command("podman");
        command.env("CONTAINERS_CONF", self.0.join("containers.conf"));
        command.arg("--root").arg(self.0.join("root")).arg("--runroot").arg(self.0.join("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command
    }

    /// `podman ARGS` with hiber as the runtime.
    #[track_caller]
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let hiber = tools::hiber().unwrap_or_else(|e| panic!("no runtime: {e}"));
        let mut command = self.client();
        command.arg("--runtime").arg(hiber).args(args);
        command
    }

    #[track_caller]
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        command::run(self.command(args), b"")
    }

    /// `podman run FLAGS IMAGE ARGS`, without a network of its own unless the flags say otherwise.
    #[track_caller]
    pub(crate) fn run(&self, flags: &[&str], args: &[&str]) -> Output {
        self.run_image(IMAGE, flags, args)
    }

    #[track_caller]
    pub(crate) fn run_image(&self, image: &str, flags: &[&str], args: &[&str]) -> Output {
        let parent = self.0.cgroup();
        let mut all = vec!["run", "--pull", "never", "--cgroup-parent", &parent];
        all.extend(ULIMITS.iter().flat_map(|u| ["--ulimit", *u]));
        if !flags.contains(&"--network") {
            all.extend(["--network", "none"]);
        }
        all.extend(flags);
        all.push(image);
        all.extend(args);
        self.call(&all)
    }

    /// Starts a counter under this name and waits for a count of 3.
    #[track_caller]
    pub(crate) fn counter(&self, name: &str, flags: &[&str]) {
        let all: Vec<_> = ["--detach", "--name", name].iter().chain(flags).copied().collect();
        self.run(&all, &["sh", "-c", COUNT]).ok();
        counted_to(self.pid(name), 3);
    }

    /// `podman inspect --format FORMAT NAME`.
    #[track_caller]
    pub(crate) fn inspect(&self, name: &str, format: &str) -> String {
        self.call(&["inspect", "--format", format, name]).ok().to_owned()
    }

    #[track_caller]
    pub(crate) fn pid(&self, name: &str) -> i32 {
        self.inspect(name, "{{.State.Pid}}").parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> String {
        self.inspect(name, "{{.State.Status}}")
    }

    /// `podman exec NAME sh -c SCRIPT`, which must succeed: what it printed.
    #[track_caller]
    pub(crate) fn sh(&self, name: &str, script: &str) -> String {
        self.call(&["exec", name, "sh", "-c", script]).ok().to_owned()
    }

    /// Removes all containers and checks that hiber leaves nothing.
    #[track_caller]
    pub(crate) fn remove_all(self) {
        let ids = self.call(&["ps", "--all", "--quiet", "--no-trunc"]);
        let ids: Vec<_> = ids.ok().lines().map(str::to_owned).collect();
        self.call(&["rm", "--force", "--all", "--time", "0"]).ok();
        // podman puts conmons and pods into cgroups that it leaves, and makes those of `run --rm` anew,
        // with any runtime; rmdir works as soon as nobody lives there
        for directory in cgroup::directories(&self.0.cgroup()) {
            wait_for("podman's cgroup to empty", || {
                fs::remove_dir(&directory).is_ok() || !directory.exists()
            });
        }
        // hiber's own directory: the podman that cleans up in the background forgets any --runtime-flag
        self.0.assert_clean(Path::new("/run/hiber"), &ids);
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        command::quietly(&mut self.command(&["pod", "rm", "--force", "--all"]));
        command::quietly(&mut self.command(&["rm", "--force", "--all", "--time", "0"]));
    }
}

#[test]
fn run_shows_the_output_and_the_exit_code() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    let output = podman.run(&["--rm"], &["sh", "-c", SECCOMP_AND_7]);
    assert_eq!(output.exited(7).stdout, "Seccomp:\t2\n");
    podman.remove_all();
}

#[test]
fn a_profile_refuses_what_it_names() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    let refuse = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38});
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refuse]});
    let profile = format!("seccomp={}", podman.home().write("seccomp.json", &profile.to_string()));
    podman.run(&["--rm", "--security-opt", &profile], &["mkdir", "/a"]).fails("function not implemented");
    podman.run(&["--rm"], &["mkdir", "/a"]).ok();
    podman.remove_all();
}

#[test]
fn programs_that_cannot_run() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    podman.run(&["--rm"], &["nosuch"]).exited(127).fails("executable file not found in $PATH");
    podman.run(&["--rm"], &["/nosuch"]).exited(127).fails("no such file or directory");
    podman.run(&["--rm"], &["/etc/passwd"]).exited(126).fails("permission denied");
    podman.counter("c", &[]);
    podman.call(&["exec", "c", "nosuch"]).exited(127).fails("executable file not found in $PATH");
    podman.remove_all();
}

#[test]
fn exec_has_an_exit_code_streams_and_a_user() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    podman.counter("c", &[]);
    let script = "cat; echo error >&2; exit 5";
    let output = command::run(podman.command(&["exec", "--interactive", "c", "sh", "-c", script]), b"in\n");
    assert_eq!((output.exited(5).stdout.as_str(), output.stderr.contains("error\n")), ("in\n", true));
    let mut user = podman.command(&["exec", "--user", "user", "--workdir", "/tmp", "--env", "A=b", "c"]);
    user.args(["sh", "-c", "id -u; pwd; echo $A; grep Seccomp: /proc/self/status"]);
    assert_eq!(command::run(user, b"").ok(), "1000\n/tmp\nb\nSeccomp:\t2");
    podman.remove_all();
}

#[test]
fn kill_stop_start_and_restart() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    podman
        .run(&["-d", "--name", "c"], &["sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.05; done"])
        .ok();
    podman.call(&["stop", "--time", "20", "c"]).ok();
    assert_eq!(podman.inspect("c", "{{.State.Status}} {{.State.ExitCode}}"), "exited 4");
    podman.call(&["exec", "c", "true"]).fails("container state improper");
    podman.call(&["start", "c"]).ok();
    let first = podman.pid("c");
    podman.call(&["restart", "--time", "0", "c"]).ok();
    assert_ne!(podman.pid("c"), first);
    podman.call(&["kill", "--signal", "KILL", "c"]).ok();
    assert_eq!(podman.call(&["wait", "c"]).ok(), "137");
    podman.call(&["kill", "c"]).fails("container state improper");
    podman.remove_all();
}

#[test]
fn a_paused_container_stands_still() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    podman.counter("c", &[]);
    podman.call(&["pause", "c"]).ok();
    assert_eq!(podman.status("c"), "paused");
    let pid = podman.pid("c");
    let at = crate::count(pid);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(crate::count(pid), at);
    podman.call(&["unpause", "c"]).ok();
    counted_to(pid, at + 1);
    assert!(podman.call(&["top", "c", "pid", "args"]).ok().contains("sleep 0.05"));
    podman.remove_all();
}

#[test]
fn limits_are_set() {
    require!(Root, Program("podman"), Controller("memory"), Controller("pids"), Controller("cpu"));
    let podman = Podman::new();
    podman.counter("c", &["--memory", "64m", "--pids-limit", "33", "--cpu-quota", "50000"]);
    let own = podman.inspect("c", "{{.State.CgroupPath}}");
    let own = if own.is_empty() {
        format!("{}/libpod-{}", podman.home().cgroup(), podman.inspect("c", "{{.Id}}"))
    } else {
        own
    };
    let limit = |controller, v1, v2| cgroup::read(controller, &own, v1, v2);
    assert_eq!(limit("memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(limit("pids", "pids.max", "pids.max"), "33");
    assert!(limit("cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    // and they hold: a shell that would take 128 MiB is killed
    let eat = podman.call(&["exec", "c", "sh", "-c", "head -c 128m /dev/zero | tail -c 128m >/dev/null"]);
    eat.exited(137);
    podman.remove_all();
}

#[test]
fn another_user_with_groups_and_capabilities() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    let script = "id -u; id -G; grep CapEff /proc/self/status; touch /etc/x";
    let output = podman.run(&["--rm", "--user", "user"], &["sh", "-c", script]);
    assert_eq!(output.fails("permission denied").stdout, "1000\n1000 44\nCapEff:\t0000000000000000\n");
    let flags = ["--rm", "--cap-drop", "all", "--cap-add", "chown"];
    assert_eq!(
        podman.run(&flags, &["grep", "CapEff", "/proc/self/status"]).ok(),
        "CapEff:\t0000000000000001"
    );
    podman.remove_all();
}

#[test]
fn a_read_only_root_with_a_tmpfs_and_volumes() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    fs::create_dir(podman.home().join("host")).unwrap();
    fs::write(podman.home().join("host/there"), "").unwrap();
    let (rw, ro) =
        (format!("{}:/rw", podman.home().path("host")), format!("{}:/ro:ro", podman.home().path("host")));
    let flags = [
        "--rm",
        "--read-only",
        "--tmpfs",
        "/fast:size=1m,mode=700",
        "--volume",
        &rw,
        "-v",
        &ro,
        "-v",
        "named:/named",
    ];
    let script = "touch /a /ro/b; touch /fast/c /rw/d; echo kept >/named/e; ls -d /fast/* /ro/* /named/*; \
                  stat -c %a /fast; df -m /fast | tail -n 1 | tr -s ' ' | cut -d' ' -f2";
    let output = podman.run(&flags, &["sh", "-c", script]);
    assert_eq!(output.ok(), "/fast/c\n/named/e\n/ro/d\n/ro/there\n700\n1");
    assert_eq!(output.stderr.matches("Read-only file system").count(), 2, "{output}");
    assert_eq!(podman.run(&["--rm", "-v", "named:/n:ro"], &["cat", "/n/e"]).ok(), "kept");
    podman.remove_all();
}

#[test]
fn an_init_reaps() {
    require!(Root, Program("podman"), Program("catatonit"));
    let podman = Podman::new();
    let output = podman.run(&["--rm", "--init"], &["sh", "-c", "cat /proc/1/comm; exit 6"]);
    assert!(output.exited(6).stdout.contains("init"), "{output}");
    podman.remove_all();
}

/// Answers each line; `end` ends it with status 3.
const ANSWER: &str = "tty; while read -r l; do [ $l = end ] && exit 3; echo got $l; done";

/// Attaches to the container `t`, which runs [`ANSWER`] in a terminal, talks with it, and ends it.
#[track_caller]
pub(crate) fn talk_and_end(podman: &Podman) {
    let (master, terminal) = pty::open();
    let mut attach = podman.command(&["attach", "t"]);
    let stream = || terminal.try_clone().unwrap();
    attach.stdin(stream()).stdout(stream()).stderr(stream());
    let mut child = attach.spawn().unwrap();
    drop(attach);
    // the first words may be lost while podman attaches
    pty::write_all(&master, "hello\n");
    pty::read_until(&master, "got hello");
    pty::write_all(&master, "end\n");
    assert!(command::wait(&mut child, "podman attach").success());
    assert_eq!(podman.call(&["wait", "t"]).ok(), "3");
}

#[test]
fn a_terminal_in_the_background_can_be_attached_to() {
    require!(Root, Program("podman"));
    let podman = Podman::new();
    podman.run(&["-dt", "--name", "t"], &["sh", "-c", ANSWER]).ok();
    assert_eq!(podman.call(&["exec", "-t", "t", "tty"]).ok().trim_end(), "/dev/pts/1");
    podman.call(&["exec", "t", "tty"]).exited(1);
    talk_and_end(&podman);
    assert!(podman.call(&["logs", "t"]).ok().starts_with("/dev/pts/0\r\n"));
    podman.remove_all();
}

#[test]
fn a_restored_terminal_can_be_attached_to() {
    require!(Root, Criu, Program("podman"));
    let podman = Podman::new();
    podman.run(&["-dt", "--name", "t"], &["sh", "-c", ANSWER]).ok();
    podman.call(&["container", "checkpoint", "t"]).ok();
    podman.call(&["container", "restore", "t"]).ok();
    talk_and_end(&podman);
    podman.remove_all();
}
