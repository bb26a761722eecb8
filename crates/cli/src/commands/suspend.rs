//! `suspend`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use hiber::{Condition, Status, Task};
use hiber_sys::signal::Signal;

use crate::asleep::{Place, Sleeper, is_in_memory};
use crate::containers::Containers;
use crate::flags::archive::{self, KeyFile, STORE_KEY};
use crate::flags::criu::{ACCEPT, Contents, Names};
use crate::keeper::{Children, objections, words};
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::line::refusal::{Refusal, belong_to};
use crate::line::scan::Matches;
use crate::output::out;

/// How long a container may take to end that is stopped.
const PATIENCE: Duration = Duration::from_secs(10);

flags! {
    /// Flags of the command that makes a checkpoint, which gets them as they were given.
    #[allow(dead_code, reason = "that command reads them; tests compare them")]
    pub(crate) struct Passed {
        contents: Contents = Flag::group(),
        accept: Vec<Names> = ACCEPT,
    }
}

flags! {
    #[allow(dead_code, reason = "flags that are passed on are read by nobody else")]
    pub(crate) struct SuspendFlags {
        place: Place = Flag::group(),
        store: Option<PathBuf> = Flag::value("store", "DIR", "write the checkpoints into that store"),
        store_key: Option<KeyFile> = STORE_KEY,
        force: bool = Flag::switch("force", "stop those that cannot be put to sleep, instead of doing nothing"),
        passed: Passed = Flag::group(),
    }
}

pub(crate) const COMMAND: Command = Command::new(
    "suspend",
    "--all",
    "put all containers to sleep, before the machine boots anew",
    |m| Ok(Box::new(Suspend::read(m)?)),
)
.description(
    "All containers of --root that run or are paused become checkpoints, the latest first, in a directory that outlives the\n\
     boot; `resume --all` wakes them. Those that cannot be put to sleep are named before anything is stopped, and then\n\
     nothing is, unless --force stops them. docs/keep.md tells what has to be there when they wake.",
)
.examples(&[
    ("suspend --all", "put all containers to sleep"),
    ("suspend --all --force --store /var/lib/hiber/store", "the same, whatever is in the way, into a store"),
])
.flags(SuspendFlags::TABLE);

#[derive(Debug)]
struct Suspend {
    flags: SuspendFlags,
    passed: Vec<OsString>,
}

impl Suspend {
    fn read(m: &Matches) -> Result<Self, Refusal> {
        let flags = SuspendFlags::read(m)?;
        belong_to("store", flags.store.is_some(), &[("store-key", flags.store_key.is_some())])?;
        if !flags.place.all {
            return Err(Refusal::form("suspend: expected --all"));
        }
        Ok(Self { flags, passed: m.passed(&[Passed::TABLE]) })
    }
}

/// A container, and why it cannot be put to sleep.
struct Found {
    task: Task,
    status: Status,
    obstacles: Vec<String>,
}

