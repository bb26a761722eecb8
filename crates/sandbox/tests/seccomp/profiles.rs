//! Random profiles for tests.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::vm::Random;

/// Calls that random profiles have rules on.
pub(crate) const NAMES: [&str; 9] =
    ["read", "personality", "ioctl", "clone", "socket", "shmat", "prctl", "futex", "close_range"];
const OPS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
const VALUES: [u64; 12] = [
    0,
    1,
    2,
    3,
    8,
    0xff,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0xffff_ffff_0000_0000,
    u64::MAX,
];

/// A value that is often equal, or next to, one in a rule.
pub(crate) fn value(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.next(),
        1 => random.pick(&VALUES).wrapping_add(random.below(3)).wrapping_sub(1),
        _ => random.pick(&VALUES),
    }
}

/// A profile of up to `rules` rules. With `plain`, it has one rule at most for each call, one
/// condition at most for each argument.
pub(crate) fn random(random: &mut Random, rules: u64, plain: bool) -> LinuxSeccomp {
    let actions =
        [("ALLOW", None), ("ERRNO", Some(5)), ("ERRNO", None), ("LOG", None), ("KILL_PROCESS", None)];
    let default = random.pick(&actions);
    let mut names = NAMES.to_vec();
    let archs: &[&str] = random.pick(&[
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"][..],
        &["SCMP_ARCH_X86_64"],
        &["SCMP_ARCH_X86"],
        &["SCMP_ARCH_X32"],
        &[],
    ]);
    let syscalls: Vec<_> = (0..random.below(rules))
        .map(|_| {
            let action = random.pick(&actions);
            let args: Vec<_> = (0..random.below(4))
                .map(|i| {
                    let op = format!("SCMP_CMP_{}", random.pick(&OPS));
                    let (value, two) = (value(random), value(random));
                    let index = if plain { i } else { random.below(3) };
                    json!({ "index": index, "value": value, "valueTwo": two, "op": op })
                })
                .collect();
            let name = random.pick(&names);
            names.retain(|n| !plain || *n != name);
            rule(&[name], action, &args)
        })
        .collect();
    serde_json::from_value(json!({
        "defaultAction": format!("SCMP_ACT_{}", default.0),
        "defaultErrnoRet": default.1,
        "architectures": archs,
        "syscalls": syscalls,
    }))
    .unwrap()
}

fn rule(names: &[&str], action: (&str, Option<u32>), args: &[Value]) -> Value {
    json!({ "names": names, "action": format!("SCMP_ACT_{}", action.0), "errnoRet": action.1, "args": args })
}
