//! Real failures of restores: preflight sees most before, the error names the cause, and nothing is left behind.

use crate::failures::{finding, odd, run_odd};
use crate::{Network, count, counter, counts_on};
use hiber_tests::apparmor::Profile;
use hiber_tests::prelude::*;
use hiber_tests::require::Need;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A counter that was put to sleep, and how far it had counted.
#[track_caller]
fn asleep(bundle: Bundle) -> (Container, u64) {
    let c = counter(&Runtime::hiber(), bundle);
    c.checkpoint(&[]).ok();
    (c, 3)
}

/// The report of `restore --check`, in JSON.
#[track_caller]
pub(crate) fn preflight(c: &Container, flags: &[&str]) -> Value {
    let (images, bundle) = (c.images().display().to_string(), c.bundle_path());
    let first = ["--check", "--format", "json", "--image-path", &images, "--bundle", &bundle];
    let output = c.call("restore", &[&first[..], flags].concat());
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
    output.exited(i32::from(report["possible"] != json!(true)));
    report
}

/// Checks that preflight finds `check` with `found`, that the restore fails with all of `words`, and leaves nothing.
#[track_caller]
fn fails(c: &Container, flags: &[&str], (check, found): (&str, &str), words: &[&str]) {
    let report = preflight(c, flags);
    let finding = finding(&report, check).unwrap_or_else(|| panic!("no {check} in {report:#}"));
    assert_eq!(finding["severity"], json!("error"), "{report:#}");
    assert!(finding.to_string().contains(found), "{found:?} is not in {report:#}");
    let output = c.restore(flags);
    for word in words {
        output.fails(word);
    }
    assert_eq!(c.status(), "gone", "{output}");
    c.assert_clean();
}

/// The broken part is whole again: the container wakes.
#[track_caller]
fn wakes(c: &Container, before: u64) {
    let report = preflight(c, &[]);
    assert_eq!(report["possible"], json!(true), "{report:#}");
    c.restore(&[]).ok();
    counts_on(c, before);
}

fn change_config(c: &Container, change: impl FnOnce(&mut Value)) {
    let path = c.bundle().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn a_bind_source_that_is_gone() {
    require!(Root, Criu);
    let bundle =
        Bundle::busybox().mount(json!({"destination": "/data", "source": "data", "options": ["bind"]}));
    fs::create_dir(bundle.join("data")).unwrap();
    let (c, before) = asleep(bundle);
    fs::remove_dir(c.bundle().join("data")).unwrap();
    fails(&c, &[], ("mount-source", "the source of /data is missing"), &["/data", "no such file"]);
    fs::create_dir(c.bundle().join("data")).unwrap();
    wakes(&c, before);
}

#[test]
fn a_mount_that_the_configuration_does_not_have() {
    require!(Root, Criu);
    let bundle =
        Bundle::busybox().mount(json!({"destination": "/data", "source": "data", "options": ["bind"]}));
    fs::create_dir(bundle.join("data")).unwrap();
    let (c, _) = asleep(bundle);
    change_config(&c, |v| {
        v["mounts"].as_array_mut().unwrap().pop();
    });
    let found = ("mount-missing", "config.json has no mount for /data");
    fails(&c, &[], found, &["of the host at /data", "config.json has no such mount", "--trust-images"]);
    fails(
        &c,
        &["--trust-images"],
        found,
        &[
            "No mapping for",
            "mounts of the configuration that the checkpoint was made with",
            "has no mount for /data",
        ],
    );
}

#[test]
fn a_mount_point_that_cannot_be_made() {
    require!(Root, Criu);
    let bundle =
        Bundle::busybox().mount(json!({"destination": "/data", "source": "data", "options": ["bind"]}));
    fs::create_dir(bundle.join("data")).unwrap();
    let (c, _) = asleep(bundle);
    fs::remove_dir(c.bundle().rootfs().join("data")).unwrap();
    fs::write(c.bundle().rootfs().join("data"), "").unwrap();
    fails(&c, &[], ("mount-point", "/data is a file"), &["/data", "not a directory"]);
}

#[test]
fn a_program_of_another_size() {
    require!(Root, Criu);
    let (c, before) = asleep(Bundle::busybox());
    // a link to the one program
    let program = c.bundle().rootfs().join("bin/busybox");
    let kept = fs::read(&program).unwrap();
    fs::write(&program, [&kept[..], b"more"].concat()).unwrap();
    let found = format!("has {} bytes, and had {}", kept.len() + 4, kept.len());
    fails(&c, &[], ("rootfs", &found), &["bad size", "busybox", "same root file system", "log: "]);
    fs::write(&program, kept).unwrap();
    wakes(&c, before);
}

#[test]
fn an_open_file_that_is_gone() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().shell(&format!("exec 5</etc/kept; {}", crate::COUNT));
    let file = bundle.rootfs().join("etc/kept");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "kept").unwrap();
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    c.checkpoint(&[]).ok();
    fs::remove_file(&file).unwrap();
    fails(&c, &[], ("rootfs", "/etc/kept"), &["etc/kept", "missing", "same root file system"]);
    fs::write(&file, "kept").unwrap();
    wakes(&c, 3);
}

