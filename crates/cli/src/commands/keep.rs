//! `keep`

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use hiber::Retention;
use hiber::id::ContainerId;
use hiber::keep::Restart;

use crate::containers::Containers;
use crate::flags::archive::{self, KeyFile, SIGN_KEY, STORE_KEY, VERIFY_KEY};
use crate::flags::criu::{ACCEPT, CHECKPOINT_DIR, Contents, Names, PreCopyFlags};
use crate::flags::process::FORMAT;
use crate::keeper::{Children, Keeper, Place, Rules, Told};
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, Value, flags};
use crate::line::refusal::{Refusal, belong_to, excludes};
use crate::line::scan::Matches;
use crate::line::shape::Entry;
use crate::line::value::Format;

const EVERY: Duration = Duration::from_secs(30);
const LAST: u32 = 3;
const PROBATION: Duration = Duration::from_secs(10);

/// One or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(u32);

impl Value for Count {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        match u32::read(flag, text)? {
            0 => Err(Refusal::value(format!("--{flag} 0: expected 1 or more"))),
            number => Ok(Self(number)),
        }
    }
}

/// A number of bytes, above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl Value for Size {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        let size = text.to_str().and_then(super::update::bytes).and_then(|size| u64::try_from(size).ok());
        let wrong = || Refusal::value(format!("--{flag} {text:?}: expected bytes, such as 10G"));
        size.filter(|size| *size > 0).map(Self).ok_or_else(wrong)
    }
}

/// A time above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(Duration);

impl Value for Span {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        match Duration::read(flag, text)? {
            Duration::ZERO => Err(Refusal::value(format!("--{flag} {text:?}: expected more than 0"))),
            span => Ok(Self(span)),
        }
    }
}

flags! {
    /// Flags of both commands, the one that makes a checkpoint and the one that restores it.
    pub(crate) struct Passed {
        contents: Contents = Flag::group(),
    }
}

flags! {
    /// Flags of the command that makes a checkpoint, which gets them as they were given.
    #[allow(dead_code, reason = "that command reads them; tests compare them")]
    pub(crate) struct PassedToDump {
        pre_copy: PreCopyFlags = Flag::group(),
        sign_key: Option<PathBuf> = SIGN_KEY,
        accept: Vec<Names> = ACCEPT,
    }
}

flags! {
    /// Flags of the command that restores one.
    pub(crate) struct PassedToRestore {
        verify_key: Vec<KeyFile> = VERIFY_KEY,
    }
}

flags! {
    pub(crate) struct KeepFlags {
        every: Option<Span> = Flag::value("every", "TIME", "the time from one checkpoint to the next (default: 30s)"),
        last: Option<Count> = Flag::value("last", "N", "keep the newest N checkpoints (default: 3)"),
        max_age: Option<Span> = Flag::value("max-age", "TIME", "and none that is older, but for the newest"),
        max_bytes: Option<Size> =
            Flag::value("max-bytes", "BYTES", "and no more than have BYTES together, such as 10G, but for the newest"),
        checkpoint_dir: Option<PathBuf> = CHECKPOINT_DIR,
        store: Option<PathBuf> =
            Flag::value("store", "DIR", "keep checkpoints in that store, where one costs what has changed"),
        store_key: Option<KeyFile> = STORE_KEY,
        restart: Option<Restart> = Flag::value(
            "restart",
            "WHEN",
            "bring the container back after a crash, always unless its end was asked for, or never (default: crash)",
        ),
        probation: Option<Span> = Flag::value(
            "probation",
            "TIME",
            "what ends within TIME of being brought back comes from an earlier checkpoint next (default: 10s)",
        ),
        passed: Passed = Flag::group(),
        to_dump: PassedToDump = Flag::group(),
        to_restore: PassedToRestore = Flag::group(),
        format: Option<Format> = FORMAT,
    }
}

