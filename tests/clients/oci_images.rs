//! Images of checkpoints on their way through a registry, carried by skopeo, and in containerd's store.

use crate::containerd::{Containerd, Shim};
use crate::home::Home;
use crate::{COUNT, count, counts_on};
use hiber_tests::command;
use hiber_tests::prelude::*;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

/// Debian's docker-registry on the loopback device. It ends when dropped.
struct Registry {
    server: Child,
    port: u16,
}

impl Registry {
    #[track_caller]
    fn start(home: &Home) -> Self {
        // Nobody else gets the port in between, for the kernel gives them in turn.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            home.path("registry")
        );
        let config = home.write("registry.yml", &config);
        let log = File::create(home.join("registry.log")).unwrap();
        let mut command = home.command("docker-registry");
        command.args(["serve", &config]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let server = command.spawn().unwrap_or_else(|e| panic!("docker-registry: {e}"));
        wait_for("the registry to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { server, port }
    }

    fn name(&self) -> String {
        format!("docker://127.0.0.1:{}/checkpoints/counter:v1", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn skopeo(home: &Home, args: &[&str]) -> Output {
    let policy = home.write("policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    let mut command = home.command("skopeo");
    command.args(["--policy", &policy, "--tmpdir", &home.path("")]).args(args);
    command::run(command, b"")
}

/// A container that counts, and its count.
fn counter() -> (Container, u64) {
    let c = Runtime::hiber().container(Bundle::busybox().shell(COUNT));
    c.run_detached().ok();
    wait_for("a count of 3", || count(c.pid()) >= 3);
    let before = count(c.pid());
    (c, before)
}

fn import(c: &Container, from: &str) -> Output {
    let bundle = c.bundle_path();
    c.call_detached("restore", &["--detach", "--bundle", &bundle, "--import", from])
}

#[test]
fn a_registry_carries_a_checkpoint() {
    require!(Root, Criu, Program("skopeo"), Program("docker-registry"));
    let home = Home::new();
    let registry = Registry::start(&home);
    let (c, before) = counter();
    let (here, there) =
        (format!("oci:{}:v1", home.path("here")), format!("oci:{}:pulled", home.path("there")));
    c.call("checkpoint", &["--export", &here]).ok();
    c.assert_clean();
    skopeo(&home, &["copy", "--dest-tls-verify=false", &here, &registry.name()]).ok();
    fs::remove_dir_all(home.join("here")).unwrap();
    skopeo(&home, &["copy", "--src-tls-verify=false", &registry.name(), &there]).ok();
    let manifest = skopeo(&home, &["inspect", "--raw", &there]).json();
    assert_eq!(manifest["annotations"]["org.criu.checkpoint.container.name"], c.id());
    import(&c, &there).ok();
    counts_on(c.pid(), before);
}

#[test]
fn containerd_keeps_a_checkpoint_and_gives_it_back() {
    require!(Root, Criu, Program("containerd"), Program("ctr"));
    let containerd = Containerd::new(Shim::Runc);
    let home = &containerd.home;
    let (c, before) = counter();
    c.call("checkpoint", &["--export", &format!("oci:{}:v1", home.path("here"))]).ok();
    let tar = |args: &[&str]| {
        let mut command = Command::new("tar");
        command.args(args);
        command::run(command, b"").ok();
    };
    let (archive, back) = (home.path("image.tar"), home.path("back.tar"));
    tar(&["-C", &home.path("here"), "-cf", &archive, "."]);
    let name = "localhost/checkpoint";
    containerd.call(&["images", "import", "--no-unpack", "--base-name", name, &archive]).ok();
    fs::remove_dir_all(home.join("here")).unwrap();
    containerd.call(&["images", "export", &back, &format!("{name}:v1")]).ok();
    fs::create_dir(home.join("there")).unwrap();
    tar(&["-C", &home.path("there"), "-xf", &back]);
    import(&c, &format!("oci:{}", home.path("there"))).ok();
    counts_on(c.pid(), before);
}
