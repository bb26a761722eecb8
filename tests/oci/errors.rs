//! The answers to bad input: an error that names the cause, a failing status, and nothing left behind.

use hiber_tests::prelude::*;
use std::fs;

#[test]
fn commands_on_an_unknown_container_say_that_it_does_not_exist() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox());
    for command in ["state", "start", "pause", "resume", "ps", "delete", "checkpoint"] {
        c.call(command, &[]).fails("does not exist");
    }
    c.kill("TERM").fails("does not exist");
    c.exec(&["true"]).fails("does not exist");
}

#[test]
fn a_bundle_without_config_is_refused() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox());
    fs::remove_file(c.bundle().join("config.json")).unwrap();
    c.create(&[]).fails("config.json");
    c.assert_clean();
}

#[test]
fn a_missing_bundle_is_refused() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox());
    c.call("create", &["--bundle", "/no/such/bundle"]).fails("/no/such/bundle");
    c.assert_clean();
}

#[test]
fn a_config_that_is_no_json_is_refused() {
    require!(Root);
    let words =
        ["config.json: malformed", "config.json: malformed", "config.json: ", "ociVersion", "config.json: "];
    for (text, words) in ["", "{", "[]", "{\"ociVersion\": 1}", "nonsense"].into_iter().zip(words) {
        let c = Runtime::hiber().container(Bundle::busybox());
        fs::write(c.bundle().join("config.json"), text).unwrap();
        c.create(&[]).fails(words);
        assert_eq!(c.status(), "gone");
        c.assert_clean();
    }
}

#[test]
fn a_missing_root_filesystem_is_refused() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().edit(|c| c["root"]["path"] = json!("nowhere")));
    c.create(&[]).fails("no such file or directory");
    c.assert_clean();
}

#[test]
fn a_missing_command_is_refused_and_named() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["no-such-command"]));
    let output = c.run(&[]);
    output.fails("no-such-command").fails("executable file not found");
    c.assert_clean();
    let c = Runtime::hiber().container(Bundle::busybox().args(["/no/such/command"]));
    c.run(&[]).fails("no such file or directory");
    c.assert_clean();
}

#[test]
fn a_file_that_cannot_be_executed_is_refused() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["/etc/passwd"]));
    c.run(&[]).fails("permission denied");
    c.assert_clean();
}

#[test]
fn a_config_without_arguments_is_refused() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().edit(|c| c["process"]["args"] = json!([])));
    c.create(&[]).fails("args");
    c.assert_clean();
}

#[test]
fn ids_that_are_no_names_are_refused() {
    require!(Root);
    let bundle = Bundle::busybox();
    let path = bundle.path().display().to_string();
    let runtime = Runtime::hiber();
    for id in ["../escape", "a/b", ".", "..", "a b", ""] {
        let output = runtime.run(&["create", "--bundle", &path, id]);
        output.fails(if id.is_empty() {
            "container id cannot be empty"
        } else {
            "invalid container ID format"
        });
        assert_eq!(fs::read_dir(runtime.root()).map_or(0, Iterator::count), 0, "{id:?} left a state");
    }
}

#[test]
fn an_unknown_namespace_type_is_refused() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().namespace("galaxy", None));
    c.create(&[]).fails("linux.namespaces").fails("galaxy");
    c.assert_clean();
}

#[test]
fn a_mount_that_fails_is_named_and_everything_is_undone() {
    require!(Root);
    let mount =
        json!({"destination": "/data", "type": "bind", "source": "/no/such/source", "options": ["bind"]});
    let c = Runtime::hiber().container(Bundle::busybox().mount(mount));
    c.create(&[]).fails("/no/such/source");
    c.assert_clean();
}

#[test]
fn an_unknown_command_or_flag_is_refused() {
    require!(Root);
    let runtime = Runtime::hiber();
    runtime.run(&["no-such-command"]).fails("no-such-command");
    runtime.run(&["create", "--no-such-flag", "x"]).fails("no-such-flag");
    runtime.run(&["state"]).fails("requires exactly 1 argument");
    runtime.run(&["state", "a", "b"]).fails("requires exactly 1 argument");
}

#[test]
fn a_state_directory_that_cannot_be_made_is_refused() {
    require!(Root);
    let bundle = Bundle::busybox();
    let path = bundle.path().display().to_string();
    let mut command = Runtime::hiber().bare_command();
    command.args(["--root", "/proc/nowhere", "create", "--bundle", &path, bundle.name()]);
    hiber_tests::command::run(command, b"").fails("/proc/nowhere");
}

/// Docker looks for "not a directory", adds its hint and exits with 127.
#[test]
fn a_file_on_a_directory_and_the_other_way_round_are_told_so() {
    require!(Root);
    for (destination, source, type_) in
        [("/etc", "file", "bind"), ("/etc/passwd", "directory", "bind"), ("/etc/passwd", "", "tmpfs")]
    {
        let bundle = Bundle::busybox();
        std::fs::write(bundle.join("file"), "").unwrap();
        std::fs::create_dir(bundle.join("directory")).unwrap();
        let mount = json!({"destination": destination, "source": source, "type": type_});
        let c = Runtime::hiber().container(bundle.mount(mount));
        c.run(&[]).fails(&format!("mount {destination} (")).fails("not a directory");
        c.assert_clean();
    }
}

#[test]
fn a_mount_on_the_root_itself_is_refused() {
    require!(Root);
    for destination in ["/", "/.", "/etc/..", "/top"] {
        let bundle = Bundle::busybox();
        std::os::unix::fs::symlink("/", bundle.rootfs().join("top")).unwrap();
        let mount = json!({"destination": destination, "source": "tmpfs", "type": "tmpfs"});
        let c = Runtime::hiber().container(bundle.mount(mount));
        c.run(&[]).fails("the root filesystem itself").fails(destination);
        c.assert_clean();
    }
}

/// The kernel's own words, where it has some.
#[test]
fn an_option_that_a_filesystem_does_not_know_is_named() {
    require!(Root);
    let mount =
        |options: Value| json!({"destination": "/m", "source": "t", "type": "tmpfs", "options": options});
    let run = |options| Runtime::hiber().container(Bundle::busybox().mount(mount(options))).run(&[]);
    run(json!(["wrong=1", "private"])).fails("Unknown parameter 'wrong'").fails("invalid argument");
    run(json!(["wrong=1"])).fails("wrong=1").fails("invalid argument");
}
