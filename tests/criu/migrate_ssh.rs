//! A container moves by ssh, to a server of the test's own.

use crate::migrate::{assert_gone, receiver, writer};
use hiber_tests::prelude::*;
use std::fs;

/// An ssh server of the test's own on loopback, which knows one key, and a client's configuration for it.
pub(crate) struct Sshd {
    server: std::process::Child,
    files: tempfile::TempDir,
    port: u16,
    /// Where sshd wants to be unprivileged; made by the test if the machine's own was never started.
    made: Option<&'static str>,
}

impl Sshd {
    pub(crate) fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let at = |name: &str| files.path().join(name).display().to_string();
        for key in ["host", "user"] {
            let mut keygen = std::process::Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]);
            hiber_tests::command::run(keygen, b"").ok();
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n",
            at("host"),
            at("user.pub")
        );
        fs::write(at("sshd_config"), server).unwrap();
        let client = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\nStrictHostKeyChecking yes\nBatchMode yes\n",
            at("user"),
            at("known")
        );
        fs::write(at("config"), client).unwrap();
        let place = "/run/sshd";
        let made = fs::create_dir(place).is_ok().then_some(place);
        let mut sshd = std::process::Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-E", &at("log"), "-f", &at("sshd_config")]);
        let server = sshd.spawn().unwrap();
        let sshd = Self { server, files, port, made };
        sshd.knows(&sshd.read("host.pub"));
        // hiber runs the system's ssh, whose configuration is root's.
        sshd.write("ssh", &format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", sshd.path("config")));
        fs::set_permissions(sshd.path("ssh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        wait_for("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        sshd
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    /// The client trusts this host key.
    fn knows(&self, key: &str) {
        self.write("known", &format!("[127.0.0.1]:{} {key}", self.port));
    }

    pub(crate) fn migrate(&self, c: &Container, there: &Container, flags: &[&str]) -> Output {
        let bundle = there.bundle_path();
        // A session of ssh has an environment of its own.
        let criu = hiber_tests::tools::criu().unwrap();
        let receiver = format!("HIBER_CRIU={} {}", criu.display(), receiver(there));
        let to = ["--id", there.id(), "--bundle", &bundle, "--receiver", &receiver];
        let mut command = c.command("migrate", &[&to[..], flags].concat());
        command.arg(format!("ssh://root@127.0.0.1:{}", self.port));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.files.path().display()));
        hiber_tests::command::run(command, b"")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = self.made.map(fs::remove_dir);
    }
}

#[test]
fn by_ssh() {
    require!(Root, Criu, CPrograms, Program("/usr/sbin/sshd"), Program("ssh"));
    let sshd = Sshd::start();
    let (c, there) = writer();
    sshd.migrate(&c, &there, &["--dry-run"]).ok();
    let (mut here, mut there) = (&c, &there);
    for flags in [&["--pre-copy", "on", "--on-miss", "force"][..], &["--post-copy"]] {
        sshd.migrate(here, there, flags).ok();
        crate::pre_copy::works_on(&c, &format!("by ssh, {flags:?}"));
        assert_gone(here);
        assert_eq!(there.status(), "running");
        (here, there) = (there, here);
    }
    // Another host key: somebody else may answer.
    let user = sshd.read("user.pub");
    sshd.knows(&user);
    let output = sshd.migrate(here, there, &[]);
    output.fails("Host key verification failed").fails("the connection was closed (exit status: 255)");
    crate::pre_copy::works_on(&c, "another host key");
    assert_eq!(here.status(), "running");
    assert_gone(there);
}
