//! The binary's outside: exit status, standard output and error, log files.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn hiber(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiber"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Exit status, standard output, standard error.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = hiber(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn version_and_help_go_to_standard_output() {
    let (status, out, err) = run(&["--version"]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some(concat!("hiber version ", env!("CARGO_PKG_VERSION"))));
    assert!(lines.any(|line| line == "spec: 1.3.0"), "{out}");
    let (status, out, err) = run(&["checkpoint", "--help"]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.contains("--leave-running"), "{out}");
}

#[test]
fn it_answers_to_the_name_that_it_is_called_by() {
    let dir = tempfile::tempdir().unwrap();
    let runc = dir.path().join("runc");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hiber"), &runc).unwrap();
    let out = Command::new(&runc).arg("--version").output().unwrap().stdout;
    assert!(out.starts_with(b"runc version "));
}

#[test]
fn features_are_json() {
    let (status, out, _) = run(&["features"]);
    assert_eq!(status, Some(0));
    let features: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(features["ociVersionMax"], "1.3.0");
}

#[test]
fn a_wrong_command_line_shows_usage_and_logs_why() {
    let (status, out, err) = run(&["create"]);
    assert_eq!(status, Some(1));
    assert!(out.starts_with("Incorrect Usage.\n\nNAME:\n   hiber create - "), "{out}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.starts_with("time=\""), "{err}");
    assert!(
        err.ends_with(" level=error msg=\"hiber: \\\"create\\\" requires exactly 1 argument(s)\"\n"),
        "{err}"
    );
    let (status, out, err) = run(&["foo", "-h"]);
    assert_eq!((status, out.as_str()), (Some(3), ""));
    assert!(err.contains("level=error msg=\"No help topic for 'foo'\""), "{err}");
}

#[test]
fn a_mistyped_command_gets_a_suggestion() {
    let (status, out, err) = run(&["chekpoint", "box"]);
    assert_eq!((status, out.as_str()), (Some(3), ""));
    assert!(err.contains("No help topic for 'chekpoint'; did you mean checkpoint?"), "{err}");
    assert!(run(&["help", "retsore"]).2.contains("did you mean restore?"));
}

#[test]
fn manual_pages_get_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("share/man/man8");
    let (status, _, err) = run(&["man", pages.to_str().unwrap()]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(pages.join("hiber.8").is_file() && pages.join("hiber-checkpoint.8").is_file());
    std::fs::write(dir.path().join("file"), "").unwrap();
    let (status, _, err) = run(&["man", dir.path().join("file/man").to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert!(err.contains("/file/man: not a directory"), "{err}");
}

#[test]
fn errors_go_to_the_log_file_and_to_the_person() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.json");
    for lines in 1..=2 {
        let (status, _, err) =
            run(&["--log", log.to_str().unwrap(), "--log-format", "json", "kill", "box", "FOO"]);
        assert_eq!((status, err.as_str()), (Some(1), "unknown signal \"FOO\"\n"));
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().count(), lines, "it is appended to");
        let entry: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&entry["level"], &entry["msg"]), (&"error".into(), &"unknown signal \"FOO\"".into()));
        assert!(humantime::parse_rfc3339(entry["time"].as_str().unwrap()).is_ok());
    }
    assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o133, 0, "no more than 0644");

    let (status, _, err) = run(&["--log", "/nonexistent/log", "--log-format", "json", "list"]);
    assert_eq!(status, Some(1));
    let entry: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert!(
        entry["msg"].as_str().unwrap().starts_with("cannot open the log file /nonexistent/log: "),
        "{err}"
    );
}

#[test]
fn spec_writes_once() {
    let dir = tempfile::tempdir().unwrap();
    let spec = || hiber(&["spec", "--rootless"]).current_dir(dir.path()).output().unwrap();
    assert!(spec().status.success());
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["linux"]["uidMappings"][0]["hostID"], rustix::process::geteuid().as_raw());
    let again = spec();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("File config.json exists. Remove it first"));
    let (status, _, err) = run(&["spec", "-b", "/nonexistent"]);
    assert_eq!(status, Some(1));
    assert!(err.contains("cannot write /nonexistent/config.json: no such file or directory"), "{err}");
}

#[test]
fn a_reader_that_went_away_is_no_error_and_a_full_disk_is_one() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = hiber(&["--help"]).stdout(writer).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    assert!(Path::new("/dev/full").exists(), "this test needs /dev/full");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = hiber(&["--help"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no space left on device"), "{output:?}");
}
