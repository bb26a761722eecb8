//! The keeper of one container.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hiber::id::ContainerId;
use hiber::keep::{self, Ending, Keeping, Ladder, Pauses, Restart, Step};
use hiber::{
    CheckpointName, Event, Events, EventsOptions, Lifecycle, Retention, Runtime, Status, Task, Word as _,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::children::{Children, Outcome, words};
use super::place::{Of, Place};
use super::signals::Signals;
use super::streams::Streams;
use super::told::{Told, service};
use crate::output::inspection::bytes;

/// The exit status of a keeper that leaves a container alone.
const LEFT_ALONE: u8 = 3;
/// How often a command that was killed is tried again.
const TRIES: u32 = 3;
/// How long a container is waited for that another process is making, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// The wishes of its caller.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) every: Duration,
    pub(crate) retention: Retention,
    pub(crate) restart: Restart,
    pub(crate) probation: Duration,
    /// Flags of checkpoints, and those of restores.
    pub(crate) dump: Vec<OsString>,
    pub(crate) restore: Vec<OsString>,
}

/// A keeper.
#[derive(Debug)]
pub(crate) struct Keeper<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) id: &'a ContainerId,
    pub(crate) rules: &'a Rules,
    pub(crate) place: &'a Place,
    pub(crate) children: Children,
    pub(crate) told: Told,
}

/// The keeper's knowledge of the container.
struct Memory {
    keeping: Keeping,
    bundle: PathBuf,
    ladder: Ladder,
    streams: Streams,
    /// Since when it runs after it was brought back, until it has proved itself.
    on_probation: Option<Instant>,
}

/// Why a container is not attended any more.
enum Left {
    /// A signal asked the keeper to go.
    Signal,
    /// The container ended.
    Ended(Ending),
}

