//! Our filters against libseccomp's, driven the way runc drives it.

use std::collections::HashMap;

use hiber_sandbox::seccomp::{SockFilter, compile_for, is_as_strict};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};

use super::vm::{Call, Random, run};
use super::{captured, profiles};

/// A machine that filters are made for: its architectures, the native one first, each with its
/// `AUDIT_ARCH` and the bit that its numbers have.
struct Machine {
    go: &'static str,
    native: Arch,
    archs: &'static [(Arch, ScmpArch, u32, u32)],
}

const MACHINES: [Machine; 2] = [
    Machine {
        go: "amd64",
        native: Arch::ScmpArchX86_64,
        archs: &[
            (Arch::ScmpArchX86_64, ScmpArch::X8664, 0xc000_003e, 0),
            (Arch::ScmpArchX86, ScmpArch::X86, 0x4000_0003, 0),
            (Arch::ScmpArchX32, ScmpArch::X32, 0xc000_003e, 0x4000_0000),
        ],
    },
    Machine {
        go: "arm64",
        native: Arch::ScmpArchAarch64,
        archs: &[
            (Arch::ScmpArchAarch64, ScmpArch::Aarch64, 0xc000_00b7, 0),
            (Arch::ScmpArchArm, ScmpArch::Arm, 0x4000_0028, 0),
        ],
    },
];

/// libseccomp's filter with runc's ENOSYS stub before it.
struct Reference {
    filter: Vec<SockFilter>,
    /// (AUDIT_ARCH, bit of numbers, largest number)
    largest: Vec<(u32, u32, u32)>,
}

impl Reference {
    fn run(&self, call: &Call) -> u32 {
        let x32 = if call.arch == 0xc000_003e { call.nr & 0x4000_0000 } else { 0 };
        for (audit, bit, largest) in &self.largest {
            if *audit == call.arch && *bit == x32 && call.nr > *largest {
                return 0x0005_0026;
            }
        }
        run(&self.filter, call)
    }
}

fn scmp_action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    ScmpAction::from_str(&action.to_string(), Some(errno.unwrap_or(1) as i32)).unwrap()
}

