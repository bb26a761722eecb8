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

/// A container whose first process holds [`ALL`] in an anonymous shared mapping (a tmpfs is dumped whole), of which it
/// writes the first [`CHANGED`] again whenever it is told to.
fn holder() -> Container {
    // The shell's variable is that memory: a string of so many bytes, beside a small one that changes.
    let script = format!(
        "big=$(head -c $(({rest} << 20)) /dev/zero | tr '\\0' x); \
         n=0; while :; do part=$(head -c $(({CHANGED} << 20)) /dev/zero | tr '\\0' $((n % 10))); \
         n=$((n+1)); echo $n >/dev/shm/.count; mv /dev/shm/.count /dev/shm/count; \
         until [ -e /go ]; do sleep 0.05; done; rm /go; done",
        rest = ALL - CHANGED
    );
    let c = Runtime::hiber().container(Bundle::busybox().shell(&script));
    c.run_detached().ok();
    c
}

#[track_caller]
fn change(c: &Container, round: u64) {
    if round > 1 {
        fs::write(c.bundle().rootfs().join("go"), "").unwrap();
    }
    wait_for("the change", || crate::count(c) == round);
}

#[test]
fn a_chain_of_three_pre_dumps_saves_what_has_changed() {
    require!(Root, Criu, DirtyTracking);
    let c = holder();
    let directory = |n: usize| c.bundle().join(&format!("pre{n}"));
    let mut sizes = Vec::new();
    for n in 1..=3 {
        change(&c, n as u64);
        let images = directory(n).display().to_string();
        let parent = format!("../pre{}", n - 1);
        let mut flags = vec!["--pre-dump", "--image-path", &images];
        if n > 1 {
            flags.extend(["--parent-path", &parent]);
        }
        c.call_detached("checkpoint", &flags).ok();
        assert_eq!(c.status(), "running");
        sizes.push(pages(&directory(n)) >> 20);
    }
    change(&c, 4);
    c.checkpoint(&["--parent-path", "../pre3"]).ok();
    assert_eq!(c.status(), "gone");
    sizes.push(pages(&c.images()) >> 20);
    assert!(sizes[0] >= ALL, "the first one has all: {sizes:?}");
    // the shell builds the new string beside the old one
    assert!(sizes[1..].iter().all(|size| (CHANGED..=3 * CHANGED).contains(size)), "{sizes:?}");
    c.restore(&[]).ok();
    assert_eq!(crate::count(&c), 4);
    change(&c, 5);
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
