//! Docker: the client, its server, and the containerd that the server starts.

use crate::home::{Home, IMAGE, Server};
use crate::{COUNT, SECCOMP_AND_7, count, counted_to, counts_on};
use hiber_tests::prelude::*;
use hiber_tests::{cgroup, command, tools};
use std::path::Path;
use std::process::Command;

/// A Docker that holds the busybox image and takes hiber by default.
pub(crate) struct Docker {
    server: Server,
    pub(crate) home: Home,
}

impl Docker {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let home = Home::new();
        let hiber = tools::hiber().unwrap_or_else(|e| panic!("no runtime: {e}"));
        // the key would be made in /etc/docker otherwise
        let config = json!({
            "deprecated-key-path": home.path("key.json"),
            "experimental": true,
            "data-root": home.path("root"),
            "exec-root": home.path("run"),
            "pidfile": home.path("pid"),
            "hosts": [format!("unix://{}", home.path("sock"))],
            "storage-driver": "vfs",
            "iptables": false,
            "ip6tables": false,
            "bridge": "none",
            "cgroup-parent": home.cgroup(),
            "runtimes": {"hiber": {"path": hiber}},
            "default-runtime": "hiber"
        });
        let config = home.write("daemon.json", &config.to_string());
        let mut command = home.command("dockerd");
        command.args(["--config-file", &config]);
        let server = Server::start(command, &home.join("sock"), &home.join("dockerd.log"));
        let docker = Self { server, home };
        docker.call(&["load", "--quiet", "--input", &docker.home.image()]).ok();
        docker
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        // the client of the same package, should there be another one
        let debian = "/usr/bin/docker";
        let mut command = self.home.command(if Path::new(debian).exists() { debian } else { "docker" });
        command.arg("--host").arg(format!("unix://{}", self.home.path("sock"))).args(args);
        command
    }

    #[track_caller]
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        command::run(self.command(args), b"")
    }

    /// `docker run FLAGS IMAGE ARGS`, without network.
    #[track_caller]
    fn run(&self, flags: &[&str], args: &[&str]) -> Output {
        self.run_image(IMAGE, flags, args)
    }

    #[track_caller]
    pub(crate) fn run_image(&self, image: &str, flags: &[&str], args: &[&str]) -> Output {
        let mut all = vec!["run", "--pull", "never", "--network", "none", "--ulimit", "nofile=1024:1024"];
        all.extend(flags);
        all.push(image);
        all.extend(args);
        self.call(&all)
    }

    #[track_caller]
    fn counter(&self, name: &str, flags: &[&str]) {
        let all: Vec<_> = ["--detach", "--name", name].iter().chain(flags).copied().collect();
        self.run(&all, &["sh", "-c", COUNT]).ok();
        counted_to(self.pid(name), 3);
    }

    #[track_caller]
    pub(crate) fn inspect(&self, name: &str, format: &str) -> String {
        self.call(&["inspect", "--format", format, name]).ok().to_owned()
    }

    #[track_caller]
    pub(crate) fn pid(&self, name: &str) -> i32 {
        self.inspect(name, "{{.State.Pid}}").parse().unwrap()
    }

    /// `docker start --checkpoint CHECKPOINT counter`. Docker hands the images to its containerd, which
    /// refuses them while its garbage collector has yet to take the ones that the checkpoint left there.
    #[track_caller]
    pub(crate) fn start_from(&self, checkpoint: &str) {
        wait_for("Docker to start from a checkpoint", || {
            let output = self.call(&["start", "--checkpoint", checkpoint, "counter"]);
            if !output.status.success() {
                output.fails("failed to upload checkpoint to containerd").fails("already exists");
            }
            output.status.success()
        });
    }

    /// Removes all containers, ends the server and checks that hiber leaves nothing.
    #[track_caller]
    pub(crate) fn end(self) {
        let ids = self.call(&["ps", "--all", "--quiet", "--no-trunc"]);
        let ids: Vec<_> = ids.ok().lines().map(str::to_owned).collect();
        if !ids.is_empty() {
            let all: Vec<_> = ["rm", "--force"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            self.call(&all).ok();
        }
        let Self { server, home } = self;
        drop(server);
        home.assert_clean(&home.join("run/runtime-hiber/moby"), &ids);
    }
}

