//! What a checkpoint would lose without a word: found before anything is frozen, by what every checkpoint can afford to read.

use oci_spec::runtime::{LinuxSeccompAction, Spec};

use super::table::SECCOMP_AGENT;
use super::{Accepted, Findings};
use crate::error::Result;
use crate::task::Task;

/// Refuses what a restore would not bring back, but for what is accepted.
pub(crate) fn check_losses(task: &Task, accepted: &mut Accepted) -> Result<()> {
    let mut findings = Findings::default();
    find(&mut findings, task)?;
    accepted.judge(&findings)
}

pub(super) fn find(findings: &mut Findings, task: &Task) -> Result<()> {
    agent(findings, &*task.container().spec()?);
    Ok(())
}

fn agent(findings: &mut Findings, spec: &Spec) {
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let rules = seccomp.iter().flat_map(|seccomp| seccomp.syscalls().iter().flatten());
    let asks = |rule: &&oci_spec::runtime::LinuxSyscall| rule.action() == LinuxSeccompAction::ScmpActNotify;
    let names: Vec<_> =
        rules.filter(asks).flat_map(oci_spec::runtime::LinuxSyscall::names).map(String::as_str).collect();
    if !names.is_empty() {
        let what = format!("linux.seccomp has an agent answer for {}", names.join(", "));
        findings.add(&SECCOMP_AGENT, what);
    }
}
