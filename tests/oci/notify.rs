//! sd_notify from inside a container.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use hiber_tests::prelude::*;

/// The host's side: what it hears, one message after the other; barriers are acknowledged as they come.
fn hear(host: &UnixDatagram) -> String {
    let mut buffer = [0u8; 512];
    // A descriptor that comes along is closed for not being asked for.
    let length = host.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
}

#[test]
fn the_host_hears_that_the_container_is_ready() {
    require!(Root);
    if !std::path::Path::new("/usr/bin/python3").exists() {
        return; // which the test borrows to send a datagram, as busybox cannot
    }
    let script = "import os, socket, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.sendto(b'STATUS=busy', os.environ['NOTIFY_SOCKET'])\n\
        s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n\
        time.sleep(1000)\n";
    let bundle = Bundle::busybox().args(["/usr/bin/python3", "-c", script]);
    let libraries = ["/usr", "/lib", "/lib64"].into_iter().filter(|d| std::path::Path::new(d).exists());
    let bundle = libraries.fold(bundle, |b, dir| {
        b.mount(json!({"destination": dir, "source": dir, "options": ["rbind", "ro"]}))
    });
    let path = bundle.join("host.sock");
    let host = UnixDatagram::bind(&path).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let c = Runtime::hiber().container(bundle);
    let mut run = c.command("run", &["--detach", "--bundle", &c.bundle_path()]);
    run.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().unwrap();
    assert_eq!(hear(&host), "READY=1");
    assert_eq!(hear(&host), format!("MAINPID={}", c.pid()));
    assert_eq!(hear(&host), "BARRIER=1");
    assert!(run.wait().unwrap().success());
    assert_eq!(c.status(), "running");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn a_container_that_ends_first_keeps_nobody_waiting() {
    require!(Root);
    let bundle = Bundle::busybox().args(["true"]);
    let path = bundle.join("host.sock");
    let _host = UnixDatagram::bind(&path).unwrap();
    let c = Runtime::hiber().container(bundle);
    let mut run = c.command("run", &["--bundle", &c.bundle_path()]);
    run.env("NOTIFY_SOCKET", &path);
    hiber_tests::command::run(run, b"").ok();
    let mut create = c.command("create", &["--bundle", &c.bundle_path()]);
    create.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(create.status().unwrap().success());
    let mut start = c.command("start", &[]);
    start.env("NOTIFY_SOCKET", &path);
    hiber_tests::command::run(start, b"").ok();
}
