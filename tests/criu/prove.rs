//! `--prove`: a restore on trial, before the original is given up or later. It shows what would fail, and leaves no trace.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use hiber_tests::prelude::*;

use crate::{COUNT, Network, count, counter, counts_on, sleep_and_wake};

/// The traces of a trial on the host while it runs.
fn trials() -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let places =
        hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).filter_map(|dir| fs::read_dir(dir).ok());
    let all = places.flat_map(|dir| dir.flatten().map(|entry| entry.path()));
    all.filter(|path| path.to_string_lossy().contains("hiber-trial.")).collect()
}

/// Checks that no trial has outlived its process.
#[track_caller]
fn assert_no_trials() {
    let of_the_dead = |path: &PathBuf| {
        let pid = path.extension().unwrap_or_default();
        !Path::new("/proc").join(pid).exists() && path.exists()
    };
    let left: Vec<_> = trials().into_iter().filter(of_the_dead).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Those of a process.
fn trials_of(pid: u32) -> Vec<PathBuf> {
    let name = format!("hiber-trial.{pid}");
    trials().into_iter().filter(|path| path.ends_with(&name)).collect()
}

/// Every file below a directory: inode, mode, owner, size and the times of its content and of itself.
fn listing(dir: &Path) -> BTreeMap<PathBuf, [i64; 8]> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let facts = [
            meta.ino() as i64,
            meta.mode().into(),
            meta.uid().into(),
            meta.size() as i64,
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ];
        all.insert(path, facts);
    }
    all
}

fn is_proved(c: &Container) -> bool {
    let manifest = fs::read(c.images().join("hiber.json")).unwrap();
    serde_json::from_slice::<Value>(&manifest).unwrap()["proved"] == json!(true)
}

/// `restore --prove`, whose container need not exist.
#[track_caller]
fn prove(c: &Container, flags: &[&str]) -> Output {
    let (images, bundle) = (c.images().display().to_string(), c.bundle_path());
    let first = ["--prove", "--image-path", &images, "--bundle", &bundle];
    c.call("restore", &[&first[..], flags].concat())
}

/// A container that sleeps and wakes with its proof, twice: the proof is repeated later.
#[track_caller]
fn proved(c: &Container, flags: &[&str]) {
    c.checkpoint(&[&["--prove"][..], flags].concat()).ok();
    assert_eq!(c.status(), "gone");
    assert!(is_proved(c));
    assert_no_trials();
    c.assert_clean();
    prove(c, &[]).ok();
    c.assert_clean();
    c.restore(&[]).ok();
}

#[test]
fn redis_is_proved_and_then_restored() {
    require!(Root, Criu, Redis);
    let c = Runtime::hiber().container(Bundle::redis());
    c.run_detached().ok();
    wait_for("the server", || c.exec(&["redis-cli", "ping"]).stdout.trim() == "PONG");
    c.exec(&["redis-cli", "set", "greeting", "hello"]).ok();
    proved(&c, &[]);
    assert_eq!(c.exec(&["redis-cli", "get", "greeting"]).ok(), "hello");
    let images = c.images().display().to_string();
    let shown = c.runtime().run(&["inspect", &images]);
    assert!(shown.ok().contains("proved: it was restored on trial"), "{}", shown.stdout);
    c.runtime().run(&["inspect", "--verify", &images]).ok();
}

#[test]
fn a_container_that_runs_on_is_proved_too() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let before = count(&c);
    c.checkpoint(&["--prove", "--leave-running"]).ok();
    assert_eq!(c.status(), "running");
    counts_on(&c, before);
    assert!(is_proved(&c));
    // Beside the original.
    prove(&c, &[]).ok();
    assert_eq!(c.status(), "running");
    counts_on(&c, before);
    c.checkpoint(&["--leave-running"]).ok();
    assert!(!is_proved(&c), "without --prove nothing is claimed");
}

#[test]
fn not_an_instruction_is_run() {
    require!(Root, Criu);
    runs_nothing(Bundle::busybox());
}

/// CRIU lets these go before they make the calls that give them back what only they can set.
#[test]
fn not_an_instruction_is_run_where_processes_set_something_first() {
    require!(Root, Criu);
    runs_nothing(Bundle::busybox().edit(|c| c["linux"]["personality"] = json!({"domain": "LINUX32"})));
}

