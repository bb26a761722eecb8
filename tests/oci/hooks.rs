//! Hooks: all six kinds, what they are told, and what their failure does.

use hiber_tests::prelude::*;
use std::fs;

/// A hook that appends its kind, and the state from its standard input, to files in the bundle.
fn hook(bundle: &Bundle, kind: &str) -> Value {
    let record = format!(
        "cat >{0}/{1}.json; readlink /proc/self/ns/mnt >{0}/{1}.mnt; echo {1} >>{0}/order",
        bundle.path().display(),
        kind
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", record], "env": ["PATH=/usr/bin:/bin"]}])
}

/// Hooks that run in the container's mount namespace see this directory at its host path.
fn shared(bundle: Bundle) -> Bundle {
    let path = bundle.path().display().to_string();
    bundle.mount(json!({"destination": path, "source": path, "options": ["bind"]}))
}

fn state_of(c: &Container, kind: &str) -> Value {
    let file = c.bundle().join(&format!("{kind}.json"));
    serde_json::from_slice(&fs::read(&file).unwrap()).unwrap()
}

#[test]
fn all_hooks_run_in_order_with_the_state_on_their_input() {
    require!(Root);
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let bundle = Bundle::busybox();
    let hooks: Value =
        kinds.iter().map(|k| ((*k).to_owned(), hook(&bundle, k))).collect::<serde_json::Map<_, _>>().into();
    let bundle = shared(bundle).args(["sleep", "1000"]).edit(|c| c["hooks"] = hooks);
    let c = Runtime::hiber().container(bundle);
    let order = || {
        let text = fs::read_to_string(c.bundle().join("order")).unwrap_or_default();
        text.lines().filter(|l| *l != "poststart").map(str::to_owned).collect::<Vec<_>>()
    };

    c.create(&[]).ok();
    assert_eq!(order(), ["prestart", "createRuntime", "createContainer"]);
    let pid = c.pid();
    c.start().ok();
    wait_for("startContainer", || order().len() == 4);
    wait_for("poststart", || c.bundle().join("poststart.json").exists());
    assert_eq!(order()[3], "startContainer");
    let container_mnt = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap().to_string_lossy().into_owned();
    c.kill("KILL").ok();
    c.wait_stopped();
    c.delete(&[]).ok();
    assert_eq!(order()[4], "poststop");

    for kind in kinds {
        let state = state_of(&c, kind);
        assert_eq!(state["id"], c.id(), "{kind}");
        assert_eq!(state["bundle"], c.bundle_path(), "{kind}");
        let status = match kind {
            "prestart" | "createRuntime" | "createContainer" => "creating",
            "startContainer" => "created",
            _ => "stopped",
        };
        // of poststart there is a test of its own
        if kind != "poststart" {
            assert_eq!(state["status"], status, "{kind}");
        }
        if kind != "poststop" && kind != "createContainer" && kind != "startContainer" {
            assert_eq!(state["pid"], pid, "{kind}");
        }
        let mnt = fs::read_to_string(c.bundle().join(&format!("{kind}.mnt"))).unwrap();
        let inside = matches!(kind, "createContainer" | "startContainer");
        assert_eq!(mnt.trim() == container_mnt, inside, "{kind} in the container's mount namespace");
    }
    c.assert_clean();
}

#[test]
fn a_failing_hook_before_start_undoes_the_creation() {
    require!(Root);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let failing = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo because of me >&2; exit 6"]}]);
        let c = Runtime::hiber().container(Bundle::busybox().edit(|c| c["hooks"] = json!({kind: failing})));
        let output = c.create(&[]);
        output.fails("hook").fails("because of me");
        assert_eq!(c.status(), "gone", "{kind}");
        c.assert_clean();
    }
}

#[test]
fn a_failing_start_hook_keeps_the_process_from_starting() {
    require!(Root);
    let failing = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 6"]}]);
    let bundle =
        Bundle::busybox().shell("touch /ran").edit(|c| c["hooks"] = json!({"startContainer": failing}));
    let c = Runtime::hiber().container(bundle);
    c.run(&[]).fails("startContainer hook #0");
    assert!(!c.bundle().rootfs().join("ran").exists());
}

