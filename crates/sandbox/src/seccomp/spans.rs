//! The outcome for each call number of an architecture, as spans of equal outcomes.

use oci_spec::runtime::Arch;

use super::arch::{Abi, X32_BIT};
use super::decision::{Graph, Id};
use super::rules::{Rule, Rules};
use crate::{Error, Result};

const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The most comparisons on one call's way; it is walked recursively.
const MAX_TESTS: usize = 2048;

/// The outcome for calls from a number on, up to the next span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// First number.
    pub(super) from: u32,
    pub(super) outcome: Id,
}

/// The spans of each `AUDIT_ARCH_*`, from number 0 on, in the order of `abis`.
pub(super) fn sections(abis: &[&Abi], rules: &Rules<'_>, graph: &mut Graph) -> Result<Vec<(u32, Vec<Span>)>> {
    let x32 = match abis.iter().find(|abi| abi.arch == Arch::ScmpArchX32) {
        Some(abi) => Some(Table::new(abi, rules, graph)?),
        None => None,
    };
    let mut sections = Vec::new();
    for abi in abis.iter().filter(|abi| abi.arch != Arch::ScmpArchX32) {
        let mut table = Table::new(abi, rules, graph)?;
        if abi.arch == Arch::ScmpArchX86_64 {
            table.above(x32.as_ref(), graph.action(libc::SECCOMP_RET_KILL_THREAD));
        }
        sections.push((abi.audit, table.spans));
    }
    Ok(sections)
}

/// The spans of one architecture.
struct Table {
    spans: Vec<Span>,
    default: Id,
    /// The outcome for calls newer than the profile, if it is not the default.
    newer: Option<Id>,
}

impl Table {
    fn new(abi: &Abi, rules: &Rules<'_>, graph: &mut Graph) -> Result<Self> {
        let numbered = rules.for_abi(abi);
        let default = graph.action(rules.default);
        let first = if abi.arch == Arch::ScmpArchX32 { X32_BIT } else { 0 };
        let spans = vec![Span { from: first, outcome: default }];
        let mut table = Self { spans, default, newer: None };
        for (number, rules_of_call) in numbered.calls {
            let outcome = outcome(&rules_of_call, rules.default, abi, graph)?;
            table.from(number, outcome);
            table.from(number + 1, default);
        }
        if let Some(largest) = numbered.largest.filter(|_| rules.enosys) {
            let enosys = graph.action(ENOSYS);
            table.newer = Some(enosys);
            table.from(largest + 1, enosys);
        }
        Ok(table)
    }

    /// Lets `outcome` be that of all numbers from `from` on.
    fn from(&mut self, from: u32, outcome: Id) {
        while self.spans.last().is_some_and(|s| s.from >= from) {
            self.spans.pop();
        }
        if self.spans.last().is_none_or(|s| s.outcome != outcome) {
            self.spans.push(Span { from, outcome });
        }
    }

    /// Completes x86_64's table with x32's, which share an `AUDIT_ARCH`. Numbers with the x32
    /// bit are x32's; all others that are too large are newer than the profile.
    fn above(&mut self, x32: Option<&Self>, kill: Id) {
        const SIGN: u32 = 1 << 31;
        match x32 {
            Some(x32) => {
                x32.spans.iter().for_each(|s| self.from(s.from, s.outcome));
                self.from(SIGN, self.newer.unwrap_or(self.default));
                self.from(SIGN | X32_BIT, x32.newer.unwrap_or(self.default));
            }
            None => {
                self.from(X32_BIT, kill);
                self.from(SIGN, self.newer.unwrap_or(kill));
                self.from(SIGN | X32_BIT, kill);
                // a tracer skips a call by setting its number to -1 (seccomp(2))
                self.from(u32::MAX, self.default);
            }
        }
    }
}

/// The outcome for a call with these rules.
fn outcome(rules: &[Rule], default: u32, abi: &Abi, graph: &mut Graph) -> Result<Id> {
    if let Some(rule) = rules.iter().find(|r| r.conds.is_empty()) {
        return Ok(graph.action(rule.action));
    }
    let field = |r: &Rule| format!("linux.seccomp.syscalls[{}]", r.entry);
    // each rule takes a comparison at least
    if rules.len() <= MAX_TESTS {
        for (i, rule) in rules.iter().enumerate() {
            if let Some(other) = rules[..i].iter().find(|o| o.conflicts(rule)) {
                return Err(Error::invalid(
                    field(rule),
                    // as it sees them: without upper halves, or carried by socketcall
                    format!(
                        "another action than that of {} for what are equal conditions on {}",
                        field(other),
                        abi.arch
                    ),
                ));
            }
        }
        let id = graph.decide(rules, default, abi.wide);
        if graph.depth(id) <= MAX_TESTS {
            return Ok(id);
        }
    }
    Err(Error::invalid(
        rules.last().map_or_else(|| "linux.seccomp.syscalls".into(), field),
        format!("expected at most {MAX_TESTS} comparisons for one system call"),
    ))
}
