//! From a profile to rules: validation, and the meaning of each field.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::arch::{self, Abi};
use crate::{Error, Result};

/// One condition on an argument; masks and values are already those of libseccomp:
/// bits of the value outside the mask do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cond {
    /// 0 to 5.
    pub(super) arg: u32,
    pub(super) op: LinuxSeccompOperator,
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// An action (`SECCOMP_RET_*` with its data) for a call that meets all conditions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Rule {
    pub(super) action: u32,
    pub(super) conds: Vec<Cond>,
    /// Index in `linux.seccomp.syscalls`, for messages.
    pub(super) entry: usize,
}

/// A profile, understood.
pub(super) struct Rules<'p> {
    /// What a call without a rule gets.
    pub(super) default: u32,
    /// Each named call; rules that only repeat the default are left out, as in runc, so a list
    /// may be empty.
    pub(super) by_name: HashMap<&'p str, Vec<Rule>>,
    /// Whether a rule wants the listener.
    pub(super) notify: bool,
    /// Whether calls newer than the profile get ENOSYS.
    pub(super) enosys: bool,
}

impl<'p> Rules<'p> {
    /// Reads and checks a profile.
    pub(super) fn read(profile: &'p LinuxSeccomp) -> Result<Self> {
        use LinuxSeccompAction::{ScmpActAllow, ScmpActLog, ScmpActNotify, ScmpActTrace};
        let action = profile.default_action();
        if action == ScmpActNotify {
            return Err(Error::invalid(
                "linux.seccomp.defaultAction",
                "SCMP_ACT_NOTIFY: the container could not even hand its listener over; expected any other action",
            ));
        }
        let default = action_value(action, profile.default_errno_ret(), "linux.seccomp.defaultErrnoRet")?;
        let mut rules = Self {
            default,
            by_name: HashMap::new(),
            notify: false,
            // A permissive default has nothing to hide, and a tracer answers for itself.
            enosys: !matches!(action, ScmpActAllow | ScmpActLog | ScmpActTrace),
        };
        for (i, entry) in profile.syscalls().iter().flatten().enumerate() {
            rules.add(i, entry)?;
        }
        Ok(rules)
    }

    fn add(&mut self, i: usize, entry: &'p LinuxSyscall) -> Result<()> {
        let field = format!("linux.seccomp.syscalls[{i}]");
        let action = action_value(entry.action(), entry.errno_ret(), &format!("{field}.errnoRet"))?;
        let notify = entry.action() == LinuxSeccompAction::ScmpActNotify;
        let conds = entry
            .args()
            .iter()
            .flatten()
            .enumerate()
            .map(|(j, arg)| cond(arg, &format!("{field}.args[{j}]")))
            .collect::<Result<Vec<_>>>()?;
        for (j, name) in entry.names().iter().enumerate() {
            if name.is_empty() {
                return Err(Error::invalid(
                    format!("{field}.names[{j}]"),
                    "empty; expected the name of a system call",
                ));
            }
            if notify && name == "write" {
                return Err(Error::invalid(
                    format!("{field}.names[{j}]"),
                    "SCMP_ACT_NOTIFY on write: the container could not hand its listener over",
                ));
            }
            self.notify |= notify;
            let rules = self.by_name.entry(name).or_default();
            if action != self.default {
                rules.extend(alternatives(&conds).map(|conds| Rule { action, conds, entry: i }));
            }
        }
        Ok(())
    }

    /// The rules of each numbered call of `abi`, and the largest number that the profile names.
    pub(super) fn for_abi(&self, abi: &Abi) -> (HashMap<u32, Vec<Rule>>, Option<u32>) {
        let mut numbered: HashMap<u32, Vec<Rule>> = HashMap::new();
        let mut largest = None;
        let mut carriers = HashMap::new();
        for (number, name) in abi.calls() {
            if abi.multiplexed && matches!(name, "socketcall" | "ipc") {
                carriers.insert(name, number);
            }
            let Some(rules) = self.by_name.get(name) else { continue };
            // libseccomp gives carried calls no number of their own, and runc looks there.
            if !(abi.multiplexed && arch::carrier(name).is_some()) {
                largest = largest.max(Some(number));
            }
            if !rules.is_empty() {
                let rules = rules.iter().map(|r| r.narrowed(abi.wide)).collect();
                numbered.insert(number, rules);
            }
        }
        if abi.multiplexed {
            for (name, rules) in &self.by_name {
                let Some((carrier, call)) = arch::carrier(name) else { continue };
                let Some(number) = carriers.get(carrier) else { continue };
                let carried = rules.iter().map(|r| r.narrowed(abi.wide).carried(call));
                numbered.entry(*number).or_default().extend(carried);
            }
            // by_name has no order of its own
            for number in carriers.values() {
                if let Some(rules) = numbered.get_mut(number) {
                    rules.sort_by_key(|r| r.entry);
                }
            }
        }
        // runc takes a largest number of 0 for "none found"
        (numbered, largest.filter(|n| *n != 0))
    }

