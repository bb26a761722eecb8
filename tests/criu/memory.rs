//! Chains of pre-dumps, where the kernel tells which pages have changed.

use std::fs;
use std::path::Path;

use crate::counts_on;
use hiber_tests::prelude::*;

/// Memory of the process, in MiB, and how much of it changes between two dumps.
const ALL: u64 = 24;
const CHANGED: u64 = 4;

/// Bytes of memory in a directory of images.
fn pages(images: &Path) -> u64 {
    let all = fs::read_dir(images).unwrap_or_else(|e| panic!("{}: {e}", images.display())).flatten();
    all.filter(|e| e.file_name().to_string_lossy().starts_with("pages-"))
        .map(|e| e.metadata().unwrap().len())
        .sum()
}

/// A redis server that holds [`ALL`] MiB in values of 4 KiB.
fn holder() -> Container {
    let c = Runtime::hiber().container(Bundle::redis());
    c.run_detached().ok();
    wait_for("the server", || c.exec(&["redis-cli", "ping"]).stdout.trim() == "PONG");
    let fill = "for i = 1, ARGV[1] * 256 do redis.call('set', 'k' .. i, string.rep('x', 4096)) end";
    c.exec(&["redis-cli", "eval", fill, "0", &ALL.to_string()]).ok();
    c
}

/// Writes the first [`CHANGED`] MiB again, where they are.
#[track_caller]
fn change(c: &Container, letter: &str) {
    let write =
        "for i = 1, ARGV[1] * 256 do redis.call('setrange', 'k' .. i, 0, string.rep(ARGV[2], 4096)) end";
    c.exec(&["redis-cli", "eval", write, "0", &CHANGED.to_string(), letter]).ok();
}

#[test]
fn a_chain_of_three_pre_dumps_saves_what_has_changed() {
    require!(Root, Criu, Redis, DirtyTracking);
    let c = holder();
    let directory = |n: usize| c.bundle().join(&format!("pre{n}"));
    let mut sizes = Vec::new();
    for n in 1..=3 {
        let images = directory(n).display().to_string();
        let parent = format!("../pre{}", n - 1);
        let mut flags = vec!["--pre-dump", "--image-path", &images];
        if n > 1 {
            flags.extend(["--parent-path", &parent]);
        }
        c.call_detached("checkpoint", &flags).ok();
        assert_eq!(c.status(), "running");
        sizes.push(pages(&directory(n)) >> 20);
        change(&c, ["a", "b", "c"][n - 1]);
    }
    c.checkpoint(&["--parent-path", "../pre3"]).ok();
    assert_eq!(c.status(), "gone");
    sizes.push(pages(&c.images()) >> 20);
    assert!(sizes[0] >= ALL, "the first one has all: {sizes:?}");
    assert!(sizes[1..].iter().all(|size| (CHANGED..=2 * CHANGED + 2).contains(size)), "{sizes:?}");
    c.restore(&[]).ok();
    let value = |key: u64| c.exec(&["redis-cli", "getrange", &format!("k{key}"), "0", "1"]).ok().to_owned();
    assert_eq!((value(1), value(ALL * 256)), ("cc".into(), "xx".into()));
}

#[test]
fn a_chain_with_a_missing_link_is_refused() {
    require!(Root, Criu, DirtyTracking);
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    let images = c.bundle().join("pre1").display().to_string();
    c.call_detached("checkpoint", &["--pre-dump", "--image-path", &images]).ok();
    c.checkpoint(&["--parent-path", "../pre1"]).ok();
    fs::rename(&images, c.bundle().join("elsewhere")).unwrap();
    let output = c.restore(&[]);
    output.fails("pre1");
    c.assert_clean();
    fs::rename(c.bundle().join("elsewhere"), &images).unwrap();
    c.restore(&[]).ok();
    counts_on(&c, 3);
}

#[test]
fn a_chain_is_found_where_it_was_moved_to() {
    require!(Root, Criu, DirtyTracking);
    let c = crate::counter(&Runtime::hiber(), Bundle::busybox());
    for (n, parent) in [(1, None), (2, Some("../pre1"))] {
        let images = c.bundle().join(&format!("pre{n}")).display().to_string();
        let flags = ["--pre-dump", "--image-path", &images];
        let parent: Vec<&str> = parent.into_iter().flat_map(|p| ["--parent-path", p]).collect();
        c.call_detached("checkpoint", &[&flags[..], &parent].concat()).ok();
    }
    c.checkpoint(&["--parent-path", "../pre2"]).ok();
    let moved = c.bundle().join("moved");
    fs::create_dir(&moved).unwrap();
    for name in ["pre1", "pre2", "images"] {
        fs::rename(c.bundle().join(name), moved.join(name)).unwrap();
    }
    let images = moved.join("images").display().to_string();
    // Each link is checked by its manifest.
    let manifest = moved.join("pre1/hiber.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace(c.id(), "somebody-else")).unwrap();
    c.restore(&["--image-path", &images]).fails("somebody-else");
    fs::write(&manifest, text).unwrap();
    c.restore(&["--image-path", &images]).ok();
    counts_on(&c, 3);
}
