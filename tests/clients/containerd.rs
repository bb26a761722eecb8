//! containerd and runc's shim, through ctr.

use crate::home::{Home, IMAGE, Server};
use crate::{COUNT, SECCOMP_AND_7, count, counted_to, counts_on};
use hiber_tests::prelude::*;
use hiber_tests::{cgroup, command, pty, tools};
use std::process::Command;

/// The program that containerd starts for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shim {
    /// runc's, with hiber as its binary.
    Runc,
    /// hiber's own.
    Hiber,
}

/// A containerd that holds the busybox image.
pub(crate) struct Containerd {
    server: Option<Server>,
    shim: Shim,
    pub(crate) home: Home,
}

impl Containerd {
    #[track_caller]
    pub(crate) fn new(shim: Shim) -> Self {
        let home = Home::new();
        // CRI wants a network's configuration, and is not what ctr talks to
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{}\"\n",
            home.path("root"),
            home.path("run"),
            home.path("sock")
        );
        home.write("config.toml", &config);
        home.write("hiber.toml", &format!("Root = \"{}\"\n", home.path("state")));
        let mut containerd = Self { server: None, shim, home };
        containerd.serve();
        containerd.call(&["images", "import", "--snapshotter", "native", &containerd.home.image()]).ok();
        containerd
    }

    /// Starts the server, in place of one that runs.
    #[track_caller]
    pub(crate) fn serve(&mut self) {
        drop(self.server.take());
        let mut command = self.home.command("containerd");
        command.args(["--config", &self.home.path("config.toml")]);
        if self.shim == Shim::Hiber {
            let shim = tools::shim().unwrap_or_else(|e| panic!("no shim: {e}"));
            let directory = shim.parent().unwrap_or(shim);
            let mut path = directory.as_os_str().to_owned();
            path.push(":");
            path.push(tools::path_with_criu());
            command.env("PATH", path);
        }
        let log = self.home.join("containerd.log");
        self.server = Some(Server::start(command, &self.home.join("sock"), &log));
    }

    /// Ends the server alone.
    pub(crate) fn end_server(&mut self) {
        drop(self.server.take());
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.home.command("ctr");
        command.args(["--address", &self.home.path("sock")]).args(args);
        command
    }

    #[track_caller]
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        command::run(self.command(args), b"")
    }

    /// `ctr run FLAGS IMAGE ID ARGS` with hiber as the runtime.
    pub(crate) fn run_command(&self, flags: &[&str], id: &str, args: &[&str]) -> Command {
        self.run_image(IMAGE, flags, id, args)
    }

    /// As [`run_command`](Self::run_command), of another image.
    pub(crate) fn run_image(&self, image: &str, flags: &[&str], id: &str, args: &[&str]) -> Command {
        let mut command = self.command(&["run", "--snapshotter", "native", "--cgroup", &self.cgroup(id)]);
        match self.shim {
            Shim::Runc => {
                let hiber = tools::hiber().unwrap_or_else(|e| panic!("no runtime: {e}"));
                command.arg("--runc-binary").arg(hiber).args(["--runc-root", &self.home.path("state")]);
            }
            Shim::Hiber => {
                command.args(["--runtime", "io.containerd.hiber.v2"]);
                command.args(["--runtime-config-path", &self.home.path("hiber.toml")]);
            }
        }
        command.args(flags).args([image, id]).args(args);
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, flags: &[&str], id: &str, args: &[&str]) -> Output {
        command::run(self.run_command(flags, id, args), b"")
    }

    #[track_caller]
    pub(crate) fn counter(&self, id: &str, flags: &[&str]) {
        let all: Vec<_> = ["--detach"].iter().chain(flags).copied().collect();
        self.run(&all, id, &["sh", "-c", COUNT]).ok();
        counted_to(self.pid(id), 3);
    }

    pub(crate) fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.home.cgroup())
    }

    /// A line of `ctr tasks ls`: pid and status.
    #[track_caller]
    pub(crate) fn task(&self, id: &str) -> (i32, String) {
        let list = self.call(&["tasks", "ls"]);
        let mut lines = list.ok().lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        match lines.find(|words| words[0] == id).as_deref() {
            Some([_, pid, status]) => (pid.parse().unwrap(), (*status).to_owned()),
            _ => panic!("no task {id}: {list}"),
        }
    }

    #[track_caller]
    pub(crate) fn pid(&self, id: &str) -> i32 {
        self.task(id).0
    }

    /// Runs a shell script in the container.
    #[track_caller]
    pub(crate) fn exec(&self, id: &str, script: &str) -> Output {
        self.call(&["tasks", "exec", "--exec-id", "e", id, "sh", "-c", script])
    }

    /// Kills the container, and deletes task and container.
    #[track_caller]
    pub(crate) fn remove(&self, id: &str) {
        self.call(&["tasks", "kill", "--signal", "KILL", id]).ok();
        wait_for("the task to stop", || self.task(id).1 == "STOPPED");
        // tells of the exit status as its own
        self.call(&["tasks", "delete", id]);
        self.call(&["containers", "delete", id]).ok();
    }

    /// Ends containerd and checks that hiber leaves nothing of these containers.
    #[track_caller]
    pub(crate) fn end(self, ids: &[&str]) {
        let Self { server, home, .. } = self;
        drop(server);
        let ids: Vec<_> = ids.iter().map(|id| format!("default/{id}")).collect();
        home.assert_clean(&home.join("state"), &ids);
    }
}

