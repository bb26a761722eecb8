//! `checkpoints`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use hiber::archive::Compression;
use hiber::id::ContainerId;
use hiber::store::{CheckpointStore, StoreKey};
use hiber::{
    Checkpoint, CheckpointName, CheckpointOptions, Checkpoints, Description, RestoreContainerOptions,
};
use hiber_sandbox::config;
use oci_spec::runtime::Spec;

use crate::containers::Containers;
use crate::flags::archive::{
    self, COMPRESS, ENCRYPT_TO, IDENTITY, KeyFile, Recipient, SIGN_KEY, STORE_KEY, VERIFY_KEY,
};
use crate::flags::criu::{ACCEPT, CHECKPOINT_DIR, Contents, Names, PreCopyFlags, names};
use crate::flags::process::{FORMAT, or_here};
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::line::refusal::{Refusal, belong_to, excludes};
use crate::line::scan::Matches;
use crate::line::shape::{Argument, Entry};
use crate::line::value::Format;
use crate::output::checkpoints::{Row, listed};
use crate::output::{inspection, out};

flags! {
    /// Where the checkpoints are.
    pub(crate) struct Place {
        dir: Option<PathBuf> = CHECKPOINT_DIR,
        bundle: Option<PathBuf> = Flag::value(
            "bundle",
            "DIR",
            "the bundle of a container that does not exist any more (default: the working directory)",
        )
        .short("b"),
    }
}

flags! {
    /// Those in a store, of `ls` and `verify`.
    pub(crate) struct Stored {
        store: Option<PathBuf> =
            Flag::value("store", "DIR", "ls, verify: the checkpoints of the container in that store"),
        store_key: Option<KeyFile> = STORE_KEY,
    }
}

flags! {
    pub(crate) struct ListFlags {
        format: Option<Format> = FORMAT,
        stored: Stored = Flag::group(),
    }
}

const PROVE: Flag<bool> = Flag::switch(
    "prove",
    "create: restore the images on trial first, and fail if that fails; verify: do that now, without effect",
);

flags! {
    /// Those of containerd's first runtime, but for `--leave-running`, which it calls not to exit.
    pub(crate) struct CreateFlags {
        leave_running: bool = Flag::switch("leave-running", "create: let the container run on afterwards"),
        contents: Contents = Flag::group(),
        pre_copy: PreCopyFlags = Flag::group(),
        prove: bool = PROVE,
        sign_key: Option<PathBuf> = SIGN_KEY,
        accept: Vec<Names> = ACCEPT,
    }
}

flags! {
    pub(crate) struct ExportFlags {
        compress: Option<Compression> = COMPRESS,
        encrypt_to: Vec<Recipient> = ENCRYPT_TO,
    }
}

flags! {
    /// Of an export; `create` has it among its own.
    pub(crate) struct SignFlags {
        sign_key: Option<PathBuf> = SIGN_KEY,
    }
}

flags! {
    pub(crate) struct ImportFlags {
        identity: Vec<KeyFile> = IDENTITY,
        verify_key: Vec<KeyFile> = VERIFY_KEY,
    }
}

flags! {
    pub(crate) struct VerifyFlags {
        format: Option<Format> = FORMAT,
        stored: Stored = Flag::group(),
        prove: bool = PROVE,
        all: bool = ALL,
    }
}

/// `--all`, which no other action has.
const VERIFY_ALONE: &[Entry] = &[ALL.entry()];
const ALL: Flag<bool> =
    Flag::switch("all", "verify: all checkpoints of the container, instead of some by name");

