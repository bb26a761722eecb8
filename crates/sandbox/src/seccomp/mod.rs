//! Seccomp profiles (config-linux.md, "Seccomp") as programs for the kernel.
//!
//! A profile has the meaning that runc gives it with libseccomp:
//!
//! - A rule that only repeats the default action is left out, before anything else.
//! - A rule without conditions beats all those with conditions on the same call.
//! - All conditions of a rule must be met; but if two of them are on the same argument, each
//!   becomes a rule of its own.
//! - Rules with conditions are tried in the profile's order. (libseccomp sorts them, which shows
//!   where rules with different actions overlap, and its 2.5 forgets some rules after half a
//!   match of another.) Two rules with equal conditions and different actions are an error.
//! - Names that no architecture at hand knows are left out, with a warning.
//! - The native architecture is always included. A call of an architecture that is not listed
//!   kills its thread; so does an x32 call without `SCMP_ARCH_X32`, but for number -1, which
//!   tracers use to skip a call.
//! - Calls with a number above the largest one that the profile names for the architecture are
//!   newer than the profile: they get ENOSYS, so that programs fall back, unless the default
//!   action lets calls through (ALLOW, LOG, TRACE).
//! - On i386, rules on socket and System V IPC calls also apply to the calls that `socketcall`
//!   and `ipc` carry, without their condition on the first argument.
//! - `SECCOMP_FILTER_FLAG_TSYNC` is accepted and left out: the filter is installed by a process
//!   with a single thread. Without any `flags`, SPEC_ALLOW is set.
//!
//! One file per step: `arch` knows numbers and names, `rules` reads the profile, `spans` says
//! what each number gets, `decision` turns one call's rules into tests, `emit` writes
//! instructions. `compare` reads them again.

mod arch;
mod compare;
mod decision;
mod emit;
mod rules;
mod spans;

use std::path::PathBuf;

use hiber_sys::seccomp as sys;
pub use hiber_sys::seccomp::SockFilter;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompFilterFlag};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};
use arch::Abi;
pub use arch::NATIVE;
pub use compare::is_as_strict;
use decision::Graph;
use emit::{Emitter, Target};
use rules::Rules;
use spans::Span;

/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// A profile, ready for the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The instructions.
    pub filter: Vec<SockFilter>,
    /// `SECCOMP_FILTER_FLAG_*` for seccomp(2).
    pub flags: u32,
    /// Whether installing it returns a listener, which must go to `listener_path`.
    pub notify: bool,
    /// `linux.seccomp.listenerPath`.
    pub listener_path: Option<PathBuf>,
    /// `linux.seccomp.listenerMetadata`.
    pub listener_metadata: Option<String>,
    /// One sentence for each part of the profile without effect.
    pub warnings: Vec<String>,
}

/// Compiles a profile for this machine.
///
/// # Errors
/// Names the field below `linux.seccomp` that cannot be right.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program> {
    compile_for(NATIVE, profile)
}

/// Compiles a profile for machines of another architecture: x86_64, x86, aarch64 or ARM.
///
/// # Errors
/// As [`compile`]; and unsupported, if there are no tables for `native`.
pub fn compile_for(native: Arch, profile: &LinuxSeccomp) -> Result<Program> {
    let family = arch::family(native);
    if family.is_empty() {
        let why = format!("no system call table for {native}");
        return Err(Error::unsupported("linux.seccomp", why));
    }
    let rules = Rules::read(profile)?;
    let mut program = settings(profile, rules.notify)?;
    let listed =
        |abi: &Abi| abi.arch == native || profile.architectures().iter().flatten().any(|a| *a == abi.arch);
    let (abis, others): (Vec<&Abi>, Vec<&Abi>) = family.iter().partition(|abi| listed(abi));
    let mut graph = Graph::default();
    let sections = spans::sections(&abis, &rules, &mut graph)?;
    program.filter = assemble(&graph, &sections);
    if program.filter.len() > MAX_INSTRUCTIONS {
        let n = program.filter.len();
        return Err(Error::invalid(
            "linux.seccomp.syscalls",
            format!("{n} instructions; the kernel takes at most {MAX_INSTRUCTIONS}"),
        ));
    }
    program.warnings.extend(rules.unknown(&others).iter().map(|name| {
        format!("linux.seccomp.syscalls: unknown system call {name:?}: its rules have no effect")
    }));
    Ok(program)
}

