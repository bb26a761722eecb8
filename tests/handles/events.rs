//! Events of a container, whoever causes them.

use std::os::fd::AsFd;
use std::time::Duration;

use hiber::Signal;
use hiber::{Ended, Event, Events, EventsOptions, ExecOptions, Lifecycle, Stdio};
use hiber_tests::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Here, process};

/// The next one within a while.
#[track_caller]
fn next(events: &mut Events) -> Option<Event> {
    let end = std::time::Instant::now() + hiber_tests::PATIENCE;
    loop {
        if let Some(event) = events.try_next().unwrap() {
            return Some(event);
        }
        assert!(std::time::Instant::now() < end, "no event");
        let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap();
    }
}

/// The deed of an event that tells one.
#[track_caller]
fn done(event: Option<Event>) -> Lifecycle {
    match event {
        Some(Event::Lifecycle { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn a_stream_tells_what_others_do() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.create();
    let mut events = task.events(EventsOptions::default().until_deleted(true)).unwrap();
    assert!(events.try_next().unwrap().is_none(), "the past is not asked for");
    task.start().unwrap();
    assert_eq!(done(next(&mut events)), Lifecycle::Start);
    for (command, what) in [("pause", Lifecycle::Paused), ("resume", Lifecycle::Resumed)] {
        here.call(&[command, here.bundle.name()]).ok();
        assert_eq!(done(next(&mut events)), what);
    }
    here.call(&["exec", here.bundle.name(), "sh", "-c", "sleep 0.3; exit 6"]).exited(6);
    assert_eq!(done(next(&mut events)), Lifecycle::ExecAdded { exec: None });
    let Lifecycle::ExecStarted { exec: None, pid, .. } = done(next(&mut events)) else { panic!("started") };
    match next(&mut events) {
        Some(Event::Exit { exec: Some(exec), status }) => {
            assert_eq!((exec.pid, exec.id), (pid, None));
            assert!(matches!(status.ended, Ended::Exited(6) | Ended::Unknown), "{status:?}");
        }
        other => panic!("{other:?}"),
    }
    let options = ExecOptions::default().id("job".parse::<hiber::ProcessId>().unwrap()).stdio(Stdio::Pipes);
    let job = task.exec(&process(&task, &["sleep", "1000"]), &options).unwrap();
    let id = Some("job".to_owned());
    assert_eq!(done(next(&mut events)), Lifecycle::ExecAdded { exec: id.clone() });
    assert!(matches!(done(next(&mut events)), Lifecycle::ExecStarted { exec, .. } if exec == id));
    job.kill(Signal::KILL).unwrap();
    match next(&mut events) {
        Some(Event::Exit { exec: Some(exec), status }) => {
            assert_eq!((exec.id, status.ended), (id, Ended::Signaled(9)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(job.wait().unwrap().get().ended, Ended::Signaled(9), "the stream leaves it to its handle");
    here.call(&["delete", "--force", here.bundle.name()]).ok();
    assert_eq!(done(next(&mut events)), Lifecycle::Signalled { signal: 9 });
    assert!(matches!(next(&mut events), Some(Event::Exit { exec: None, status }) if status.code() == 137));
    assert!(matches!(next(&mut events), Some(Event::Deleted)));
    assert!(events.wait().unwrap().is_none());
}

/// A reader that begins after the end of a process hears what the one who waited heard.
pub(crate) fn a_late_reader_hears_of_exit_codes() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.run();
    for code in ["6", "7"] {
        let options = ExecOptions::default().stdio(Stdio::Pipes);
        let exec = task.exec(&process(&task, &["sh", "-c", &format!("exit {code}")]), &options).unwrap();
        assert_eq!(exec.wait().unwrap().get().code().to_string(), code);
    }
    let options = EventsOptions::default().past(true).until_deleted(true);
    let mut events = task.events(options).unwrap();
    let mut codes = Vec::new();
    while codes.len() < 2 {
        if let Some(Event::Exit { exec: Some(_), status }) = next(&mut events) {
            codes.push(status.ended);
        }
    }
    assert_eq!(codes, [Ended::Exited(6), Ended::Exited(7)]);
    // So does one that opens the container after its end, with handles that never saw the process.
    task.kill(Signal::KILL).unwrap();
    let ended = task.wait(hiber::Condition::NotRunning).unwrap().get();
    assert_eq!(ended.ended, Ended::Signaled(9));
    task.init().unwrap().delete().unwrap();
    let late = here.runtime.open(&here.id()).unwrap().task().unwrap();
    assert!(late.init().is_none(), "the process was reaped");
    let heard = late.wait(hiber::Condition::NotRunning).unwrap().get();
    assert_eq!(heard.ended, Ended::Signaled(9));
    let mut events = late.events(options).unwrap();
    let status = loop {
        if let Some(Event::Exit { exec: None, status }) = next(&mut events) {
            break status;
        }
    };
    assert_eq!(status.ended, Ended::Signaled(9));
    late.force_delete().unwrap();
    assert!(matches!(next(&mut events), Some(Event::Deleted)));
    here.assert_clean();
}

/// As `hiber events` shows it.
pub(crate) fn the_past_and_the_end() {
    require!(Root);
    let here = Here::sleeping();
    let task = here.run();
    here.call(&["pause", here.bundle.name()]).ok();
    here.call(&["resume", here.bundle.name()]).ok();
    let follow = |flags: &[&str]| {
        let mut command = here.command(&["events"]);
        command.args(flags).arg(here.bundle.name()).stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let whole = follow(&["--lifecycle"]);
    let now = follow(&["--interval", "50ms"]);
    std::thread::sleep(Duration::from_millis(300));
    task.kill(Signal::KILL).unwrap();
    task.wait(hiber::Condition::NotRunning).unwrap().within(hiber_tests::PATIENCE);
    let types = |child: std::process::Child| -> Vec<(String, Value)> {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["type"].as_str().unwrap().to_owned(), line)).collect()
    };
    let mut now = types(now);
    let (last, exit) = now.pop().unwrap();
    assert_eq!(
        (last.as_str(), &exit["data"]["code"], &exit["data"]["signal"]),
        ("exit", &json!(137), &json!(9))
    );
    // Statistics may come before it and after it.
    let (stats, others): (Vec<_>, Vec<_>) = now.into_iter().partition(|(kind, _)| kind == "stats");
    assert!(stats.len() >= 2);
    let others: Vec<_> = others.iter().map(|(kind, line)| (kind.as_str(), &line["data"])).collect();
    assert_eq!(others, [("signalled", &json!({"signal": 9}))]);
    task.delete().unwrap();
    let whole = types(whole);
    let kinds: Vec<_> = whole.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["create", "start", "paused", "resumed", "signalled", "exit", "deleted"]);
    assert!(whole.iter().all(|(_, line)| line["id"] == here.bundle.name()));
    assert!(whole[0].1["data"]["pid"].as_i64().unwrap() > 1);
}

/// Streams nest in a loop of the embedder's: their descriptors say which of them has something.
pub(crate) fn many_streams_in_one_loop() {
    require!(Root);
    let (one, two) = (Here::sleeping(), Here::sleeping());
    let tasks = [one.run(), two.run()];
    let mut streams = tasks.each_ref().map(|task| task.events(EventsOptions::default()).unwrap());
    let ready = |streams: &[Events; 2]| {
        let mut fds = streams.each_ref().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN));
        poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
        fds.map(|fd| !fd.revents().is_empty())
    };
    tasks[1].pause().unwrap();
    assert_eq!(ready(&streams), [false, true]);
    assert_eq!(done(next(&mut streams[1])), Lifecycle::Paused);
    assert!(streams[1].try_next().unwrap().is_none());
    tasks[0].kill(Signal::KILL).unwrap();
    assert_eq!(ready(&streams), [true, false]);
    assert_eq!(done(next(&mut streams[0])), Lifecycle::Signalled { signal: 9 });
    assert!(matches!(next(&mut streams[0]), Some(Event::Exit { exec: None, .. })));
    assert!(streams[0].wait().unwrap().is_none());
}