#[test]
fn images_that_are_missing_changed_or_cut() {
    require!(Root, Criu);
    let (c, before) = asleep(Bundle::busybox());
    let image = |name: &str| c.images().join(name);
    let with = |name: &str, broken: &dyn Fn(&Path, &[u8]), found: &str, words: &[&str], trusted: &[&str]| {
        let path = image(name);
        let kept = fs::read(&path).unwrap();
        broken(&path, &kept);
        fails(&c, &[], ("images", found), words);
        if !trusted.is_empty() {
            fails(&c, &["--trust-images"], ("images", found), trusted);
        }
        fs::write(&path, kept).unwrap();
    };
    let remove = |path: &Path, _: &[u8]| fs::remove_file(path).unwrap();
    let cut = |path: &Path, bytes: &[u8]| fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    with(
        "fs-1.img",
        &remove,
        "fs-1.img: is missing",
        &["fs-1.img: is missing", "--trust-images"],
        &["inspect --verify", "fs-1.img: is missing"],
    );
    with(
        "pages-1.img",
        &cut,
        "pages-1.img: has",
        &["pages-1.img: has", "expected"],
        &["pages-1.img", "another copy"],
    );
    with("mm-1.img", &cut, "mm-1.img: has", &["mm-1.img: has", "expected"], &["mm-1.img"]);
    // Of the same size: the hash tells, and CRIU.
    let magic = |path: &Path, bytes: &[u8]| fs::write(path, [&[0; 8], &bytes[8..]].concat()).unwrap();
    let written = "fs-1.img: its content is not what was written";
    with("fs-1.img", &magic, written, &[written], &["magic doesn't match", "another copy", "log: "]);
    wakes(&c, before);
}

#[test]
fn an_id_or_a_cgroup_that_is_taken() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--leave-running"]).ok();
    let report = preflight(&c, &[]);
    assert!(finding(&report, "id").is_some(), "{report:#}");
    let pids = finding(&report, "cgroup").unwrap_or_else(|| panic!("{report:#}"));
    assert!(pids["what"].as_str().unwrap().contains("not empty"), "{report:#}");
    c.restore(&[]).fails("already exists");
    assert_eq!(c.status(), "running");
}

/// Restores the container's checkpoint as another container of the same numbers, in a cgroup and under an id of its own.
/// Errors are in `restore.log` of the bundle.
fn restore_beside(c: &Container, flags: &[&str]) -> hiber_tests::command::Output {
    change_config(c, |v| v["linux"]["cgroupsPath"] = json!(format!("{}/d", c.bundle().cgroup_parent())));
    let (images, bundle) = (c.images().display().to_string(), c.bundle_path());
    let log = c.bundle().join("restore.log").display().to_string();
    let mut command = c.runtime().command();
    command.args(["--log", &log, "restore", "--detach", "--image-path", &images, "--bundle", &bundle]);
    command.args(flags).arg(format!("{}-other", c.id()));
    hiber_tests::command::run(command, b"")
}

#[test]
fn a_process_number_that_is_taken() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().without_namespace("pid");
    let c = counter(&Runtime::hiber(), bundle);
    let report = crate::failures::preflight(&c, &[]);
    assert_eq!(report["possible"], json!(true), "{report:#}");
    c.checkpoint(&["--leave-running"]).ok();
    let pid = c.pid();
    let check = restore_beside(&c, &["--check"]);
    let taken = format!("pid: process number {pid} (sh) is taken by process {pid} (sh)");
    assert!(check.exited(1).stdout.contains(&taken), "{check}");
    restore_beside(&c, &[]).exited(1);
    let error = fs::read_to_string(c.bundle().join("restore.log")).unwrap();
    assert!(error.contains("a process number of the checkpoint is taken"), "{error}");
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    counts_on(&c, 3);
}

#[test]
fn a_process_number_that_a_session_keeps() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().without_namespace("pid").shell("sleep 600 & while :; do sleep 600; done");
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let pid = c.pid();
    let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    wait_for("the children", || children().split_whitespace().count() == 2);
    c.checkpoint(&["--leave-running"]).ok();
    // Its children stay, in the session that it led.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    wait_for("the end of the first process", || !Path::new(&format!("/proc/{pid}")).exists());
    let check = restore_beside(&c, &["--check"]);
    let taken = format!("pid: process number {pid} (sh) is taken as the process group of process ");
    assert!(check.exited(1).stdout.contains(&taken), "{check}");
}

