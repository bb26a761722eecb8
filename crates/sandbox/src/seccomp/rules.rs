//! From a profile to rules: validation, and the meaning of each field.

use std::borrow::Cow;
use std::cell::Cell;
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

/// A parsed profile.
pub(super) struct Rules<'p> {
    /// The action for a call without a rule.
    pub(super) default: u32,
    by_name: HashMap<&'p str, Named>,
    /// Whether a rule wants the listener.
    pub(super) notify: bool,
    /// Whether calls newer than the profile get ENOSYS.
    pub(super) enosys: bool,
}

/// A call that the profile names.
#[derive(Default)]
struct Named {
    /// Without those that only repeat the default, as in runc: there may be none.
    rules: Vec<Rule>,
    /// Whether an architecture has it.
    known: Cell<bool>,
}

/// The rules of one architecture.
pub(super) struct Numbered<'r> {
    /// Calls with rules, ascending by number.
    pub(super) calls: Vec<(u32, Cow<'r, [Rule]>)>,
    /// The largest number that the profile names, if it is not 0, as in runc.
    pub(super) largest: Option<u32>,
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
        let entries = profile.syscalls().iter().flatten();
        let mut rules = Self {
            default,
            by_name: HashMap::with_capacity(entries.clone().map(|entry| entry.names().len()).sum()),
            notify: false,
            // A permissive default has nothing to hide, and a tracer answers for itself.
            enosys: !matches!(action, ScmpActAllow | ScmpActLog | ScmpActTrace),
        };
        for (i, entry) in entries.enumerate() {
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
            if notify && matches!(name.as_str(), "write" | "sendmsg") {
                return Err(Error::invalid(
                    format!("{field}.names[{j}]"),
                    format!("SCMP_ACT_NOTIFY cannot be used for the {name} syscall"),
                ));
            }
            self.notify |= notify;
            let rules = &mut self.by_name.entry(name).or_default().rules;
            if action != self.default {
                // a condition on no bits always holds
                rules.extend(alternatives(&conds).map(|mut conds| {
                    conds.retain(|c| c.mask != 0);
                    Rule { action, conds, entry: i }
                }));
            }
        }
        Ok(())
    }

    /// The rules of each call of `abi`.
    pub(super) fn for_abi(&self, abi: &Abi) -> Numbered<'_> {
        let mut numbered = Numbered { calls: Vec::new(), largest: None };
        for (number, name) in abi.calls() {
            let named = self.by_name.get(name);
            let mut rules = named.map_or(Cow::default(), |named| narrowed(&named.rules, abi.wide));
            if let Some(named) = named {
                named.known.set(true);
                // libseccomp gives carried calls no number of their own, and runc looks there.
                if number != 0 && !(abi.multiplexed && arch::is_carried(name)) {
                    numbered.largest = Some(number);
                }
            }
            if abi.multiplexed && matches!(name, "socketcall" | "ipc") {
                rules.to_mut().extend(self.carried_by(name));
                rules.to_mut().sort_by_key(|r| r.entry);
            }
            if !rules.is_empty() {
                numbered.calls.push((number, rules));
            }
        }
        numbered
    }

    /// The rules on calls that `socketcall` or `ipc` carries, as rules on that.
    fn carried_by<'r>(&'r self, carrier: &'r str) -> impl Iterator<Item = Rule> + 'r {
        arch::carried_by(carrier).into_iter().flat_map(|(name, number)| {
            let named = self.by_name.get(name).inspect(|named| named.known.set(true));
            let rules = named.map_or(Cow::default(), |named| narrowed(&named.rules, false));
            rules.into_owned().into_iter().map(move |rule| rule.carried(number))
        })
    }

    /// The names that neither [`Self::for_abi`] has found nor `others` have, in alphabetical
    /// order.
    pub(super) fn unknown(&self, others: &[&Abi]) -> Vec<&'p str> {
        let missing = |named: &Named| !named.known.get();
        if self.by_name.values().any(missing) {
            for (_, name) in others.iter().flat_map(|abi| abi.calls()) {
                self.by_name.get(name).inspect(|named| named.known.set(true));
            }
        }
        let multiplexed = others.iter().any(|abi| abi.multiplexed);
        let names = self.by_name.iter().filter(|(_, named)| missing(named)).map(|(name, _)| *name);
        let mut names: Vec<_> = names.filter(|name| !(multiplexed && arch::is_carried(name))).collect();
        names.sort_unstable();
        names
    }
}

/// Rules as an architecture sees them: 32-bit ones look at the lower half of a value only.
fn narrowed(rules: &[Rule], wide: bool) -> Cow<'_, [Rule]> {
    if wide || rules.iter().all(|r| r.conds.is_empty()) {
        return rules.into();
    }
    let low = u64::from(u32::MAX);
    let narrow = |c: &Cond| Cond { mask: c.mask & low, value: c.value & low, ..*c };
    let rules = rules
        .iter()
        .map(|r| Rule { conds: r.conds.iter().map(narrow).filter(|c| c.mask != 0).collect(), ..*r });
    rules.collect()
}

impl Rule {
    /// Whether the two want different actions on equal conditions, in any order.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        self.action != other.action
            && self.conds.len() == other.conds.len()
            && self.conds.iter().all(|c| other.conds.contains(c))
    }

    /// The rule on the call that carries this one. The carrier's first argument says which call it carries, so a condition on the
    /// first argument is lost; the others are in the caller's memory, where a filter cannot look, and are compared with the
    /// carrier's own arguments. libseccomp does the same.
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

/// The filter's return value for an action (seccomp(2), "SECCOMP_RET_*").
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
    Ok(Cond { arg: index, op, mask, value: value & mask })
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
