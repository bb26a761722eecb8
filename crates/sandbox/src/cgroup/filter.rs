//! The device filter of cgroup v2: an eBPF program made from the rules.
//!
//! The kernel runs it with a `struct bpf_cgroup_dev_ctx` (linux/bpf.h) for each open and mknod of
//! a device node; it returns 1 to allow. For each access that is asked for, the last rule that
//! names the device and that access decides, as a reader of the list expects and as v1's merged
//! exceptions work; without one the answer is no.

use super::devices::{Access, DeviceKind, DeviceRule};
use hiber_sys::bpf::{Insn, Reg};

/// `BPF_DEVCG_DEV_*`, linux/bpf.h.
const DEV_BLOCK: i32 = 1;
const DEV_CHAR: i32 = 2;

/// The registers of the program.
const CTX: Reg = Reg::R1;
/// Scratch, once the context has been read.
const SCRATCH: Reg = Reg::R1;
const TYPE: Reg = Reg::R2;
/// The accesses that no rule has decided yet.
const WANTED: Reg = Reg::R3;
const MAJOR: Reg = Reg::R4;
const MINOR: Reg = Reg::R5;

/// The program for `rules`, in the order of config.json. It uses only instructions of Linux 4.15,
/// where this type of program came in.
pub fn device_filter(rules: &[DeviceRule]) -> Vec<Insn> {
    let mut program = vec![
        Insn::load32(TYPE, CTX, 0),
        Insn::mov32(WANTED, TYPE),
        Insn::and32_imm(TYPE, 0xffff),
        Insn::shift_right32_imm(WANTED, 16),
        Insn::load32(MAJOR, CTX, 4),
        Insn::load32(MINOR, CTX, 8),
    ];
    // The last rule is asked first.
    for rule in rules.iter().rev() {
        if rule.kind == DeviceKind::All {
            program.extend(answer(rule.allow));
            // Earlier rules do not matter, and old verifiers refuse unreachable code.
            return program;
        }
        program.extend(block(rule));
    }
    program.extend(answer(false));
    program
}

fn answer(allow: bool) -> [Insn; 2] {
    [Insn::mov64_imm(Reg::R0, allow.into()), Insn::exit()]
}