#[test]
fn a_failing_poststop_hook_hinders_neither_deletion_nor_the_next_one() {
    require!(Root);
    let bundle = Bundle::busybox();
    let ran = bundle.join("ran");
    let hook = |script: String| json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
    let hooks =
        [hook("exit 6".to_owned()), hook(format!("echo next >{}", ran.display())), hook("exit 7".to_owned())];
    let c = Runtime::hiber().container(bundle.edit(|c| c["hooks"] = json!({"poststop": hooks})));
    c.run_detached().ok();
    let deleted = c.delete(&["--force"]);
    deleted.ok();
    for failed in ["poststop hook #0: exit status 6", "poststop hook #2: exit status 7"] {
        assert!(deleted.stderr.contains(failed), "{deleted}");
    }
    assert_eq!(fs::read_to_string(ran).unwrap(), "next\n");
    c.assert_clean();
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    require!(Root);
    let slow = json!([{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]);
    let c =
        Runtime::hiber().container(Bundle::busybox().edit(|c| c["hooks"] = json!({"createRuntime": slow})));
    let began = std::time::Instant::now();
    c.create(&[]).fails("hook");
    assert!(began.elapsed().as_secs() < 15);
    c.assert_clean();
}

#[test]
fn a_hook_gets_its_own_environment_only() {
    require!(Root);
    let bundle = Bundle::busybox();
    let file = bundle.join("environment");
    let script = format!("env >{}", file.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["ONLY=this"]}]);
    let c = Runtime::hiber().container(bundle.edit(|c| c["hooks"] = json!({"createRuntime": hook})));
    c.run(&[]).ok();
    let environment = fs::read_to_string(file).unwrap();
    assert!(environment.contains("ONLY=this"), "{environment}");
    assert!(!environment.contains("HIBER_") && !environment.contains("CARGO"), "{environment}");
}

#[test]
fn a_missing_hook_is_named() {
    require!(Root);
    let hook = json!([{"path": "/no/such/hook"}]);
    let c =
        Runtime::hiber().container(Bundle::busybox().edit(|c| c["hooks"] = json!({"createRuntime": hook})));
    c.create(&[]).fails("/no/such/hook");
    c.assert_clean();
}

#[test]
fn poststart_hooks_run_after_the_start_and_not_after_the_creation() {
    // runc 1.3 runs them at the end of create; its later versions do not
    require!(Root);
    let bundle = Bundle::busybox();
    let hooks =
        json!({"startContainer": hook(&bundle, "startContainer"), "poststart": hook(&bundle, "poststart")});
    let bundle = shared(bundle).args(["sleep", "1000"]).edit(|c| c["hooks"] = hooks);
    let c = Runtime::hiber().container(bundle);
    c.create(&[]).ok();
    assert!(!c.bundle().join("order").exists());
    c.start().ok();
    let order = || fs::read_to_string(c.bundle().join("order")).unwrap_or_default();
    wait_for("both hooks, in their order", || order() == "startContainer\npoststart\n");
    assert_eq!(state_of(&c, "poststart")["status"], "running");
}

#[test]
fn hooks_in_the_container_have_its_filter_environment_and_root() {
    require!(Root);
    let bundle = Bundle::busybox().args(["true"]).edit(|c| {
        c["process"]["env"] = json!(["PATH=/bin", "ONE=two"]);
        let check = "test \"$ONE\" = two && test -n \"$HOME\"";
        c["hooks"] = json!({
            "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "touch ./made-by-hook"]}],
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", check]}],
        });
    });
    let c = Runtime::hiber().container(bundle);
    c.run(&[]).ok();
    assert!(c.bundle().rootfs().join("made-by-hook").exists());
    let bundle = Bundle::busybox().args(["true"]).edit(|c| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}]});
        let exec = "exec mkdir /dev/shm/x";
        c["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", exec]}]});
    });
    Runtime::hiber().container(bundle).run(&[]).fails("startContainer hook #0: signal: bad system call");
}