#[test]
fn run_and_exec() {
    require!(Root, Program("dockerd"), Program("docker"));
    let docker = Docker::new();
    let output = docker.run(&["--rm"], &["sh", "-c", SECCOMP_AND_7]);
    assert_eq!(output.exited(7).stdout, "Seccomp:\t2\n");
    // what follows `commit:` in the output of --version
    let commit = docker.call(&["info", "--format", "{{.RuncCommit.ID}}"]).ok().to_owned();
    let mut version = Runtime::hiber().bare_command();
    version.arg("--version");
    let version = command::run(version, b"");
    assert_eq!(version.ok().lines().nth(1), Some(format!("commit: {commit}").as_str()));
    docker.run(&["--rm"], &["unshare", "-U", "true"]).fails("operation not permitted");
    docker.run(&["--rm"], &["nosuch"]).exited(127).fails("executable file not found in $PATH");
    docker.run(&["--rm"], &["/nosuch"]).exited(127).fails("no such file or directory");
    docker.run(&["--rm"], &["/etc/passwd"]).exited(126).fails("permission denied");
    docker.counter("counter", &[]);
    docker.call(&["exec", "counter", "sh", "-c", "exit 5"]).exited(5);
    let missing = docker.call(&["exec", "counter", "nosuch"]);
    assert!(missing.exited(126).stdout.contains("executable file not found in $PATH"), "{missing}");
    assert_eq!(docker.call(&["exec", "--user", "user", "counter", "id", "-u"]).ok(), "1000");
    docker.end();
}

#[test]
fn options_of_run() {
    require!(Root, Program("dockerd"), Program("docker"), Controller("memory"), Controller("pids"));
    let docker = Docker::new();
    let flags =
        ["--rm", "--user", "user", "--read-only", "--tmpfs", "/fast:size=1m", "--volume", "named:/named:ro"];
    let script = "id -u; touch /tmp/x /named/x; touch /fast/y; ls /fast";
    let output = docker.run(&flags, &["sh", "-c", script]);
    assert_eq!(output.ok(), "1000\ny");
    assert_eq!(output.stderr.matches("Read-only file system").count(), 2, "{output}");
    let output = docker.run(&["--rm", "--init"], &["cat", "/proc/1/comm"]);
    assert_eq!(output.ok(), "docker-init");
    docker.counter("limited", &["--memory", "64m", "--pids-limit", "33"]);
    let own = format!("{}/{}", docker.home.cgroup(), docker.inspect("limited", "{{.Id}}"));
    assert_eq!(cgroup::read("memory", &own, "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(cgroup::read("pids", &own, "pids.max", "pids.max"), "33");
    docker.call(&["update", "--pids-limit", "44", "limited"]).ok();
    assert_eq!(cgroup::read("pids", &own, "pids.max", "pids.max"), "44");
    docker.end();
}

#[test]
fn stop_kill_pause_and_a_terminal() {
    require!(Root, Program("dockerd"), Program("docker"));
    let docker = Docker::new();
    docker.counter("counter", &["--tty"]);
    assert_eq!(docker.call(&["exec", "--tty", "counter", "tty"]).ok().trim_end(), "/dev/pts/1");
    let pid = docker.pid("counter");
    docker.call(&["pause", "counter"]).ok();
    assert_eq!(docker.inspect("counter", "{{.State.Status}}"), "paused");
    let at = count(pid);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(count(pid), at);
    docker.call(&["unpause", "counter"]).ok();
    counted_to(pid, at + 1);
    assert!(docker.call(&["top", "counter"]).ok().contains("sleep 0.05"));
    docker.call(&["kill", "counter"]).ok();
    assert_eq!(docker.call(&["wait", "counter"]).ok(), "137");
    docker.call(&["kill", "counter"]).fails("is not running");
    docker
        .run(&["-d", "--name", "stop"], &["sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.05; done"])
        .ok();
    docker.call(&["stop", "--time", "20", "stop"]).ok();
    assert_eq!(docker.inspect("stop", "{{.State.ExitCode}}"), "4");
    docker.end();
}

// One checkpoint for each Docker: a second one soon after fails by itself ("already exists") where the
// containerd in it has yet to collect what the first left there.

#[test]
fn a_checkpoint_stops_the_container() {
    require!(Root, Criu, Program("dockerd"), Program("docker"));
    let docker = Docker::new();
    docker.counter("counter", &[]);
    let before = counted_to(docker.pid("counter"), 20);
    docker.call(&["checkpoint", "create", "counter", "only"]).ok();
    wait_for("the container to stop", || docker.inspect("counter", "{{.State.Status}}") == "exited");
    docker.start_from("only");
    counts_on(docker.pid("counter"), before);
    docker.call(&["exec", "counter", "sh", "-c", "exit 5"]).exited(5);
    docker.end();
}

#[test]
fn a_container_goes_back_to_a_checkpoint_that_left_it_running() {
    require!(Root, Criu, Program("dockerd"), Program("docker"));
    let docker = Docker::new();
    docker.counter("counter", &[]);
    let pid = docker.pid("counter");
    let before = counted_to(pid, 20);
    docker.call(&["checkpoint", "create", "--leave-running", "counter", "only"]).ok();
    assert_eq!(docker.pid("counter"), pid);
    counted_to(pid, count(pid) + 1);
    docker.call(&["kill", "counter"]).ok();
    docker.call(&["wait", "counter"]).ok();
    docker.start_from("only");
    counts_on(docker.pid("counter"), before);
    docker.end();
}
