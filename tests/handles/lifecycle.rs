//! A container's handle from its creation to its deletion.

use hiber::Signal;
use hiber::{Condition, Ended, Error, Kind, Start, Status};
use hiber_tests::PATIENCE;
use hiber_tests::prelude::*;
use hiber_tests::tmpfs::Tmpfs;
use std::os::unix::fs::PermissionsExt;

use crate::{Here, null};

pub(crate) fn from_create_to_delete() {
    require!(Root);
    let bundle = Bundle::busybox().args(["sleep", "1000"]);
    let here = Here::new(bundle.edit(|c| c["annotations"] = json!({"role": "test"})));
    let task = here.create();
    let container = task.container().clone();
    assert_eq!(container.id(), &here.id());
    assert_eq!(container.bundle().unwrap(), here.bundle.path());
    assert_eq!(container.labels().unwrap()["role"], "test");
    assert_eq!(task.status().unwrap(), Status::Created);
    assert_eq!(task.wait(Condition::NotRunning).unwrap().get().ended, Ended::NotYet);
    task.start().unwrap();
    assert_eq!(task.status().unwrap(), Status::Running);
    // Another process sees what this one does, and the other way round.
    assert_eq!(here.call(&["state", here.bundle.name()]).json()["status"], "running");
    let pid = task.pid().unwrap();
    assert_eq!(task.pids().unwrap(), [pid]);
    assert_eq!(task.init().unwrap().id().unwrap().as_str(), hiber::INIT_ID);
    task.pause().unwrap();
    assert_eq!(task.status().unwrap(), Status::Paused);
    here.call(&["resume", here.bundle.name()]).ok();
    assert_eq!(task.status().unwrap(), Status::Running);
    let (exit, removed) = (task.wait(Condition::NextExit).unwrap(), task.wait(Condition::Removed).unwrap());
    task.kill(Signal::KILL).unwrap();
    let status = exit.within(PATIENCE);
    assert_eq!((status.ended, status.code(), status.oom_killed), (Ended::Signaled(9), 137, false));
    assert_eq!((task.status().unwrap(), task.pid()), (Status::Stopped, None));
    assert!(matches!(task.kill(Signal::KILL), Err(Error::NotRunning)));
    assert_eq!(task.wait(Condition::NotRunning).unwrap().try_get(), Some(status.clone()));
    let next = task.wait(Condition::NextExit).unwrap();
    assert_eq!((removed.try_get(), next.try_get()), (None, None), "there is no other exit, and it is there");
    assert_eq!(task.clone().delete().unwrap(), status);
    assert_eq!(removed.within(PATIENCE), status);
    assert_eq!(next.within(PATIENCE), status);
    assert_eq!(task.wait(Condition::Removed).unwrap().try_get(), Some(status));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "reaped");
    assert!(matches!(here.runtime.open(&here.id()), Err(Error::NotFound)));
    here.assert_clean();
}

/// Another container of the same id is none of an old handle's business.
pub(crate) fn a_start_of_ones_own() {
    require!(Root);
    let here = Here::sleeping();
    let name = here.bundle.name();
    let task = here.create_with(null(), Start::ByMaker);
    assert_eq!(task.status().unwrap(), Status::Created);
    // For others it is not there yet, however often they ask, and nobody gets in.
    for _ in 0..30 {
        assert_eq!(here.call(&["state", name]).json()["status"], "creating");
    }
    here.call(&["start", name]).fails("cannot start a container in the creating state");
    here.call(&["exec", name, "true"]).fails("cannot exec in a container that is being created");
    task.start().unwrap();
    assert_eq!(here.call(&["state", name]).json()["status"], "running");
    here.call(&["exec", name, "true"]).ok();
    task.force_delete().unwrap();

    // The process that could start the container is gone, and so is the container.
    drop(here.create_with(null(), Start::ByMaker));
    let stopped = || here.call(&["state", name]).json()["status"] == "stopped";
    wait_for("the end of what nobody can start", stopped);
    here.call(&["delete", name]).ok();
    here.assert_clean();
}

