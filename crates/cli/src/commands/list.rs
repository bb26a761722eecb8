//! `list`

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::process::ExitCode;

use hiber::id::ContainerId;
use hiber::{Facts, Runtime, Status};

use crate::containers::Containers;
use crate::flags::process::FORMAT;
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, flags};
use crate::line::value::Format;
use crate::output::out;
use crate::output::state::{ContainerState, describe, shown_pid};
use crate::output::table::table;

/// From how many containers on two threads list them: starting one takes as long as asking for a few.
const MANY: usize = 32;

flags! {
    struct ListFlags {
        format: Option<Format> = FORMAT,
        quiet: bool = Flag::switch("quiet", "ids only").short("q"),
    }
}

pub(crate) const COMMAND: Command = Command::new("list", "", "list the containers below --root", |m| {
    Ok(Box::new(ListCommand { flags: ListFlags::read(m)? }))
})
.examples(&[
    ("list", "list the containers below the default --root"),
    ("--root /run/other list --quiet", "list the ids of those below another"),
])
.flags(ListFlags::TABLE);

#[derive(Debug)]
struct ListCommand {
    flags: ListFlags,
}

impl Run for ListCommand {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let runtime = Containers::asking(cli, true)?.runtime;
        let ids = runtime.ids()?;
        // Asking the kernel is what takes time, and many can be asked for at once.
        let alone = self.flags.quiet || ids.len() < MANY;
        let (first, second) = ids.split_at(if alone { ids.len() } else { ids.len() / 2 });
        let list = std::thread::scope(|scope| {
            let list = || self.list_of(&runtime, second);
            let thread = match second {
                [] => None,
                _ => std::thread::Builder::new().spawn_scoped(scope, list).ok(),
            };
            let mut all = self.list_of(&runtime, first);
            match thread {
                Some(thread) => {
                    all.append(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                }
                None if second.is_empty() => {}
                // There may be no more threads: then one does it all.
                None => all.append(list()),
            }
            all
        });
        out::write(&list.finish()?)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl ListCommand {
    fn list_of(&self, runtime: &Runtime, ids: &[ContainerId]) -> List {
        let mut list = List::new(&self.flags);
        let mut names = BTreeMap::new();
        for (id, info) in runtime.infos(ids) {
            let added = info.map_err(anyhow::Error::from).and_then(|info| {
                let mut owner = || {
                    let uid = info.owner();
                    names.entry(uid).or_insert_with(|| user_name(uid)).clone()
                };
                match &mut list {
                    List::Ids(ids) => ids.push(info.facts().id.clone()),
                    List::Table(rows) => {
                        let (status, owner) = (info.status()?, owner());
                        rows.push((info.into_facts(), status, owner));
                    }
                    List::Json(all) => all.push(describe(&info, owner())?),
                }
                Ok(())
            });
            match added {
                Ok(()) => {}
                // Deleted meanwhile, or its creation was interrupted: not what was asked for.
                Err(e) if matches!(e.downcast_ref(), Some(hiber::Error::NotFound)) => {
                    tracing::debug!("load container {id}: {e:#}");
                }
                Err(e) => tracing::warn!("load container {id}: {e:#} (delete --force removes it)"),
            }
        }
        list
    }
}

/// The output of `list`, as it comes together.
enum List {
    /// `--quiet`
    Ids(Vec<String>),
    /// With the owner's name. Cells are made at the end: threads that make a list together wait for each other's allocations.
    Table(Vec<(Facts, Status, String)>),
    Json(Vec<ContainerState>),
}

impl List {
    fn new(flags: &ListFlags) -> Self {
        match flags.format.unwrap_or_default() {
            _ if flags.quiet => Self::Ids(Vec::new()),
            Format::Json => Self::Json(Vec::new()),
            Format::Table => Self::Table(Vec::new()),
        }
    }

    /// Adds what another list of that kind has.
    fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Ids(all), Self::Ids(more)) => all.extend(more),
            (Self::Table(all), Self::Table(more)) => all.extend(more),
            (Self::Json(all), Self::Json(more)) => all.extend(more),
            _ => {}
        }
    }

    /// The text.
    ///
    /// # Errors
    /// If a path is not valid UTF-8 (json only).
    fn finish(self) -> serde_json::Result<String> {
        match self {
            Self::Ids(ids) => Ok(ids.into_iter().map(|id| id + "\n").collect()),
            Self::Table(all) => {
                let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(Cow::Borrowed);
                let rows = all.iter().map(|(facts, status, owner)| row(facts, *status, owner));
                Ok(table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
            }
            Self::Json(all) => serde_json::to_string(&all).map(|json| json + "\n"),
        }
    }
}