pub(crate) const COMMAND: Command = Command::new(
    "checkpoints",
    "create <container-id> <name>  or  ls <container-id>  or  inspect|rm <container-id> <name>  or  \
     verify <container-id> <name>...|--all  or  export|import <container-id> <name> <file>",
    "keep checkpoints of a container by name",
    |m| Ok(Box::new(Named::read(m)?)),
)
.description(
    "`checkpoint` (without s) is runc's command: it writes to any directory. This one keeps checkpoints\n\
     by name in a directory of the container's, as Docker and containerd do: create makes one, ls\n\
     shows them, inspect shows how one was made, verify compares the files of some or --all with their manifests\n\
     (and with --prove restores them on trial), rm removes it, export writes it into an archive (a file, or - for standard output),\n\
     and import keeps one that came in an archive (a file, or - for standard input). `restore --checkpoint NAME` starts the container from one.\n\n\
     ls shows age, size, how much is shared with others in a store, for how long the container was frozen, and when verify\n\
     has last found each file as it was written; a file that changes afterwards makes that void. With --store ls and verify are\n\
     about the container's checkpoints in a store.\n\n\
     A name is [a-zA-Z0-9][a-zA-Z0-9_.-]+ and is given once. config.json beside the images says when and\n\
     with which options a checkpoint was made. A failed create leaves nothing.",
)
.examples(&[
    ("checkpoints create --leave-running web monday", "keep the present state of web"),
    ("checkpoints ls web", "list the checkpoints of web"),
    ("checkpoints verify --all web", "find out whether one is damaged"),
    ("checkpoints export web monday /var/tmp/web.tar.zst", "take one of them elsewhere"),
])
.flags(&[
    Entry::Group(Place::TABLE),
    Entry::Group(ListFlags::TABLE),
    Entry::Group(VERIFY_ALONE),
    Entry::Group(CreateFlags::TABLE),
    Entry::Group(ExportFlags::TABLE),
    Entry::Group(ImportFlags::TABLE),
])
.takes(
    Count::AtLeast(2),
    &[
        Argument::Words(&["create", "ls", "inspect", "verify", "rm", "export", "import"]),
        Argument::Container,
        Argument::Other,
        Argument::File,
    ],
);

/// The checkpoints of a container, and what is done with them.
#[derive(Debug)]
pub(crate) struct Named {
    /// The container, which need not exist any more but for `create`.
    pub(crate) id: ContainerId,
    pub(crate) place: Place,
    pub(crate) action: Action,
}

#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) enum Action {
    Create(CheckpointName, CreateFlags),
    List(ListFlags),
    Inspect(CheckpointName),
    /// All where none is named; with the flags of the restore, if they are to be tried.
    Verify(Vec<CheckpointName>, VerifyFlags, Option<Contents>),
    Remove(CheckpointName),
    Export(CheckpointName, PathBuf, ExportFlags, SignFlags),
    Import(CheckpointName, PathBuf, ImportFlags),
}

impl Action {
    fn read(m: &Matches) -> Result<Self, Refusal> {
        let word = |n: usize| m.positionals.get(n).map(|word| word.to_string_lossy());
        let action = word(0).unwrap_or_default();
        let file = || {
            let missing = || Refusal::form(format!("checkpoints {action}: the archive's file is missing"));
            m.positionals.get(3).map(PathBuf::from).ok_or_else(missing)
        };
        let most = match &*action {
            "export" | "import" => 4,
            "verify" => usize::MAX,
            _ => 3,
        };
        if let Some(more) = word(most) {
            let takes = if most == 3 { "no file" } else { "one file" };
            return Err(Refusal::form(format!("checkpoints {action}: takes {takes}, and {more:?} is given")));
        }
        let name = || -> Result<CheckpointName, Refusal> {
            let missing = || Refusal::form(format!("checkpoints {action}: the name is missing"));
            Ok(word(2).ok_or_else(missing)?.parse()?)
        };
        // A flag of another action would be lost without a word.
        let only = |table| m.only(&[Place::TABLE, table]);
        match &*action {
            "create" => {
                only(CreateFlags::TABLE)?;
                Ok(Self::Create(name()?, CreateFlags::read(m)?))
            }
            "ls" | "list" => {
                only(ListFlags::TABLE)?;
                if word(2).is_some() {
                    let why = format!("checkpoints {action}: takes a container's id and nothing else");
                    return Err(Refusal::form(why));
                }
                let flags = ListFlags::read(m)?;
                flags.stored.judge(m)?;
                Ok(Self::List(flags))
            }
            "inspect" => only(&[]).and_then(|()| Ok(Self::Inspect(name()?))),
            "verify" => Self::read_verify(m),
            "rm" | "delete" => only(&[]).and_then(|()| Ok(Self::Remove(name()?))),
            "export" => {
                m.only(&[Place::TABLE, ExportFlags::TABLE, SignFlags::TABLE])?;
                Ok(Self::Export(name()?, file()?, ExportFlags::read(m)?, SignFlags::read(m)?))
            }
            "import" => {
                only(ImportFlags::TABLE)?;
                Ok(Self::Import(name()?, file()?, ImportFlags::read(m)?))
            }
            other => {
                let why = format!(
                    "checkpoints {other:?}: expected create, ls, inspect, verify, rm, export or import"
                );
                Err(Refusal::form(why))
            }
        }
    }