#[test]
fn a_connection_without_its_address() {
    require!(Root, Criu, CPrograms);
    let network = Network::new();
    let address = |action: &str| {
        let mut command = Command::new("nsenter");
        let net = format!("--net={}", network.path());
        command.args([&net, "ip", "address", action, "198.18.9.1/32", "dev", "lo"]);
        hiber_tests::command::run(command, b"").ok();
    };
    wait_for("loopback", || {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net={}", network.path()), "ip", "link", "show", "lo"]);
        hiber_tests::command::run(command, b"").stdout.contains("LOOPBACK,UP")
    });
    address("add");
    let bundle = odd("tcp=198.18.9.1").namespace("network", Some(&network.path()));
    let c = run_odd(bundle);
    c.checkpoint(&["--tcp-established"]).ok();
    address("del");
    let found = ("address", "198.18.9.1, which a saved TCP connection has, is not there");
    fails(&c, &[], found, &["Can't bind inet socket", "address of a saved connection", "log: "]);
    address("add");
    wakes(&c, 3);
}

#[test]
fn a_namespace_to_join_that_is_gone() {
    require!(Root, Criu);
    let network = Network::new();
    let (c, _) = asleep(Bundle::busybox().namespace("network", Some(&network.path())));
    let path = network.path();
    drop(network);
    fails(&c, &[], ("bundle", &path), &[&path, "no such file"]);
}

#[test]
fn a_security_profile_that_is_not_there() {
    require!(Root, Criu);
    // Where there are profiles, only one that the images have is exchanged.
    let own = Need::AppArmor.check().is_ok().then(|| Profile::load("deny /kept/** wl,"));
    let name = own.as_ref().map(Profile::name);
    let bundle = Bundle::busybox().edit(|c| c["process"]["apparmorProfile"] = json!(name));
    let (c, before) = asleep(bundle);
    let found = ("profile", "--lsm-profile apparmor:no-such-profile");
    fails(
        &c,
        &["--lsm-profile", "apparmor:no-such-profile"],
        found,
        if own.is_some() {
            &["no such profile is loaded"]
        } else {
            &["LSM", "without --lsm-profile", "log: "]
        },
    );
    wakes(&c, before);
}

#[test]
fn flags_that_say_no_to_what_the_images_hold() {
    require!(Root, Criu, CPrograms);
    let c = run_odd(odd("tcp flock"));
    c.checkpoint(&["--tcp-established", "--file-locks"]).ok();
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    let found = ("flag", "the images have a TCP connection, 127.0.0.1:");
    fails(&c, &["--tcp-established=false"], found, &["Connected TCP socket in image", "--tcp-established"]);
    let report = preflight(&c, &["--file-locks=false"]);
    assert_eq!(finding(&report, "flag").unwrap()["advice"], json!("pass --file-locks"), "{report:#}");
    wakes(&c, 3);
}

#[test]
fn a_checkpoint_without_a_manifest_is_warned_of() {
    require!(Root, Criu);
    let (c, before) = asleep(Bundle::busybox());
    fs::remove_file(c.images().join("hiber.json")).unwrap();
    let report = preflight(&c, &[]);
    assert_eq!(finding(&report, "manifest").unwrap()["severity"], json!("warning"), "{report:#}");
    wakes(&c, before);
}

#[test]
fn another_machine_is_told() {
    require!(Root, Criu);
    let (c, _) = asleep(Bundle::busybox());
    let path = c.images().join("hiber.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["cpu"]["features"].as_array_mut().unwrap().push(json!("zz9"));
    manifest["kernel"] = json!("99.1.0");
    manifest["criu"] = json!("99.0");
    fs::write(&path, manifest.to_string()).unwrap();
    let report = preflight(&c, &[]);
    for (check, words) in [("cpu", "lacks zz9"), ("kernel", "Linux 99.1.0"), ("criu-version", "CRIU 99.0")] {
        let found = finding(&report, check).unwrap_or_else(|| panic!("no {check} in {report:#}"));
        assert!(found["what"].as_str().unwrap().contains(words), "{report:#}");
        assert_eq!(found["severity"], json!("warning"));
    }
    manifest["cpu"]["architecture"] = json!("s390x");
    fs::write(&path, manifest.to_string()).unwrap();
    assert!(finding(&preflight(&c, &[]), "architecture").is_some());
}

/// CRIU waits for ever for a task that is killed so late (`delete --force`, want of memory).
#[test]
fn a_first_process_that_is_killed_at_the_end_of_a_restore_ends_the_restore() {
    require!(Root, Criu);
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (script, killed) = (at("script"), at("killed"));
    let kill = format!(
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = network-unlock ] && kill -KILL \"$CRTOOLS_INIT_PID\" && : >{killed}\nexit 0\n"
    );
    fs::write(&script, kill).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (c, _) = asleep(Bundle::busybox());
    let config = at("criu.conf");
    fs::write(&config, format!("action-script {script}\n")).unwrap();
    change_config(&c, |spec| spec["annotations"] = json!({"org.criu.config": config}));
    let images = c.images().display().to_string();
    let restore = c.command("restore", &["--image-path", &images, "--bundle", &c.bundle_path()]);
    let restore = std::thread::spawn(move || hiber_tests::command::run(restore, b""));
    wait_for("the kill", || Path::new(&killed).exists());
    c.delete(&["--force"]).ok();
    restore.join().unwrap().fails("the first task was killed, and it did nothing for 3 s");
    assert_eq!(c.status(), "gone");
    c.assert_clean();
}
