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
fn a_failing_poststop_hook_does_not_hinder_deletion() {
    require!(Root);
    let failing = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 6"]}]);
    let c = Runtime::hiber().container(Bundle::busybox().edit(|c| c["hooks"] = json!({"poststop": failing})));
    c.run(&[]);
    c.delete(&["--force"]).ok();
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
