//! A container that is frozen for the time of its dump.

use std::path::PathBuf;

use hiber_sandbox::cgroup::Cgroup;

use crate::error::{Context, Result, chain};

/// The directory by which CRIU stops the container.
pub(super) fn freezer(cgroup: &Cgroup) -> Option<PathBuf> {
    cgroup.paths().v1.get("freezer").or(cgroup.paths().v2.as_ref()).cloned()
}

/// Keeps a container frozen that was running before: CRIU polls for a freeze in steps of up to 100 ms, the kernel
/// tells us at once. Dropped, it lets go what it froze.
pub(super) struct Frozen<'a>(&'a Cgroup);

impl<'a> Frozen<'a> {
    pub(super) fn take(cgroup: &'a Cgroup) -> Result<Self> {
        cgroup.freeze().context("freeze the container")?;
        Ok(Self(cgroup))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.0.thaw() {
            tracing::error!("the container stays frozen: {}", chain(&e));
        }
    }
}