impl Run for Suspend {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
        let (dir, children) = (self.flags.place.open()?, Children::new(cli));
        archive::store_key(self.flags.store_key.as_ref())?;
        let store = self.flags.store.as_ref().map(std::path::absolute).transpose()?;
        for place in [Some(&dir), store.as_ref()].into_iter().flatten() {
            if is_in_memory(place.ancestors().find(|path| path.exists()).unwrap_or(place)) {
                bail!("{}: is in memory, which a boot empties", place.display());
            }
        }
        let mut all = self.find(&containers, &children)?;
        all.sort_by_key(|one| std::cmp::Reverse(one.task.container().created()));
        let mut awake = 0;
        for one in &all {
            for why in &one.obstacles {
                out::write(&format!("{}: cannot be put to sleep: {why}\n", one.task.container().id()))?;
                awake += 1;
            }
        }
        if awake > 0 && !self.flags.force {
            bail!("nothing was stopped; --force stops those that cannot be put to sleep");
        }
        let mut success = true;
        for one in all {
            success &= self.put_to_sleep(one, (&dir, store.as_deref()), &children)?;
        }
        Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Suspend {
    fn find(&self, containers: &Containers, children: &Children) -> anyhow::Result<Vec<Found>> {
        let mut all = Vec::new();
        for id in containers.runtime.ids()? {
            let task = match containers.runtime.open(&id).and_then(|container| container.task()) {
                Ok(task) => task,
                Err(hiber::Error::NotFound) => continue,
                Err(e) => return Err(e.into()),
            };
            let status = task.status()?;
            if matches!(status, Status::Stopped) {
                continue;
            }
            let obstacles = self.obstacles(&task, status, children)?;
            all.push(Found { task, status, obstacles });
        }
        Ok(all)
    }

    fn obstacles(&self, task: &Task, status: Status, children: &Children) -> anyhow::Result<Vec<String>> {
        if !matches!(status, Status::Running | Status::Paused) {
            return Ok(vec![format!("it is {status}")]);
        }
        let (container, mut all) = (task.container(), Vec::new());
        let (bundle, spec) = (container.bundle()?, container.spec()?);
        if is_in_memory(bundle) {
            all.push(format!("its bundle {} is in memory, which a boot empties", bundle.display()));
        }
        if spec.process().as_ref().is_some_and(|process| process.terminal() == Some(true)) {
            all.push("it has a terminal, whose other end will be gone".into());
        }
        let linux = spec.linux().as_ref();
        for namespace in linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten() {
            if let Some(path) = namespace.path().as_ref().filter(|path| path.starts_with("/proc")) {
                all.push(format!("it joins {}, which a boot ends", path.display()));
            }
        }
        let check = ["checkpoint", "--check", "--format", "json", "--image-path"];
        let images = vec![bundle.join("checkpoints/asleep").into_os_string()];
        let line = [words(&check), images, self.passed.clone(), words(&[container.id().as_str()])].concat();
        let report = children.ask(&line)?.unwrap_or_default();
        if report["possible"] != serde_json::json!(true) {
            all.push(
                Some(objections(&report))
                    .filter(|why| !why.is_empty())
                    .unwrap_or_else(|| "it cannot be checked".into()),
            );
        }
        Ok(all)
    }

    /// Whether it sleeps, or was stopped because it had to be.
    fn put_to_sleep(
        &self,
        one: Found,
        (dir, store): (&Path, Option<&Path>),
        children: &Children,
    ) -> anyhow::Result<bool> {
        let id = one.task.container().id().clone();
        let said = |text: String| out::write(&format!("{id}: {text}\n"));
        if !one.obstacles.is_empty() {
            stop(one.task)?;
            said("was stopped".into())?;
            return Ok(true);
        }
        let sleeper = Sleeper::of(&one.task, one.status, store)?;
        sleeper.write(dir, &one.task)?;
        let place = match store {
            Some(store) => {
                let key =
                    self.flags.store_key.iter().flat_map(|KeyFile(file)| ["--store-key".into(), file.into()]);
                let to = [
                    "checkpoint".into(),
                    "--store".into(),
                    store.into(),
                    "--checkpoint".into(),
                    sleeper.checkpoint.as_str().into(),
                ];
                [to.to_vec(), key.collect()].concat()
            }
            None => {
                let images = sleeper.place(dir).into_os_string();
                [words(&["checkpoints", "create", "--checkpoint-dir"]), vec![images]].concat()
            }
        };
        let name = if store.is_some() { vec![] } else { words(&[sleeper.checkpoint.as_str()]) };
        let line = [place, self.passed.clone(), words(&[id.as_str()]), name].concat();
        match children.run(&line)?.reason() {
            None => {
                said("sleeps".into())?;
                Ok(true)
            }
            Some(why) if self.flags.force => {
                sleeper.forget(dir);
                stop(one.task)?;
                said(format!("was stopped: {why}"))?;
                Ok(true)
            }
            Some(why) => {
                sleeper.forget(dir);
                tracing::error!("{id} runs on: {why}");
                Ok(false)
            }
        }
    }
}

/// Asks a container to end, and ends it if it does not.
fn stop(task: Task) -> anyhow::Result<()> {
    let begun = Instant::now();
    if task.status()? == Status::Running && task.kill(Signal::TERM).is_ok() {
        let ended = task.wait(Condition::NotRunning)?;
        while ended.try_get().is_none() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    match task.force_delete() {
        Ok(_) | Err(hiber::Error::NotFound) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
