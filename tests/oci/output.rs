//! The output of list, ps, state, spec, features, --version and the log.

use hiber_tests::prelude::*;
use std::fs;

fn sleeper(runtime: &Runtime) -> Container {
    let c = runtime.container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    c
}

#[test]
fn list_shows_every_container_in_three_formats() {
    require!(Root);
    let runtime = Runtime::hiber();
    assert_eq!(runtime.run(&["list", "-q"]).ok(), "");
    let (a, b) = (sleeper(&runtime), runtime.container(Bundle::busybox()));
    b.create(&[]).ok();
    let mut ids: Vec<_> = runtime.run(&["list", "--quiet"]).ok().lines().map(str::to_owned).collect();
    ids.sort();
    let mut expected = vec![a.id().to_owned(), b.id().to_owned()];
    expected.sort();
    assert_eq!(ids, expected);

    let all = runtime.run(&["list", "--format", "json"]).json();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 2);
    let entry = all.iter().find(|e| e["id"] == a.id()).unwrap();
    assert_eq!((&entry["status"], &entry["pid"]), (&json!("running"), &json!(a.pid())));
    assert_eq!(entry["bundle"], a.bundle_path());
    assert_eq!(entry["owner"], "root");
    assert!(entry["created"].as_str().is_some_and(|t| t.ends_with('Z') && t.contains('T')), "{entry}");

    let table = runtime.run(&["list"]).ok().to_owned();
    let mut lines = table.lines();
    let heading: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let line = lines.find(|l| l.starts_with(b.id())).unwrap();
    let cells: Vec<_> = line.split_whitespace().collect();
    assert_eq!(cells[1..4], [b.pid().to_string(), "created".into(), b.bundle_path()]);
    runtime.run(&["list", "--format", "xml"]).fails("format");
}

/// Enough for two threads; what is listed is in order all the same.
#[test]
fn list_of_many_containers_is_in_order() {
    require!(Root);
    let runtime = Runtime::hiber();
    let c = sleeper(&runtime);
    let ids: Vec<String> = (10..99).map(|n| format!("z{n}")).collect();
    for id in &ids {
        let (from, to) = (runtime.root().join(c.id()), runtime.root().join(id));
        fs::create_dir(&to).unwrap();
        fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
        let state = fs::read_to_string(from.join("state.json")).unwrap();
        fs::write(to.join("state.json"), state.replace(c.id(), id)).unwrap();
    }
    // Of one nothing is known.
    fs::create_dir(runtime.root().join("z50-interrupted")).unwrap();
    let expected: Vec<&str> = std::iter::once(c.id()).chain(ids.iter().map(String::as_str)).collect();
    assert_eq!(runtime.run(&["list", "--quiet"]).ok().lines().collect::<Vec<_>>(), expected);
    let all = runtime.run(&["list", "--format", "json"]).json();
    let all: Vec<_> = all.as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(all, expected);
    let table = runtime.run(&["list"]).ok().to_owned();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows.iter().map(|cells| cells[0]).collect::<Vec<_>>(), expected);
    assert!(rows.iter().all(|cells| cells[2] == "running" && cells[5] == "root"), "{table}");
    for id in ids.iter().map(String::as_str).chain(["z50-interrupted"]) {
        fs::remove_dir_all(runtime.root().join(id)).unwrap();
    }
}

#[test]
fn list_of_a_root_that_does_not_exist_says_so_and_makes_nothing() {
    require!(Root);
    let mut command = Runtime::hiber().bare_command();
    command.args(["--root", "/tmp/hiber-no-such-root", "list", "-q"]);
    hiber_tests::command::run(command, b"").fails("/tmp/hiber-no-such-root");
    assert!(!std::path::Path::new("/tmp/hiber-no-such-root").exists());
}

