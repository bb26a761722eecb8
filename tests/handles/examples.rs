//! The library's examples (crates/runtime/examples), as a newcomer runs them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hiber_tests::prelude::*;
use hiber_tests::tools;

use crate::Here;

/// An example's command line.
fn example(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(tools::examples().unwrap().join(name));
    command.args(args).env("PATH", tools::path_with_criu());
    command
}

/// Runs one to its end.
fn run(name: &str, args: &[&str]) -> hiber_tests::command::Output {
    hiber_tests::command::run(example(name, args), b"")
}

pub(crate) fn a_command_is_run_and_its_code_passed_on() {
    require!(Root);
    let here = Here::sleeping();
    let (root, bundle) = (here.root().to_str().unwrap(), here.bundle.path().to_str().unwrap());
    let output = run("run", &[root, bundle, "sh", "-c", "echo it runs as $$; exit 7"]);
    output.exited(7);
    assert!(output.stdout.starts_with("it runs as "), "{output:?}");
    assert!(output.stdout.ends_with("the container ended: Signaled(9)\n"), "{output:?}");
    here.assert_clean();
}

pub(crate) fn a_container_is_put_to_sleep_and_woken() {
    require!(Root, Criu);
    let here = Here::sleeping();
    let (root, bundle) = (here.root().to_str().unwrap(), here.bundle.path().to_str().unwrap());
    let output = run("sleep_and_wake", &[root, bundle, "nap"]);
    let said = output.ok();
    for words in ["running, process Some(", "asleep in ", "/nap: Signaled(9)", "awake, process Some("] {
        assert!(said.contains(words), "{words}: {said}");
    }
    here.assert_clean();
}

pub(crate) fn many_are_watched_to_their_end() {
    require!(Root);
    let here = Here::new(Bundle::busybox().shell("read go; exit 3"));
    let (input, go) = std::io::pipe().unwrap();
    let output = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let files = [std::os::fd::OwnedFd::from(input).into(), output.try_clone().unwrap(), output];
    let task = here.create_on(files);
    task.start().unwrap();
    let mut watch = example("watch", &[here.root().to_str().unwrap()]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let name = here.bundle.name();
    assert_eq!(lines.next(), Some(format!("{name}: running, process {:?}", task.pid())));
    drop(go);
    assert_eq!(lines.next(), Some(format!("{name}: Exited(3), code 3")));
    assert_eq!(lines.next(), None);
    assert!(hiber_tests::command::wait(&mut watch, "watch").success());
    task.force_delete().unwrap();
    here.assert_clean();
}

pub(crate) fn dockers_states_and_waiters_follow_a_container() {
    require!(Root);
    let here = Here::sleeping();
    let (root, bundle) = (here.root().to_str().unwrap(), here.bundle.path().to_str().unwrap());
    let output = run("docker_states", &[root, bundle]);
    let lines: Vec<&str> = output.ok().lines().collect();
    let (json, lines) = lines.split_last().unwrap();
    let expected = [
        ("created: Created", ""),
        ("running: Up ", ""),
        ("paused: Up ", " (Paused)"),
        ("exited: Exited (137) ", " ago"),
        ("waiter of the end: Exited(137)", ""),
        ("waiter of the removal: None", ""),
        ("removing: Removal In Progress", ""),
        ("waiter of the removal: Exited(137)", ""),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (begin, end)) in lines.iter().zip(expected) {
        assert!(line.starts_with(begin) && line.ends_with(end), "{line}: expected {begin}...{end}");
    }
    let state: serde_json::Value = serde_json::from_str(json.strip_prefix("as JSON: ").unwrap()).unwrap();
    assert_eq!((&state["Running"], &state["ExitCode"]), (&json!(false), &json!(137)), "{state:#}");
    here.assert_clean();
}
