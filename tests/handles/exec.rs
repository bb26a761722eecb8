//! Further processes: streams, terminals, and finding them again.

use std::fs::File;
use std::io::{Read, Write};

use hiber::Signal;
use hiber::{Ended, ExecOptions, Fifos, FifosOptions, Kind, ProcessId, Stdio};
use hiber_tests::prelude::*;

use crate::{Here, process, read};

fn pipes() -> ExecOptions<'static> {
    ExecOptions::default().stdio(Stdio::Pipes)
}

fn named(id: &str) -> ExecOptions<'static> {
    pipes().id(id.parse::<hiber::ProcessId>().unwrap())
}

pub(crate) fn pipes_and_the_end_of_input() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.run();
    let cat = task.exec(&process(&task, &["sh", "-c", "cat; echo done >&2; exit 3"]), &pipes()).unwrap();
    assert!(task.pids().unwrap().contains(&cat.pid()));
    let wait = cat.wait().unwrap();
    let mut stdin = File::from(cat.take_stdin().unwrap());
    stdin.write_all(b"hello").unwrap();
    assert!(cat.take_stdin().is_none(), "it is taken once");
    assert_eq!(wait.try_get(), None, "it waits for more");
    drop(stdin);
    assert_eq!(read(cat.take_stdout().unwrap()), "hello");
    assert_eq!(read(cat.take_stderr().unwrap()), "done\n");
    let status = wait.within(hiber_tests::PATIENCE);
    assert_eq!((status.ended, status.code()), (Ended::Exited(3), 3));
    assert_eq!(cat.delete().unwrap(), status);
    let closed = task.exec(&process(&task, &["cat"]), &pipes()).unwrap();
    closed.close_stdin();
    closed.close_stdin();
    assert_eq!(closed.wait().unwrap().within(hiber_tests::PATIENCE).code(), 0);
}

pub(crate) fn a_terminal_and_its_size() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.run();
    let script = "trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut shell = process(&task, &["sh", "-c", script]);
    shell.set_terminal(Some(true));
    let options = ExecOptions::default().stdio(Stdio::Terminal);
    let shell = task.exec(&shell, &options).unwrap();
    let mut master = File::from(shell.terminal().unwrap().try_clone_to_owned().unwrap());
    let mut text = [0u8; 64];
    let length = master.read(&mut text).unwrap();
    assert_eq!(String::from_utf8_lossy(&text[..length]).trim(), "ready");
    shell.resize(132, 43).unwrap();
    let length = master.read(&mut text).unwrap();
    assert_eq!(String::from_utf8_lossy(&text[..length]).trim(), "43 132");
    assert_eq!(shell.wait().unwrap().within(hiber_tests::PATIENCE).code(), 4);
    let error = task.init().unwrap().resize(1, 1).unwrap_err().to_string();
    assert!(error.contains("it has no terminal here"), "{error}");
}

pub(crate) fn processes_are_found_again_by_their_ids() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.run();
    let sleep = process(&task, &["sleep", "1000"]);
    let (first, second) =
        (task.exec(&sleep, &named("b")).unwrap(), task.exec(&sleep, &named("a.2")).unwrap());
    let unnamed = task.exec(&sleep, &pipes()).unwrap();
    let again = here.runtime.open(&here.id()).unwrap().task().unwrap();
    let ids = |task: &hiber::Task| -> Vec<String> {
        task.processes().unwrap().iter().map(|p| p.id().unwrap().to_string()).collect()
    };
    assert_eq!(ids(&again), ["init", "a.2", "b"]);
    let found = again.processes().unwrap().pop().unwrap();
    assert_eq!(found.pid(), first.pid());
    let error = task.exec(&sleep, &named("b")).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    assert_eq!(error.to_string(), "process b already exists in the container");
    let error = found.delete().unwrap_err();
    assert!(error.to_string().contains("has not ended"), "{error}");
    found.kill(Signal::KILL).unwrap();
    // The handle that found it does not take the status from the one that made it.
    assert_eq!(found.wait().unwrap().within(hiber_tests::PATIENCE).ended, Ended::Signaled(9));
    assert_eq!(first.wait().unwrap().within(hiber_tests::PATIENCE).ended, Ended::Signaled(9));
    first.delete().unwrap();
    assert_eq!(ids(&again), ["init", "a.2"]);
    // A record that cannot be read is no obstacle.
    let record = here.root().join(here.bundle.name()).join("processes/a.2/process.json");
    std::fs::write(&record, "{").unwrap();
    assert_eq!(ids(&again), ["init"]);
    task.exec(&process(&task, &["no-such-program"]), &named("c")).unwrap_err();
    assert!(!here.root().join(here.bundle.name()).join("processes/c").exists(), "a failed exec leaves none");
    for process in [second, unnamed] {
        process.kill(Signal::KILL).unwrap();
        assert_eq!(process.wait().unwrap().within(hiber_tests::PATIENCE).code(), 137);
    }
}

/// FIFOs as containerd's clients make them, and the processes as a manager lists them.
pub(crate) fn fifos_and_summaries() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.run();
    let id: ProcessId = "job".parse().unwrap();
    let fifos =
        Fifos::create(here.bundle.path(), &here.id(), &id, FifosOptions::default().stdin(true)).unwrap();
    let (files, mut client) = fifos.open().unwrap();
    let stdio = Stdio::Files(files.each_ref().map(std::os::fd::AsFd::as_fd));
    let options = ExecOptions::default().id(id).stdio(stdio);
    let cat = task.exec(&process(&task, &["cat"]), &options).unwrap();
    // The process has its own; the pipe ends with it.
    drop(files);
    let summaries = task.summaries().unwrap();
    let ids: Vec<_> = summaries.iter().map(|s| (s.exec_id.as_deref(), s.image_name.as_str())).collect();
    assert_eq!(ids, [(Some("init"), "sleep"), (Some("job"), "cat")]);
    assert!(summaries.iter().all(|s| s.memory_committed > 0), "{summaries:?}");
    client.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(std::io::read_to_string(client.stdout).unwrap(), "through");
    assert_eq!(cat.wait().unwrap().within(hiber_tests::PATIENCE).code(), 0);
    fifos.remove().unwrap();
}

pub(crate) fn wrong_ids_and_streams_are_named() {
    require!(Root);
    for (id, why) in
        [("", "cannot be empty"), ("a/b", "\"a/b\": expected letters"), ("init", "already exists")]
    {
        let error = id.parse::<ProcessId>().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let here = Here::sleeping();
    let task = here.run();
    let mut shell = process(&task, &["sh"]);
    let terminal = ExecOptions::default().stdio(Stdio::Terminal);
    let error = task.exec(&shell, &terminal).unwrap_err().to_string();
    assert!(error.contains("cannot use console socket"), "{error}");
    shell.set_terminal(Some(true));
    let error = task.exec(&shell, &pipes()).unwrap_err().to_string();
    assert!(error.contains("cannot allocate tty"), "{error}");
    assert_eq!(task.pids().unwrap().len(), 1);
}
