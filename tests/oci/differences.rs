//! The rows of docs/runc-differences.md on what configurations say: hiber's way, that runc's is another.

use hiber_tests::prelude::*;
use std::fs;

/// A bundle whose config.json is what `change` makes of its text.
fn with_text(bundle: Bundle, change: impl Fn(String) -> Vec<u8>) -> Bundle {
    let path = bundle.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(text)).unwrap();
    bundle
}

#[track_caller]
fn refused(bundle: Bundle, words: &str) {
    let c = Runtime::hiber().container(bundle);
    c.run(&[]).fails(words);
    c.assert_clean();
}

/// runc 1.3 sets no limit.
#[test]
fn a_limit_of_no_pids_leaves_the_first_process() {
    require!(Root);
    let none = Bundle::busybox().edit(|c| c["linux"]["resources"] = json!({"pids": {"limit": 0}}));
    let c = Runtime::hiber().container(none.shell("sh -c true && echo two || echo one"));
    let output = c.run(&[]);
    assert!(!output.stdout.contains("two"), "{output}");
    output.fails("can't fork");
}

/// runc leaves those of its own: all.
#[test]
fn no_capabilities_are_none() {
    require!(Root);
    let none = Bundle::busybox().edit(|c| drop(c["process"].as_object_mut().unwrap().remove("capabilities")));
    let c = Runtime::hiber().container(none.shell("sed -n 's/^Cap...:\\t0*//p' /proc/self/status"));
    assert_eq!(c.run(&[]).ok(), "");
}

/// runc takes any.
#[test]
fn versions_of_another_specification() {
    require!(Root);
    for version in [json!(""), json!("2.0.0"), json!("0.9.0"), json!("x")] {
        refused(Bundle::busybox().edit(|c| c["ociVersion"] = version), "expected a version 1.x");
    }
    let none = Bundle::busybox().edit(|c| drop(c.as_object_mut().unwrap().remove("ociVersion")));
    refused(none, "expected a version 1.x");
}

/// runc reads no further than the end of the first value, and replaces bytes that are no text.
#[test]
fn a_file_that_is_more_or_less_than_json() {
    require!(Root);
    let more = with_text(Bundle::busybox(), |text| (text + "\n{}").into_bytes());
    refused(more, "malformed JSON: trailing characters");
    let cwd = Bundle::busybox().edit(|c| c["process"]["cwd"] = json!("/@@"));
    let no_text = with_text(cwd, |text| {
        let at = text.find("@@").unwrap();
        [&text.as_bytes()[..at], b"\xff", &text.as_bytes()[at + 2..]].concat()
    });
    refused(no_text, "malformed JSON: invalid unicode code point");
}

/// With runc the last one counts, if the ones before permit it.
#[test]
fn a_limit_that_is_given_twice() {
    require!(Root);
    let limit = json!({"type": "RLIMIT_NOFILE", "hard": 100, "soft": 100});
    let twice = Bundle::busybox().edit(|c| c["process"]["rlimits"] = json!([limit, limit]));
    refused(twice, "process.rlimits[1].type: RLIMIT_NOFILE is given twice");
}

/// runc tells the number of the limit.
#[test]
fn a_limit_that_cannot_be_set_is_named() {
    require!(Root);
    // More than fs.nr_open, which nobody may pass.
    let most = 1_u64 << 40;
    let limit = json!({"type": "RLIMIT_NOFILE", "hard": most, "soft": most});
    let bundle = Bundle::busybox().edit(|c| c["process"]["rlimits"] = json!([limit]));
    let c = Runtime::hiber().container(bundle);
    c.run(&[])
        .fails("set RLIMIT_NOFILE of process.rlimits")
        .fails("fs.nr_open")
        .fails("prlimit to 1099511627776");
    c.assert_clean();
}

/// runc mounts over the host's directories, in the container's namespace.
#[test]
fn the_root_of_the_host() {
    require!(Root);
    refused(Bundle::busybox().edit(|c| c["root"]["path"] = json!("/")), "root.path: the host's /");
}

/// runc warns, and takes none but full names in capitals.
#[test]
fn a_capability_of_exec_that_does_not_exist() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    c.exec_with(&["--cap", "CAP_NONSENSE"], &["true"]).fails("--cap CAP_NONSENSE: no such capability");
    let show = ["sed", "-n", "s/^CapEff:\\t//p", "/proc/self/status"];
    let plain = c.exec(&show).ok().to_owned();
    let named = ["chown", "CHOWN", "CAP_CHOWN"].map(|name| {
        let shown = c.exec_with(&["--cap", name], &show).ok().to_owned();
        assert_ne!(shown, plain, "{name}");
        shown
    });
    assert!(named.iter().all(|shown| *shown == named[0]), "{named:?}");
}

/// runc's `run` says 255 then, as a program's.
#[test]
fn a_start_container_hook_that_fails_is_a_failure_of_start() {
    require!(Root);
    let bundle = Bundle::busybox().shell("touch /ran");
    let hook = json!({"startContainer": [{"path": "/bin/false"}]});
    let c = Runtime::hiber().container(bundle.edit(|c| {
        c["hooks"] = hook;
        c["root"]["readonly"] = json!(false);
    }));
    c.create(&[]).ok();
    let output = c.start();
    output.exited(1).fails("error running startContainer hook #0: exit status 1");
    assert_eq!(c.status(), "stopped");
    assert!(!c.bundle().rootfs().join("ran").exists());
    c.delete(&[]).ok();
    c.assert_clean();
    c.run(&[]).exited(1).fails("error running startContainer hook #0");
    c.assert_clean();
}

/// runc starts no container without one.
#[test]
fn hooks_run_where_there_is_no_mount_namespace() {
    require!(Root);
    let bundle = Bundle::busybox().without_namespace("mount").args(["true"]);
    let mark = bundle.join("hooks");
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >>{}", mark.display())]}]);
    let c = Runtime::hiber().container(bundle.edit(|c| {
        c["mounts"] = json!([]);
        c["linux"]["maskedPaths"] = json!([]);
        c["linux"]["readonlyPaths"] = json!([]);
        c["hooks"] = json!({
            "createRuntime": hook("createRuntime"),
            "createContainer": hook("createContainer"),
            "poststart": hook("poststart"),
        });
    }));
    c.run(&[]).ok();
    let ran = fs::read_to_string(c.bundle().join("hooks")).unwrap();
    assert_eq!(ran, "createRuntime\ncreateContainer\npoststart\n");
    c.assert_clean();
}
