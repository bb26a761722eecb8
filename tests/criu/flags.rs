//! The meaning of each flag, where no other test shows it.

use crate::failures::{odd, run_odd};
use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use hiber_tests::pty::{read_until, write_all};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

/// The first process of that name in the container.
fn pid_of(c: &Container, name: &str) -> i32 {
    let script = format!(
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = {name} ] && echo ${{p#/proc/}}; done; true"
    );
    c.sh(&script).lines().next().and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn connections_in_the_making_are_left_out() {
    require!(Root, Criu, Program("cc"));
    let c = run_odd(odd("tcp-in-flight"));
    sleep_and_wake(&c, &["--tcp-skip-in-flight", "--tcp-established"], &[]);
    let listener = "grep -c ' 0A ' /proc/net/tcp";
    assert_eq!(c.sh(listener), "1", "who listens does so still");
    counts_on(&c, 3);
}

#[test]
fn connections_are_closed() {
    require!(Root, Criu, Program("cc"));
    let c = run_odd(odd("tcp"));
    let established = "grep -c ' 01 ' /proc/net/tcp || true";
    assert_eq!(c.sh(established), "2");
    sleep_and_wake(&c, &["--tcp-close"], &[]);
    assert_eq!(c.sh(established), "0");
    counts_on(&c, 3);
}

#[test]
fn a_file_without_its_name_is_linked() {
    require!(Root, Criu, Program("cc"));
    let c = run_odd(odd("removed-with-link"));
    let size = |c: &Container| c.sh(&format!("wc -c </proc/{}/fd/3", pid_of(c, "odd")));
    assert_eq!(size(&c), "65536");
    sleep_and_wake(&c, &["--link-remap"], &[]);
    assert_eq!(size(&c), "65536");
    assert_eq!(c.sh("stat -c %h /tmp/second; ls -A /tmp"), "1\nsecond", "CRIU's link is gone again");
    counts_on(&c, 3);
}

#[test]
fn a_datagram_socket_keeps_its_peer_outside() {
    require!(Root, Criu, Program("cc"));
    let bundle = odd("unix-datagram")
        .mount(json!({"destination": "/outside", "source": "outside", "options": ["bind"]}))
        .without_namespace("network");
    fs::create_dir(bundle.join("outside")).unwrap();
    let _socket = UnixDatagram::bind(bundle.join("outside/socket")).unwrap();
    // The peer is found again by the name that it has taken.
    let place = bundle.join("outside").display().to_string();
    let c = run_odd(bundle.mount(json!({"destination": place, "source": place, "options": ["bind"]})));
    let connected = |c: &Container| {
        let found = fs::read_dir(format!("/proc/{}/fd", c.pid())).unwrap().count();
        let link = c.sh(&format!("readlink /proc/{}/fd/3", pid_of(c, "odd")));
        assert!(found > 0 && link.starts_with("socket:"), "{link}");
    };
    connected(&c);
    sleep_and_wake(&c, &["--ext-unix-sk"], &["--ext-unix-sk"]);
    connected(&c);
    counts_on(&c, 3);
}

#[test]
fn a_job_of_a_shell_gets_the_terminal_of_its_restore() {
    require!(Root, Criu);
    let script = "n=0; while read line; do n=$((n+1)); echo got $n $line; done";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    let detached = |name: &str, flags: &[&str]| {
        let (master, terminal) = hiber_tests::pty::open();
        let log = c.bundle().join("job-log");
        let mut command = c.runtime().command();
        command.arg("--log").arg(&log).args([name, "--detach", "--bundle", &c.bundle_path()]);
        command.args(flags).arg(c.id());
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
        hiber_tests::command::run_detached(command, &log).ok();
        master
    };
    let master = detached("run", &[]);
    write_all(&master, "one\n");
    read_until(&master, "got 1 one");
    c.checkpoint(&["--shell-job"]).ok();
    assert_eq!(c.status(), "gone");
    let images = c.images().display().to_string();
    // the terminal is the caller's to give: the flag is not remembered
    let check: Value = serde_json::from_str(
        c.call(
            "restore",
            &["--check", "--format", "json", "--image-path", &images, "--bundle", &c.bundle_path()],
        )
        .exited(1)
        .stdout
        .as_str(),
    )
    .unwrap();
    assert!(check["findings"].to_string().contains("pass --shell-job"), "{check}");
    let master = detached("restore", &["--image-path", &images, "--shell-job"]);
    write_all(&master, "two\n");
    read_until(&master, "got 2 two");
}

/// Bytes of memory that the images occupy on the disk.
fn occupied(images: &Path) -> u64 {
    let all = fs::read_dir(images).unwrap().flatten();
    all.filter(|e| e.file_name().to_string_lossy().starts_with("pages-"))
        .map(|e| e.metadata().unwrap().blocks() * 512)
        .sum()
}

#[test]
fn a_restore_frees_what_it_has_read() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let before = occupied(&c.images());
    c.restore(&["--auto-dedup"]).ok();
    let after = occupied(&c.images());
    assert!(before > 100_000 && after < before / 4, "{before}, then {after}");
    counts_on(&c, 3);
}

#[test]
fn a_dump_frees_what_its_parent_no_longer_needs() {
    require!(Root, Criu, DirtyTracking);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let pre = c.bundle().join("pre");
    c.call_detached("checkpoint", &["--pre-dump", "--image-path", pre.to_str().unwrap()]).ok();
    let before = occupied(&pre);
    wait_for("changes", || crate::count(&c) > 20);
    c.checkpoint(&["--parent-path", "../pre", "--auto-dedup"]).ok();
    let after = occupied(&pre);
    assert!(after < before, "{before}, then {after}");
    c.restore(&[]).ok();
    counts_on(&c, 20);
}

#[test]
fn flags_as_clients_send_them() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let work = format!("--work-path={}", c.bundle().join("work").display());
    // podman sends it twice
    c.checkpoint(&["--leave-running", "--leave-running", "-file-locks", &work, "--tcp-established=false"])
        .ok();
    assert_eq!(c.status(), "running");
    let manifest: Value = serde_json::from_slice(&fs::read(c.images().join("hiber.json")).unwrap()).unwrap();
    assert_eq!(manifest["options"]["fileLocks"], json!(true));
    assert_eq!(manifest["options"]["tcpEstablished"], json!(false));
    assert!(c.bundle().join("work/dump.log").exists());
    c.delete(&["-force"]).ok();
    c.restore(&["-no-subreaper", "-file-locks", "-file-locks", &work]).ok();
    counts_on(&c, 3);
}