    fn read_verify(m: &Matches) -> Result<Self, Refusal> {
        let flags = VerifyFlags::read(m)?;
        let trial = if flags.prove { Contents::TABLE } else { &[] };
        m.only(&[Place::TABLE, VerifyFlags::TABLE, trial])?;
        flags.stored.judge(m)?;
        excludes(
            "store",
            flags.stored.store.is_some(),
            &[("prove", flags.prove)],
            ": `restore --store DIR --prove` tries one",
        )?;
        let restore = flags.prove.then(|| Contents::read(m)).transpose()?;
        let names = m.positionals.iter().skip(2).map(|name| name.to_string_lossy().parse());
        let names = names.collect::<Result<Vec<CheckpointName>, _>>()?;
        match (names.is_empty(), flags.all) {
            (true, false) => Err(Refusal::form("checkpoints verify: the name is missing, or --all")),
            (false, true) => {
                Err(Refusal::form("checkpoints verify: takes names or --all, and both are given"))
            }
            _ => Ok(Self::Verify(names, flags, restore)),
        }
    }
}

impl Stored {
    /// Refuses places of checkpoints in directories beside a store, and a key without one.
    fn judge(&self, m: &Matches) -> Result<(), Refusal> {
        let Place { dir, bundle } = Place::read(m)?;
        let others = [("checkpoint-dir", dir.is_some()), ("bundle", bundle.is_some())];
        excludes("store", self.store.is_some(), &others, "")?;
        belong_to("store", self.store.is_some(), &[("store-key", self.store_key.is_some())])
    }

    /// The store, if one is meant, and its key.
    fn open(&self) -> anyhow::Result<Option<(CheckpointStore, Vec<StoreKey>)>> {
        let Some(dir) = &self.store else { return Ok(None) };
        let keys = archive::store_key(self.store_key.as_ref())?.into_iter().collect();
        Ok(Some((CheckpointStore::open(dir)?, keys)))
    }
}

