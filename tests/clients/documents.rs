//! The commands of README.md, docs/podman.md and docs/containerd.md, with the real clients.

use crate::containerd::{Containerd, Shim};
use crate::docker::Docker;
use crate::home::Home;
use crate::podman::{Podman, ULIMITS};
use hiber_tests::documents::{Block, Reader, blocks};
use hiber_tests::prelude::*;
use hiber_tests::tools;
use std::fs;
use std::process::Command;

const README: &str = include_str!("../../README.md");
const PODMAN: &str = include_str!("../../docs/podman.md");
const CONTAINERD: &str = include_str!("../../docs/containerd.md");
/// The image of the documents, and Docker's name for it.
const IMAGE: &str = "docker.io/library/redis:7";
const SHORT: &str = "redis:7";

/// The blocks of commands of a document that call this program.
fn calling<'a>(document: &'a str, program: &str) -> Vec<&'a str> {
    let of_program = |block: &&Block<'_>| block.text.starts_with(&format!("{program} "));
    let found: Vec<_> = blocks(document, "sh").iter().filter(of_program).map(|block| block.text).collect();
    assert!(!found.is_empty(), "the document has no commands for {program}");
    found
}

/// A shell script that runs `client` with `flags` after each word `run`, and with the arguments of the script.
fn script(client: &Command, flags: &[&str]) -> String {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy());
    let env = client.get_envs().filter_map(|(name, value)| {
        let value = value.filter(|_| name != "PATH")?;
        Some(format!("export {}={}\n", name.display(), quoted(value)))
    });
    let words: Vec<_> = std::iter::once(client.get_program()).chain(client.get_args()).map(quoted).collect();
    let flags: Vec<_> = flags.iter().map(|flag| format!("'{flag}'")).collect();
    format!(
        "{}export PATH=\"${{PATH#*/programs:}}\"\nfor word; do shift; case $word in\n\
         run) set -- \"$@\" run {} ;; *) set -- \"$@\" \"$word\" ;; esac; done\nexec {} \"$@\"",
        env.collect::<String>(),
        flags.join(" "),
        words.join(" ")
    )
}

/// A reader whose machine has hiber installed.
fn reader(home: &Home) -> Reader {
    let reader = Reader::new(&home.join("reader"));
    let hiber = tools::hiber().unwrap_or_else(|e| panic!("no runtime: {e}"));
    std::os::unix::fs::symlink(hiber, reader.installed("hiber")).unwrap();
    reader
}

#[test]
fn podman_as_the_documents_say() {
    require!(Root, Criu, Redis, Program("podman"), Program("setsid"));
    let podman = Podman::new();
    podman.call(&["load", "--quiet", "--input", &podman.home().redis_image_called(IMAGE)]).ok();
    let reader = reader(podman.home());
    let parent = podman.home().cgroup();
    let mut flags = vec!["--pull", "never", "--network", "none", "--cgroup-parent", &parent];
    flags.extend(ULIMITS.iter().flat_map(|limit| ["--ulimit", *limit]));
    reader.program("podman", &script(&podman.client(), &flags));
    for block in calling(PODMAN, "podman").into_iter().chain(calling(README, "podman")) {
        reader.follow(block);
    }
    // The settings of the page, beside those of the test's private podman.
    let [settings] = *blocks(PODMAN, "toml") else { panic!("docs/podman.md has other settings") };
    let own = fs::read_to_string(podman.home().join("containers.conf")).unwrap();
    let merged = reader.read(settings.text).replacen("[engine]\n", &own, 1);
    podman.home().write("containers.conf", &merged);
    reader.follow(&format!("podman run --name by-default {IMAGE} true"));
    assert_eq!(podman.inspect("by-default", "{{.OCIRuntime}}"), "hiber");
    let error = reader.run(&format!("podman run --rm {IMAGE} nosuch"));
    error.fails("executable file not found in $PATH");
    assert!(!error.stdout.contains("\"level\""), "podman reads hiber's errors: {error}");
    podman.remove_all();
}

#[test]
fn docker_as_the_documents_say() {
    require!(Root, Criu, Redis, Program("dockerd"), Program("docker"), Program("setsid"));
    let [settings] = *blocks(PODMAN, "json") else { panic!("docs/podman.md has other settings") };
    let settings: Value = serde_json::from_str(settings.text).unwrap();
    assert_eq!(settings["runtimes"]["hiber"]["path"], json!("/usr/local/bin/hiber"));
    // as the server of the test is set up
    assert_eq!(settings["experimental"], json!(true));
    let docker = Docker::new();
    docker.call(&["load", "--quiet", "--input", &docker.home.redis_image_called(SHORT)]).ok();
    let reader = reader(&docker.home);
    let flags = ["--pull", "never", "--network", "none", "--ulimit", "nofile=1024:1024"];
    reader.program("docker", &script(&docker.command(&[]), &flags));
    for block in calling(PODMAN, "docker") {
        reader.follow(block);
    }
    docker.end();
}

#[test]
fn containerd_as_the_documents_say() {
    require!(Root, Criu, Redis, Program("containerd"), Program("ctr"), Program("setsid"));
    let containerd = Containerd::new(Shim::Hiber);
    let image = containerd.home.redis_image_called(IMAGE);
    containerd.call(&["images", "import", "--snapshotter", "native", &image]).ok();
    let reader = reader(&containerd.home);
    let (cgroup, settings) = (containerd.cgroup("c"), containerd.home.path("hiber.toml"));
    let flags = ["--snapshotter", "native", "--cgroup", &cgroup, "--runtime-config-path", &settings];
    reader.program("ctr", &script(&containerd.command(&[]), &flags));
    let install = "install -m 755 \"$(hack/build --shim)\" /usr/local/bin\n";
    for document in [README, CONTAINERD] {
        for block in blocks(document, "sh").into_iter().filter(|block| block.text.contains("ctr ")) {
            reader.follow(block.text);
            if block.text.contains("hack/build --shim") {
                assert!(block.text.starts_with(install), "{}", block.text);
                assert!(reader.installed("containerd-shim-hiber-v2").is_file());
            }
        }
    }
    containerd.end(&[]);
}
