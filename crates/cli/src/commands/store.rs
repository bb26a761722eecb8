//! `store`

use std::path::PathBuf;
use std::process::ExitCode;

use hiber::CheckpointName;
use hiber::id::ContainerId;
use hiber::store::{CheckpointStore, Collected, KeyId, Listed, StoreKey};
use serde_json::json;

use crate::flags::archive::{self, KeyFile, STORE_KEY};
use crate::flags::process::FORMAT;
use crate::line::command::{Cli, Command, Count, Run};
use crate::line::flag::{Flags, flags};
use crate::line::refusal::Refusal;
use crate::line::scan::Matches;
use crate::line::shape::Argument;
use crate::line::value::Format;
use crate::output::inspection::bytes;
use crate::output::out;
use crate::output::table::table;

flags! {
    pub(crate) struct StoreFlags {
        store_key: Option<KeyFile> = STORE_KEY,
        format: Option<Format> = FORMAT,
    }
}

pub(crate) const COMMAND: Command = Command::new(
    "store",
    "ls|verify|gc <directory>  or  rm <directory> <container-id> <name>",
    "look after a store of checkpoints",
    |m| Ok(Box::new(Store::read(m)?)),
)
.description(
    "`checkpoint --store` writes into a store and `restore --store` reads from it: a directory in which checkpoints share\n\
     what they have in common, page by page. ls shows the checkpoints with their sizes and what each has added, rm removes\n\
     one, gc frees what no checkpoint needs any more, and verify reads all pages and compares them with their hashes\n\
     (the exit status is 1 if a checkpoint is damaged). What is sealed by a key needs that key, but for rm.",
)
.examples(&[
    ("store ls /var/tmp/store", "list the checkpoints in a store"),
    ("store rm /var/tmp/store web 2026-12-01T10.00.00.000Z", "remove one of them"),
    ("store gc /var/tmp/store", "free the room that it had for itself"),
])
.flags(StoreFlags::TABLE)
.takes(
    Count::Between(2, 4),
    &[Argument::Words(&["ls", "verify", "gc", "rm"]), Argument::Directory, Argument::Container, Argument::Other],
);

/// A store, and what is done with it.
#[derive(Debug)]
struct Store {
    dir: PathBuf,
    flags: StoreFlags,
    action: Action,
}

#[derive(Debug)]
enum Action {
    List,
    Verify,
    Collect,
    Remove(ContainerId, CheckpointName),
}

impl Store {
    fn read(m: &Matches) -> Result<Self, Refusal> {
        let word = |n: usize| m.positionals.get(n).map(|word| word.to_string_lossy());
        let action = word(0).unwrap_or_default();
        let alone = |is: Action| match word(2) {
            None => Ok(is),
            Some(_) => Err(Refusal::form(format!("store {action}: takes a directory and nothing else"))),
        };
        let action = match &*action {
            "ls" | "list" => alone(Action::List)?,
            "verify" => alone(Action::Verify)?,
            "gc" => alone(Action::Collect)?,
            "rm" => match (word(2), word(3)) {
                (Some(id), Some(name)) => Action::Remove(id.parse()?, name.parse()?),
                _ => {
                    return Err(Refusal::form(
                        "store rm: takes a directory, a container's id, and a name".to_owned(),
                    ));
                }
            },
            other => return Err(Refusal::form(format!("store {other:?}: expected ls, verify, gc or rm"))),
        };
        let dir = m.positionals.get(1).map(PathBuf::from).unwrap_or_default();
        Ok(Self { dir, flags: StoreFlags::read(m)?, action })
    }
}

impl Run for Store {
    fn run(&self, _: &Cli) -> anyhow::Result<ExitCode> {
        let store = CheckpointStore::open(&self.dir)?;
        let keys: Vec<StoreKey> = archive::store_key(self.flags.store_key.as_ref())?.into_iter().collect();
        let format = self.flags.format.unwrap_or_default();
        match &self.action {
            Action::List => out::write(&listed(&store.list(&keys)?, format))?,
            Action::Remove(id, name) => store.remove(id, name)?,
            Action::Collect => out::write(&collected(&store.gc(&keys)?, format))?,
            Action::Verify => {
                let (problems, unknown) = store.verify(&keys)?;
                let lines = problems.iter().map(|p| format!("{} {}: {}\n", p.owner, p.name, p.why));
                let json = || {
                    let problem = |p: &hiber::store::Problem| json!({"container": p.owner, "name": p.name, "problem": p.why});
                    let (problems, unknown): (Vec<_>, _) =
                        (problems.iter().map(problem).collect(), ids(&unknown));
                    json!({"problems": problems, "sealedByOtherKeys": unknown}).to_string() + "\n"
                };
                out::write(&match format {
                    Format::Json => json(),
                    Format::Table => lines.collect::<String>() + &others(&unknown),
                })?;
                return Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn ids(keys: &[KeyId]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

/// Says that checkpoints were left out.
fn others(unknown: &[KeyId]) -> String {
    match unknown {
        [] => String::new(),
        some => format!(
            "not looked at: checkpoints that are sealed by {}; --store-key opens them\n",
            ids(some).join(", ")
        ),
    }
}

fn listed(all: &[Listed], format: Format) -> String {
    let sealed = |one: &Listed| (!one.key.is_none()).then(|| one.key.to_string());
    match format {
        Format::Json => {
            let entry = |one: &Listed| {
                let head = one.head.as_ref();
                json!({
                    "container": one.owner,
                    "name": one.name,
                    "created": head.map(|head| &head.created),
                    "size": head.map(hiber::store::Head::size),
                    "added": head.map(|head| head.added),
                    "sealedBy": sealed(one),
                })
            };
            serde_json::Value::from(all.iter().map(entry).collect::<Vec<_>>()).to_string() + "\n"
        }
        Format::Table => {
            let header = ["CONTAINER", "NAME", "CREATED", "SIZE", "ADDED", "SEALED BY"].map(str::to_owned);
            let row = |one: &Listed| {
                let head = one.head.as_ref();
                let text = |what: Option<String>| what.unwrap_or_else(|| "-".into());
                let size = text(head.map(|head| bytes(head.size())));
                let (created, added) =
                    (text(head.map(|h| h.created.clone())), text(head.map(|h| bytes(h.added))));
                [one.owner.clone(), one.name.clone(), created, size, added, text(sealed(one))]
            };
            table(&std::iter::once(header).chain(all.iter().map(row)).collect::<Vec<_>>())
        }
    }
}

fn collected(done: &Collected, format: Format) -> String {
    let unknown: Vec<KeyId> = done.unknown.iter().copied().collect();
    match format {
        Format::Json => {
            let (removed, rewritten, unknown) = (done.removed, done.rewritten, ids(&unknown));
            json!({"freed": done.freed, "removed": removed, "rewritten": rewritten, "sealedByOtherKeys": unknown})
                .to_string()
                + "\n"
        }
        Format::Table => format!("freed {}\n{}", bytes(done.freed), others(&unknown)),
    }
}