impl Run for Named {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
        if let Action::List(ListFlags { stored, format }) = &self.action
            && let Some((store, keys)) = stored.open()?
        {
            let rows: Vec<_> = store.of(&self.id, &keys)?.into_iter().map(Row::of_stored).collect();
            out::write(&listed(&rows, format.unwrap_or_default()))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Action::Verify(names, flags, restore) = &self.action {
            return self.verify(cli, &containers, (names, flags, restore.as_ref()));
        }
        let all = self.checkpoints(&containers)?;
        match &self.action {
            Action::Create(name, flags) => {
                let options = CheckpointOptions::default()
                    .criu(flags.contents.options(&cli.global))
                    .leave_running(flags.leave_running)
                    .pre_copy(flags.pre_copy.options())
                    .prove(flags.prove)
                    .sign_key(archive::signing_key(flags.sign_key.as_ref())?)
                    .accept(names(&flags.accept));
                let work = options.criu.work_path.clone();
                let made = all.create(&containers.task(&self.id)?, name, options)?;
                inspection::tell_written(&made.path, work.as_deref())?;
            }
            Action::List(flags) => {
                let described = all.names()?.into_iter().filter_map(|name| described(&all, &name));
                let rows = described.map(Row::of).collect::<Result<Vec<_>, _>>()?;
                out::write(&listed(&rows, flags.format.unwrap_or_default()))?;
            }
            Action::Inspect(name) => {
                let checkpoint = all.get(name)?;
                let mut json = serde_json::to_value(&checkpoint.config)?;
                let path = std::path::absolute(&checkpoint.path).context("the checkpoint's path")?;
                json["path"] = path.to_string_lossy().into();
                out::write(&format!("{json:#}\n"))?;
            }
            // Done above.
            Action::Verify(..) => {}
            Action::Remove(name) => all.delete(name)?,
            Action::Export(name, file, flags, SignFlags { sign_key }) => {
                let export = archive::export(file, flags.compress, &flags.encrypt_to, sign_key.as_ref())?;
                all.export(name, &*self.spec(&containers)?, &export)?;
            }
            Action::Import(name, file, flags) => {
                let made = all.import(name, &archive::import(file, &flags.identity, &flags.verify_key)?)?;
                inspection::tell_written(&made.path, None)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Named {
    fn verify(
        &self,
        cli: &Cli,
        containers: &Containers,
        (names, flags, restore): (&[CheckpointName], &VerifyFlags, Option<&Contents>),
    ) -> anyhow::Result<ExitCode> {
        let stored = flags.stored.open()?;
        let all = if stored.is_none() { Some(self.checkpoints(containers)?) } else { None };
        let names = match (flags.all, &stored, &all) {
            (true, Some((store, keys)), _) => {
                store.of(&self.id, keys)?.into_iter().map(|one| one.name).collect()
            }
            (true, None, Some(all)) => all.names()?,
            _ => names.to_vec(),
        };
        let one = |name: &CheckpointName| match (&stored, &all) {
            (Some((store, keys)), _) => store.verify_one(&self.id, name, keys),
            (None, Some(all)) => all.verify(name),
            (None, None) => Err(hiber::Error::NotFound),
        };
        let (format, mut results) = (flags.format.unwrap_or_default(), Vec::new());
        for name in names {
            let mut result = one(&name).map_err(anyhow::Error::from);
            if let (Some(contents), Some(all)) = (restore, &all)
                && result.as_ref().is_ok_and(|verification| verification.problems.is_empty())
            {
                let tried = self.try_restore(cli, containers, &all.get(&name)?, contents);
                result = tried
                    .and_then(
                        |()| if format == Format::Table { inspection::tell_tried(&self.id) } else { Ok(()) },
                    )
                    .and(result);
            }
            results.push((name, result));
        }
        inspection::verify_all(results, flags.all, format)
    }

    fn try_restore(
        &self,
        cli: &Cli,
        containers: &Containers,
        checkpoint: &Checkpoint,
        contents: &Contents,
    ) -> anyhow::Result<()> {
        let options = RestoreContainerOptions::new(self.bundle(containers)?)
            .criu(contents.options(&cli.global))
            .systemd_cgroup(cli.global.systemd_cgroup)
            .rootless(cli.global.rootless());
        Ok(containers.runtime.try_restore(&self.id, Some(checkpoint), options)?)
    }

    pub(crate) fn read(m: &Matches) -> Result<Self, Refusal> {
        let action = Action::read(m)?;
        let id = m.positionals.get(1).map(|id| id.to_string_lossy()).unwrap_or_default().parse()?;
        Ok(Self { id, place: Place::read(m)?, action })
    }

    /// Where the container's config.json is.
    fn bundle(&self, containers: &Containers) -> anyhow::Result<PathBuf> {
        if let Some(bundle) = &self.place.bundle {
            return Ok(bundle.clone());
        }
        match containers.runtime.open(&self.id) {
            Ok(container) => Ok(container.bundle()?.to_owned()),
            Err(hiber::Error::NotFound) => Ok(PathBuf::from(".")),
            Err(e) => Err(e.into()),
        }
    }

    /// The configuration of a container, as it is or as it was created.
    fn spec(&self, containers: &Containers) -> anyhow::Result<Arc<Spec>> {
        match containers.runtime.open(&self.id) {
            Ok(container) => Ok(container.spec()?),
            Err(hiber::Error::NotFound) => {
                Ok(config::load(&self.bundle(containers)?.join("config.json"))?.spec)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Those of a container that exists are below its bundle; those of one that is gone, below the given one.
    fn checkpoints(&self, containers: &Containers) -> anyhow::Result<Checkpoints> {
        let Place { dir, bundle: given } = &self.place;
        if dir.is_none() && given.is_none() {
            match containers.runtime.open(&self.id) {
                Ok(container) => return Ok(container.checkpoints()?),
                Err(hiber::Error::NotFound) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let bundle = or_here(given.as_ref());
        // Or a list would make a directory in a place that has nothing to do with the container.
        if dir.is_none() && !bundle.join("config.json").exists() {
            match given {
                Some(bundle) => bail!("--bundle {}: has no config.json", bundle.display()),
                None => bail!(
                    "container {} does not exist; if its bundle is still there, name it by --bundle",
                    self.id
                ),
            }
        }
        Ok(checkpoints_of(&self.id, dir.as_deref(), &bundle))
    }
}

/// Checkpoints in a given directory, or in the container's own below its bundle.
pub(super) fn checkpoints_of(id: &ContainerId, dir: Option<&Path>, bundle: &Path) -> Checkpoints {
    dir.map_or_else(|| Checkpoints::of_bundle(id, bundle), |dir| Checkpoints::new(id, dir))
}

/// One that has no readable config.json is logged and left out.
fn described(all: &Checkpoints, name: &CheckpointName) -> Option<Description> {
    all.describe(name).inspect_err(|e| tracing::warn!("{e}")).ok()
}
