//! The rule by itself, and directories of checkpoints that were not made by CRIU.

use std::path::Path;

use hiber_criu::ImageDirectory;

use super::super::verified::{self, Stamp, Verified};
use super::*;
use crate::helpers::unfinished;

/// Whole checkpoints, made so many seconds ago.
fn made(dir: &Path, ages: &[(&str, u64)]) -> Checkpoints {
    let all = Checkpoints::new(&"box".parse().unwrap(), dir);
    for (name, age) in ages {
        let path = dir.join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inventory.img"), [7; 1000]).unwrap();
        let created = humantime::format_rfc3339_nanos(SystemTime::now() - Duration::from_secs(*age));
        let note = format!(
            r#"{{"name": "{name}", "created": "{created}", "exit": false, "tcp": false, "unixSockets": false, "shell": false}}"#
        );
        std::fs::write(path.join("config.json"), note).unwrap();
    }
    all
}

fn names(all: &[CheckpointName]) -> Vec<&str> {
    all.iter().map(CheckpointName::as_str).collect()
}

#[test]
fn a_rule_keeps_the_newest() {
    let now = SystemTime::now();
    let all: Vec<_> = (0..5).map(|n| (now - Duration::from_secs(10 * n), 100)).collect();
    let rule = Retention::default();
    let seconds = Duration::from_secs;
    for (rule, stay) in [
        (rule, 5),
        (rule.last(3_usize), 3),
        (rule.last(0_usize), 1),
        (rule.max_age(seconds(25)), 3),
        (rule.max_bytes(250_u64), 2),
        (rule.max_bytes(1_u64), 1),
        (rule.last(4_usize).max_age(seconds(100)).max_bytes(300_u64), 3),
    ] {
        assert_eq!(rule.staying(&all, now), stay, "{rule:?}");
    }
    assert_eq!(rule.last(3_usize).staying(&[], now), 0);
    let future = [(now + seconds(1000), 1), (now - seconds(30), 1)];
    assert_eq!(rule.max_age(seconds(20)).staying(&future, now), 1);
}

#[test]
fn the_oldest_go_and_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let all = made(dir.path(), &[("k1", 40), ("k2", 30), ("k3", 20), ("k4", 10), ("mine", 50)]);
    let rule = Retention::default().last(2_usize);
    let done = all.retain(&rule, |name| name.as_str().starts_with('k')).unwrap();
    assert_eq!(names(&done.kept), ["k4", "k3"]);
    assert_eq!(names(&done.removed), ["k2", "k1"]);
    assert_eq!(names(&all.names().unwrap()), ["k3", "k4", "mine"]);
}

#[test]
fn what_is_read_stays_until_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let all = made(dir.path(), &[("k1", 40), ("k2", 30), ("k3", 20)]);
    let read = ImageDirectory::open(&dir.path().join("k1")).unwrap();
    reading::begin(&read);
    // CRIU has a copy of the descriptor.
    let copy = read.descriptor().unwrap();
    drop(read);
    let rule = Retention::default().last(1_usize);
    let done = all.retain(&rule, |_| true).unwrap();
    assert_eq!((names(&done.removed), names(&done.in_use)), (vec!["k2"], vec!["k1"]));
    drop(copy);
    assert_eq!(names(&all.retain(&rule, |_| true).unwrap().removed), ["k1"]);
    assert_eq!(names(&all.names().unwrap()), ["k3"]);
}

#[test]
fn halves_and_damaged_ones_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let all = made(dir.path(), &[("k1", 40), ("k2", 30), ("k3", 20), ("k4", 10)]);
    std::fs::remove_file(dir.path().join("k4/inventory.img")).unwrap();
    let damaged = ImageDirectory::open(&dir.path().join("k3")).unwrap();
    verified::keep(&damaged, Stamp::of(&damaged).unwrap(), &Verified::now(&["x: is missing".into()]))
        .unwrap();
    // Somebody copies one, and another is being written.
    std::fs::create_dir(dir.path().join("k5")).unwrap();
    let writing = unfinished::hidden(&dir.path().join("k6"));
    std::fs::create_dir(&writing).unwrap();
    let done = all.retain(&Retention::default().last(1_usize), |_| true).unwrap();
    assert_eq!((names(&done.kept), names(&done.removed)), (vec!["k2"], vec!["k1"]));
    assert_eq!(names(&all.names().unwrap()), ["k2", "k3", "k4", "k5"]);
    assert!(writing.is_dir());
}