/// It does not wait for its start, which tells how it went.
pub(crate) fn a_start_at_once() {
    require!(Root);
    let here = Here::sleeping();
    let name = here.bundle.name();
    let task = here.create_with(null(), Start::AtOnce);
    wait_for("the program", || here.call(&["state", name]).json()["status"] == "running");
    task.start().unwrap();
    task.force_delete().unwrap();

    let ended = Here::new(Bundle::busybox().shell("exit 7"));
    // Some of them are asked before they have executed their program.
    for _ in 0..10 {
        let task = ended.create_with(null(), Start::AtOnce);
        let status = task.wait(Condition::NotRunning).unwrap().within(PATIENCE);
        task.start().unwrap();
        assert_eq!(status.ended, Ended::Exited(7));
        task.delete().unwrap();
    }

    let program = Bundle::busybox().args(["/text"]);
    std::fs::write(program.rootfs().join("text"), "no program").unwrap();
    std::fs::set_permissions(program.rootfs().join("text"), PermissionsExt::from_mode(0o755)).unwrap();
    let broken = Here::new(program);
    let error = broken.create_with(null(), Start::AtOnce).start().unwrap_err();
    assert!(format!("{error:#?}").contains("xec"), "{error:#?}");
    broken.runtime.force_delete(&broken.id()).unwrap();
    broken.assert_clean();
}

pub(crate) fn a_handle_stays_with_its_container() {
    require!(Root);
    let here = Here::sleeping();
    let old = here.run();
    here.call(&["delete", "--force", here.bundle.name()]).ok();
    let new = here.run();
    assert_eq!((old.status().unwrap(), new.status().unwrap()), (Status::Stopped, Status::Running));
    assert!(matches!(old.kill(Signal::KILL), Err(Error::NotRunning)));
    assert!(old.pause().is_err() && old.clone().force_delete().is_err());
    assert_eq!(new.status().unwrap(), Status::Running, "the old handle has not touched it");
    assert_eq!(old.wait(Condition::Removed).unwrap().get().ended, Ended::Signaled(9));
    new.force_delete().unwrap();
    here.assert_clean();
}

pub(crate) fn limits_change_and_show() {
    require!(Root, Controller("pids"), Controller("memory"));
    let here = Here::sleeping();
    let task = here.run();
    let change = serde_json::from_value(json!({"pids": {"limit": 33}})).unwrap();
    task.update(&change).unwrap();
    let stats = task.stats().unwrap();
    assert_eq!((stats.pids.limit, stats.pids.current), (33, 1));
    assert!(stats.memory.usage.usage > 0);
    // Changes of another process meanwhile are not undone.
    here.call(&["update", "--memory", "64M", here.bundle.name()]).ok();
    let change = serde_json::from_value(json!({"pids": {"limit": 34}})).unwrap();
    task.update(&change).unwrap();
    let spec = task.container().spec().unwrap();
    let resources = serde_json::to_value(spec.linux().as_ref().unwrap().resources()).unwrap();
    assert_eq!((&resources["memory"]["limit"], &resources["pids"]["limit"]), (&json!(64 << 20), &json!(34)));
    assert_eq!(task.stats().unwrap().memory.usage.limit, 64 << 20);
}

pub(crate) fn operations_are_refused_by_state() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.create();
    let refused = |result: hiber::Result<()>, words: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::State, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(task.resume(), "container not paused");
    task.start().unwrap();
    refused(task.start(), "already running");
    refused(task.clone().delete().map(drop), "that is not stopped: running");
    task.pause().unwrap();
    refused(task.pause(), "cannot pause in the paused state");
    refused(task.start(), "in the paused state");
    task.kill(Signal::KILL).unwrap();
    task.wait(Condition::NotRunning).unwrap().within(PATIENCE);
    refused(task.pause(), "cannot pause in the stopped state");
    refused(task.start(), "cannot start a container that has stopped");
    refused(task.stats().map(drop), "is not running");
    refused(task.events(Default::default()).map(drop), "is not running");
}

pub(crate) fn a_full_disk_is_no_mistake_of_the_callers() {
    require!(Root);
    // Its state takes one page, its configuration some more.
    let bundle = Bundle::busybox().args(["sleep", "1000"]);
    let here = Here::new(bundle.edit(|c| c["annotations"] = json!({"large": "x".repeat(20_000)})));
    let mut failures = 0;
    // The process is there when its state is written once more, and later its configuration.
    for pages in 1..64 {
        let _full = Tmpfs::mount(here.root(), pages);
        match here.try_create_with(null(), Start::ByAnybody) {
            Ok(task) => {
                task.force_delete().unwrap();
                assert!(failures > 4, "{failures}");
                return;
            }
            Err(e) => {
                failures += 1;
                let text = hiber_sandbox::error::chain(&e);
                assert_eq!(e.kind(), Kind::Failed, "{pages} pages: {text}");
                assert!(text.contains("no space left on device"), "{pages} pages: {text}");
                here.assert_clean();
            }
        }
    }
    panic!("no room is enough");
}
