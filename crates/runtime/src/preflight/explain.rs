//! A failed dump in the container's terms: what preflight sees now, of what CRIU complained about.

use hiber_criu::CriuError;

use super::{Severity, tasks};
use crate::checkpoint::CheckpointOptions;
use crate::task::Task;

/// Completes a dump's failure by the process that it is about, and what of it. The container runs on, so that it can
/// be looked at.
pub(crate) fn explain(task: &Task, options: &CheckpointOptions, mut error: CriuError) -> CriuError {
    let Some(failure) = error.failure_mut() else { return error };
    let checks = failure.diagnosis.cause.map_or(&[][..], |cause| cause.checks);
    if !checks.is_empty()
        && let Ok(findings) = task.findings_inside(options)
        && let Some(found) =
            findings.0.iter().find(|f| checks.contains(&f.check) && f.severity == Severity::Error)
    {
        failure.seen = Some(found.to_string());
        return error;
    }
    failure.seen = failure.diagnosis.pid.and_then(|pid| {
        let depth = tasks::depth(task.pid()?);
        // Only a number of ours is a process of this task.
        let ours = task.pids().is_ok_and(|all| all.contains(&pid));
        let task = ours.then(|| tasks::Proc::read(pid, depth)).flatten()?;
        Some(task.process().to_string())
    });
    error
}
