//! podman's archives in hiber, and hiber's in podman.

use crate::podman::Podman;
use crate::{count, counts_on};
use hiber_tests::prelude::*;
use hiber_tests::tools;
use std::fs;
use std::process::Stdio;

/// podman that knows hiber by its name, which it compares with that in an archive.
fn podman() -> Podman {
    let podman = Podman::new();
    let conf = podman.home().join("containers.conf");
    let known = fs::read_to_string(&conf).unwrap();
    let hiber = tools::hiber().unwrap_or_else(|e| panic!("no runtime: {e}"));
    fs::write(&conf, format!("{known}[engine.runtimes]\nhiber = [\"{}\"]\n", hiber.display())).unwrap();
    podman
}

#[test]
fn an_archive_goes_from_podman_to_hiber_and_back() {
    require!(Root, Criu, Program("podman"));
    let podman = podman();
    podman.counter("c", &[]);
    podman.sh("c", "echo changed >/etc/motd; rm /etc/passwd");
    let before = count(podman.pid("c"));
    let archive = podman.home().path("podman.tar.zst");
    podman.call(&["container", "checkpoint", "--export", &archive, "c"]).ok();
    podman.call(&["rm", "c"]).ok();

    // Bundle and root are made from the archive and the image.
    let c = Runtime::hiber().container(Bundle::busybox());
    let (bundle, base) = (c.bundle().join("new"), tools::rootfs_busybox().unwrap().to_str().unwrap());
    let bundle = bundle.to_str().unwrap();
    // Its streams are pipes, as conmon's were: a file of the host could not be saved again.
    let mut restore =
        c.command("restore", &["--detach", "--bundle", bundle, "--base", base, "--import", &archive]);
    let mut streams =
        restore.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(streams.wait().unwrap().success());
    counts_on(c.pid(), before);
    assert_eq!(c.exec(&["cat", "/etc/motd"]).ok(), "changed");
    c.exec(&["test", "-e", "/etc/passwd"]).exited(1);
    assert!(c.exec(&["cat", "/etc/hosts"]).ok().contains("localhost"));

    let (before, archive) = (count(c.pid()), podman.home().path("hiber.tar.zst"));
    c.call("checkpoint", &["--export", &archive, "--with-rootfs", "--base", base]).ok();
    c.assert_clean();
    let mut restore = podman.client();
    restore.args(["--runtime", "hiber", "container", "restore", "--import", &archive, "--name", "d"]);
    hiber_tests::command::run(restore, b"").ok();
    counts_on(podman.pid("d"), before);
    assert_eq!(podman.sh("d", "cat /etc/motd; ls /etc/passwd 2>/dev/null || echo gone"), "changed\ngone");
    podman.remove_all();
}
