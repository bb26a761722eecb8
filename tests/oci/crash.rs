//! hiber itself is killed: nothing is left that `delete --force` does not clear.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hiber_tests::cgroup;
use hiber_tests::prelude::*;

/// How many moments there are in the time that a creation takes.
const MOMENTS: u32 = 30;

fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// After the runtime's death: whatever it left goes, and the id is free again.
fn assert_deletable(c: &Container) {
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

/// Kills `command` at many moments of its life.
fn killed_at_many_moments(command: &str, bundle: Bundle, flags: &[&str]) {
    let c = Runtime::hiber().container(bundle.args(["sleep", "1000"]));
    let begin = || {
        let path = c.bundle_path();
        let flags: Vec<_> = flags.iter().copied().chain(["--bundle", &path]).collect();
        quiet(c.command(command, &flags)).spawn().unwrap()
    };
    let whole = || {
        let started = Instant::now();
        assert!(hiber_tests::command::wait(&mut begin(), command).success());
        let whole = started.elapsed();
        assert_deletable(&c);
        whole
    };
    let step = (0..3).map(|_| whole()).min().unwrap_or_default() / MOMENTS;
    // Until the command is faster than we are, thrice in a row: each takes another time on a busy machine.
    let (mut delay, mut interrupted, mut in_time) = (Duration::ZERO, 0, 0);
    while in_time < 3 && interrupted < 2 * MOMENTS {
        let mut child = begin();
        std::thread::sleep(delay);
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            in_time += 1;
        } else {
            interrupted += 1;
            in_time = 0;
        }
        assert_deletable(&c);
        delay += step;
    }
    assert!(interrupted > MOMENTS / 4, "only {interrupted} were killed before they were done");
}

#[test]
fn a_create_that_is_killed_at_any_moment_can_be_deleted() {
    require!(Root);
    killed_at_many_moments("create", Bundle::busybox(), &[]);
}

#[test]
fn a_create_in_a_user_namespace_that_is_killed_at_any_moment_can_be_deleted() {
    require!(Root);
    killed_at_many_moments("create", Bundle::busybox().user_namespace(100_000), &[]);
}

#[test]
fn a_detached_run_that_is_killed_at_any_moment_can_be_deleted() {
    require!(Root);
    killed_at_many_moments("run", Bundle::busybox(), &["--detach"]);
}

/// A hook that kills its parent, the runtime, in the middle of its work, and says that it was there.
fn killed_by_hook(kind: &str) {
    let bundle = Bundle::busybox().args(["sleep", "1000"]);
    let script = format!("touch {}; kill -9 $PPID; sleep 0.2", bundle.join("hooked").display());
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    let c = Runtime::hiber().container(bundle.edit(|config| config["hooks"] = json!({kind: [hook]})));
    let mut child = quiet(c.command("run", &["--detach", "--bundle", &c.bundle_path()])).spawn().unwrap();
    let status = hiber_tests::command::wait(&mut child, "run");
    assert!(!status.success(), "{kind}: {status}");
    assert!(c.bundle().join("hooked").exists(), "{kind}");
    // The hook itself outlives its parent for a moment.
    std::thread::sleep(Duration::from_millis(300));
    assert_deletable(&c);
}

#[test]
fn a_runtime_that_is_killed_in_a_hook_leaves_what_can_be_deleted() {
    require!(Root);
    for kind in ["prestart", "createRuntime", "poststart"] {
        killed_by_hook(kind);
    }
}

/// `run` lets its process start without a word more; not once it is dead, though.
#[test]
fn a_run_that_is_killed_during_the_set_up_starts_nothing() {
    require!(Root);
    let bundle = Bundle::busybox().shell("touch /ran; sleep 1000");
    let (hooked, ran) = (bundle.join("hooked"), bundle.rootfs().join("ran"));
    let script = format!("touch {}; sleep 0.3", hooked.display());
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    let c = Runtime::hiber().container(bundle.edit(|config| {
        config["hooks"] = json!({"createContainer": [hook]});
        config["root"]["readonly"] = json!(false);
    }));
    let mut child = quiet(c.command("run", &["--detach", "--bundle", &c.bundle_path()])).spawn().unwrap();
    wait_for("the hook", || hooked.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the end of what nobody follows", || c.status() == "stopped");
    assert!(!ran.exists());
    assert_deletable(&c);
    // The same, left alone, does start it.
    std::fs::remove_file(&hooked).unwrap();
    c.run_detached().ok();
    wait_for("the program", || ran.exists());
    assert_deletable(&c);
}

/// Stands for a CRIU that restores a container when its runtime is gone: the first process cannot end before those
/// that died with it are reaped by who traces them.
#[test]
fn a_process_of_its_cgroup_that_traces_it_does_not_keep_it() {
    require!(Root, Program("cc"));
    let c = Runtime::hiber().container(Bundle::busybox().shell("sleep 1000 & wait"));
    c.run_detached().ok();
    let cgroup = c.bundle().cgroup();
    wait_for("the sleep", || cgroup::pids(&cgroup).len() == 2);
    let tracer = c.bundle().path().join("tracer");
    hiber_tests::tools::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/oci/tracer.c"), &tracer, &[]);
    let traced = cgroup::pids(&cgroup).into_iter().find(|pid| *pid != c.pid()).unwrap();
    let mut tracer = Command::new(tracer).arg(traced.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut seized = [0; 7];
    tracer.stdout.take().unwrap().read_exact(&mut seized).unwrap();
    for directory in cgroup::directories(&cgroup) {
        fs::write(directory.join("cgroup.procs"), tracer.id().to_string()).unwrap();
    }
    assert_deletable(&c);
    assert!(!hiber_tests::command::wait(&mut tracer, "tracer").success());
}
