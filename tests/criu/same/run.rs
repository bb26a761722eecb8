//! A container that has the properties of some rows, and what becomes of them.

use std::collections::BTreeMap;
use std::fs;

use super::row::{Expect, Row};
use super::rows;
use crate::failures::{finding, preflight};
use hiber_tests::prelude::*;

/// A checkpoint and a restore are done so many times in a row.
const ROUNDS: usize = 3;
/// The answer about each property: its value, or `Err` with what failed.
type Seen = BTreeMap<String, Result<String, String>>;

/// A running container whose program has the properties of these rows.
pub(super) struct Same {
    container: Container,
    flags: Vec<&'static str>,
    asked: usize,
    missing: Vec<&'static str>,
}

impl Same {
    /// # Panics
    /// If the container does not start, or a property could not be made.
    #[track_caller]
    pub(super) fn start(runtime: &Runtime, rows: &[&Row]) -> Self {
        let mut bundle = Bundle::busybox().edit(|c| {
            let names = rows.iter().map(|row| row.name);
            c["process"]["args"] = ["same"].into_iter().chain(names).collect();
            // Slow machines may take as many times as long.
            let patience = hiber_tests::patience(std::time::Duration::from_secs(1)).as_secs();
            c["process"]["env"].as_array_mut().expect("a list").push(json!(format!("PATIENCE={patience}")));
            may_do_all(c);
        });
        for change in rows.iter().filter_map(|row| row.config) {
            bundle = bundle.edit(change);
        }
        hiber_tests::programs::install("same", &bundle);
        let mut flags: Vec<_> = rows.iter().flat_map(|row| row.flags).copied().collect();
        flags.sort_unstable();
        flags.dedup();
        let container = runtime.container(bundle);
        container.run_detached().ok();
        let mut same = Self { container, flags, asked: 0, missing: Vec::new() };
        let made = same.wait_for("ready");
        let mut failed = Vec::new();
        for row in rows {
            match made.get(row.name) {
                Some(Ok(_)) => {}
                Some(Err(why)) if !row.lacking.is_empty() && why.ends_with(row.lacking) => {
                    row.leave_out(why);
                    same.missing.push(row.name);
                }
                other => failed.push((row.name, other)),
            }
        }
        assert!(failed.is_empty(), "these could not be made: {failed:?}");
        same
    }