impl Keeper<'_> {
    /// Keeps the container until it ends for good, or a signal asks the keeper to go.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let signals = Signals::block()?;
        let keeping = Keeping::begin(self.runtime, self.id)?;
        let (mut memory, mut task) = self.begin(keeping)?;
        service("READY=1");
        loop {
            let reason = match self.attend(&task, &mut memory, &signals)? {
                Left::Signal => {
                    self.told.step(
                        "stopped",
                        "not kept any more; it runs on",
                        json!({"reason": "a signal to the keeper"}),
                    );
                    service("STOPPING=1");
                    return Ok(ExitCode::SUCCESS);
                }
                Left::Ended(ending) => {
                    let (reason, asked) = match &ending {
                        Ending::Asked(why) => (why.clone(), true),
                        Ending::Done => ("it exited with status 0".to_owned(), false),
                        Ending::Crashed(why) => (why.clone(), false),
                    };
                    let text = format!("ended: {reason}{}", if asked { ", as was asked" } else { "" });
                    self.told.step("ended", &text, json!({"reason": reason, "asked": asked}));
                    if !ending.is_followed(self.rules.restart) {
                        memory.keeping.forget();
                        let crashed = matches!(ending, Ending::Crashed(_));
                        return Ok(if crashed { LEFT_ALONE.into() } else { ExitCode::SUCCESS });
                    }
                    reason
                }
            };
            match self.bring_back(&mut memory, &reason)? {
                Some(again) => task = again,
                None => {
                    memory.keeping.forget();
                    return Ok(LEFT_ALONE.into());
                }
            }
        }
    }

    /// The running container; or one that a killed keeper was bringing back.
    fn begin(&self, mut keeping: Keeping) -> anyhow::Result<(Memory, Task)> {
        let interrupted = keeping.interrupted();
        let task = match self.settled() {
            Ok(task) => Some(task),
            Err(_) if interrupted.is_some() => None,
            Err(e) => return Err(e),
        };
        if let Some((reason, bundle)) = interrupted
            && task.as_ref().is_none_or(|task| task.status().is_ok_and(|status| status == Status::Stopped))
        {
            let mut memory = self.memory(keeping, bundle, Streams::default());
            let again = self.bring_back(&mut memory, &reason)?;
            return again.map(|task| (memory, task)).context("the container could not be brought back");
        }
        let task = task.context("the container has no task")?;
        let container = task.container();
        match task.status()? {
            Status::Running | Status::Paused => {}
            // It ended when nobody was there.
            Status::Stopped if keeping.knows(container.facts()?) => {}
            status => bail!("container {} is not running: it is {status}", self.id),
        }
        if self.rules.restart != Restart::Never
            && container.spec()?.process().as_ref().is_some_and(|p| p.terminal() == Some(true))
        {
            bail!(
                "container {} has a terminal, whose other end nobody could give to the restored container; \
                 --restart never takes checkpoints alone",
                self.id
            );
        }
        if self.rules.restart != Restart::Never && container.is_clone() {
            bail!(
                "container {} is a clone, whose root filesystem goes with it; --restart never takes checkpoints alone",
                self.id
            );
        }
        keeping.keep(container.facts()?)?;
        let bundle = container.bundle()?.to_owned();
        let streams = Streams::of(&task);
        let data = json!({"every": self.rules.every.as_secs_f64(), "restart": self.rules.restart.word()});
        let every = humantime::format_duration(self.rules.every);
        self.told.step("keeping", &format!("kept, with a checkpoint every {every}"), data);
        Ok((self.memory(keeping, bundle, streams), task))
    }

    fn memory(&self, keeping: Keeping, bundle: PathBuf, streams: Streams) -> Memory {
        Memory { keeping, bundle, ladder: Ladder::default(), streams, on_probation: None }
    }

    /// The container, when nobody is making it any more.
    fn settled(&self) -> anyhow::Result<Task> {
        let begun = Instant::now();
        loop {
            let task = self.runtime.open(self.id)?.task()?;
            if task.status()? != Status::Creating || begun.elapsed() > PATIENCE {
                return Ok(task);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn of<'m>(&'m self, memory: &'m Memory) -> Of<'m> {
        Of { id: self.id, bundle: &memory.bundle }
    }

    /// Takes checkpoints until the container ends.
    fn attend(&self, task: &Task, memory: &mut Memory, signals: &Signals) -> anyhow::Result<Left> {
        let mut events = task.events(EventsOptions::default().past(true).until_deleted(true))?;
        let mut pauses = Pauses::new(self.rules.every);
        let mut cannot = None;
        let mut next = memory.on_probation.map_or_else(Instant::now, |since| since + self.rules.probation);
        loop {
            if let Some(left) = self.happened(task, &mut events)? {
                if memory.on_probation.is_some_and(|since| since.elapsed() >= self.rules.probation) {
                    self.proved(memory);
                }
                return Ok(left);
            }
            if signals.asked()? {
                return Ok(Left::Signal);
            }
            let now = Instant::now();
            if next <= now {
                self.proved(memory);
                let pause = match self.checkpoint(memory, &mut cannot)? {
                    true => pauses.made(),
                    false => pauses.failed(),
                };
                next = (now + pause).max(Instant::now());
                continue;
            }
            wait(&events, signals, next - now)?;
        }
    }

    /// It has run for as long as it had to.
    fn proved(&self, memory: &mut Memory) {
        if memory.on_probation.take().is_some() {
            memory.ladder.well();
            let probation = humantime::format_duration(self.rules.probation).to_string();
            self.told.step("well", &format!("has run for {probation}"), json!({}));
        }
    }

    /// Whether it has ended by now.
    fn happened(&self, task: &Task, events: &mut Events) -> anyhow::Result<Option<Left>> {
        while let Some(event) = events.try_next()? {
            match event {
                Event::Exit { exec: None, status } => return Ok(Some(Left::Ended(task.ending(&status)?))),
                Event::Deleted => return Ok(Some(Left::Ended(Ending::Asked("it was deleted".into())))),
                Event::Lifecycle { what: Lifecycle::Signalled { signal }, .. } => {
                    let text = format!("signal {signal} is sent to it by hiber");
                    self.told.step("signalled", &text, json!({"signal": signal}));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Makes a checkpoint, and removes those that are too many. Whether it was made; `cannot` is the reason that was told last.
    fn checkpoint(&self, memory: &Memory, cannot: &mut Option<String>) -> anyhow::Result<bool> {
        let (name, of) = (keep::name_of_now(), self.of(memory));
        let Some(why) = self.place.create(&self.children, of, &name, &self.rules.dump)?.reason() else {
            *cannot = None;
            let made = self.place.restorable(of)?.into_iter().find(|one| one.name == name);
            let (size, frozen) = made.map_or((0, None), |one| (one.size, one.frozen_time));
            let millis = frozen.map(|time| format!(", frozen for {:.1} ms", time.as_secs_f64() * 1000.0));
            let text = format!("checkpoint {name}: {}{}", bytes(size), millis.unwrap_or_default());
            let data =
                json!({"checkpoint": name, "size": size, "frozenTime": frozen.map(|time| time.as_micros())});
            self.told.step("checkpointed", &text, data);
            service(&format!("STATUS=last checkpoint {name}"));
            self.retain(of);
            return Ok(true);
        };
        if !self.runtime.open(self.id).and_then(|container| container.task()?.status()).is_ok_and(is_there) {
            // It has just ended.
            return Ok(false);
        }
        let check = ["checkpoint", "--check", "--leave-running", "--format", "json", "--image-path"];
        // Where it would go does not matter to the check, but must not be what is in the way.
        let image_path = vec![memory.bundle.join("checkpoints").join(name.as_str()).into_os_string()];
        let line = [words(&check), image_path, self.rules.dump.clone(), words(&[self.id.as_str()])];
        let report = self.children.ask(&line.concat())?.unwrap_or_default();
        if report["possible"] != json!(false) {
            self.told.step(
                "checkpoint-failed",
                &format!("checkpoint {name} failed: {why}"),
                json!({"checkpoint": name, "reason": why}),
            );
            return Ok(false);
        }
        let reason = objections(&report);
        if cannot.as_ref() != Some(&reason) {
            let text = format!("cannot be checkpointed: {reason}");
            self.told.step(
                "cannot-checkpoint",
                &text,
                json!({"reason": reason, "findings": report["findings"]}),
            );
            *cannot = Some(reason);
        }
        Ok(false)
    }

    fn retain(&self, of: Of<'_>) {
        match self.place.retain(&self.children, of, &self.rules.retention) {
            Ok(done) if !done.removed.is_empty() => {
                let names: Vec<_> = done.removed.iter().map(CheckpointName::as_str).collect();
                self.told.step(
                    "removed",
                    &format!("removed {}", names.join(", ")),
                    json!({"checkpoints": names}),
                );
            }
            Ok(_) => {}
            Err(e) => {
                let why = format!("{e:#}");
                self.told.step(
                    "remove-failed",
                    &format!("old checkpoints stay: {why}"),
                    json!({"reason": why}),
                );
            }
        }
    }

    /// Makes the container again, from the newest checkpoint that works, or from its start. None if it is left alone.
    fn bring_back(&self, memory: &mut Memory, reason: &str) -> anyhow::Result<Option<Task>> {
        memory.on_probation = None;
        memory.keeping.restarting(reason)?;
        if let Err(why) = self.clear()? {
            return self.leave_alone(&format!("it cannot be deleted: {why}"));
        }
        let mut tries = TRIES;
        loop {
            let all = self.place.restorable(self.of(memory)).unwrap_or_default();
            let since = memory.keeping.since();
            let own = all.into_iter().filter(|one| one.created.is_some_and(|created| created >= since));
            let step = memory.ladder.next(&own.map(|one| one.name).collect::<Vec<_>>());
            let (line, from) = match &step {
                Step::Restore(name) => (words(&["restore", "--detach"]), Some(name)),
                Step::Start => (words(&["run", "--detach"]), None),
                Step::LeaveAlone => return self.leave_alone("nothing is left to try"),
            };
            let flags = from.map(|name| [self.place.restoring(name), self.rules.restore.clone()].concat());
            let bundle = vec!["--bundle".into(), memory.bundle.clone().into_os_string()];
            let line = [line, bundle, flags.unwrap_or_default(), words(&[self.id.as_str()])].concat();
            let outcome = self.children.run_with(&line, memory.streams.stdio())?;
            let what = from.map_or_else(|| "its start".to_owned(), |name| format!("checkpoint {name}"));
            match (&outcome, self.settled()) {
                (Outcome::Done, Ok(task)) => {
                    memory.keeping.restarted(task.container().facts()?, from.is_none())?;
                    task.note_kept(reason, from);
                    let kind = if from.is_some() { "restored" } else { "started" };
                    let data = json!({"checkpoint": from, "reason": reason, "pid": task.pid()});
                    self.told.step(kind, &format!("brought back from {what}: {reason}"), data);
                    memory.on_probation = Some(Instant::now());
                    return Ok(Some(task));
                }
                // It was deleted, or ended, before anybody could look.
                (Outcome::Done, Err(_)) => return self.leave_alone("somebody has deleted it"),
                (Outcome::Killed(_), _) if tries > 0 => {
                    tries -= 1;
                    memory.ladder.again();
                    self.children.run(&words(&["delete", "--force", self.id.as_str()]))?;
                }
                (Outcome::Failed(_), Ok(task)) if task.status().is_ok_and(is_there) => {
                    self.told.step(
                        "taken",
                        "somebody else has made a container of that id, which is kept now",
                        json!({}),
                    );
                    memory.keeping.keep(task.container().facts()?)?;
                    return Ok(Some(task));
                }
                _ => tries = TRIES,
            }
            let why = outcome.reason().unwrap_or_default();
            let kind = if from.is_some() { "restore-failed" } else { "start-failed" };
            self.told.step(
                kind,
                &format!("not brought back from {what}: {why}"),
                json!({"checkpoint": from, "reason": why}),
            );
        }
    }

    /// Deletes the container that has ended; the error if that is not possible.
    fn clear(&self) -> anyhow::Result<Result<(), String>> {
        let Ok(task) = self.settled() else { return Ok(Ok(())) };
        if task.status().is_ok_and(is_there) {
            return Ok(Err("another one runs under its id".into()));
        }
        let outcome = self.children.run(&words(&["delete", "--force", self.id.as_str()]))?;
        Ok(outcome.reason().map_or(Ok(()), Err))
    }

    fn leave_alone(&self, why: &str) -> anyhow::Result<Option<Task>> {
        self.told.step("left-alone", &format!("left alone: {why}"), json!({"reason": why}));
        Ok(None)
    }
}

fn is_there(status: Status) -> bool {
    matches!(status, Status::Running | Status::Paused)
}

/// Why preflight says that a checkpoint is impossible.
pub(crate) fn objections(report: &Value) -> String {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let errors = findings.iter().filter(|finding| finding["severity"] == "error");
    let text = |finding: &Value| {
        let part = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", part("check"), part("what"))
    };
    errors.map(text).collect::<Vec<_>>().join("; ")
}

/// Until something happens, or for so long. Little of the program is needed for a long wait.
fn wait(events: &Events, signals: &Signals, time: Duration) -> anyhow::Result<()> {
    if time >= LOOK
        && let Err(e) = hiber_sys::resident::give_back_program()
    {
        tracing::debug!("{e}");
    }
    let timeout = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let (events, signals) = (events.as_fd(), signals.as_fd());
    let mut fds = [PollFd::new(&events, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e).context("poll"),
    }
}
