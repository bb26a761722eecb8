//! Failures that the machine or the command line is to blame for: each is told by name, and the container runs on.

use crate::failures::{finding, odd, preflight, run_odd};
use crate::{counter, counts_on};
use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// `checkpoint` with another CRIU.
#[track_caller]
fn with_criu(c: &Container, criu: &Path, flags: &[&str]) -> Output {
    let images = c.images().display().to_string();
    let mut command = c.command("checkpoint", &[&["--image-path", &images], flags].concat());
    command.env("HIBER_CRIU", criu);
    hiber_tests::command::run(command, b"")
}

/// Checks that preflight and the checkpoint both fail with `words`, and that the container runs on.
#[track_caller]
fn criu_fails(c: &Container, criu: &Path, words: &[&str]) {
    let check = with_criu(c, criu, &["--check"]);
    let output = with_criu(c, criu, &[]);
    for word in words {
        assert!(check.exited(1).stdout.contains(word), "{check}");
        output.fails(word);
    }
    assert!(check.stdout.contains("error    criu: "), "{check}");
    assert_eq!(c.status(), "running");
    counts_on(c, 3);
}

#[test]
fn a_criu_that_is_missing_or_cannot_be_executed() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let criu = c.bundle().join("criu");
    criu_fails(&c, &criu, &["criu not found", "$HIBER_CRIU", "No such file", "set HIBER_CRIU to"]);
    fs::write(&criu, "#!/bin/sh\n").unwrap();
    criu_fails(&c, &criu, &["criu not found", "Permission denied"]);
    fs::write(&criu, "#!/bin/sh\necho this criu is broken >&2; exit 3\n").unwrap();
    fs::set_permissions(&criu, PermissionsExt::from_mode(0o755)).unwrap();
    criu_fails(&c, &criu, &["cannot start", "this criu is broken"]);
}

#[test]
fn a_criu_that_is_too_old() {
    require!(Root, Criu, CPrograms);
    // odd, called as `odd swrk FD`, plays one
    let c = run_odd(odd("stopped"));
    criu_fails(&c, &c.bundle().rootfs().join("bin/odd"), &["is CRIU 3.15, but hiber needs CRIU 3.17"]);
}

#[test]
fn an_image_directory_that_cannot_be_written() {
    require!(Root, Criu, Program("mount"));
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let place = c.bundle().join("place");
    fs::create_dir(&place).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "ro", "tmpfs"]).arg(&place);
    hiber_tests::command::run(mount, b"").ok();
    let path = place.join("images").display().to_string();
    c.call_detached("checkpoint", &["--image-path", &path]).fails("image directory").fails("read-only");
    let file = c.bundle().join("config.json").display().to_string();
    c.call_detached("checkpoint", &["--image-path", &file]).fails("is not a directory");
    let images = c.images().display().to_string();
    c.call_detached("checkpoint", &["--image-path", &images, "--work-path", &file]).fails("config.json");
    counts_on(&c, 3);
}

#[test]
fn a_page_server_that_does_not_answer() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    // nobody listens on a port that was given back
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("127.0.0.1:{port}");
    let report = preflight(&c, &["--page-server", &server]);
    let found = finding(&report, "page-server").unwrap_or_else(|| panic!("{report:#}"));
    assert!(found["what"].as_str().unwrap().contains(&server), "{report:#}");
    c.checkpoint(&["--page-server", &server])
        .fails(&format!("--page-server {server}: Can't connect to server: Connection refused"));
    for (wrong, why) in
        [("127.0.0.1:99999", "99999"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.1:x", "127.0.0.1:x")]
    {
        c.checkpoint(&["--page-server", wrong]).fails("page-server").fails(why);
    }
    counts_on(&c, 3);
}

#[test]
fn values_and_combinations_that_cannot_be() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let absolute = c.bundle().join("parent").display().to_string();
    let wrong: &[(&[&str], &[&str])] = &[
        (&["--manage-cgroups-mode", "nonsense"], &["nonsense", "soft", "full", "strict", "ignore"]),
        (&["--network-lock", "nonsense"], &["nonsense", "iptables", "nftables", "skip"]),
        (&["--empty-ns", "mount"], &["mount", "expected network"]),
        (&["--pre-dump", "--lazy-pages"], &["--pre-dump and --lazy-pages exclude each other"]),
        (&["--status-fd", "1"], &["--status-fd needs --lazy-pages"]),
        (&["--status-fd", "77", "--lazy-pages"], &["--status-fd", "77", "not an open descriptor"]),
        (&["--status-fd", "x", "--lazy-pages"], &["status-fd", "x"]),
        (&["--parent-path", &absolute], &["--parent-path must be relative", &absolute]),
        (&["--parent-path", "../nothing"], &["--parent-path ../nothing", "no directory at"]),
        (&["--parent-path", "inside"], &["--parent-path inside", "must lead out"]),
        (&["--tcp-established", "--tcp-close"], &["--tcp-established and --tcp-close exclude each other"]),
        (&["--pre-dump", "--leave-running=false", "--page-server", ":1"], &["page-server"]),
        (&["--format", "json"], &["--format needs --check"]),
        (&["--check", "--format", "xml"], &["xml", "json"]),
    ];
    for (flags, words) in wrong {
        let output = c.call("checkpoint", flags);
        for word in *words {
            output.fails(word);
        }
    }
    assert!(!c.images().exists() && c.status() == "running");
    counts_on(&c, 3);
}

