//! README.md and `docs/checkpoint.md` teach by commands, which are run here as they stand there.

use hiber_tests::documents::{Reader, blocks};
use hiber_tests::pipes::LargePipes;
use hiber_tests::prelude::*;
use hiber_tests::require::Need;
use std::fs;

const README: &str = include_str!("../../README.md");
const GUIDE: &str = include_str!("../../docs/checkpoint.md");

/// A container that is never made lends its name, its place and its clean-up to that of the documents.
fn reader(c: &Container) -> Reader {
    let reader = Reader::new(&c.bundle().join("reader")).with("web", c.id());
    let (program, root) = (c.runtime().bare_command(), c.runtime().root());
    let program = program.get_program().display().to_string();
    reader.program("hiber", &format!("exec '{program}' --root '{}' \"$@\"", root.display()));
    reader
}

#[test]
fn the_commands_of_the_guide_do_what_it_says() {
    require!(Root, Criu, Redis, Program("setsid"));
    let _pipes = LargePipes::raise();
    let c = Runtime::hiber().container(Bundle::busybox());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let reader = reader(&c).with("7071", &port);
    let tracks = Need::DirtyTracking.check().is_ok();
    let blocks = blocks(GUIDE, "sh");
    assert!(blocks.len() >= 6, "the guide has lost its commands: {}", blocks.len());
    for block in blocks {
        if block.note == "needs dirty tracking" && !tracks {
            reader.run(block.text).fails("--pre-dump").fails("CONFIG_MEM_SOFT_DIRTY");
        } else {
            reader.follow(block.text);
        }
    }
    assert!(c.runtime().run(&["list", "--quiet"]).ok().is_empty(), "it clears up after itself");
}

#[test]
fn the_first_steps_of_the_readme_do_what_they_say() {
    require!(Root, Criu, Redis, Program("setsid"));
    let c = Runtime::hiber().container(Bundle::busybox());
    let reader = reader(&c);
    let blocks: Vec<_> = blocks(README, "sh").into_iter().map(|block| block.text).collect();
    // The others need podman and containerd: tests/clients/documents.rs.
    let [install, first, second, _podman, _containerd] = blocks.as_slice() else {
        panic!("README.md has other blocks of commands: {blocks:#?}");
    };
    reader.follow(install);
    let installed = fs::read(reader.installed("hiber")).unwrap();
    assert!(
        installed == fs::read(hiber_tests::tools::hiber().unwrap()).unwrap(),
        "another program was installed"
    );
    assert!(reader.installed("criu").is_file());
    reader.follow(first);
    let said = reader.run(second);
    assert!(said.ok().contains("wrote sleeping: "), "people hear of a checkpoint: {said}");
    assert!(said.ok().contains("the container was frozen for "), "{said}");
    assert!(said.ok().contains("redis-server") && said.ok().contains("hello"), "{said}");
    assert!(c.runtime().run(&["list", "--quiet"]).ok().is_empty(), "they clear up after themselves");
}
