//! The end of a container: its processes are killed, and everything that it has left is removed.

use std::time::Duration;

use hiber_sandbox::{hooks, plan};
use hiber_sys::signal::Signal;

use crate::container::exit::ExitStatus;
use crate::container::handle::Container;
use crate::container::monitor;
use crate::container::task::{DEATH_PATIENCE, Task};
use crate::error::{Context, Error, Result, chain};
use crate::helpers::guard;
use crate::id::ContainerId;
use crate::state::clones::CloneRecord;
use crate::state::facts::{ConfigSummary, Facts};
use crate::state::lock::Lock;
use crate::state::migration::Incoming;
use crate::state::store::Store;
use crate::status::Status;

/// The usual time limit, enough unless much memory must be freed.
const DEATH_HASTE: Duration = Duration::from_millis(200);

impl Container {
    /// Removes a container whose facts cannot be read, as `e` says, with its processes as far as those can be found.
    pub(crate) fn discard(store: &Store, id: &ContainerId, e: &Error) -> Result<()> {
        let entry = store.open(id)?;
        if let Some(facts) = entry.facts_of_any_version() {
            return Self::new(id.clone(), entry, Some(facts), None).task()?.force_delete().map(drop);
        }
        let _lock = entry.lock()?;
        tracing::warn!(
            "{e}: which processes and cgroups container {id} has is not known; they stay if there are any"
        );
        entry.remove()
    }
}

impl Task {
    /// Removes a container that has stopped or was never started, and returns the end of its first process.
    ///
    /// # Errors
    /// [`Kind::State`](crate::Kind::State) if the container runs.
    pub fn delete(self) -> Result<ExitStatus> {
        self.remove(false)
    }

    /// Kills all processes, removes the container, and returns the end of its first process.
    ///
    /// # Errors
    /// If a process does not die within ten seconds, or the kernel refuses a removal.
    pub fn force_delete(self) -> Result<ExitStatus> {
        self.remove(true)
    }

    fn remove(self, force: bool) -> Result<ExitStatus> {
        if force {
            // Before the lock: whoever creates or restores it holds that, perhaps in a hook that hangs.
            self.kill_everything()?;
        }
        let lock = self.container().entry().lock()?;
        // It may have been opened while it was being made.
        let task = if self.init().is_some() { self } else { Self::open(self.container().reread()?)? };
        match task.status()? {
            Status::Stopped => {}
            Status::Created => task.kill_everything()?,
            _ if force => task.kill_everything()?,
            status => {
                let what = format!(
                    "cannot delete container {} that is not stopped: {status}",
                    task.container().id()
                );
                return task.refuse(&what, status);
            }
        }
        let status = task.exit_status();
        task.destroy(lock)?;
        if let Some(init) = task.init() {
            init.reap();
        }
        Ok(status)
    }

    /// Kills all processes and waits until the first is gone.
    fn kill_everything(&self) -> Result<()> {
        if let (Some(init), Ok(Some(_))) = (self.init(), Incoming::of(self.container().entry())) {
            // It has come from elsewhere, and may never have run. Where the namespace stays for a while, nothing else does.
            let _ = hiber_sandbox::network::abandon(init.pid());
            hiber_sandbox::network::hush(self.pids().unwrap_or_default());
        }
        match self.kill(Signal::KILL) {
            Ok(()) | Err(Error::NotRunning) => {}
            Err(e) => return Err(e),
        }
        let Some(init) = self.init() else { return Ok(()) };
        monitor::reap_killed(init.pid(), DEATH_PATIENCE)?;
        if init.wait_for_death(DEATH_HASTE)? {
            return Ok(());
        }
        // A CRIU that still restores it traces its processes and may wait for the first one, which cannot end before CRIU
        // has reaped the others. It is in the container's cgroup.
        self.cgroup().kill(Signal::KILL)?;
        if init.wait_for_death(DEATH_PATIENCE)? {
            return Ok(());
        }
        let what = "container init still running 10 s after SIGKILL".to_owned();
        Err(Error::State { what, status: Status::Running })
    }

    /// Removes what a container has left that has ended by a checkpoint; the directory of a clone stays, for the restore.
    pub(crate) fn destroy_asleep(&self, lock: Lock) -> Result<()> {
        let clone = CloneRecord::of(self.container().entry())?;
        clone.map_or(Ok(()), CloneRecord::sleep)?;
        self.destroy(lock)
    }

    /// Removes what a dead container has left. Everything is tried; the first failure is reported. For its poststop hooks
    /// the container exists no more (runtime-spec "Lifecycle", steps 12 and 13).
    pub(crate) fn destroy(&self, lock: Lock) -> Result<()> {
        let cgroup = self.cgroup();
        guard::sweep_after(self.container().entry());
        // Processes that outlived the first one: exec'd into a shared pid namespace, or its children.
        let removed = cgroup.destroy().context("remove the container's cgroup");
        let ungrouped = self.facts().map_or(Ok(()), |facts| facts.resctrl.remove());
        let cleared = self.facts().map_or(Ok(()), Facts::clear_root);
        removed?;
        ungrouped?;
        cleared.context("unmount the root filesystem")?;
        // An interrupted creation has no configuration yet, and ran no hook that poststop would answer to.
        let summary = self.container().config_summary().ok().filter(|_| self.facts().is_ok());
        let incoming = Incoming::of(self.container().entry()).ok().flatten();
        let clone = CloneRecord::of(self.container().entry()).ok().flatten();
        self.container().entry().remove()?;
        drop(lock);
        if let Some(Err(e)) = summary.map(|summary| self.run_poststop(&summary)) {
            tracing::warn!("{}", chain(&e));
        }
        incoming.iter().for_each(Incoming::remove_bundle);
        clone.iter().filter(|clone| !clone.sleeps()).for_each(CloneRecord::remove);
        Ok(())
    }

    /// The container is gone whatever one of the hooks says, and the next one runs (runtime-spec "Lifecycle", step 13).
    fn run_poststop(&self, summary: &ConfigSummary) -> Result<()> {
        let Some(all) = &summary.hooks else { return Ok(()) };
        let state = self.hook_state(summary, "stopped")?;
        for failure in hooks::run_all("poststop", plan::hook_list(all.poststop()), &state) {
            tracing::warn!("{}", chain(&failure));
        }
        Ok(())
    }
}
