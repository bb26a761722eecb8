//! `resume`

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use hiber::id::ContainerId;

use crate::asleep::{self, Place, Sleeper};
use crate::containers::Containers;
use crate::flags::archive::{KeyFile, STORE_KEY};
use crate::flags::criu::Contents;
use crate::keeper::{Children, words};
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::line::refusal::{Refusal, belong_to};
use crate::line::scan::Matches;
use crate::line::shape::Argument;
use crate::output::out;

flags! {
    /// Flags of a restore, which gets them as they were given.
    #[allow(dead_code, reason = "that command reads them; tests compare them")]
    pub(crate) struct Passed {
        contents: Contents = Flag::group(),
    }
}

flags! {
    #[allow(dead_code, reason = "flags that are passed on are read by nobody else")]
    pub(crate) struct ResumeFlags {
        place: Place = Flag::group(),
        store_key: Option<KeyFile> = STORE_KEY,
        passed: Passed = Flag::group(),
    }
}

pub(crate) const COMMAND: Command = Command::new(
    "resume",
    "<container-id>  or  --all",
    "let a paused container run on, or wake all that `suspend` has put to sleep",
    read,
)
.description(
    "With --all the containers wake that `suspend --all` has put to sleep, in the order in which they were created. One that does\n\
     not wake is told, and stays asleep for the next time; the exit status is 1 then.",
)
.examples(&[
    ("resume web", "let the paused container web run on"),
    ("resume --all", "wake all containers after a boot"),
])
.flags(ResumeFlags::TABLE)
.takes(Count::Between(0, 1), &[Argument::Container]);

fn read(m: &Matches) -> Result<Box<dyn Run>, Refusal> {
    let flags = ResumeFlags::read(m)?;
    match (m.positionals.is_empty(), flags.place.all) {
        (true, true) => Ok(Box::new(Wake { flags, passed: m.passed(&[Passed::TABLE]) })),
        (false, false) => {
            belong_to(
                "all",
                false,
                &[("dir", flags.place.dir.is_some()), ("store-key", flags.store_key.is_some())],
            )?;
            m.only(&[])?;
            Ok(Box::new(Resume { id: m.container()? }))
        }
        (true, false) => {
            Err(Refusal::form("resume: requires exactly 1 argument(s): a container's id; or --all"))
        }
        (false, true) => Err(Refusal::form("resume: takes a container's id or --all, and both are given")),
    }
}

#[derive(Debug)]
struct Resume {
    id: ContainerId,
}

impl Run for Resume {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        Containers::new(cli)?.task(&self.id)?.resume()?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug)]
struct Wake {
    flags: ResumeFlags,
    passed: Vec<OsString>,
}

impl Run for Wake {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let _containers = Containers::new(cli)?;
        let (dir, mut success) = (self.flags.place.open()?, true);
        for sleeper in asleep::sleepers(&dir)? {
            if !sleeper.sleeps(&dir)? {
                tracing::warn!("{}: was never put to sleep, and is forgotten", sleeper.id);
                sleeper.forget(&dir);
                continue;
            }
            success &= self.wake(cli, &sleeper, &dir)?;
        }
        Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Wake {
    fn wake(&self, cli: &Cli, sleeper: &Sleeper, dir: &Path) -> anyhow::Result<bool> {
        let id = sleeper.id()?;
        let children = Children::of(cli, sleeper.systemd_cgroup);
        let key = self.flags.store_key.iter().flat_map(|KeyFile(file)| ["--store-key".into(), file.into()]);
        let from = match &sleeper.store {
            Some(store) => [vec!["--store".into(), store.into()], key.collect()].concat(),
            None => vec!["--checkpoint-dir".into(), sleeper.place(dir).into()],
        };
        let line = [
            words(&["restore", "--detach", "--checkpoint", sleeper.checkpoint.as_str(), "--bundle"]),
            vec![sleeper.bundle.clone().into()],
            from,
            self.passed.clone(),
            words(&[id.as_str()]),
        ];
        if let Some(why) = children.run(&line.concat())?.reason() {
            tracing::error!("{id} does not wake, and stays asleep: {why}");
            return Ok(false);
        }
        if sleeper.paused
            && let Some(why) = children.run(&words(&["pause", id.as_str()]))?.reason()
        {
            tracing::warn!("{id} was paused, and runs: {why}");
        }
        if let Some(store) = &sleeper.store {
            let rm = [
                words(&["store", "rm"]),
                vec![store.into()],
                words(&[id.as_str(), sleeper.checkpoint.as_str()]),
            ];
            if let Some(why) = children.run(&rm.concat())?.reason() {
                tracing::warn!("the checkpoint of {id} stays in the store: {why}");
            }
        }
        sleeper.forget(dir);
        out::write(&format!("{id}: is awake\n"))?;
        Ok(true)
    }
}
