//! Checkpoints by name, through the library.

use std::fs;

use hiber::{
    CheckpointName, CheckpointOptions, Checkpoints, Condition, CriuOptions, Error, Kind,
    RestoreContainerOptions, Status, Stdio,
};
use hiber_tests::prelude::*;

use crate::{Here, null};

/// Counts in its memory.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/.count; mv /dev/shm/.count /dev/shm/count; \
                     sleep 0.05; done";

fn count(task: &hiber::Task) -> u64 {
    let path = format!("/proc/{}/root/dev/shm/count", task.pid().unwrap_or_default());
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn criu() -> CriuOptions {
    CriuOptions::default().criu_program(hiber_tests::tools::criu().ok().map(std::path::PathBuf::from))
}

fn options() -> CheckpointOptions {
    CheckpointOptions::default().criu(criu())
}

fn name(name: &str) -> CheckpointName {
    name.parse().unwrap()
}

pub(crate) fn a_named_checkpoint_starts_the_container_again() {
    require!(Root, Criu);
    let here = Here::new(Bundle::busybox().shell(COUNT));
    let task = here.run();
    wait_for("a count of 3", || count(&task) >= 3);
    let all = task.container().checkpoints().unwrap();
    assert_eq!(all.names().unwrap(), []);
    let running = || options().leave_running(true);
    let kept = all.create(&task, &name("one"), running()).unwrap();
    assert_eq!(task.status().unwrap(), Status::Running);
    assert!(!kept.config.exit && kept.path.join("inventory.img").exists());
    let error = all.create(&task, &name("one"), running()).unwrap_err();
    let words = format!("checkpoint with name one already exists for container {}", here.id());
    assert_eq!((error.kind(), error.to_string()), (Kind::Exists, words));
    let exit = task.wait(Condition::NextExit).unwrap();
    let before = count(&task);
    let last = all.create(&task, &name("two"), options()).unwrap();
    exit.within(hiber_tests::PATIENCE);
    assert!(matches!(here.runtime.open(&here.id()), Err(Error::NotFound)));
    assert_eq!(all.names().unwrap(), [name("one"), name("two")]);
    assert_eq!(all.get(&name("two")).unwrap(), last);
    // config.json is of the checkpoint, which is whole.
    let manifest = hiber::Manifest::read(&last.path).unwrap().unwrap();
    assert!(manifest.files.contains_key("config.json"));
    hiber::verify(&last.path).unwrap();

    let [input, output, errors] = null();
    let stdio = Stdio::Files([&input, &output, &errors].map(std::os::fd::AsFd::as_fd));
    let bundle = here.bundle.path().to_owned();
    let restore = RestoreContainerOptions::new(bundle).criu(criu()).stdio(stdio);
    let task = here.runtime.start_from(&here.id(), &last, restore).unwrap();
    assert!(count(&task) >= before, "it went on");
    let at = count(&task);
    wait_for("the count to go on", || count(&task) > at);
    all.delete(&name("one")).unwrap();
    assert_eq!(all.names().unwrap(), [name("two")]);
    task.force_delete().unwrap();
    here.assert_clean();
}

pub(crate) fn a_failed_create_leaves_nothing() {
    require!(Root, Criu);
    let here = Here::sleeping();
    // A file outside of the container is nothing that a checkpoint could hold.
    let outside =
        std::array::from_fn(|n| fs::File::create(here.bundle.join(&format!("outside.{n}"))).unwrap());
    let task = here.create_on(outside);
    let dir = here.bundle.join("elsewhere");
    let all = Checkpoints::new(&here.id(), &dir);
    let error = all.create(&task, &name("cc"), options()).unwrap_err();
    assert_eq!(error.kind(), Kind::State);
    assert_eq!(error.to_string(), format!("Container {} is not running: it is created", here.id()));
    task.start().unwrap();
    let error = all.create(&task, &name("cc"), options()).unwrap_err();
    assert_eq!(error.to_string(), format!("Cannot checkpoint container {}", here.id()));
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("outside.") && !why.contains("; log:"), "{why}");
    assert_eq!(fs::read_dir(&dir).map_or(0, Iterator::count), 0);
    assert_eq!(task.status().unwrap(), Status::Running, "it runs on");
}

/// A child of ours in the container's pid namespace, for which nobody waits.
pub(crate) fn what_was_executed_does_not_hold_a_checkpoint_up() {
    require!(Root, Criu);
    let here = Here::sleeping();
    let task = here.run();
    let [input, output, errors] = null();
    let stdio = Stdio::Files([&input, &output, &errors].map(std::os::fd::AsFd::as_fd));
    let sleep = crate::process(&task, &["sleep", "1000"]);
    task.exec(&sleep, &hiber::ExecOptions::default().stdio(stdio)).unwrap();
    let all = Checkpoints::new(&here.id(), here.bundle.join("elsewhere"));
    all.create(&task, &name("cc"), options()).unwrap();
    here.assert_clean();
}

pub(crate) fn options_that_contradict_each_other_are_refused() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.run();
    let both = CriuOptions::default().tcp_established(true).tcp_close(true);
    let lazy = CriuOptions::default().lazy_pages(true);
    for (options, words) in [
        (CheckpointOptions::default().criu(both), "--tcp-established and --tcp-close exclude each other"),
        (CheckpointOptions::default().criu(lazy).pre_dump(true), "--pre-dump and --lazy-pages"),
    ] {
        let error = task.checkpoint(&options).unwrap_err();
        assert_eq!((error.kind(), task.status().unwrap()), (Kind::Invalid, Status::Running), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}