#[test]
fn ps_lists_the_containers_processes() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().shell("sleep 777 & sleep 888; true"));
    c.run_detached().ok();
    wait_for("the sleeps", || hiber_tests::cgroup::pids(&c.bundle().cgroup()).len() == 3);
    let pids = c.call("ps", &["--format", "json"]).json();
    let mut pids: Vec<i64> = pids.as_array().unwrap().iter().filter_map(Value::as_i64).collect();
    pids.sort_unstable();
    let cgroup: Vec<i64> =
        hiber_tests::cgroup::pids(&c.bundle().cgroup()).into_iter().map(i64::from).collect();
    assert_eq!(pids, cgroup);
    let table = c.call("ps", &[]).ok().to_owned();
    assert!(table.lines().next().unwrap().contains("PID"), "{table}");
    assert!(table.contains("sleep 777") && table.contains("sleep 888"), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[test]
fn ps_passes_its_arguments_to_ps() {
    require!(Root);
    let c = sleeper(&Runtime::hiber());
    let mut command = c.command("ps", &[]);
    command.args(["-o", "pid,args"]);
    let table = hiber_tests::command::run(command, b"").ok().to_owned();
    let expected = format!("{} sleep 1000", c.pid());
    assert!(table.lines().any(|l| l.trim() == expected), "{table}");
}

#[test]
fn state_carries_annotations_and_the_root_filesystem() {
    require!(Root);
    let c = Runtime::hiber().container(
        Bundle::busybox().args(["sleep", "1000"]).edit(|c| c["annotations"] = json!({"org.example.a": "b"})),
    );
    c.run_detached().ok();
    let state = c.state();
    assert_eq!(state["annotations"]["org.example.a"], "b");
    assert_eq!(state["rootfs"], c.bundle().rootfs().to_str().unwrap());
}

#[test]
fn spec_writes_a_configuration_that_runs() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox());
    let file = c.bundle().join("config.json");
    let bundle = c.bundle_path();
    c.runtime().run(&["spec", "--bundle", &bundle]).fails("config.json");
    fs::remove_file(&file).unwrap();
    c.runtime().run(&["spec", "--bundle", &bundle]).ok();
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], json!(["sh"]));
    assert_eq!(config["process"]["terminal"], true);
    assert_eq!(config["root"]["path"], "rootfs");
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["echo", "from the default container"]);
    config["linux"]["cgroupsPath"] = json!(c.bundle().cgroup());
    fs::write(&file, config.to_string()).unwrap();
    assert_eq!(c.run(&[]).ok(), "from the default container");
    c.assert_clean();
}

#[test]
fn spec_for_rootless_has_a_user_namespace() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox());
    let file = c.bundle().join("config.json");
    fs::remove_file(&file).unwrap();
    c.runtime().run(&["spec", "--rootless", "--bundle", &c.bundle_path()]).ok();
    let config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.iter().any(|n| n["type"] == "user"), "{namespaces:?}");
    assert!(!namespaces.iter().any(|n| n["type"] == "network"), "{namespaces:?}");
    assert_eq!(config["linux"]["uidMappings"][0]["size"], 1);
}

#[test]
fn features_tells_what_is_supported() {
    require!(Root);
    let features = Runtime::hiber().run(&["features"]).json();
    for list in ["hooks", "mountOptions"] {
        assert!(features[list].as_array().is_some_and(|l| !l.is_empty()), "{list}");
    }
    assert!(features["ociVersionMax"].is_string());
    let namespaces = features["linux"]["namespaces"].as_array().unwrap();
    for kind in ["pid", "network", "mount", "uts", "ipc", "user", "cgroup"] {
        assert!(namespaces.iter().any(|n| n == kind), "{kind}");
    }
    for flag in ["v1", "v2"] {
        assert!(features["linux"]["cgroup"][flag].is_boolean(), "{flag}");
    }
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    // Annotations that give their writer power over the host: engines keep these from their users by this list.
    let unsafe_ones = features["potentiallyUnsafeConfigAnnotations"].as_array().unwrap();
    for annotation in ["org.criu.config", "org.systemd.property."] {
        assert!(unsafe_ones.contains(&json!(annotation)), "{annotation}: {unsafe_ones:?}");
    }
}

#[test]
fn the_version_names_program_and_specification() {
    require!(Root);
    let mut command = Runtime::hiber().bare_command();
    command.arg("--version");
    let output = hiber_tests::command::run(command, b"");
    let text = output.ok();
    // Docker takes the first line's end and what follows "commit:"
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].contains(" version "), "{text}");
    let commit = lines[1].strip_prefix("commit: ").unwrap_or_default();
    assert!(!commit.trim().is_empty(), "{text}");
    assert!(lines[2].starts_with("spec: 1."), "{text}");
}

#[test]
fn errors_go_to_the_log_as_text_or_json_and_to_standard_error() {
    require!(Root);
    let bundle = Bundle::busybox();
    let log = bundle.join("own.log");
    let file = log.to_str().unwrap();
    let runtime = Runtime::hiber();
    runtime.run(&["--log", file, "--log-format", "json", "state", "no-such"]).fails("does not exist");
    let text = fs::read_to_string(&log).unwrap();
    let line: Value = serde_json::from_str(text.lines().next_back().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().is_some_and(|m| m.contains("does not exist")), "{line}");
    assert!(line["time"].as_str().is_some_and(|t| t.contains('T')), "{line}");
    runtime.run(&["--log", file, "--log-format", "text", "state", "no-such"]).fails("does not exist");
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 2, "the log is appended to: {text}");
    assert!(text.lines().next_back().is_some_and(|l| l.contains("level=error msg=")), "{text}");
    runtime.run(&["--log-format", "xml", "list"]).fails("xml");
}
