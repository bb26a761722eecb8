//! The meaning of a profile, evaluated rule by rule, without compiling anything.

use std::collections::HashMap;

use hiber_sandbox::seccomp::compile;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Op};

use super::profiles::{self, NAMES};
use super::vm::{Call, Random, run};

pub(crate) const X86_64: u32 = 0xc000_003e;
pub(crate) const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
const KILL: u32 = 0;

/// An ABI, for the calls in [`NAMES`].
struct Abi {
    arch: Arch,
    audit: u32,
    wide: bool,
    numbers: [Option<u32>; 9],
}

const ABIS: [Abi; 3] = [
    Abi {
        arch: Arch::ScmpArchX86_64,
        audit: X86_64,
        wide: true,
        numbers: [
            Some(0),
            Some(135),
            Some(16),
            Some(56),
            Some(41),
            Some(30),
            Some(157),
            Some(202),
            Some(436),
        ],
    },
    Abi {
        arch: Arch::ScmpArchX86,
        audit: I386,
        wide: false,
        numbers: [
            Some(3),
            Some(136),
            Some(54),
            Some(120),
            Some(359),
            Some(397),
            Some(172),
            Some(240),
            Some(436),
        ],
    },
    Abi {
        arch: Arch::ScmpArchX32,
        audit: X86_64,
        wide: false,
        numbers: [
            Some(X32_BIT),
            Some(X32_BIT | 135),
            Some(X32_BIT | 514),
            Some(X32_BIT | 56),
            Some(X32_BIT | 41),
            Some(X32_BIT | 30),
            Some(X32_BIT | 157),
            Some(X32_BIT | 202),
            Some(X32_BIT | 436),
        ],
    },
];

fn meets(arg: &LinuxSeccompArg, call: &Call, wide: bool) -> bool {
    let bits = if wide { u64::MAX } else { u64::from(u32::MAX) };
    let actual = call.args[arg.index()] & bits;
    let value = arg.value() & bits;
    match arg.op() {
        Op::ScmpCmpNe => actual != value,
        Op::ScmpCmpLt => actual < value,
        Op::ScmpCmpLe => actual <= value,
        Op::ScmpCmpEq => actual == value,
        Op::ScmpCmpGe => actual >= value,
        Op::ScmpCmpGt => actual > value,
        Op::ScmpCmpMaskedEq => actual & value == arg.value_two().unwrap() & value,
    }
}

/// One name's rules: (action, conditions), after runc's splitting.
fn rules_of(profile: &LinuxSeccomp, name: &str) -> Option<Vec<(u32, Vec<LinuxSeccompArg>)>> {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let mut named = None;
    for entry in profile.syscalls().iter().flatten().filter(|e| e.names().iter().any(|n| n == name)) {
        let rules: &mut Vec<_> = named.get_or_insert_default();
        let action = entry.action().as_u32(entry.errno_ret());
        if action == default {
            continue;
        }
        let args = entry.args().clone().unwrap_or_default();
        let mut seen = HashMap::<usize, usize>::new();
        args.iter().for_each(|a| *seen.entry(a.index()).or_default() += 1);
        if seen.values().any(|n| *n > 1) {
            rules.extend(args.iter().map(|a| (action, vec![*a])));
        } else {
            rules.push((action, args));
        }
    }
    named
}

/// Conditions that are met whatever the arguments are count as none.
fn unconditional(args: &[LinuxSeccompArg], wide: bool) -> bool {
    let bits = if wide { u64::MAX } else { u64::from(u32::MAX) };
    args.iter().all(|a| a.op() == Op::ScmpCmpMaskedEq && a.value() & bits == 0)
}

/// The profile's decision on a call to one of [`NAMES`], or with a number far beyond.
fn expected(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let listed =
        |a: Arch| a == Arch::ScmpArchX86_64 || profile.architectures().iter().flatten().any(|l| *l == a);
    let x32 = call.arch == X86_64 && call.nr & X32_BIT != 0;
    let abi =
        ABIS.iter().find(|a| a.audit == call.arch && listed(a.arch) && (a.arch == Arch::ScmpArchX32) == x32);
    let Some(abi) = abi else {
        return if call.nr == u32::MAX && call.arch == X86_64 { default } else { KILL };
    };
    let rules: Vec<_> = NAMES.iter().map(|n| rules_of(profile, n)).collect();
    let carried_only = |i: usize| abi.arch == Arch::ScmpArchX86 && matches!(NAMES[i], "socket" | "shmat");
    let largest = (0..NAMES.len())
        .filter(|i| rules[*i].is_some() && !carried_only(*i))
        .filter_map(|i| abi.numbers[i])
        .max();
    let permissive = !matches!(profile.default_action().as_u32(None), 0..0x7ff0_0000 | 0x8000_0000);
    if !permissive && largest.is_some_and(|l| l != 0 && call.nr > l) {
        return 0x0005_0026;
    }
    if abi.arch == Arch::ScmpArchX86_64 && call.nr >= X32_BIT && !listed(Arch::ScmpArchX32) {
        return KILL;
    }
    let Some(i) = abi.numbers.iter().position(|n| *n == Some(call.nr)) else { return default };
    let Some(rules) = &rules[i] else { return default };
    if let Some((action, _)) = rules.iter().find(|(_, args)| unconditional(args, abi.wide)) {
        return *action;
    }
    let hit = rules.iter().find(|(_, args)| args.iter().all(|a| meets(a, call, abi.wide)));
    hit.map_or(default, |(action, _)| *action)
}

#[test]
fn random_profiles_do_what_their_rules_say() {
    let mut random = Random(0x5eed);
    let (mut compiled, mut matched) = (0, 0);
    for n in 0..3000 {
        let profile = profiles::random(&mut random, 12, false);
        let Ok(program) = compile(&profile) else { continue };
        compiled += 1;
        for _ in 0..200 {
            let abi = &ABIS[random.below(3) as usize];
            let nr = match random.below(8) {
                0 => random.pick(&[1, 433, 437, 1000, X32_BIT, X32_BIT | 999, 1 << 31, u32::MAX]),
                _ => random.pick(&abi.numbers).unwrap_or(2),
            };
            let args = std::array::from_fn(|_| profiles::value(&mut random));
            let arch = if random.below(20) == 0 { 0xc000_00b7 } else { abi.audit };
            let call = Call { nr, arch, args };
            let want = expected(&profile, &call);
            matched += u32::from(
                want != KILL && want != profile.default_action().as_u32(profile.default_errno_ret()),
            );
            assert_eq!(
                run(&program.filter, &call),
                want,
                "profile {n}: {call:x?}\n{}",
                serde_json::to_string_pretty(&profile).unwrap()
            );
        }
    }
    // the generator still makes what is worth testing
    assert!(compiled > 2000 && matched > 50_000, "{compiled} compiled, {matched} matched");
}