fn runs_nothing(bundle: Bundle) {
    // A cgroup is seen by all: views of files would hide what the program does to them.
    let base = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let base = base.into_iter().find(|dir| dir.join("cgroup.procs").exists()).unwrap();
    let seen = base.join(format!("prove-{}", bundle.name()));
    let made = seen.join("ran");
    fs::create_dir_all(&made).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/seen", "type": "bind", "source": seen, "options": ["bind", "rw"]}))
        .shell("touch /dev/shm/here; until mkdir /seen/ran 2>/dev/null; do :; done; exec sleep 1000");
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("the program", || Path::new(&format!("/proc/{}/root/dev/shm/here", c.pid())).exists());
    c.checkpoint(&["--prove"]).ok();
    fs::remove_dir(&made).unwrap();
    for _ in 0..5 {
        prove(&c, &[]).ok();
    }
    let ran = made.exists();
    c.restore(&[]).ok();
    wait_for("what the program does first", || made.exists());
    c.delete(&["--force"]).ok();
    fs::remove_dir(&made).unwrap();
    fs::remove_dir(&seen).unwrap();
    assert!(!ran, "a restore on trial has run");
}

#[test]
fn files_sockets_volumes_cgroups_and_mounts_are_what_they_were() {
    require!(Root, Criu, Redis);
    let bundle = Bundle::redis();
    let volume = bundle.join("volume");
    fs::create_dir_all(volume.join("inner")).unwrap();
    fs::write(volume.join("data"), "data\n").unwrap();
    fs::write(bundle.join("single"), "single\n").unwrap();
    let bind = |to: &str, from: PathBuf| json!({"destination": to, "type": "bind", "source": from, "options": ["bind", "rw"]});
    let script = "exec 3<>/volume/data; echo more >&3; exec 4>>/log; echo line >&4; exec 5<>/single
        echo gone >/ghost; exec 6</ghost; rm /ghost; echo gone >/volume/ghost; exec 7<>/volume/ghost; rm /volume/ghost
        mkfifo /volume/fifo; exec 8<>/volume/fifo; echo in the pipe >&8
        redis-server --unixsocket /volume/socket --dir /volume --save '' --appendonly yes >/volume/log &
        until redis-cli -s /volume/socket set greeting hello; do sleep 0.1; done; ";
    let bundle = bundle
        .mount(bind("/volume", volume.clone()))
        .mount(bind("/single", volume.parent().unwrap().join("single")))
        .edit(|config| config["root"]["readonly"] = json!(false))
        .shell(&format!("{script}{COUNT}"));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let before = count(&c);
    c.checkpoint(&["--prove"]).ok();
    let dirs = [c.bundle().rootfs(), volume, c.bundle().join("single"), c.images()];
    let look = || dirs.iter().map(|dir| listing(dir)).collect::<Vec<_>>();
    let name = c.bundle().name().to_owned();
    let mounts = || {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect::<Vec<_>>()
    };
    let (files, mounted) = (look(), mounts());
    prove(&c, &[]).ok();
    for (was, is) in files.iter().zip(look()) {
        assert_eq!(*was, is);
    }
    assert_eq!(mounts(), mounted);
    assert_no_trials();
    c.assert_clean();
    c.restore(&[]).ok();
    counts_on(&c, before);
    assert_eq!(c.exec(&["redis-cli", "-s", "/volume/socket", "get", "greeting"]).ok(), "hello");
}

#[test]
fn what_a_restore_refuses_is_refused_before_the_container_is_given_up() {
    require!(Root, Criu);
    let privileges = |config: &mut Value, kept: bool| config["process"]["noNewPrivileges"] = json!(kept);
    let bundle = Bundle::busybox().edit(|config| privileges(config, false));
    let c = counter(&Runtime::hiber(), bundle);
    // Its bundle grants less by now: a restore wants to be told that the images are trusted.
    let file = c.bundle().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    privileges(&mut config, true);
    fs::write(&file, config.to_string()).unwrap();
    let before = count(&c);
    for flags in [&["--prove"][..], &["--prove", "--leave-running"]] {
        let failed = c.checkpoint(flags);
        failed.fails("the checkpoint could not be restored on trial, and the container runs on");
        failed.fails("lacks no_new_privs, which config.json sets");
        assert_eq!(c.status(), "running");
        counts_on(&c, before);
        assert!(!c.images().exists());
    }
    // It is the proof that makes the difference.
    c.checkpoint(&[]).ok();
    c.restore(&[]).fails("lacks no_new_privs");
    prove(&c, &[]).fails("lacks no_new_privs");
    prove(&c, &["--trust-images"]).ok();
}

