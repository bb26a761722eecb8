//! Those who wait for a migration see how far it is.

use crate::migrate::{assert_gone, migrate, migration, receiver, writer};
use hiber_tests::prelude::*;
use hiber_tests::pty::read_until;
use serde_json::Value;

const IN_ROUNDS: [&str; 6] = ["--pre-copy", "on", "--on-miss", "force", "--bandwidth", "60M"];

#[test]
fn programs_are_told_in_json() {
    require!(Root, Criu, CPrograms);
    let (c, there) = writer();
    let output = migrate(&c, &there, &[&IN_ROUNDS[..], &["--format", "json"]].concat());
    let lines: Vec<Value> = output.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let moving: Vec<_> = lines.iter().filter(|line| line["phase"] == "moving").collect();
    let rounds: Vec<_> = moving.iter().filter(|line| line["stage"] == "memory").collect();
    assert_eq!((&rounds[0]["round"], &rounds[0]["bytes"]), (&json!(1), &json!(0)), "{output}");
    assert!(rounds[0]["totalBytes"].as_u64().unwrap() > 60 << 20, "{output}");
    let in_between = moving.iter().find(|line| line["bytes"] != 0).expect("a line each second");
    assert!(in_between["bytesPerSecond"].as_u64().unwrap() < 70 << 20, "{output}");
    let rest = moving.last().unwrap();
    assert_eq!(rest["stage"], "rest", "{output}");
    assert!(rest["downtimeMilliseconds"].as_u64().is_some(), "{output}");
    let done = lines.last().unwrap();
    assert_eq!(done["phase"], "done", "{output}");
    assert_eq!(done["rounds"], rounds.last().unwrap()["round"], "{output}");
    assert_gone(&c);
}

#[test]
fn lines_are_written_where_there_is_no_terminal() {
    require!(Root, Criu, CPrograms);
    let (c, there) = writer();
    let output = migrate(&c, &there, &IN_ROUNDS);
    let text = output.ok();
    for part in
        ["accepted\n", "dumping\n", "memory, round 1: 0 B of ", "memory, the rest: ", " left", "restoring\n"]
    {
        assert!(text.contains(part), "{part:?}: {text}");
    }
    let last = text.lines().last().unwrap();
    let (id, wanted) = (c.id(), [" MiB in ", " over its memory, stopped for "]);
    assert!(
        last.starts_with(&format!("{id} runs at exec:")) && wanted.iter().all(|part| last.contains(part))
    );
    assert!(!text.contains('\r') && !text.contains('\x1b'), "{text:?}");
}

#[test]
fn a_terminal_has_a_bar() {
    require!(Root, Criu, CPrograms);
    let (c, there) = writer();
    let (master, slave) = hiber_tests::pty::open();
    rustix::termios::tcsetwinsize(
        &master,
        rustix::termios::Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 },
    )
    .unwrap();
    let mut command = migration(&c, &there, &IN_ROUNDS, &receiver(&there));
    command.stdout(slave).stderr(std::process::Stdio::null()).env("TERM", "xterm");
    let mut child = command.spawn().unwrap();
    drop(command);
    let said = read_until(&master, "stopped for ");
    assert!(child.wait().unwrap().success(), "{said}");
    assert!(said.contains("memory, round 1 [") && said.contains("=> ") && said.contains("MiB/s"), "{said:?}");
}