/// One rule: its tests, each of which jumps to the end of the block if it fails, and its answer.
fn block(rule: &DeviceRule) -> Vec<Insn> {
    let mut code = Vec::new();
    let mut leaves = Vec::new();
    let kind = if rule.kind == DeviceKind::Block { DEV_BLOCK } else { DEV_CHAR };
    leaves.push(code.len());
    code.push(Insn::jump_if_not_imm(TYPE, kind));
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            let immediate = i32::try_from(number);
            if immediate.is_err() {
                // Through a register: the immediate would be sign-extended to 64 bits.
                code.push(Insn::mov32_imm(SCRATCH, number.cast_signed()));
            }
            leaves.push(code.len());
            code.push(match immediate {
                Ok(number) => Insn::jump_if_not_imm(register, number),
                Err(_) => Insn::jump_if_not(register, SCRATCH),
            });
        }
    }
    let bits = i32::from(rule.access.bits());
    let all = i32::from(Access::ALL.bits());
    if rule.allow && bits != all {
        code.push(Insn::and32_imm(WANTED, all & !bits));
        leaves.push(code.len());
        code.push(Insn::jump_if_not_imm(WANTED, 0));
    } else if bits != all {
        code.push(Insn::mov32(SCRATCH, WANTED));
        code.push(Insn::and32_imm(SCRATCH, bits));
        leaves.push(code.len());
        code.push(Insn::jump_if_imm(SCRATCH, 0));
    }
    code.extend(answer(rule.allow));
    for at in leaves {
        // At most a dozen instructions.
        code[at].off = (code.len() - at - 1) as i16;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::device_set::DeviceSet;

    /// Runs the instructions that the generator uses; anything else is a failure.
    fn interpret(program: &[Insn], ctx: [u32; 3]) -> u64 {
        let mut r = [0u64; 11];
        let mut at = 0usize;
        loop {
            let Insn { code, regs, off, imm } = program[at];
            let (dst, src) = (usize::from(regs & 15), usize::from(regs >> 4));
            at += 1;
            match code {
                0x61 => {
                    assert_eq!(src, 1, "the context is in r1");
                    r[dst] = u64::from(ctx[usize::try_from(off).unwrap() / 4]);
                }
                0xbc => r[dst] = u64::from(r[src] as u32),
                0xb4 => r[dst] = u64::from(imm as u32),
                0xb7 => r[dst] = i64::from(imm) as u64,
                0x54 => r[dst] = u64::from(r[dst] as u32 & imm as u32),
                0x74 => r[dst] = u64::from(r[dst] as u32 >> imm),
                0x55 if r[dst] != i64::from(imm) as u64 => at += usize::try_from(off).unwrap(),
                0x15 if r[dst] == i64::from(imm) as u64 => at += usize::try_from(off).unwrap(),
                0x5d if r[dst] != r[src] => at += usize::try_from(off).unwrap(),
                0x55 | 0x15 | 0x5d => {}
                0x95 => return r[0],
                other => panic!("instruction {other:#x} at {}", at - 1),
            }
        }
    }

    /// The decision of the rules, by their definition.
    fn expected(rules: &[DeviceRule], kind: DeviceKind, major: u32, minor: u32, wanted: u8) -> bool {
        let decide = |bit: u8| {
            let matching = rules.iter().rev().find(|r| {
                r.kind == DeviceKind::All
                    || r.kind == kind
                        && r.major.is_none_or(|n| n == major)
                        && r.minor.is_none_or(|n| n == minor)
                        && r.access.bits() & bit != 0
            });
            matching.is_some_and(|r| r.allow)
        };
        [1, 2, 4].into_iter().filter(|bit| wanted & bit != 0).all(decide)
    }

    /// Compares program and definition over every access and every number that a rule names, and the state of a v1 cgroup
    /// with both, if it has one for these rules.
    fn check(rules: &[DeviceRule]) {
        let program = device_filter(rules);
        let short = device_filter(&DeviceRule::resolve(rules.to_vec()));
        let v1 = DeviceSet::from_rules(rules).ok();
        let numbers = [0, 1, 3, 5, 7, 136, 200, 0x7fff_ffff, 0x8000_0000, u32::MAX];
        for (kind, type_bits) in [(DeviceKind::Block, 1), (DeviceKind::Char, 2)] {
            for (major, minor) in numbers.iter().flat_map(|a| numbers.iter().map(move |i| (*a, *i))) {
                for wanted in 1..8u8 {
                    let ctx = [u32::from(wanted) << 16 | type_bits, major, minor];
                    let got = interpret(&program, ctx) == 1;
                    let want = expected(rules, kind, major, minor, wanted);
                    assert_eq!(got, want, "{kind:?} {major}:{minor} {wanted:#b} of {rules:?}");
                    assert_eq!(interpret(&short, ctx) == 1, want, "{kind:?} {major}:{minor} of {rules:?}");
                    // Nobody makes and opens a node in one call.
                    if let Some(v1) = v1.as_ref().filter(|_| wanted == 1 || wanted & 1 == 0) {
                        let got = v1.allows((kind, major, minor), wanted);
                        assert_eq!(got, want, "v1: {kind:?} {major}:{minor} {wanted:#b} of {rules:?}");
                    }
                }
            }
        }
    }

    fn rule(
        allow: bool,
        kind: DeviceKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: &str,
    ) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access: Access::parse(access).unwrap() }
    }

    #[test]
    fn nothing_is_allowed_without_rules() {
        check(&[]);
        assert_eq!(interpret(&device_filter(&[]), [2 << 16 | 2, 1, 3]), 0);
    }

    #[test]
    fn the_defaults() {
        let mut rules = vec![rule(false, DeviceKind::All, None, None, "rwm")];
        rules.extend(DeviceRule::defaults());
        check(&rules);
        let program = device_filter(&rules);
        assert_eq!(interpret(&program, [6 << 16 | 2, 1, 3]), 1, "null, for reading and writing");
        assert_eq!(interpret(&program, [2 << 16 | 2, 1, 1]), 0, "mem");
        assert_eq!(interpret(&program, [1 << 16 | 1, 8, 0]), 1, "mknod of a disk");
        assert_eq!(interpret(&program, [2 << 16 | 1, 8, 0]), 0, "reading it");
    }

    #[test]
    fn the_last_matching_rule_wins_for_each_access() {
        use DeviceKind::{All, Block, Char};
        check(&[rule(true, All, None, None, "rwm"), rule(false, Char, Some(1), Some(3), "w")]);
        check(&[rule(true, Char, Some(1), None, "rwm"), rule(false, Char, Some(1), Some(3), "w")]);
        check(&[rule(false, Char, Some(1), Some(3), "w"), rule(true, Char, Some(1), None, "rwm")]);
        check(&[rule(true, Char, Some(1), Some(3), "r"), rule(true, Char, Some(1), Some(3), "w")]);
        check(&[rule(true, Block, None, Some(7), "rw"), rule(false, Block, Some(5), None, "m")]);
        check(&[rule(true, Char, Some(1), None, "r"), rule(false, All, None, None, "rwm")]);
        check(&[rule(true, Char, Some(u32::MAX), Some(0x8000_0000), "rw")]);
    }

    #[test]
    fn every_pair_of_rules() {
        let mut all = Vec::new();
        for allow in [true, false] {
            all.push(rule(allow, DeviceKind::All, None, None, "rwm"));
            for (major, minor) in [(None, None), (Some(1), None), (None, Some(3)), (Some(1), Some(3))] {
                for access in ["r", "w", "m", "rw", "rwm"] {
                    all.push(rule(allow, DeviceKind::Char, major, minor, access));
                }
            }
        }
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            check(&[a.clone(), b.clone()]);
        }
        let of_one_access = |r: &&DeviceRule| r.access == Access::READ || r.access == Access::WRITE;
        let some: Vec<_> = all.iter().filter(of_one_access).collect();
        for (a, b) in some.iter().flat_map(|a| some.iter().map(move |b| (*a, *b))) {
            check(&[all[0].clone(), a.clone(), b.clone()]);
            check(&[a.clone(), b.clone(), rule(true, DeviceKind::Char, Some(1), None, "rw")]);
        }
    }
}
