//! Waiting for ends, by one thread for all.

use std::time::{Duration, Instant};

use hiber::Signal;
use hiber::id::ContainerId;
use hiber::{Condition, CreateOptions, Ended, Runtime, Stdio, Wait};
use hiber_tests::prelude::{Bundle, json};
use hiber_tests::{PATIENCE, require};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Here, null};

pub(crate) fn conditions() {
    require!(Root);
    let here = Here::new(Bundle::busybox().shell("read x </pipe; exit 5"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        here.bundle.rootfs().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let task = here.create();
    let next: Vec<Wait> = (0..100).map(|_| task.wait(Condition::NextExit).unwrap()).collect();
    task.start().unwrap();
    let (running, removed) =
        (task.wait(Condition::NotRunning).unwrap(), task.wait(Condition::Removed).unwrap());
    let cancelled = task.wait(Condition::NextExit).unwrap();
    cancelled.cancel("enough");
    let limited = running.clone();
    let status = task.wait(Condition::NotRunning).unwrap().within(Duration::from_millis(20));
    assert_eq!((status.code(), status.ended), (-1, Ended::Cancelled));
    assert!(status.error.unwrap().starts_with("the time limit of 20ms"));
    let before = std::time::SystemTime::now();
    std::fs::write(here.bundle.rootfs().join("pipe"), "\n").unwrap();
    for wait in next.iter().chain([&limited]) {
        let status = wait.within(PATIENCE);
        assert_eq!((status.ended, status.error), (Ended::Exited(5), None));
        assert!(status.at >= before);
    }
    assert_eq!(cancelled.get().error.as_deref(), Some("enough"));
    assert_eq!(removed.try_get(), None);
    // The container need not be removed by this process.
    here.call(&["delete", here.bundle.name()]).ok();
    assert_eq!(removed.within(PATIENCE).code(), 5);
}

/// The first process is no child of ours, and somebody else reaps it.
pub(crate) fn a_container_of_another_process() {
    require!(Root);
    let here = Here::new(Bundle::busybox().shell("while [ ! -e /end ]; do sleep 0.02; done; exit 9"));
    let mut run =
        here.command(&["run", "--bundle", here.bundle.path().to_str().unwrap(), here.bundle.name()]);
    let mut run = run.spawn().unwrap();
    let running = || here.runtime.open(&here.id()).and_then(|c| c.task()?.status()).ok();
    hiber_tests::wait_for("the container", || running() == Some(hiber::Status::Running));
    let task = here.runtime.open(&here.id()).unwrap().task().unwrap();
    let wait = task.wait(Condition::NotRunning).unwrap();
    std::fs::write(here.bundle.rootfs().join("end"), "").unwrap();
    let status = wait.within(PATIENCE);
    assert_eq!(run.wait().unwrap().code(), Some(9));
    // A zombie tells root; a pidfd tells of who was reaped, from Linux 6.15 on.
    let known = rustix::system::uname().release().to_string_lossy().into_owned();
    let version: Vec<u32> = known.split(['.', '-']).take(2).filter_map(|n| n.parse().ok()).collect();
    match status.ended {
        Ended::Unknown => assert!(version < vec![6, 15], "Linux {known} knows"),
        ended => assert_eq!(ended, Ended::Exited(9)),
    }
}

pub(crate) fn out_of_memory() {
    require!(Root, Controller("memory"));
    let bundle = Bundle::busybox().shell("tail -c 209715200 /dev/zero");
    let limits = json!({"memory": {"limit": 16_777_216}});
    let here = Here::new(bundle.edit(|c| c["linux"]["resources"] = limits));
    let status = here.run().wait(Condition::NotRunning).unwrap().within(PATIENCE);
    assert!(status.oom_killed, "{status:?}");
    assert_eq!(status.code(), 137);
}

/// Threads of this process that wait for others.
fn waiting_threads() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "hiber-wait").count()
}

const MANY: usize = 1000;

/// One thread and one epoll wait for all; who is not told in time would be found here.
pub(crate) fn a_thousand_containers() {
    require!(Root);
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }).unwrap();
    // Cheap ones: what is to be tested is the waiting.
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| {
        c["mounts"] = json!([]);
        c["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}]);
        for member in ["maskedPaths", "readonlyPaths", "cgroupsPath", "resources"] {
            c["linux"].as_object_mut().unwrap().remove(member);
        }
        c.as_object_mut().unwrap().remove("hostname");
    });
    let root = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(root.path());
    let [input, output, errors] = null();
    let stdio = Stdio::Files([&input, &output, &errors].map(std::os::fd::AsFd::as_fd));
    let mut tasks = Vec::new();
    for number in 0..MANY {
        let id: ContainerId = format!("{}-{number}", bundle.name()).parse().unwrap();
        let options = CreateOptions::new(bundle.path()).stdio(stdio);
        let task = runtime.create(&id, &options).unwrap();
        task.start().unwrap();
        tasks.push(task);
    }
    let waits: Vec<Wait> = tasks.iter().map(|task| task.wait(Condition::NextExit).unwrap()).collect();
    // it names itself, once it runs
    hiber_tests::wait_for("the one thread that waits", || waiting_threads() == 1);
    assert!(waits.iter().all(|wait| wait.try_get().is_none()));
    let began = Instant::now();
    for task in &tasks {
        task.kill(Signal::KILL).unwrap();
    }
    for wait in &waits {
        assert_eq!(wait.within(PATIENCE).ended, Ended::Signaled(9));
    }
    // Most of it is the dying.
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    tasks.into_iter().for_each(|task| assert_eq!(task.delete().unwrap().code(), 137));
    assert_eq!(runtime.ids().unwrap(), []);
}
