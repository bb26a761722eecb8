//! `checkpoints`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use hiber::archive::Compression;
use hiber::id::ContainerId;
use hiber::{CheckpointConfig, CheckpointName, CheckpointOptions, Checkpoints, RestoreContainerOptions};
use hiber_sandbox::config;
use oci_spec::runtime::Spec;

use crate::containers::Containers;
use crate::flags::archive::{self, COMPRESS, ENCRYPT_TO, IDENTITY, KeyFile, Recipient, SIGN_KEY, VERIFY_KEY};
use crate::flags::criu::{ACCEPT, CHECKPOINT_DIR, Contents, Names, PreCopyFlags, names};
use crate::flags::process::{FORMAT, or_here};
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::line::refusal::Refusal;
use crate::line::scan::Matches;
use crate::line::shape::{Argument, Entry};
use crate::line::value::Format;
use crate::output::table::table;
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
    pub(crate) struct ListFlags {
        format: Option<Format> = FORMAT,
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
        prove: bool = PROVE,
    }
}

pub(crate) const COMMAND: Command = Command::new(
    "checkpoints",
    "create <container-id> <name>  or  ls <container-id>  or  inspect|verify|rm <container-id> <name>  or  \
     export|import <container-id> <name> <file>",
    "keep checkpoints of a container by name",
    |m| Ok(Box::new(Named::read(m)?)),
)
.description(
    "`checkpoint` (without s) is runc's command: it writes to any directory. This one keeps checkpoints\n\
     by name in a directory of the container's, as Docker and containerd do: create makes one, ls\n\
     shows them, inspect shows how one was made, verify compares its files with its manifest (and with --prove\n\
     restores it on trial), rm removes it, export writes it into an archive (a file, or - for standard output),\n\
     and import keeps one that came in an archive (a file, or - for standard input). `restore --checkpoint NAME` starts the container from one.\n\n\
     A name is [a-zA-Z0-9][a-zA-Z0-9_.-]+ and is given once. config.json beside the images says when and\n\
     with which options a checkpoint was made. A failed create leaves nothing.",
)
.examples(&[
    ("checkpoints create --leave-running web monday", "keep the present state of web"),
    ("checkpoints ls web", "list the checkpoints of web"),
    ("checkpoints export web monday /var/tmp/web.tar.zst", "take one of them elsewhere"),
])
.flags(&[
    Entry::Group(Place::TABLE),
    Entry::Group(ListFlags::TABLE),
    Entry::Group(CreateFlags::TABLE),
    Entry::Group(ExportFlags::TABLE),
    Entry::Group(ImportFlags::TABLE),
])
.takes(
    Count::Between(2, 4),
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
    /// With the flags of the restore, if it is to be tried.
    Verify(CheckpointName, VerifyFlags, Option<Contents>),
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
        if let (Some(more), false) = (word(3), matches!(&*action, "export" | "import")) {
            return Err(Refusal::form(format!("checkpoints {action}: takes no file, and {more:?} is given")));
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
                Ok(Self::List(ListFlags::read(m)?))
            }
            "inspect" => only(&[]).and_then(|()| Ok(Self::Inspect(name()?))),
            "verify" => {
                let flags = VerifyFlags::read(m)?;
                let trial = if flags.prove { Contents::TABLE } else { &[] };
                m.only(&[Place::TABLE, VerifyFlags::TABLE, trial])?;
                let restore = flags.prove.then(|| Contents::read(m)).transpose()?;
                Ok(Self::Verify(name()?, flags, restore))
            }
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
}

impl Run for Named {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let containers = Containers::new(cli)?;
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
                let configs: Vec<_> = all.names()?.iter().filter_map(|name| described(&all, name)).collect();
                out::write(&listed(&configs, flags.format.unwrap_or_default())?)?;
            }
            Action::Inspect(name) => {
                let checkpoint = all.get(name)?;
                let mut json = serde_json::to_value(&checkpoint.config)?;
                let path = std::path::absolute(&checkpoint.path).context("the checkpoint's path")?;
                json["path"] = path.to_string_lossy().into();
                out::write(&format!("{json:#}\n"))?;
            }
            Action::Verify(name, flags, restore) => {
                let checkpoint = all.get(name)?;
                let verification = hiber::verify(&checkpoint.path)?;
                let verified = inspection::verify(&verification, flags.format.unwrap_or_default())?;
                let Some(contents) = restore.as_ref().filter(|_| verified == ExitCode::SUCCESS) else {
                    return Ok(verified);
                };
                let options = RestoreContainerOptions::new(self.bundle(&containers)?)
                    .criu(contents.options(&cli.global))
                    .systemd_cgroup(cli.global.systemd_cgroup)
                    .rootless(cli.global.rootless());
                containers.runtime.try_restore(&self.id, Some(&checkpoint), options)?;
                if flags.format.unwrap_or_default() == Format::Table {
                    inspection::tell_tried(&self.id)?;
                }
            }
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
fn described(all: &Checkpoints, name: &hiber::CheckpointName) -> Option<CheckpointConfig> {
    all.get(name).map(|checkpoint| checkpoint.config).inspect_err(|e| tracing::warn!("{e}")).ok()
}

/// The output of `checkpoints ls`.
///
/// # Errors
/// None in practice: names and options are text.
fn listed(all: &[CheckpointConfig], format: Format) -> serde_json::Result<String> {
    match format {
        Format::Json => serde_json::to_string(all).map(|json| json + "\n"),
        Format::Table => {
            let header = ["NAME", "CREATED", "EXIT"].map(str::to_owned);
            let rows = all.iter().map(|c| [c.name.to_string(), c.created.clone(), c.exit.to_string()]);
            Ok(table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
        }
    }
}