#[test]
fn criu_is_configured_by_an_annotation() {
    require!(Root, Criu, Program("cc"));
    let bundle = odd("tcp");
    let file = bundle.join("criu.conf");
    fs::write(&file, "# as runc has it\ntcp-established\n").unwrap();
    let path = file.display().to_string();
    let c = run_odd(bundle.edit(|c| c["annotations"] = json!({"org.criu.config": path})));
    let established = "grep -c ' 01 ' /proc/net/tcp || true";
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(c.sh(established), "2", "no flag asked for it");
    counts_on(&c, 3);
    fs::write(&file, "no-such-option\n").unwrap();
    let output = c.checkpoint(&[]);
    assert!(!output.status.success(), "the file is not read: {output}");
    fs::write(&file, "").unwrap();
    c.checkpoint(&[]).fails("--tcp-established");
    assert_eq!(c.status(), "running");
}

#[test]
fn criu_is_configured_for_the_machine() {
    require!(Root, Criu, Program("cc"), Program("unshare"));
    let c = run_odd(odd("tcp"));
    let images = c.images().display().to_string();
    let bundle = c.bundle_path();
    // An /etc of its own, in a mount namespace of its own.
    let script = "mkdir \"$0/etc\" && mount -t tmpfs etc \"$0/etc\" && cp -a /etc/. \"$0/etc\" && mount --bind \"$0/etc\" /etc \
                  && mkdir -p /etc/criu && echo tcp-established >/etc/criu/hiber.conf && exec \"$@\"";
    let configured = |name: &str, flags: &[&str]| {
        let inner = c.command(name, flags);
        let mut command = Command::new("unshare");
        let place = c.bundle().join(name);
        fs::create_dir(&place).unwrap();
        command
            .args(["--mount", "sh", "-c", script])
            .arg(place)
            .arg(inner.get_program())
            .args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let log = c.bundle().join("machine-log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        hiber_tests::command::run_detached(command, &log)
    };
    c.checkpoint(&[]).fails("--tcp-established");
    configured("checkpoint", &["--image-path", &images]).ok();
    assert_eq!(c.status(), "gone");
    configured("restore", &["--detach", "--image-path", &images, "--bundle", &bundle]).ok();
    assert_eq!(c.sh("grep -c ' 01 ' /proc/net/tcp || true"), "2");
    counts_on(&c, 3);
}

#[test]
fn memory_is_not_tracked_where_the_kernel_cannot() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    if hiber_tests::require::Need::DirtyTracking.check().is_ok() {
        let pre = c.bundle().join("pre").display().to_string();
        c.call_detached("checkpoint", &["--pre-dump", "--image-path", &pre]).ok();
        return;
    }
    let words = "does not track written memory (CONFIG_MEM_SOFT_DIRTY)";
    c.checkpoint(&["--pre-dump"]).fails(words).fails("--pre-dump");
    // a parent that another machine has made
    let parent = c.bundle().join("parent");
    c.checkpoint(&["--leave-running"]).ok();
    fs::rename(c.images(), &parent).unwrap();
    c.checkpoint(&["--parent-path", "../parent"]).fails(words).fails("--parent-path");
    assert!(!c.images().exists(), "CRIU was not started for a dump");
    assert_eq!(c.status(), "running");
    counts_on(&c, 3);
}

#[test]
fn a_restore_says_that_how_the_root_is_changed_is_not_its_choice() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&[]).ok();
    let restored = c.restore(&["--no-pivot"]);
    restored.ok();
    assert!(restored.stderr.contains("--no-pivot has no effect"), "{restored:?}");
    counts_on(&c, 3);
}
