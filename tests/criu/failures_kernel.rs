//! Kernel objects and files of special file systems that CRIU cannot save, or that only look so.

use crate::failures::{fails, finding, odd, odd_fails, preflight, run_odd};
use crate::{count, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::fs;
use std::process::Command;

#[test]
fn a_pipe_of_packets() {
    require!(Root, Criu, CPrograms);
    odd_fails(
        "packet-pipe",
        &[],
        "packet-pipe",
        &["packetized mode", "let the process close it", "process 2 (odd packet-pipe)", "O_DIRECT"],
    );
}

#[test]
fn memory_that_nobody_else_can_read() {
    require!(Root, Criu, CPrograms);
    let report = preflight(&run_odd(odd("secret")), &[]);
    for check in ["outside-file", "link-remap"] {
        assert!(finding(&report, check).is_none(), "a false reason: {report:#}");
    }
    odd_fails("secret", &[], "file-kind", &["secretmem", "memfd_secret", "process 2 (odd secret)"]);
}

#[test]
fn a_message_queue() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("message-queue"));
    let report = preflight(&c, &[]);
    assert!(finding(&report, "outside-file").is_none(), "a false reason: {report:#}");
    assert_eq!(finding(&report, "message-queues").map(|f| &f["path"]), Some(&json!("/dev/mqueue/odd")));
    let found = finding(&report, "message-queue").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(found["process"]["command"], json!("odd message-queue"));
    fails(&c, &[], "message-queues", &["POSIX message queues", "/dev/mqueue/odd"]);
}

#[test]
fn a_message_queue_that_no_mount_shows() {
    require!(Root, Criu, CPrograms);
    let bundle = odd("message-queue-closed").edit(|c| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["type"] != "mqueue");
    });
    fails(&run_odd(bundle), &[], "message-queues", &["POSIX message queues", "/odd"]);
}

#[test]
fn a_peer_that_will_be_another_user_is_warned_of() {
    require!(Root, Criu, CPrograms);
    let report = preflight(&run_odd(odd("unix-credentials")), &[]);
    let found = finding(&report, "unix-credentials").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!((&found["severity"], &report["possible"]), (&json!("warning"), &json!(true)));
    assert_eq!(found["process"]["command"], json!("odd unix-credentials"));
    // the peers of this one are root, in a user namespace, too
    let report = preflight(&run_odd(odd("unix-in-flight").user_namespace(100_000)), &[]);
    assert!(finding(&report, "unix-credentials").is_none(), "{report:#}");
}

#[test]
fn what_is_to_be_undone_is_warned_of() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("undo"));
    let report = preflight(&c, &[]);
    let found = finding(&report, "sem-undo").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!((&found["severity"], &found["process"]["command"]), (&json!("warning"), &json!("odd undo")));
    let all = report["findings"].as_array().unwrap();
    assert_eq!(
        all.iter().filter(|f| f["check"] == "sem-undo").count(),
        1,
        "of that process alone: {report:#}"
    );
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
}

#[test]
fn threads_alone_have_nothing_to_be_undone() {
    require!(Root, Criu, CPrograms);
    let report = preflight(&run_odd(odd("threads")), &[]);
    assert!(finding(&report, "sem-undo").is_none(), "{report:#}");
}

#[test]
fn another_signal_than_sigchld_at_a_processs_end_is_warned_of() {
    require!(Root, Criu, CPrograms);
    let bundle = Bundle::busybox().args(["same", "exit-signal"]);
    hiber_tests::programs::install("same", &bundle);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let ready = c.bundle().rootfs().join("ready");
    wait_for("the program", || ready.exists());
    let report = preflight(&c, &[]);
    let found = finding(&report, "exit-signal").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(found["severity"], json!("warning"));
    let all = report["findings"].as_array().unwrap();
    let of_it = all.iter().filter(|f| f["check"] == "exit-signal").count();
    assert_eq!(of_it, 1, "of that process alone: {report:#}");
}

#[test]
fn the_controlling_terminal_by_its_common_name() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("dev-tty"));
    let report = preflight(&c, &[]);
    assert!(finding(&report, "terminal").is_none(), "it is inside: {report:#}");
    let found = finding(&report, "dev-tty").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!((&found["severity"], &found["path"]), (&json!("warning"), &json!("/dev/tty")));
    let before = count(&c);
    c.checkpoint(&[])
        .fails("ctty inheritance")
        .fails("has /dev/tty open")
        .fails("(odd dev-tty), ")
        .fails(" on the host: descriptor");
    counts_on(&c, before);
}

#[test]
fn files_of_processes_that_have_ended_are_no_hindrance() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("ended-proc"));
    let report = preflight(&c, &[]);
    assert_eq!(report["possible"], json!(true), "{report:#}");
    assert!(finding(&report, "deleted-file").is_none(), "{report:#}");
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
}

