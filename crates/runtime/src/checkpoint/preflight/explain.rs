//! A failure of CRIU's in the container's terms: what preflight sees now, of what CRIU complained about.

use hiber_criu::{CriuError, Failure, Images};

use super::{Finding, Severity, check_restore, tasks};
use crate::checkpoint::CheckpointOptions;
use crate::checkpoint::options::RestoreContainerOptions;
use crate::container::task::Task;
use crate::error::{Error, causes};
use crate::id::ContainerId;
use crate::state::store::Store;

/// Completes a dump's failure by the process that it is about, and what of it. The container runs on, so that it can
/// be looked at.
pub(crate) fn explain(task: &Task, options: &CheckpointOptions, mut error: CriuError) -> CriuError {
    let Some(failure) = error.failure_mut() else { return error };
    if has_checks(failure)
        && let Ok(findings) = task.findings_inside(options)
        && name(failure, &findings.0)
    {
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

/// Completes a restore's failure likewise, by what preflight finds in images and bundle; all of it was undone.
pub(crate) fn explain_restore(
    store: &Store,
    id: &ContainerId,
    options: &RestoreContainerOptions<'_>,
    mut error: Error,
) -> Error {
    let Error::Criu(criu) = &mut error else { return error };
    let Some(failure) = criu.failure_mut() else { return error };
    if has_checks(failure) && name(failure, &check_restore(store, id, options).findings) {
        return error;
    }
    failure.seen = failure.diagnosis.pid.and_then(|pid| {
        let thread = Images::open(&options.criu.image_path).ok()?.thread(u32::try_from(pid).ok()?).ok()?;
        Some(format!("process {pid} ({})", thread.name?))
    });
    error
}

fn has_checks(failure: &Failure) -> bool {
    !checks(failure).is_empty()
}

fn checks(failure: &Failure) -> &'static [&'static str] {
    failure.diagnosis.cause.map_or(&[], causes::checks)
}

/// Names what of `findings` is the failure's cause, if any is.
fn name(failure: &mut Failure, findings: &[Finding]) -> bool {
    let checks = checks(failure);
    let mut found: Vec<_> = findings.iter().filter(|f| checks.contains(&f.check)).collect();
    found.retain(|f| f.severity <= Severity::Warning);
    let found = found.into_iter().min_by_key(|f| f.severity);
    failure.seen = found.map(ToString::to_string);
    found.is_some()
}
