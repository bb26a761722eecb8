//! Session keyrings: a container's processes have one of their own, and never that of who calls the runtime.

use std::path::{Path, PathBuf};
use std::process::Command;

use hiber_tests::command::run;
use hiber_tests::prelude::*;
use hiber_tests::tools;

/// A bundle with the program `keys`, and the program's path on the host.
fn with_keys() -> (Bundle, PathBuf) {
    let bundle = Bundle::busybox();
    let keys = bundle.rootfs().join("keys");
    tools::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/oci/keys.c"), &keys, &["-static"]);
    (bundle, keys)
}

/// `command` below `keys WORD`.
fn below(keys: &Path, word: &str, command: &Command) -> Command {
    let mut outer = Command::new(keys);
    outer.arg(word).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        outer.env(key, value.unwrap_or_default());
    }
    outer
}

/// `run` of the container, and `exec` of another, by a caller with a key: what both print.
fn caller_with_key(user_namespace: bool, flags: &[&str]) -> [String; 2] {
    let printed = |args: [&str; 2], command: &dyn Fn(&Container) -> Command| {
        let (bundle, keys) = with_keys();
        let bundle = if user_namespace { bundle.user_namespace(300_000) } else { bundle };
        let c = Runtime::hiber().container(bundle.args(args));
        run(below(&keys, "with", &command(&c)), b"").ok().to_owned()
    };
    let new = printed(["/keys", "see"], &|c| {
        let path = c.bundle_path();
        c.command("run", &[&["--bundle", &path], flags].concat())
    });
    let further = printed(["sleep", "1000"], &|c| {
        c.call_detached("run", &[&["--detach", "--bundle", &c.bundle_path()], flags].concat()).ok();
        let mut exec = c.command("exec", &[]);
        exec.args(["/keys", "see"]);
        exec
    });
    [new, further]
}

#[test]
fn no_process_of_a_container_has_its_callers_keys() {
    require!(Root, UserNamespaces, Program("cc"));
    for user_namespace in [false, true] {
        assert_eq!(caller_with_key(user_namespace, &[]), ["hidden"; 2], "user namespace: {user_namespace}");
    }
    assert_eq!(caller_with_key(false, &["--no-new-keyring"]), ["seen"; 2]);
}

#[test]
fn all_processes_of_a_container_have_one_keyring() {
    require!(Root, Program("cc"));
    let (bundle, _) = with_keys();
    let c = Runtime::hiber().container(bundle.args(["/keys", "add", "sleep", "1000"]));
    c.run_detached().ok();
    hiber_tests::wait_for("the key is there", || c.sh("/keys see") == "seen");
}

#[test]
fn where_keyrings_are_denied_nothing_starts_with_the_callers() {
    require!(Root, Program("cc"));
    let (bundle, keys) = with_keys();
    let c = Runtime::hiber().container(bundle.args(["true"]));
    let path = c.bundle_path();
    let create =
        |flags: &[&str]| below(&keys, "without", &c.command("run", &[&["--bundle", &path], flags].concat()));
    let output = run(create(&[]), b"");
    output.fails("unable to join session keyring");
    assert!(output.stderr.contains("--no-new-keyring"), "{output}");
    c.assert_clean();
    run(create(&["--no-new-keyring"]), b"").ok();
}