#[test]
fn a_first_process_with_another_root() {
    require!(Root, Criu, CPrograms);
    let bundle = odd("").args(["odd", "chroot=/jail"]).edit(|c| {
        let all = json!(["CAP_SYS_CHROOT"]);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    fs::create_dir(bundle.rootfs().join("jail")).unwrap();
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("odd to be ready", || c.bundle().rootfs().join("jail/ready").exists());
    let report = preflight(&c, &[]);
    assert!(finding(&report, "outside-file").is_none(), "a false reason: {report:#}");
    let found = finding(&report, "chroot").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(found["severity"], json!("error"));
    c.checkpoint(&[]).fails("mountinfo").fails("another root directory").fails("(odd chroot=/jail)");
    assert_eq!(c.status(), "running");
}

#[track_caller]
fn mount(args: &[&str]) {
    let mut command = Command::new("mount");
    command.args(args);
    hiber_tests::command::run(command, b"").ok();
}

/// A bundle of [`odd`] whose root is an overlay.
#[track_caller]
fn on_overlay(kinds: &str, layers: usize) -> (Bundle, String) {
    let bundle = odd(kinds);
    for name in ["upper", "work"] {
        fs::create_dir(bundle.join(name)).unwrap();
    }
    fs::create_dir_all(bundle.rootfs().join("srv/app/deep")).unwrap();
    let root = bundle.rootfs().display().to_string();
    let [upper, work] = ["upper", "work"].map(|name| bundle.join(name).display().to_string());
    let mut options = format!(",lowerdir={root},upperdir={upper},workdir={work}");
    for number in 10..10 + layers {
        // Layers with names as long as the option of mount(2) has room for.
        let room = 4095_usize.saturating_sub(options.len() + bundle.join("").display().to_string().len() + 3);
        if room == 0 {
            break;
        }
        let layer = bundle.join(&format!("{number}{}", "x".repeat(room.min(190))));
        fs::create_dir(&layer).unwrap();
        options.insert_str(",lowerdir=".len(), &format!("{}:", layer.display()));
    }
    let options = options.trim_start_matches(',');
    mount(&["-t", "overlay", "-o", options, "overlay", &root]);
    (bundle, root)
}

/// The container and the mount of its root, which goes after it.
struct OnOverlay {
    c: Container,
    root: String,
}

impl Drop for OnOverlay {
    fn drop(&mut self) {
        let _ = self.c.delete(&["--force"]);
        let _ = Command::new("umount").arg(&self.root).status();
    }
}

#[test]
fn what_is_watched_on_an_overlay_is_found_and_watched_on() {
    require!(Root, Criu, CPrograms, Program("mount"));
    let (bundle, root) = on_overlay("watch=/srv/app/deep watch=/srv/app", 0);
    let on = OnOverlay { c: run_odd(bundle), root };
    assert_eq!(preflight(&on.c, &[])["possible"], json!(true));
    on.c.checkpoint(&[]).ok();
    on.c.restore(&[]).ok();
    let seen = on.c.bundle().rootfs().join("seen");
    assert!(!seen.exists());
    fs::write(on.c.bundle().rootfs().join("srv/app/new"), "").unwrap();
    wait_for("the watcher", || seen.exists());
    counts_on(&on.c, 3);
}

#[test]
fn what_is_watched_and_has_no_path_is_named() {
    require!(Root, Criu, CPrograms, Program("mount"), Program("nsenter"));
    let (bundle, root) = on_overlay("watch=/srv/app/deep", 0);
    let on = OnOverlay { c: run_odd(bundle), root };
    let mut enter = Command::new("nsenter");
    let target = format!("--target={}", on.c.pid());
    enter.args(["--mount", &target, "mount", "-t", "tmpfs", "tmpfs", "/srv/app"]);
    hiber_tests::command::run(enter, b"").ok();
    let words = [
        "Can't dump that handle",
        "inotify or fanotify",
        "(odd watch=/srv/app/deep), ",
        " on the host: descriptor 3 watches inode",
    ];
    fails(&on.c, &[], "watch", &words);
}

#[test]
fn a_mount_whose_line_is_too_long_is_named() {
    require!(Root, Criu, Program("mount"));
    let (bundle, root) = on_overlay("", 25);
    let on = OnOverlay { c: run_odd(bundle), root };
    let line = fs::read_to_string(format!("/proc/{}/mountinfo", on.c.pid())).unwrap();
    assert!(line.lines().any(|line| line.len() >= 4096), "the test makes a long line");
    fails(&on.c, &[], "mount-line", &["Can't parse", "line over 4 KiB", "a mount's line in mountinfo has 4"]);
}

/// Nobody can see a domain before; CRIU's own words do not name it.
#[test]
fn a_landlock_domain_that_forbids_to_read_is_named_by_the_error() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("").shell(&format!("({}) & exec odd landlock", crate::COUNT)));
    let failed = c.checkpoint(&[]);
    failed.fails("Can't get /proc fd").fails("Landlock domain");
    counts_on(&c, count(&c));
}