fn compare(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (op, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    ScmpArgCompare::new(arg.index() as u32, op, value)
}

fn reference(profile: &LinuxSeccomp, machine: &Machine) -> Result<Reference, String> {
    let default = scmp_action(profile.default_action(), profile.default_errno_ret());
    let mut ctx = ScmpFilterContext::new(default).unwrap();
    let listed = |a: &Arch| *a == machine.native || profile.architectures().iter().flatten().any(|l| l == a);
    for (_, arch, ..) in machine.archs.iter().filter(|a| listed(&a.0)) {
        ctx.add_arch(*arch).unwrap();
    }
    if machine.archs[0].1 != ScmpArch::native() {
        ctx.remove_arch(ScmpArch::native()).unwrap();
    }
    if profile.syscalls().iter().flatten().count() > 32 {
        ctx.set_ctl_optimize(2).unwrap();
    }
    let mut largest = HashMap::new();
    for entry in profile.syscalls().iter().flatten() {
        let action = scmp_action(entry.action(), entry.errno_ret());
        for name in entry.names() {
            for (arch, scmp, audit, bit) in machine.archs.iter().filter(|a| listed(&a.0)) {
                let Ok(number) = ScmpSyscall::from_name_by_arch(name, *scmp) else { continue };
                if number.as_raw_syscall() > 0 {
                    let largest = largest.entry(*arch as u32).or_insert((*audit, *bit, 0));
                    largest.2 = largest.2.max(number.as_raw_syscall() as u32);
                }
            }
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            if action == default {
                continue;
            }
            let conds: Vec<_> = entry.args().iter().flatten().collect();
            let twice = conds.iter().any(|c| conds.iter().filter(|d| d.index() == c.index()).count() > 1);
            let groups: Vec<Vec<_>> = if twice {
                conds.iter().map(|c| vec![compare(c)]).collect()
            } else {
                vec![conds.iter().map(|c| compare(c)).collect()]
            };
            for group in groups {
                ctx.add_rule_conditional(action, call, &group).map_err(|e| format!("{name}: {e}"))?;
            }
        }
    }
    let permissive = [LinuxSeccompAction::ScmpActAllow, LinuxSeccompAction::ScmpActLog];
    let enosys = !permissive.contains(&profile.default_action());
    Ok(Reference {
        filter: export(&ctx),
        largest: if enosys { largest.into_values().collect() } else { Vec::new() },
    })
}

/// The program, by way of a file: libseccomp 2.5 cannot export to memory.
fn export(ctx: &ScmpFilterContext) -> Vec<SockFilter> {
    use std::io::{Read, Seek};
    let mut file = tempfile::tempfile().unwrap();
    ctx.export_bpf(&file).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
        .chunks_exact(8)
        .map(|b| SockFilter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect()
}

/// Leaves out the names that this libseccomp is too old for.
fn known_to_libseccomp(profile: &LinuxSeccomp) -> LinuxSeccomp {
    let mut value = serde_json::to_value(profile).unwrap();
    for entry in value["syscalls"].as_array_mut().unwrap() {
        let names = entry["names"].as_array_mut().unwrap();
        names.retain(|n| ScmpSyscall::from_name(n.as_str().unwrap()).is_ok());
    }
    serde_json::from_value(value).unwrap()
}

/// Values around those that the default profiles compare with.
const ARGS: [u64; 17] = [
    0,
    1,
    8,
    9,
    16,
    37,
    38,
    39,
    40,
    41,
    0x2_0000,
    0x2_0008,
    0x1000_0000,
    0x7e02_0000,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX,
];

fn agree(ours: &[SockFilter], theirs: &Reference, machine: &Machine, what: &str) {
    let mut random = Random(7);
    for (_, _, audit, bit) in machine.archs.iter().chain(&[(Arch::ScmpArchPpc, ScmpArch::Ppc, 0x14, 0)]) {
        let numbers = (0..600).chain([
            0xf_0002,
            0xf_0010,
            0x0fff_ffff,
            0x3fff_ffff,
            0x8000_0000,
            0xbfff_ffff,
            0xc000_0000,
            u32::MAX,
        ]);
        for nr in numbers.map(|n: u32| n | bit) {
            // every value in each argument that is compared anywhere, and some pairs
            for i in 0..ARGS.len() * 4 {
                let mut args = [0; 6];
                let pick = ARGS[i / 4];
                match i % 4 {
                    0 => args[0] = pick,
                    1 => args[2] = pick,
                    2 => args = [random.pick(&ARGS), pick, random.pick(&ARGS), 0, 0, 0],
                    _ => args = [16, 0, pick, 0, 0, 0],
                }
                let call = Call { nr, arch: *audit, args };
                assert_eq!(run(ours, &call), theirs.run(&call), "{what}: {call:x?}");
            }
        }
    }
}

#[test]
fn default_profiles_are_libseccomps() {
    let all = "CAP_DAC_READ_SEARCH CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_CHROOT CAP_SYS_MODULE CAP_SYS_PACCT \
        CAP_SYS_PTRACE CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_SYS_NICE CAP_SYSLOG CAP_BPF \
        CAP_PERFMON CAP_AUDIT_WRITE";
    let all: Vec<_> = all.split_whitespace().collect();
    for machine in &MACHINES {
        let every: Vec<String> = machine.archs.iter().map(|a| a.0.to_string()).collect();
        let every: Vec<&str> = every.iter().map(String::as_str).collect();
        for (name, text) in captured::FILES {
            for caps in [&[][..], &["CAP_SYS_CHROOT", "CAP_AUDIT_WRITE"], &all] {
                for archs in [&every[..], &every[..2], &every[..1], &[]] {
                    let profile = known_to_libseccomp(&captured::load(text, caps, machine.go, archs));
                    let ours = compile_for(machine.native, &profile).unwrap();
                    let theirs = reference(&profile, machine).unwrap();
                    let what = format!("{name} on {} {archs:?} {caps:?}", machine.go);
                    agree(&ours.filter, &theirs, machine, &what);
                    // as another runtime's filter is compared with its configuration
                    assert!(is_as_strict(&theirs.filter, &ours.filter), "{what}");
                    assert!(
                        ours.filter.len() <= theirs.filter.len(),
                        "{what}: {} instructions, libseccomp's are {}",
                        ours.filter.len(),
                        theirs.filter.len()
                    );
                }
            }
        }
    }
}

/// Each number of each architecture that libseccomp has a name for is the number that we give
/// to that name.
#[test]
fn numbers_are_libseccomps() {
    for machine in &MACHINES {
        for (arch, scmp, audit, bit) in machine.archs {
            let mut checked = 0;
            let mut wrong = Vec::new();
            for nr in (0..600).chain(0xf_0000..0xf_0010).map(|n| n | bit) {
                let Ok(name) = ScmpSyscall::from_raw_syscall(nr as i32).get_name_by_arch(*scmp) else {
                    continue;
                };
                let profile: LinuxSeccomp = serde_json::from_value(serde_json::json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": [arch],
                    "syscalls": [{ "names": [name], "action": "SCMP_ACT_ERRNO" }],
                }))
                .unwrap();
                let program = compile_for(machine.native, &profile).unwrap();
                let call = Call { nr, arch: *audit, args: [0; 6] };
                if run(&program.filter, &call) != 0x0005_0001 {
                    wrong.push((name, nr & !bit));
                }
                checked += 1;
            }
            assert_eq!(wrong, [], "{arch}");
            assert!(checked > 250, "{arch}: {checked} names");
        }
    }
}

/// One rule for each call, as libseccomp 2.5 gets some combinations of several wrong: it gives
/// up on a call after half a match. The model has those.
#[test]
fn random_profiles_are_libseccomps() {
    let machine = &MACHINES[0];
    let mut random = Random(42);
    let mut total = 0;
    for n in 0..2000 {
        let profile = profiles::random(&mut random, 5, true);
        let Ok(ours) = compile_for(machine.native, &profile) else { continue };
        let Ok(theirs) = reference(&profile, machine) else { continue };
        total += 1;
        for _ in 0..300 {
            let (_, scmp, arch, bit) = random.pick(machine.archs);
            let number = ScmpSyscall::from_name_by_arch(random.pick(&profiles::NAMES), scmp);
            let nr = match number.map(ScmpSyscall::as_raw_syscall) {
                Ok(number) if number >= 0 => number as u32,
                _ => random.pick(&[102, 117, 359, 397]) | bit,
            };
            let args = std::array::from_fn(|_| profiles::value(&mut random));
            let call = Call { nr, arch, args };
            assert_eq!(run(&ours.filter, &call), theirs.run(&call), "profile {n}: {call:x?}\n{profile:?}");
        }
    }
    assert!(total > 1500, "only {total} profiles");
}