    /// Gives `checkpoint` and `restore` these flags, too.
    #[must_use]
    pub(super) fn with_flags(mut self, flags: &[&'static str]) -> Self {
        self.flags.extend(flags);
        self
    }

    #[track_caller]
    fn wait_for(&self, name: &str) -> Seen {
        let path = self.container.bundle().rootfs().join(name);
        wait_for(&format!("the program's {name}"), || path.exists());
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.lines().map(seen).collect()
    }

    /// The present values of the properties, read from inside.
    #[track_caller]
    pub(super) fn ask(&mut self) -> Seen {
        self.asked += 1;
        let rootfs = self.container.bundle().rootfs();
        let (new, path) = (rootfs.join("ask.new"), rootfs.join("ask"));
        let written = fs::write(&new, self.asked.to_string()).and_then(|()| fs::rename(&new, &path));
        written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut seen = self.wait_for(&format!("answer-{}", self.asked));
        seen.retain(|name, _| !self.missing.contains(&name.as_str()));
        seen
    }

    pub(super) fn checkpoint(&self) -> Output {
        let _ = fs::remove_dir_all(self.container.images());
        self.container.checkpoint(&self.flags)
    }

    pub(super) fn restore(&self, more: &[&str]) -> Output {
        // of use to checkpoints alone
        let of_checkpoints = |flag: &str| flag == "--link-remap" || flag.starts_with("--accept");
        let flags: Vec<_> = self.flags.iter().copied().filter(|flag| !of_checkpoints(flag)).collect();
        self.container.restore(&[&flags[..], more].concat())
    }

    /// Has `check` found by `--check`, the checkpoint fail with `words`, and the container run on as it was.
    #[track_caller]
    fn is_refused(&mut self, row: &Row, check: &str, words: &str) {
        let name = row.name;
        let before = self.ask();
        let report = preflight(&self.container, &self.flags);
        assert_eq!(finding(&report, check).is_some(), !row.hidden, "{name}: {check} in {report:#}");
        let output = self.checkpoint();
        let told = !output.status.success() && output.stderr.contains(words);
        assert!(told, "{name}: no failure with \"{words}\": {output}");
        assert_eq!(self.container.status(), "running");
        assert_eq!(self.ask(), before, "{name}: after a checkpoint that failed");
    }
}

/// `NAME=VALUE` or `NAME!WORDS`.
#[track_caller]
fn seen(line: &str) -> (String, Result<String, String>) {
    let at = line.find(['=', '!']).unwrap_or_else(|| panic!("the program says {line:?}"));
    let rest = line[at + 1..].to_owned();
    (line[..at].to_owned(), if line[at..].starts_with('=') { Ok(rest) } else { Err(rest) })
}

/// Lets the first process do what the rows need: capabilities, devices, files of /proc/sys.
fn may_do_all(config: &mut Value) {
    let all: Value = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_ADMIN",
        "SYS_CHROOT",
        "SYS_NICE",
        "SYS_PTRACE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
    ]
    .iter()
    .map(|name| format!("CAP_{name}"))
    .collect();
    config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    config["process"]["noNewPrivileges"] = json!(false);
    config["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    // crun cannot restore containers whose directories are masked, and rows change what is below /proc/sys
    config["linux"]["maskedPaths"] = json!([]);
    config["linux"]["readonlyPaths"] = json!([]);
}

/// How this row's property, which was `before`, is not what is expected in the round.
fn fault(row: &Row, before: &Seen, after: &Seen) -> Option<String> {
    let (before, after) = (before.get(row.name)?, after.get(row.name));
    let same = Some(before) == after && before.is_ok();
    let expected = match row.expect {
        Expect::Criu | Expect::Hiber => same,
        // A failure to read it is no difference that docs could tell of.
        Expect::Differs(_) => (!same || row.sometimes) && after.is_some_and(Result::is_ok),
        Expect::Refused { .. } => false,
    };
    (!expected)
        .then(|| format!("{} ({:?})\n    before {before:?}\n    after  {after:?}", row.name, row.expect))
}

/// Runs the rows of an area: those that are refused each in a container of its own, all others together.
#[track_caller]
pub(super) fn area(name: &str) {
    let rows = rows::asked_for(name, rows::of(name));
    let (refused, saved): (Vec<&Row>, Vec<&Row>) = rows.into_iter().partition(|row| row.is_refused());
    for row in refused {
        if let Expect::Refused { check, words } = row.expect {
            let mut same = Same::start(&Runtime::hiber(), &[row]);
            if same.missing.is_empty() {
                same.is_refused(row, check, words);
            }
        }
    }
    if !saved.is_empty() {
        sleeps_and_wakes(&saved, ROUNDS, &[]);
    }
}

/// Nothing of these rows, which are saved, changes but what is expected to.
#[track_caller]
fn sleeps_and_wakes(saved: &[&Row], rounds: usize, restore: &[&str]) {
    let mut same = Same::start(&Runtime::hiber(), saved);
    let before = same.ask();
    for round in 1..=rounds {
        same.checkpoint().ok();
        same.container.assert_clean();
        same.restore(restore).ok();
        let after = same.ask();
        let faults: Vec<_> = saved.iter().filter_map(|row| fault(row, &before, &after)).collect();
        assert!(faults.is_empty(), "after round {round} of checkpoint and restore:\n{}", faults.join("\n"));
    }
}

macro_rules! areas {
    ($($area:ident)*) => {
        $(#[test]
        fn $area() {
            require!(Root, Criu, CPrograms);
            area(stringify!($area));
        })*

        #[test]
        fn every_area_has_its_test() {
            let tested = [$(stringify!($area)),*];
            let all: Vec<_> = rows::AREAS.iter().map(|(name, ..)| *name).collect();
            assert_eq!(tested.as_slice(), all);
        }
    };
}

areas! { tasks signals memory processor files sockets queues timers ipc networks mounts cgroups namespaces threads protocols descriptors calls numbers terminals registrations rarer }

/// Calls are made in the processes, and their memory is read and written, before all of it is there.
#[test]
fn memory_that_comes_later_changes_nothing() {
    require!(Root, Criu, CPrograms, Linux(5, 11));
    for area in ["tasks", "signals", "memory", "processor", "timers", "sockets"] {
        let rows = rows::asked_for(area, rows::of(area));
        // Each process gets its memory by itself, docs/checkpoint.md says.
        let is_kept = |row: &&Row| !row.is_refused() && row.name != "copy-on-write";
        let saved: Vec<&Row> = rows.into_iter().filter(is_kept).collect();
        sleeps_and_wakes(&saved, 2, &["--background"]);
    }
}

/// The same calls end as if the container had slept where it runs on.
#[test]
fn calls_that_wait_where_the_container_runs_on() {
    require!(Root, Criu, CPrograms);
    let rows = rows::of("calls").iter().collect::<Vec<_>>();
    let mut same = Same::start(&Runtime::hiber(), &rows).with_flags(&["--leave-running"]);
    let before = same.ask();
    same.checkpoint().ok();
    let after = same.ask();
    let faults: Vec<_> = rows.iter().filter_map(|row| fault(row, &before, &after)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn rows_and_the_programs_entries_are_the_same() {
    require!(CPrograms);
    let bundle = Bundle::busybox();
    hiber_tests::programs::install("same", &bundle);
    let mut list = std::process::Command::new(bundle.rootfs().join("bin/same"));
    list.arg("--list");
    let listed = hiber_tests::command::run(list, b"");
    let mut entries: Vec<_> = listed.ok().lines().map(str::to_owned).collect();
    let rows = rows::AREAS
        .iter()
        .flat_map(|(area, _, rows)| rows.iter().map(move |row| format!("{area} {}", row.name)));
    let mut rows: Vec<_> = rows.collect();
    entries.sort_unstable();
    rows.sort_unstable();
    assert_eq!(entries, rows);
    rows.sort_unstable_by_key(|row| row.split(' ').next_back().map(str::to_owned));
    let twice = rows.windows(2).find(|two| two[0].split(' ').next_back() == two[1].split(' ').next_back());
    assert_eq!(twice, None, "a name stands for one property");
}
