//! The outcomes of the same rows with runc and crun and the same CRIU: the columns of the table.

use super::row::{Peer, Row};
use super::rows;
use super::run::Same;
use hiber_tests::prelude::*;
use hiber_tests::require::Need;

/// The places of the columns.
const RUNC: usize = 0;
const CRUN: usize = 1;

/// The outcomes of these rows in one container, or the error with which its checkpoint or restore fails; none for what
/// this machine cannot have.
#[track_caller]
fn together(runtime: &Runtime, flags: &[&'static str], rows: &[&Row]) -> Result<Vec<Option<Peer>>, String> {
    let mut same = Same::start(runtime, rows).with_flags(flags);
    let before = same.ask();
    for step in [Same::checkpoint, |same: &Same| same.restore(&[])] {
        let output = step(&same);
        if !output.status.success() {
            return Err(output.stderr);
        }
    }
    let after = same.ask();
    let outcome = |row: &&Row| {
        let before = before.get(row.name)?;
        Some(if Some(before) == after.get(row.name) { Peer::Kept } else { Peer::Lost })
    };
    Ok(rows.iter().map(outcome).collect())
}

/// As [`together`]; where one row spoils it for others, it is found by halves. Its outcome stands with its error.
#[track_caller]
fn each(runtime: &Runtime, flags: &[&'static str], rows: &[&Row]) -> Vec<(Option<Peer>, String)> {
    match together(runtime, flags, rows) {
        Ok(all) => all.into_iter().map(|does| (does, String::new())).collect(),
        Err(error) if rows.len() == 1 => vec![(Some(Peer::Fails), error)],
        Err(_) => {
            let (left, right) = rows.split_at(rows.len() / 2);
            [each(runtime, flags, left), each(runtime, flags, right)].concat()
        }
    }
}

/// Whether a runtime can start the row's container on this machine; says so where it cannot. Where cgroup v1 and v2 both have
/// controllers, crun looks for all of them in v2, and starts nothing that is to be limited by one; runc sees v2 alone there, which
/// has few.
fn starts(row: &Row) -> bool {
    let limited = row.needs.iter().any(|need| matches!(need, Need::Controller(_)));
    let starts = !limited || !hiber_tests::cgroup::is_mixed();
    if !starts {
        row.leave_out("runc and crun need the controller in cgroup v2, or v1 alone");
    }
    starts
}

/// Checks the column of one runtime, the first or the second one; its checkpoints and restores are given `flags`.
#[track_caller]
fn column(runtime: &Runtime, index: usize, flags: &[&'static str]) {
    let mut wrong = Vec::new();
    for (area, _, all) in rows::AREAS {
        let mut rows = rows::asked_for(area, all);
        rows.retain(|row| starts(row));
        let (refused, saved): (Vec<&Row>, Vec<&Row>) = rows.into_iter().partition(|row| row.is_refused());
        let alone = refused.chunks(1).chain((!saved.is_empty()).then_some(saved.as_slice()));
        let outcomes: Vec<_> = alone.flat_map(|rows| each(runtime, flags, rows)).collect();
        let rows = refused.iter().chain(&saved);
        for (row, (does, error)) in rows.zip(outcomes) {
            let expected = row.peers_do()[index];
            if does.is_some_and(|does| does != expected) {
                wrong.push(format!("{}: {does:?}, not {expected:?} {error}", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Both see cgroup v2 alone: on a host whose v1 and v2 cgroups both have controllers, crun refuses to work, and runc's CRIU
/// waits for ever for a process that is stopped. It still sees the v1 hierarchies, and cannot restore what nobody has made
/// there.
fn flags() -> &'static [&'static str] {
    if hiber_tests::cgroup::is_mixed() { &["--manage-cgroups-mode", "ignore"] } else { &[] }
}

#[test]
#[ignore = "takes minutes; hack/test --all has it"]
fn runc_does_what_the_table_says() {
    require!(Root, Criu, CPrograms, Runc);
    let runc = if hiber_tests::cgroup::is_mixed() { Runtime::runc_on_v2() } else { Runtime::runc() };
    column(&runc, RUNC, flags());
}

#[test]
#[ignore = "takes minutes; hack/test --all has it"]
fn crun_does_what_the_table_says() {
    require!(Root, Criu, CPrograms, Crun);
    column(&Runtime::crun(), CRUN, flags());
}
