//! The end of a container's cgroup.

use std::time::{Duration, Instant};

use hiber_sys::signal::Signal;

use super::handle::Cgroup;
use super::remove::remove;
use crate::error::{Error, Result};

/// How long a removal, of all directories together, waits for cgroups that dying processes keep
/// busy for a moment.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long processes that enter a cgroup while it is destroyed are killed.
const KILLING: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Kills all processes and removes the cgroup. Processes that enter meanwhile, such as one of an `exec`, are killed, too.
    ///
    /// # Errors
    /// Those of [`Self::kill`] and [`Self::remove`].
    pub fn destroy(&self) -> Result<()> {
        let deadline = Instant::now() + KILLING;
        loop {
            self.kill(Signal::KILL)?;
            match self.remove() {
                Err(Error::Sys(e)) if e.errno == libc::EBUSY && Instant::now() < deadline => {}
                other => return other,
            }
        }
    }

    /// Removes the cgroup's directories and all below them; a missing one is no error. Parents stay.
    ///
    /// # Errors
    /// A process is in it still (EBUSY), or it is a mount point. Every directory is tried, and the
    /// first error returned.
    pub fn remove(&self) -> Result<()> {
        if let Some(unit) = &self.paths().systemd
            && let Err(e) = unit.stop()
        {
            // The unit ends with the directories: systemd notices their removal.
            tracing::warn!("{e}");
        }
        let mut patience = PATIENCE;
        let mut result = Ok(());
        for (path, _) in self.paths().directories() {
            result = result.and(remove(path, &mut patience));
        }
        result
    }
}