/// A container's line in the table.
fn row<'a>(facts: &'a Facts, status: Status, owner: &'a str) -> [Cow<'a, str>; 6] {
    [
        facts.id.as_str().into(),
        shown_pid(facts, status).to_string().into(),
        status.as_str().into(),
        facts.bundle.to_string_lossy(),
        humantime::format_rfc3339_nanos(facts.created).to_string().into(),
        owner.into(),
    ]
}

fn user_name(uid: u32) -> String {
    let local = std::fs::read("/etc/passwd").ok().and_then(|text| {
        String::from_utf8_lossy(&text).lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    });
    // Whom that does not know a directory service may.
    let remote = || nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    local.or_else(|| Some(remote()?.name)).unwrap_or_else(|| format!("#{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::state::example;

    fn facts(id: &str) -> Facts {
        let shown = example(id, &[]);
        Facts {
            version: 1,
            id: shown.id,
            pid: shown.pid,
            start_time: 0,
            pidfd_inode: None,
            bundle: shown.bundle,
            rootfs: shown.rootfs,
            created: shown.created,
            cgroup: Default::default(),
            resctrl: Default::default(),
            put_root: false,
            host_root: None,
            namespaces: Vec::new(),
            streams: Vec::new(),
            keyring: None,
        }
    }

    #[test]
    fn tables_line_up() {
        let flags = ListFlags { format: None, quiet: false };
        let table = |rows: &[(&str, Status)]| {
            let row = |(id, status): &(&str, Status)| (facts(id), *status, "root".into());
            let mut list = List::new(&flags);
            rows.iter().for_each(|cells| list.append(List::Table(vec![row(cells)])));
            list.finish().unwrap()
        };
        assert_eq!(
            table(&[("a", Status::Running), ("a-long-name", Status::Stopped)]),
            "ID            PID         STATUS      BUNDLE               CREATED                          OWNER\n\
             a             4321        running     /srv/a/long/bundle   2026-01-02T03:04:05.000060007Z   root\n\
             a-long-name   0           stopped     /srv/a/long/bundle   2026-01-02T03:04:05.000060007Z   root\n"
        );
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn quiet_is_stronger_than_a_format() {
        let flags = ListFlags { format: Some(Format::Json), quiet: true };
        let mut list = List::new(&flags);
        list.append(List::Ids(vec!["a".into(), "b".into()]));
        assert_eq!(list.finish().unwrap(), "a\nb\n");
    }

    #[test]
    fn json_keeps_the_order_of_runc() {
        assert_eq!(
            List::Json(vec![example("a", &[("k", "v")])]).finish().unwrap(),
            "[{\"ociVersion\":\"1.3.0\",\"id\":\"a\",\"pid\":4321,\"status\":\"running\",\
             \"bundle\":\"/srv/a/long/bundle\",\"rootfs\":\"/srv/a/long/bundle/rootfs\",\
             \"created\":\"2026-01-02T03:04:05.000060007Z\",\"annotations\":{\"k\":\"v\"},\"owner\":\"root\"}]\n"
        );
        assert_eq!(List::Json(Vec::new()).finish().unwrap(), "[]\n");
    }
}