#[test]
fn what_criu_cannot_restore_is_told_with_its_log() {
    require!(Root, Criu);
    let bundle = Bundle::busybox();
    let [volume, other] = ["volume", "other"].map(|name| bundle.join(name));
    for dir in [&volume, &other] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(volume.join("file"), "open").unwrap();
    let bind = json!({"destination": "/mnt", "type": "bind", "source": volume, "options": ["bind"]});
    let bundle = bundle.mount(bind).shell(&format!("exec 3</mnt/file; {}", crate::COUNT));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    // The bundle that it would be restored from is another by now.
    let file = c.bundle().join("config.json");
    let whole = fs::read(&file).unwrap();
    let mut config: Value = serde_json::from_slice(&whole).unwrap();
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.iter_mut().find(|mount| mount["destination"] == "/mnt").unwrap()["source"] = json!(other);
    fs::write(&file, config.to_string()).unwrap();
    let before = count(&c);
    let failed = c.checkpoint(&["--prove"]);
    failed.fails("the checkpoint could not be restored on trial, and the container runs on");
    assert_eq!(c.status(), "running");
    counts_on(&c, before);
    let left: Vec<_> = fs::read_dir(c.images()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["trial.log"], "{failed:?}");
    failed.fails(&c.images().join("trial.log").display().to_string());
    fs::write(&file, whole).unwrap();
    proved(&c, &[]);
    counts_on(&c, before);
}

#[test]
fn checkpoints_are_verified_by_proof() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let call = |action: &str, flags: &[&str]| {
        let args = [&["checkpoints", action][..], flags, &[c.id(), "monday"]].concat();
        c.runtime().run(&args)
    };
    let bundle = c.bundle_path();
    call("create", &["--prove", "--leave-running"]).ok();
    call("verify", &[]).ok();
    call("verify", &["--prove"]).ok();
    c.delete(&["--force"]).ok();
    call("verify", &["--prove"]).fails("does not exist").fails("name it by --bundle");
    let silent = call("verify", &["--prove", "--bundle", &bundle]);
    assert!(!silent.ok().contains("on trial"), "people at a terminal hear of it, programs do not: {silent}");
    c.assert_clean();
    let dir = c.bundle().join("checkpoints/monday");
    // Of the size that it had, and without a hash to find it by.
    let image = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("mm-"));
    let image = image.unwrap();
    let mut bytes = fs::read(&image).unwrap();
    bytes[12..].fill(0xff);
    fs::write(&image, &bytes).unwrap();
    call("verify", &["--prove", "--bundle", &bundle]).exited(1);
    let images = dir.display().to_string();
    let mut manifest: Value = serde_json::from_slice(&fs::read(dir.join("hiber.json")).unwrap()).unwrap();
    manifest["files"].as_object_mut().unwrap().values_mut().for_each(|file| {
        file.as_object_mut().unwrap().remove("blake3");
    });
    fs::write(dir.join("hiber.json"), manifest.to_string()).unwrap();
    let flags = ["--prove", "--image-path", &images, "--bundle", &bundle];
    c.call("restore", &flags).exited(1);
    c.assert_clean();
    assert_eq!(c.status(), "gone");
}

#[test]
fn namespaces_of_others_are_replaced() {
    require!(Root, Criu);
    let network = Network::new();
    let path = |kind: &str| network.path().replace("net", kind);
    let bundle = Bundle::busybox()
        .namespace("network", Some(&path("net")))
        .shell(&format!("nc -l -l -p 7777 -s 127.0.0.1 -e true & {COUNT}"));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let before = count(&c);
    proved(&c, &[]);
    counts_on(&c, before);
}

