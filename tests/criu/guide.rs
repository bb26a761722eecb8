//! `docs/checkpoint.md` teaches by commands, which are run here as they stand there.

use hiber_tests::pipes::LargePipes;
use hiber_tests::prelude::*;
use hiber_tests::require::Need;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

const GUIDE: &str = include_str!("../../docs/checkpoint.md");
/// What a comment in a block says that its commands print.
const PRINTS: &str = "# prints ";

/// The blocks of shell commands, with what follows `sh` in their first line.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let all = GUIDE.split("\n```sh").skip(1);
    all.map(|rest| {
        let (needs, rest) = rest.split_once('\n').unwrap();
        (needs.trim(), rest.split_once("```").unwrap().0)
    })
    .collect()
}

#[test]
fn the_commands_of_the_guide_do_what_it_says() {
    require!(Root, Criu, Redis);
    let _pipes = LargePipes::raise();
    // For its place, its name and its clean-up; the guide makes a container of its own.
    let c = Runtime::hiber().container(Bundle::busybox());
    let place = c.bundle().join("guide");
    fs::create_dir_all(place.join("programs")).unwrap();
    let hiber = place.join("programs/hiber");
    let program = c.runtime().bare_command().get_program().to_owned();
    let root = c.runtime().root();
    fs::write(&hiber, format!("#!/bin/sh\nexec {} --root {} \"$@\"\n", program.display(), root.display()))
        .unwrap();
    fs::set_permissions(&hiber, PermissionsExt::from_mode(0o755)).unwrap();
    let redis = hiber_tests::tools::rootfs_redis().unwrap().display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let tracks = Need::DirtyTracking.check().is_ok();
    let mut ran = 0;
    for (needs, block) in blocks() {
        let script =
            block.replace("$(hack/rootfs redis)", &redis).replace("7071", &port).replace("web", c.id());
        let mut shell = c.runtime().bare_command();
        let path = format!("{}:{}", place.join("programs").display(), std::env::var("PATH").unwrap());
        let (out, log) = (place.join("out"), place.join("log"));
        let mut command = Command::new("sh");
        command.args(["-ec", &script]).current_dir(&place);
        command.envs(shell.env("PATH", path).get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&log).unwrap());
        let output = hiber_tests::command::run_detached(command, &log);
        if needs == "needs dirty tracking" && !tracks {
            output.fails("--pre-dump").fails("CONFIG_MEM_SOFT_DIRTY");
            continue;
        }
        output.ok();
        let printed = fs::read_to_string(&out).unwrap();
        for line in script.lines().filter_map(|line| Some(line.split_once(PRINTS)?.1)) {
            assert!(printed.contains(line), "{line:?} is not in {printed:?}, of {script}");
        }
        ran += 1;
    }
    assert!(ran >= 6, "the guide has lost its commands: {ran}");
    assert!(c.runtime().run(&["list", "--quiet"]).ok().is_empty(), "it clears up after itself");
}