#[test]
fn hooks_without_an_environment_have_the_runtimes() {
    require!(Root);
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let bundle = Bundle::busybox();
    let hooks: Value = kinds
        .iter()
        .map(|kind| {
            let record =
                format!("echo ${{OF_THE_CALLER-none}} >{}", bundle.join(&format!("{kind}.env")).display());
            ((*kind).to_owned(), json!([{"path": "/bin/sh", "args": ["sh", "-c", record]}]))
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    let c = Runtime::hiber().container(shared(bundle).args(["true"]).edit(|c| c["hooks"] = hooks));
    let mut run = c.command("run", &["--bundle", &c.bundle_path()]);
    run.env("OF_THE_CALLER", "yes");
    hiber_tests::command::run(run, b"").ok();
    for kind in kinds {
        let seen = fs::read_to_string(c.bundle().join(&format!("{kind}.env"))).unwrap();
        // init, whose child that one is, has no environment, as runc's has none
        let expected = if kind == "createContainer" { "none" } else { "yes" };
        assert_eq!(seen.trim(), expected, "{kind}");
    }
    c.assert_clean();
}

#[test]
fn the_time_of_a_hook_counts_while_it_does_not_read_a_large_state() {
    require!(Root);
    let slow = json!([{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]);
    let bundle = Bundle::busybox().edit(|c| {
        c["annotations"] = json!({"large": "x".repeat(200_000)});
        c["hooks"] = json!({"createRuntime": slow});
    });
    let c = Runtime::hiber().container(bundle);
    let began = std::time::Instant::now();
    c.create(&[]).fails("hook");
    assert!(began.elapsed().as_secs() < 15);
    c.assert_clean();
}

/// A hook that runs the runtime's commands for its container, each for 15 s at most, and writes their exit codes and
/// what they say into the bundle's file KIND.calls.
fn calls(c: &Container, kind: &str, commands: &[&str]) -> Value {
    let command = c.runtime().command();
    let runtime = format!("{} --root {}", command.get_program().display(), c.runtime().root().display());
    let log = c.bundle().join(&format!("{kind}.calls"));
    let call = |command: &&str| {
        format!(
            "said=$(timeout 15 {runtime} {command} 2>&1 </dev/null); echo $? {command}: $said >>{};",
            log.display()
        )
    };
    let script: String = commands.iter().map(call).collect();
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
}

/// A container whose hooks of these kinds make these calls.
fn calling(of: &[(&str, &[&str])]) -> Container {
    let c = Runtime::hiber().container(Bundle::busybox());
    let commands = |all: &[&str]| all.iter().map(|command| command.replace("ID", c.id())).collect::<Vec<_>>();
    let hooks: serde_json::Map<_, _> = of
        .iter()
        .map(|(kind, all)| {
            let all = commands(all);
            let all: Vec<_> = all.iter().map(String::as_str).collect();
            ((*kind).to_owned(), calls(&c, kind, &all))
        })
        .collect();
    let mut config = c.bundle().config().clone();
    config["process"]["args"] = json!(["sleep", "1000"]);
    config["hooks"] = hooks.into();
    let bundle = c.bundle_path();
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": bundle, "source": bundle, "options": ["bind"]}));
    fs::write(c.bundle().join("config.json"), config.to_string()).unwrap();
    c
}

/// Exit codes and words of the calls that the hook of a kind has made.
fn called(c: &Container, kind: &str) -> Vec<(i32, String)> {
    let text = fs::read_to_string(c.bundle().join(&format!("{kind}.calls"))).unwrap_or_default();
    let call = |line: &str| {
        let (code, words) = line.split_once(' ').unwrap();
        (code.parse().unwrap(), words.to_owned())
    };
    text.lines().map(call).collect()
}

#[test]
fn hooks_may_call_the_runtime_for_their_container() {
    require!(Root);
    let all: &[&str] = &["state ID", "update --pids-limit 55 ID", "pause ID", "resume ID", "exec ID true"];
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let c = calling(&kinds.map(|kind| (kind, all)));
    c.create(&[]).ok();
    c.start().ok();
    c.kill("KILL").ok();
    c.wait_stopped();
    c.delete(&[]).ok();
    for kind in kinds {
        let calls = called(&c, kind);
        assert_eq!(calls.len(), all.len(), "{kind}: {calls:?}");
        // 124 and more: it did not end
        assert!(calls.iter().all(|(code, _)| *code < 124 || *code == 255), "{kind}: {calls:?}");
        let codes: Vec<_> = calls.iter().map(|(code, _)| *code).collect();
        match kind {
            "poststart" => assert_eq!(codes, [0, 0, 0, 0, 0], "{calls:?}"),
            // A container that can be seen has limits that can be changed, and no process that could be stopped.
            "prestart" | "createRuntime" if codes[0] == 0 => {
                assert_eq!(codes, [0, 0, 1, 1, 255], "{calls:?}");
            }
            "poststop" => {
                assert!(calls.iter().all(|(_, words)| words.contains("does not exist")), "{calls:?}");
            }
            _ => assert!(codes[1..].iter().all(|code| *code != 0), "{kind}: {calls:?}"),
        }
    }
    c.assert_clean();
}

#[test]
fn what_a_hook_has_changed_stays() {
    require!(Root, Controller("pids"));
    let c = calling(&[("createRuntime", &["update --pids-limit 55 ID"])]);
    c.create(&[]).ok();
    assert_eq!(called(&c, "createRuntime")[0].0, 0);
    c.start().ok();
    let limit = hiber_tests::cgroup::read("pids", &c.bundle().cgroup(), "pids.max", "pids.max");
    assert_eq!(limit, "55");
}

#[test]
fn a_hook_may_delete_its_container() {
    require!(Root);
    let delete: &[&str] = &["delete ID", "delete --force ID"];
    let c = calling(&[("createRuntime", delete)]);
    c.create(&[]).fails("deleted while its hooks ran");
    let codes: Vec<_> = called(&c, "createRuntime").iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [1, 0]);
    c.assert_clean();

    let c = calling(&[("createContainer", delete)]);
    // The hook is itself a process of the container, and dies with it, or is refused.
    c.create(&[]);
    let calls = called(&c, "createContainer");
    assert!(calls.iter().all(|(code, _)| *code != 124), "{calls:?}");
    c.delete(&["--force"]).ok();
    c.assert_clean();

    let c = calling(&[("poststart", delete)]);
    c.create(&[]).ok();
    c.start().ok();
    let codes: Vec<_> = called(&c, "poststart").iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [1, 0]);
    assert_eq!(c.status(), "gone");
    c.assert_clean();
}

#[test]
fn a_restores_hook_is_told_who_waits_for_it() {
    require!(Root, Criu);
    let c = calling(&[("prestart", &["update --pids-limit 55 ID"])]);
    c.create(&[]).ok();
    c.start().ok();
    c.checkpoint(&[]).ok();
    fs::remove_file(c.bundle().join("prestart.calls")).unwrap();
    c.restore(&[]).ok();
    let calls = called(&c, "prestart");
    assert!(calls[0].0 == 1 && calls[0].1.contains("is locked by process"), "{calls:?}");
    assert!(calls[0].1.contains(" restore "), "{calls:?}");
    assert_eq!(c.status(), "running");
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn who_waits_for_a_lock_says_for_whom() {
    require!(Root, Program("flock"));
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let directory = c.runtime().root().join(c.id());
    let mut holder = std::process::Command::new("flock");
    holder.arg(&directory).args(["sleep", "3"]);
    let mut holder = holder.spawn().unwrap();
    let locks = || fs::read_to_string("/proc/locks").unwrap();
    wait_for("the lock", || locks().contains(&format!(" {} ", holder.id())));
    let output = c.call("pause", &[]);
    output.ok();
    let words =
        format!("waiting for the lock of container {}, which process {} (flock ", c.id(), holder.id());
    assert!(output.stderr.contains(&words), "{output}");
    holder.wait().unwrap();
    // for one that waits for its caller nobody waits
    let own = fs::File::open(&directory).unwrap();
    rustix::fs::flock(&own, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let began = std::time::Instant::now();
    c.call("resume", &[]).fails(&format!("is locked by process {} (", std::process::id()));
    assert!(began.elapsed().as_secs() < 10);
    drop(own);
    c.call("resume", &[]).ok();
}