#[test]
fn run_shows_the_output_and_the_exit_code() {
    require!(Root, Program("containerd"), Program("ctr"));
    let containerd = Containerd::new(Shim::Runc);
    let output = containerd.run(&["--rm", "--seccomp"], "c", &["sh", "-c", SECCOMP_AND_7]);
    assert_eq!(output.exited(7).stdout, "Seccomp:\t2\n");
    containerd.run(&["--rm"], "c", &["nosuch"]).fails("executable file not found in $PATH");
    containerd.run(&["--rm"], "c", &["/nosuch"]).fails("no such file or directory");
    containerd.end(&["c"]);
}

#[test]
fn options_of_run() {
    require!(Root, Program("containerd"), Program("ctr"));
    let containerd = Containerd::new(Shim::Runc);
    std::fs::create_dir(containerd.home.join("host")).unwrap();
    let mount = format!("type=bind,src={},dst=/host,options=rbind:rw", containerd.home.path("host"));
    let tmpfs = "type=tmpfs,src=tmpfs,dst=/fast,options=size=1m";
    let flags = ["--rm", "--read-only", "--mount", &mount, "--mount", tmpfs];
    let script = "touch /tmp/x; touch /fast/y; ls /fast";
    let output = containerd.run(&flags, "c", &["sh", "-c", script]);
    assert_eq!(output.ok(), "y");
    assert_eq!(output.stderr.matches("Read-only file system").count(), 1, "{output}");
    let output = containerd.run(&["--rm", "--mount", &mount], "c", &["sh", "-c", "echo out >/host/file"]);
    output.ok();
    assert_eq!(std::fs::read_to_string(containerd.home.join("host/file")).unwrap(), "out\n");
    containerd.end(&["c"]);
}

#[test]
fn tasks() {
    require!(Root, Program("containerd"), Program("ctr"), Controller("memory"));
    let containerd = Containerd::new(Shim::Runc);
    containerd.counter("c", &["--memory-limit", "67108864"]);
    let own = containerd.cgroup("c");
    assert_eq!(cgroup::read("memory", &own, "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(containerd.exec("c", "echo out; exit 5").exited(5).stdout, "out\n");
    let missing = containerd.call(&["tasks", "exec", "--exec-id", "e", "c", "nosuch"]);
    missing.fails("executable file not found in $PATH");
    let pid = containerd.pid("c");
    assert!(containerd.call(&["tasks", "ps", "c"]).ok().contains(&pid.to_string()));
    assert!(containerd.call(&["tasks", "metrics", "c"]).ok().contains("memory"));
    containerd.call(&["tasks", "pause", "c"]).ok();
    assert_eq!(containerd.task("c").1, "PAUSED");
    let at = count(pid);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(count(pid), at);
    containerd.call(&["tasks", "resume", "c"]).ok();
    counted_to(pid, at + 1);
    containerd.remove("c");
    containerd.end(&["c"]);
}

#[test]
fn a_terminal() {
    require!(Root, Program("containerd"), Program("ctr"));
    a_terminal_by(Shim::Runc);
}

#[track_caller]
pub(crate) fn a_terminal_by(shim: Shim) {
    let containerd = Containerd::new(shim);
    let (master, terminal) = pty::open();
    let stream = || terminal.try_clone().unwrap();
    let mut run =
        containerd.run_command(&["--rm", "--tty"], "c", &["sh", "-c", "tty; read -r l; echo got $l; exit 4"]);
    run.stdin(stream()).stdout(stream()).stderr(stream());
    let mut child = run.spawn().unwrap();
    drop(run);
    pty::read_until(&master, "/dev/pts/0");
    pty::write_all(&master, "hello\n");
    pty::read_until(&master, "got hello");
    assert_eq!(command::wait(&mut child, "ctr run --tty").code(), Some(4));
    containerd.end(&["c"]);
}

#[test]
fn a_checkpoint_image_becomes_another_container() {
    require!(Root, Criu, Program("containerd"), Program("ctr"));
    a_checkpoint_image_by(Shim::Runc, &[]);
}

#[test]
fn a_checkpoint_image_of_a_user_namespace() {
    require!(Root, Criu, Program("containerd"), Program("ctr"), UserNamespaces);
    a_checkpoint_image_by(Shim::Runc, &MAPPED);
}

#[track_caller]
pub(crate) fn a_checkpoint_image_by(shim: Shim, flags: &[&str]) {
    let containerd = Containerd::new(shim);
    // There may be others: with --uidmap ctr does not pass on where our shim's containers are to be.
    let [c, d] = ["c", "d"].map(|name| format!("{}-{name}", &containerd.home.cgroup()[1..]));
    containerd.counter(&c, flags);
    let id_map = |id: &str| std::fs::read_to_string(format!("/proc/{}/uid_map", containerd.pid(id))).unwrap();
    let mapped = id_map(&c);
    assert_eq!(containerd.exec(&c, "echo changed >/etc/motd").ok(), "");
    let before = count(containerd.pid(&c));
    containerd.call(&["containers", "checkpoint", "--image", "--task", "--rw", &c, "bb-checkpoint"]).ok();
    // containerd lets the first one run on
    let pid = containerd.pid(&c);
    counted_to(pid, count(pid) + 1);
    containerd.remove(&c);
    containerd.call(&["containers", "restore", "--live", "--rw", &d, "bb-checkpoint"]).ok();
    counts_on(containerd.pid(&d), before);
    assert_eq!(id_map(&d), mapped);
    assert_eq!(containerd.exec(&d, "cat /etc/motd").ok(), "changed");
    containerd.call(&["tasks", "pause", &d]).ok();
    containerd.call(&["tasks", "resume", &d]).ok();
    containerd.remove(&d);
    for id in [&c, &d] {
        let left = std::path::Path::new("/run/containerd/hiber/default").join(id);
        assert!(!left.exists(), "{} is left", left.display());
    }
    containerd.end(&[&c, &d]);
}

/// With these a container is in a user namespace.
pub(crate) const MAPPED: [&str; 4] = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