pub(crate) const COMMAND: Command = Command::on_container(
    "keep",
    "take checkpoints of a running container in time, and bring it back when it crashes",
    |m| Ok(Box::new(Keep::read(m)?)),
)
.description(
    "Stays in the foreground, and tells each step in a line. A checkpoint is made at once and then every --every, without\n\
     stopping the container; one that fails is told, and tried again after longer and longer pauses. The names of its\n\
     checkpoints begin with keep-; others are left alone. When the container ends, and neither `hiber kill` nor `delete`\n\
     asked for that, it is restored from the newest checkpoint under the same id; if that fails, or it ends again\n\
     within --probation, from the one before, then it is started anew, and then left alone (exit status 3). SIGTERM\n\
     ends the keeper alone. docs/keep.md has the table.",
)
.examples(&[
    ("keep --every 30s --last 3 web", "lose at most half a minute of web"),
    ("keep --every 1s --store /var/tmp/store web", "the same with a second, and little disk"),
])
.flags(KeepFlags::TABLE);

#[derive(Debug)]
pub(crate) struct Keep {
    id: ContainerId,
    pub(crate) flags: KeepFlags,
    dump: Vec<OsString>,
    restore: Vec<OsString>,
}

impl Keep {
    pub(crate) fn read(m: &Matches) -> Result<Self, Refusal> {
        let flags = KeepFlags::read(m)?;
        let given = flags.store.is_some();
        excludes("store", given, &[("checkpoint-dir", flags.checkpoint_dir.is_some())], "")?;
        belong_to("store", given, &[("store-key", flags.store_key.is_some())])?;
        if flags.passed.contents.shell_job == Some(true) {
            return Err(Refusal::value(
                "--shell-job: a keeper has no terminal to give to a restored container",
            ));
        }
        const PASSED: &[Entry] = Passed::TABLE;
        let dump = m.passed(&[PASSED, PassedToDump::TABLE]);
        let restore = m.passed(&[PASSED, PassedToRestore::TABLE]);
        Ok(Self { id: m.container()?, flags, dump, restore })
    }

    fn rules(&self) -> Rules {
        let flags = &self.flags;
        let span = |given: Option<Span>, or: Duration| given.map_or(or, |Span(span)| span);
        Rules {
            every: span(flags.every, EVERY),
            retention: Retention::default()
                .last(flags.last.map_or(LAST, |Count(last)| last) as usize)
                .max_age(flags.max_age.map(|Span(span)| span))
                .max_bytes(flags.max_bytes.map(|Size(bytes)| bytes)),
            restart: flags.restart.unwrap_or_default(),
            probation: span(flags.probation, PROBATION),
            dump: self.dump.clone(),
            restore: self.restore.clone(),
        }
    }

    fn place(&self) -> anyhow::Result<Place> {
        let flags = &self.flags;
        let key = archive::store_key(flags.store_key.as_ref())?;
        let key = flags.store_key.as_ref().zip(key).map(|(KeyFile(file), key)| (file.clone(), key));
        Ok(match &flags.store {
            Some(dir) => Place::Store(std::path::absolute(dir)?, key),
            None => Place::Directory(flags.checkpoint_dir.as_ref().map(std::path::absolute).transpose()?),
        })
    }
}

impl Run for Keep {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
        let (rules, place) = (self.rules(), self.place()?);
        // A mistake is told now, and not with each checkpoint.
        archive::signing_key(self.flags.to_dump.sign_key.as_ref())?;
        archive::verifying_keys(&self.flags.to_restore.verify_key)?;
        // The container comes back as it is, whatever flags the keeper has.
        let container = containers.runtime.open(&self.id).ok();
        let scope = container
            .is_some_and(|container| container.facts().is_ok_and(|facts| facts.cgroup.systemd.is_some()));
        let keeper = Keeper {
            runtime: &containers.runtime,
            id: &self.id,
            rules: &rules,
            place: &place,
            children: Children::of(cli, cli.global.systemd_cgroup || scope),
            told: Told::new(&self.id, self.flags.format.unwrap_or_default()),
        };
        keeper.run()
    }
}