    /// The names that no architecture of `family` knows, in alphabetical order.
    pub(super) fn unknown(&self, family: &[&Abi]) -> Vec<&'p str> {
        let mut unknown: HashMap<&str, ()> = self.by_name.keys().map(|n| (*n, ())).collect();
        for abi in family {
            for (_, name) in abi.calls() {
                unknown.remove(name);
            }
        }
        let multiplexed = family.iter().any(|abi| abi.multiplexed);
        let mut names: Vec<_> = self
            .by_name
            .keys()
            .copied()
            .filter(|n| unknown.contains_key(n) && !(multiplexed && arch::carrier(n).is_some()))
            .collect();
        names.sort_unstable();
        names
    }
}

impl Rule {
    /// The rule as an architecture sees it: 32-bit ones look at the lower half of a value only;
    /// conditions that are always met go away.
    fn narrowed(&self, wide: bool) -> Self {
        let bits = if wide { u64::MAX } else { u64::from(u32::MAX) };
        let conds = self
            .conds
            .iter()
            .map(|c| Cond { mask: c.mask & bits, value: c.value & c.mask & bits, ..*c })
            .filter(|c| c.op != LinuxSeccompOperator::ScmpCmpMaskedEq || c.mask != 0)
            .collect();
        Self { conds, ..*self }
    }

    /// Whether the two want different actions on equal conditions, in any order.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        self.action != other.action
            && self.conds.len() == other.conds.len()
            && self.conds.iter().all(|c| other.conds.contains(c))
    }

    /// The rule on the call that carries this one. The carrier's first argument says which call
    /// it carries, so a condition on the first argument is lost; the others are in the caller's
    /// memory, where a filter cannot look, and are compared with the carrier's own arguments.
    /// That is what libseccomp does, too.
    fn carried(mut self, call: u32) -> Self {
        self.conds.retain(|c| c.arg != 0);
        let call = Cond {
            arg: 0,
            op: LinuxSeccompOperator::ScmpCmpEq,
            mask: u64::from(u32::MAX),
            value: u64::from(call),
        };
        self.conds.insert(0, call);
        self
    }
}

/// What the filter returns for an action (seccomp(2), "SECCOMP_RET_*").
fn action_value(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<u32> {
    use LinuxSeccompAction::{ScmpActErrno, ScmpActTrace};
    let takes_errno = matches!(action, ScmpActErrno | ScmpActTrace);
    match errno {
        Some(errno) if !takes_errno => {
            Err(Error::invalid(field, format!("{errno}: {action} takes no errno")))
        }
        Some(errno) if errno > u32::from(u16::MAX) => {
            Err(Error::invalid(field, format!("{errno}: expected an errno of at most 65535")))
        }
        _ => Ok(action.as_u32(errno)),
    }
}

fn cond(arg: &LinuxSeccompArg, field: &str) -> Result<Cond> {
    let index = match u32::try_from(arg.index()) {
        Ok(index) if index < 6 => index,
        _ => {
            return Err(Error::invalid(
                format!("{field}.index"),
                format!("{}: expected 0 to 5", arg.index()),
            ));
        }
    };
    let op = arg.op();
    let (mask, value) = if op == LinuxSeccompOperator::ScmpCmpMaskedEq {
        (arg.value(), arg.value_two().unwrap_or(0))
    } else {
        (u64::MAX, arg.value())
    };
    Ok(Cond { arg: index, op, mask, value })
}

/// All conditions must be met, unless two are on the same argument: then each alone suffices.
/// runc and Docker have always read profiles so.
fn alternatives(conds: &[Cond]) -> impl Iterator<Item = Vec<Cond>> + '_ {
    let mut counts = [0; 6];
    for c in conds {
        counts[c.arg as usize] += 1;
    }
    let split = counts.iter().any(|n| *n > 1);
    let whole = (!split).then(|| conds.to_vec());
    let single = conds.iter().filter(move |_| split).map(|c| vec![*c]);
    whole.into_iter().chain(single)
}