#[test]
fn the_hosts_network_is_not_the_trials() {
    require!(Root, Criu);
    let bundle = Bundle::busybox()
        .without_namespace("network")
        .shell(&format!("nc -l -l -p 47741 -s 127.0.0.1 -e true & {COUNT}"));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let before = count(&c);
    // The port is taken: the original listens there.
    c.checkpoint(&["--prove", "--leave-running"]).ok();
    prove(&c, &[]).ok();
    counts_on(&c, before);
}

#[test]
fn a_user_namespace_is_no_obstacle() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    let before = count(&c);
    proved(&c, &[]);
    counts_on(&c, before);
}

#[test]
fn what_cannot_be_proved_is_refused_at_once() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let refuse = |flags: &[&str], words: &str| {
        c.checkpoint(&[&["--prove"][..], flags].concat()).fails(words);
    };
    refuse(&["--pre-dump"], "--prove and --pre-dump exclude each other");
    refuse(&["--lazy-pages"], "--prove and --lazy-pages exclude each other");
    refuse(&["--page-server", "127.0.0.1:1"], "--prove and --page-server exclude each other");
    refuse(&["--shell-job"], "--prove: the terminal of a --shell-job is another's");
    prove(&c, &["--detach"]).fails("--prove and --detach exclude each other");
    assert_eq!(c.status(), "running");
    assert!(!c.images().exists());

    let host = counter(&Runtime::hiber(), Bundle::busybox().without_namespace("pid"));
    host.checkpoint(&["--prove"]).fails("--prove: the container has no pid namespace of its own");
    assert_eq!(host.status(), "running");
    assert!(!host.images().exists());
    let bind = json!({"destination": "/mnt", "type": "bind", "source": "/", "options": ["bind", "ro"]});
    let host = counter(&Runtime::hiber(), Bundle::busybox().mount(bind));
    host.checkpoint(&["--prove"]).fails("--prove: this cannot be restored on trial");
    assert_eq!(host.status(), "running");
}

#[test]
fn nothing_is_left_when_hiber_is_killed_meanwhile() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let images = c.images().display().to_string();
    let mut seen = 0;
    while seen < 3 {
        let before = count(&c);
        let mut command = c.command("checkpoint", &["--prove", "--image-path", &images]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let end = std::time::Instant::now() + hiber_tests::PATIENCE;
        let mut found = false;
        while !found && child.try_wait().unwrap().is_none() && std::time::Instant::now() < end {
            let busy = |dir: &PathBuf| {
                fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|p| p.lines().count() > 1)
            };
            found = trials_of(pid).iter().any(busy);
        }
        let _ = child.kill();
        child.wait().unwrap();
        if !c.images().join("hiber.json").exists() {
            seen += usize::from(found);
            wait_for("the trial to end", || trials_of(pid).is_empty());
            counts_on(&c, before);
        } else {
            sleep_again(&c);
        }
        let _ = fs::remove_dir_all(&images);
    }
    sleep_and_wake(&c, &[], &[]);
}

/// Nobody guards a trial of images alone: the next one removes what is left of it.
#[test]
fn a_killed_trial_of_images_is_cleared_by_the_next_one() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--leave-running"]).ok();
    let (images, bundle) = (c.images().display().to_string(), c.bundle_path());
    let flags = ["--prove", "--image-path", &images, "--bundle", &bundle];
    let mut left = Vec::new();
    for _ in 0..5 {
        let mut command = c.command("restore", &flags);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while trials_of(child.id()).is_empty() && child.try_wait().unwrap().is_none() {}
        let _ = child.kill();
        child.wait().unwrap();
        left.extend(trials_of(child.id()));
    }
    assert!(!left.is_empty(), "none was killed in time");
    // Another test's trial may have removed it.
    let empty = |dir: &PathBuf| {
        fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|p| p.is_empty()) || !dir.exists()
    };
    wait_for("CRIU to end the trials", || left.iter().all(empty));
    prove(&c, &[]).ok();
    left.retain(|dir| dir.exists());
    assert_eq!(left, Vec::<PathBuf>::new());
}

/// One that was published in the end.
fn sleep_again(c: &Container) {
    wait_for("its end", || matches!(c.status().as_str(), "stopped" | "gone"));
    let _ = c.delete(&["--force"]);
    c.restore(&[]).ok();
}
