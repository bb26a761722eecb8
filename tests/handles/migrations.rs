//! Migrations, through the library.

use std::sync::mpsc::channel;

use hiber::migrate::{Destination, MigrateOptions, Phase};
use hiber::{CheckpointOptions, Condition, CriuOptions, Error, Kind};
use hiber_tests::prelude::*;
use rustix::process::{Pid, Signal, kill_process};

use crate::Here;

/// How the other end is reached, with the number of its process in the file `receiver` of the bundle here.
fn way(here: &Here, there: &Container) -> Destination {
    let receive = there.runtime().command();
    let words = std::iter::once(receive.get_program()).chain(receive.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let mark = here.bundle.join("receiver");
    format!("exec:echo $$ >{}; exec {} receive --stdio", mark.display(), words.join(" ")).parse().unwrap()
}

fn options(there: &Container) -> MigrateOptions {
    let criu =
        CriuOptions::default().criu_program(hiber_tests::tools::criu().ok().map(std::path::PathBuf::from));
    MigrateOptions::default()
        .id(there.id().parse::<hiber::id::ContainerId>().unwrap())
        .bundle(std::path::PathBuf::from(there.bundle_path()))
        .checkpoint(CheckpointOptions::default().criu(criu))
}

/// A caller tells a container that is lost from one that runs on.
pub(crate) fn a_lost_container_is_an_error_of_its_own() {
    require!(Root, Criu);
    let sleeps = || Bundle::busybox().shell("i=0; while :; do i=$((i+1)); sleep 0.05; done");
    let here = Here::new(sleeps());
    let there = Runtime::hiber().container(sleeps());
    let task = here.run();
    let kill = |mark: std::path::PathBuf| {
        let pid = std::fs::read_to_string(mark).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    };
    // Before the decision it runs on, whatever the other end does.
    let mark = here.bundle.join("receiver");
    let tell = move |phase: Phase| {
        if matches!(phase, Phase::Dumping) {
            kill(mark.clone());
        }
    };
    let error = task.migrate(&way(&here, &there), options(&there).post_copy(true), tell).unwrap_err();
    assert_eq!(error.kind(), Kind::Failed, "{error}");
    assert_eq!(task.status().unwrap(), hiber::Status::Running);
    there.delete(&["--force"]).ok();

    let exit = task.wait(Condition::NextExit).unwrap();
    let (mark, (told, decided)) = (here.bundle.join("receiver"), channel());
    let tell = move |phase: Phase| {
        if matches!(phase, Phase::Committed) {
            kill(mark.clone());
            told.send(()).unwrap();
        }
    };
    let slowly = options(&there).post_copy(true).bandwidth(50_000_u64);
    let error = task.migrate(&way(&here, &there), slowly, tell).unwrap_err();
    decided.try_recv().unwrap();
    assert_eq!(error.kind(), Kind::Lost, "{error}");
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    exit.within(hiber_tests::PATIENCE);
    assert!(matches!(here.runtime.open(&here.id()), Err(Error::NotFound)));
    here.assert_clean();
    // The other end has a container that says so, or none if it was not whole for its receiver yet.
    let arrived = hiber::Runtime::new(there.runtime().root());
    if let Ok(container) = arrived.open(&there.id().parse().unwrap()) {
        let task = container.task().unwrap();
        let error = task.wait_for_memory().unwrap_err();
        assert_eq!(error.kind(), Kind::Lost, "{error}");
        assert!(matches!(task.following_memory(), Some(hiber::FollowingMemory::Lost { .. })));
    }
}
