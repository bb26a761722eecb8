//! Filters of one profile by different compilers, and filters that were changed.

use hiber_sandbox::seccomp::{SockFilter, compile, is_as_strict};
use serde_json::json;

use super::vm::{Call, Random, run};
use super::{captured, profiles};

const ARCHS: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];

fn severity(action: u32) -> i32 {
    (action & 0xffff_0000).cast_signed()
}

#[test]
fn a_call_more_is_less_strict_and_a_call_less_is_not() {
    for (name, text) in captured::FILES {
        let profile = captured::load(text, &["CAP_AUDIT_WRITE"], "amd64", &ARCHS);
        let ours = compile(&profile).unwrap().filter;
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(&profile).unwrap();
            change(&mut value["syscalls"]);
            compile(&serde_json::from_value(value).unwrap()).unwrap().filter
        };
        let more = with(&|calls| {
            let rule = json!({"names": ["kexec_load"], "action": "SCMP_ACT_ALLOW"});
            for rule in calls.as_array_mut().unwrap() {
                rule["names"].as_array_mut().unwrap().retain(|n| n != "kexec_load");
            }
            calls.as_array_mut().unwrap().push(rule);
        });
        assert!(!is_as_strict(&more, &ours), "{name}");
        assert!(is_as_strict(&ours, &more), "{name}");
        // an argument that the profiles compare: personality(2) with one value more
        let argument = with(&|calls| {
            let args = json!([{"index": 0, "value": 0x0040_0000, "op": "SCMP_CMP_EQ"}]);
            let rule = json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": args});
            calls.as_array_mut().unwrap().push(rule);
        });
        assert!(!is_as_strict(&argument, &ours), "{name}");
        assert!(is_as_strict(&ours, &argument), "{name}");
    }
}

/// One field of one instruction is another: a yes must be true for every call that is tried.
#[test]
fn no_change_that_lets_a_call_through_is_overlooked() {
    let mut random = Random(0xc0de);
    let (mut looser, mut strict) = (0, 0);
    for _ in 0..300 {
        let Ok(program) = compile(&profiles::random(&mut random, 8, false)) else { continue };
        let ours = program.filter;
        let mut theirs = ours.clone();
        let n = usize::try_from(random.below(theirs.len() as u64)).unwrap();
        let i = theirs[n];
        theirs[n] = match random.below(4) {
            0 => SockFilter { k: i.k ^ (1 << random.below(32)), ..i },
            1 => SockFilter { jt: i.jf, jf: i.jt, ..i },
            2 => SockFilter { code: random.pick(&[0x15, 0x25, 0x35, 0x45]), ..i },
            _ => {
                SockFilter { code: 6, k: random.pick(&[0x7fff_0000, 0x7ffc_0000, 0x0005_0001]), jt: 0, jf: 0 }
            }
        };
        let answer = is_as_strict(&theirs, &ours);
        strict += u32::from(answer);
        if !answer {
            // The kernel refuses such a program, or it is looser; some are neither.
            looser += 1;
            continue;
        }
        for _ in 0..2000 {
            let arch = random.pick(&[0xc000_003e, 0x4000_0003]);
            let x32 = if random.below(4) == 0 { 0x4000_0000 } else { 0 };
            let nr = u32::try_from(random.below(450)).unwrap() | x32;
            let call = Call { nr, arch, args: std::array::from_fn(|_| profiles::value(&mut random)) };
            let (is, wanted) = (run(&theirs, &call), run(&ours, &call));
            assert!(
                severity(is) <= severity(wanted),
                "{call:x?}: {is:x} for {wanted:x}\n{ours:?}\n{theirs:?}"
            );
        }
    }
    assert!(looser > 50 && strict > 50, "{looser} looser, {strict} as strict");
}

#[test]
fn what_is_no_filter_is_not_strict() {
    let ours = compile(&serde_json::from_value(json!({"defaultAction": "SCMP_ACT_ERRNO"})).unwrap()).unwrap();
    let op = |code, k| SockFilter { code, jt: 0, jf: 0, k };
    for program in [
        vec![],
        vec![op(0x20, 0)],
        vec![op(0x20, 64), op(6, 0)],
        vec![op(0x05, u32::MAX), op(6, 0)],
        vec![op(0x04, 1), op(6, 0)],
    ] {
        assert!(!is_as_strict(&program, &ours.filter), "{program:?}");
    }
    assert!(is_as_strict(&[op(6, 0)], &ours.filter));
    assert!(!is_as_strict(&[op(6, 0x7fff_0000)], &ours.filter));
}