/// Everything but the instructions.
fn settings(profile: &LinuxSeccomp, notify: bool) -> Result<Program> {
    use LinuxSeccompFilterFlag as Flag;
    let path = profile.listener_path().clone().filter(|p| !p.as_os_str().is_empty());
    let metadata = profile.listener_metadata().clone();
    if notify && path.is_none() {
        return Err(Error::invalid(
            "linux.seccomp.listenerPath",
            "not set; expected the path of a socket, for SCMP_ACT_NOTIFY",
        ));
    }
    if metadata.as_ref().is_some_and(|m| !m.is_empty()) && path.is_none() {
        return Err(Error::invalid(
            "linux.seccomp.listenerMetadata",
            "set without linux.seccomp.listenerPath",
        ));
    }
    let mut warnings = Vec::new();
    let mut flags = if notify { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    match profile.flags() {
        None => flags |= libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        Some(wanted) => {
            for flag in wanted {
                flags |= match flag {
                    Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                    Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                    Flag::SeccompFilterFlagTsync => 0,
                    Flag::SeccompFilterFlagWaitKillableRecv if notify => {
                        libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
                    }
                    // the kernel refuses it without a listener
                    Flag::SeccompFilterFlagWaitKillableRecv => {
                        warnings.push(format!(
                            "linux.seccomp.flags: {flag} has no effect without SCMP_ACT_NOTIFY"
                        ));
                        0
                    }
                };
            }
        }
    }
    Ok(Program {
        filter: Vec::new(),
        flags: flags as u32,
        notify,
        listener_path: path,
        listener_metadata: metadata,
        warnings,
    })
}

fn assemble(graph: &Graph, sections: &[(u32, Vec<Span>)]) -> Vec<SockFilter> {
    let mut emitter = Emitter::new(graph);
    // The native section comes first in the family and is written last: nearest to the start.
    let mut targets: Vec<(u32, Target)> =
        sections.iter().rev().map(|(audit, spans)| (*audit, emitter.section(spans))).collect();
    targets.reverse();
    emitter.finish(&targets, libc::SECCOMP_RET_KILL_THREAD)
}

/// Actions of the specification that this kernel has, by name, sorted.
pub fn known_actions() -> Vec<&'static str> {
    // in the order of their names
    const ACTIONS: [(&str, u32); 9] = [
        ("SCMP_ACT_ALLOW", libc::SECCOMP_RET_ALLOW),
        ("SCMP_ACT_ERRNO", libc::SECCOMP_RET_ERRNO),
        ("SCMP_ACT_KILL", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_LOG", libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_NOTIFY", libc::SECCOMP_RET_USER_NOTIF),
        ("SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE),
        ("SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
    ];
    ACTIONS.iter().filter(|(_, ret)| sys::action_available(*ret)).map(|(name, _)| *name).collect()
}

/// Operators on arguments, by name, sorted.
pub fn known_operators() -> &'static [&'static str] {
    &[
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_LE",
        "SCMP_CMP_LT",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_NE",
    ]
}

/// Architectures whose calls a filter made here tells apart, by name, sorted. Others are
/// accepted in a profile: this kernel cannot run them.
pub fn known_archs() -> Vec<String> {
    let mut names: Vec<_> = arch::family(NATIVE).iter().map(|abi| abi.arch.to_string()).collect();
    names.sort_unstable();
    names
}

/// Flags that a profile may have, by name, as the specification has them.
pub fn known_flags() -> &'static [&'static str] {
    &[
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    ]
}

/// The flags of [`known_flags`] that this kernel has.
pub fn supported_flags() -> Vec<&'static str> {
    let bits = [
        libc::SECCOMP_FILTER_FLAG_TSYNC,
        libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        libc::SECCOMP_FILTER_FLAG_LOG,
        // refused without a listener
        libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    ];
    let supported = known_flags().iter().zip(bits).filter(|(_, b)| sys::flags_available(*b as u32));
    supported.map(|(name, _)| *name).collect()
}