#[test]
fn what_only_later_flags_need() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let soft_dirty = fs::read_to_string("/proc/self/smaps").unwrap().lines().any(|l| l.contains(" sd"));
    let report = preflight(&c, &["--pre-dump"]);
    assert_eq!(finding(&report, "dirty-tracking").is_none(), soft_dirty, "{report:#}");
    if !soft_dirty {
        c.checkpoint(&["--pre-dump"]).fails("does not track written memory (CONFIG_MEM_SOFT_DIRTY)");
    }
    let _kept = hiber_tests::pipes::keep();
    let most: u64 = fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap().trim().parse().unwrap();
    let images = c.images().display().to_string();
    let own = c.command("checkpoint", &["--check", "--lazy-pages", "--image-path", &images]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_resource"]).arg(own.get_program()).args(own.get_args());
    command.envs(own.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let output = hiber_tests::command::run(command, b"");
    assert_eq!(
        output.stdout.contains("error    pipe-size: /proc/sys/fs/pipe-max-size is"),
        most < 4 << 20,
        "{output}"
    );
    counts_on(&c, 3);
}

#[test]
fn a_stopped_container_has_nothing_to_check() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(Bundle::busybox());
    c.create(&[]).ok();
    let report = preflight(&c, &[]);
    assert_eq!(finding(&report, "state").unwrap()["what"], json!("the container is created"), "{report:#}");
    c.delete(&["--force"]).ok();
    c.call("checkpoint", &["--check"]).fails("does not exist");
}

#[test]
fn a_plain_container_has_nothing_in_the_way() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let names = |report: &Value| -> Vec<String> {
        let all = report["findings"].as_array().unwrap();
        all.iter().map(|f| f["check"].as_str().unwrap().to_owned()).collect()
    };
    // Its own mv, about to be reaped, may be seen.
    let report = preflight(&c, &[]);
    assert!(names(&report).iter().all(|n| n == "memory" || n == "zombie"), "{report:#}");
    c.call("pause", &[]).ok();
    let report = preflight(&c, &[]);
    assert!(names(&report).iter().all(|n| n == "memory" || n == "zombie"), "{report:#}");
    c.call("resume", &[]).ok();
    let output = c.call("checkpoint", &["--check"]);
    assert!(
        output.ok().starts_with(&format!("checkpoint of {}: nothing is in the way\n", c.id())),
        "{output}"
    );
    assert_eq!(c.status(), "running");
    assert!(!c.bundle().join("checkpoint").exists(), "a check writes nothing");
}

#[test]
fn a_stopped_process_does_not_hang_a_checkpoint() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("stopped"));
    // of a v1 cgroup that is frozen CRIU could seize it never
    c.checkpoint(&["--leave-running"]).ok();
    counts_on(&c, 3);
    c.call("pause", &[]).ok();
    let output = c.checkpoint(&["--leave-running"]);
    assert!(output.status.success() || output.stderr.contains("resume the container first"), "{output}");
    c.call("resume", &[]).ok();
    counts_on(&c, 3);
}

#[test]
fn a_cgroup_above_that_somebody_has_frozen() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let v1 = hiber_tests::cgroup::mount_of("freezer");
    let (file, frozen, thawed) = match &v1 {
        Some(_) => ("freezer.state", "FROZEN", "THAWED"),
        None => ("cgroup.freeze", "1", "0"),
    };
    let hierarchy = v1.or_else(|| hiber_tests::cgroup::mount_of("pids")).unwrap();
    let above = hierarchy.mount.join(c.bundle().cgroup_parent().trim_start_matches('/')).join(file);
    fs::write(&above, frozen).unwrap();
    let words = "a cgroup above the container's is frozen";
    wait_for("the cgroup to freeze", || finding(&preflight(&c, &[]), "frozen-above").is_some());
    c.checkpoint(&[]).fails(words).fails("thaw it");
    fs::write(&above, thawed).unwrap();
    counts_on(&c, 3);
    c.checkpoint(&["--leave-running"]).ok();
}

/// Else its container would be frozen for as long as the other end keeps the connection.
#[test]
fn a_page_server_that_says_nothing() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = silent.local_addr().unwrap().to_string();
    c.checkpoint(&["--page-server", &server]).fails("page");
    assert!(!c.images().join("inventory.img").exists());
    counts_on(&c, 3);
}
