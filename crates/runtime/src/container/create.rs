//! Creating a container: claim the id, write the facts, make cgroups, launch init.
//!
//! Before each step that leaves something on the host, the facts for finding it again are written. So `delete --force` clears the
//! container of a creation that was killed at any point.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use hiber_sandbox::FdRole;
use hiber_sandbox::cgroup::Cgroup;
use hiber_sandbox::plan::NamespaceKind;
use hiber_sandbox::rootfs::HostRoot;
use hiber_sandbox::{Launch, Launched, Steps, launch};

use crate::container::handle::Container;
use crate::container::making::Making;
use crate::container::notify;
use crate::container::prepared::{CreateOptions, Prepared, Start};
use crate::container::stdio::Wired;
use crate::container::task::{Built, Task};
use crate::error::{Context, Error, Result};
use crate::helpers;
use crate::host::procfs;
use crate::id::ContainerId;
use crate::state::entry::Entry;
use crate::state::facts::Facts;
use crate::state::lifecycle::Lifecycle;
use crate::state::lock::Lock;
use crate::state::store::Store;

/// A container whose init waits for `start`, still locked by its creator.
pub(crate) struct Creation {
    task: Task,
    _lock: Option<Lock>,
}

impl Creation {
    /// Lets go of the lock.
    pub(crate) fn finish(self) -> Task {
        self.task
    }
}

/// Creates a container up to the point where `start` executes its program.
pub(crate) fn create(store: &Store, id: &ContainerId, options: &CreateOptions<'_>) -> Result<Creation> {
    helpers::check()?;
    let notify_dir = options.notify.then(|| store.path(id).join(notify::DIR));
    let prepared = Prepared::with_notify(id, options, notify_dir.as_deref())?;
    let wired = options.stdio.for_terminal(prepared.plan.init.process.terminal)?.wire()?;
    let (entry, lock) = store.create(id)?;
    let making = Making::new(prepared.facts(id, wired.names()));
    let mut building = Building { entry: &entry, making, lock: Some(lock), cgroup: None };
    let spec = Arc::clone(&prepared.spec);
    match building.build(prepared, wired, options.start, notify_dir.as_deref()) {
        Ok(built) => {
            let Building { making, lock, cgroup, .. } = building;
            entry.note(Lifecycle::Create { pid: built.child.pid });
            let container = Container::of_created(id.clone(), entry, making.facts, spec);
            Ok(Creation { task: Task::of_created(container, built, cgroup)?, _lock: lock })
        }
        Err(e) => {
            // The process is dead already (Launched kills on drop), and no poststop hooks are due.
            if building.making.undo(&entry) {
                building.cgroup.iter().for_each(Cgroup::roll_back);
            }
            Err(e)
        }
    }
}

/// A container in the making, with everything that a failure has to let go of.
struct Building<'a> {
    entry: &'a Entry,
    making: Making,
    /// None while hooks are run, and if the container was deleted then.
    lock: Option<Lock>,
    /// None until it is made.
    cgroup: Option<Cgroup>,
}

impl Building<'_> {
    fn build(
        &mut self,
        prepared: Prepared,
        wired: Wired<'_>,
        start: Start,
        notify_dir: Option<&Path>,
    ) -> Result<Built> {
        let (entry, making) = (self.entry, &mut self.making);
        if let Some(dir) = notify_dir {
            std::fs::create_dir(dir).map_err(|e| Error::file(dir, &e))?;
        }
        Cgroup::open(prepared.cgroup.clone(), prepared.on_denied)?.check_unused()?;
        entry.write_facts(&making.facts)?;
        let cgroup = self.cgroup.insert(making.make_cgroup(&prepared, Cgroup::make)?);
        warn_of_uncounted(cgroup, &prepared);
        mount_host_root(&prepared, entry, &mut making.facts)?;
        let prepared = prepared.with_cgroup(cgroup);
        let birthplace = hiber_sandbox::birthplace(cgroup, &prepared.plan)?;
        // cgroup v1 takes a process only into a cpuset that has CPUs. On v2 there is time for limits later.
        let limited = birthplace.as_ref().is_some_and(|place| !place.v1.is_empty());
        if limited {
            cgroup.limit(&prepared.limits)?;
        }
        // The facts about these are read from the process when it is set up.
        let noted_late = prepared.plan.init.process.terminal || prepared.plan.init.second_stage.is_some();
        let launch_options = Launch {
            birthplace: birthplace.as_ref(),
            console_socket: wired.console(),
            stdio: wired.files(),
            at_once: start == Start::AtOnce && !noted_late,
            ..Launch::default()
        };
        let by_anybody = start == Start::ByAnybody;
        let listener = if by_anybody { FdRole::StartListener } else { FdRole::InitListener };
        let lock = &mut self.lock;
        let mut steps =
            Creating { entry, lock, making, cgroup, limited, placed: false, prepared: &prepared, listener };
        let launched = launch(&prepared.plan, &launch_options, &mut steps);
        let launched: Launched = launched.map_err(|e| cgroup.explain(e))?;
        if launched.pid() != making.facts.pid {
            // A second stage.
            making.note_process(entry, launched.pid())?;
        }
        let kept = wired.keep()?;
        if prepared.plan.init.process.terminal {
            making.facts.streams = procfs::streams(launched.pid(), [0, 1, 2]);
            entry.write_facts(&making.facts)?;
        }
        if by_anybody {
            entry.publish_start_socket()?;
        }
        let (child, starter) = launched.detach()?;
        Ok(Built { child, starter: (!by_anybody).then_some(starter), kept })
    }
}

fn warn_of_uncounted(cgroup: &Cgroup, prepared: &Prepared) {
    let paths = cgroup.paths();
    let no_cgroup = paths.directories().is_empty() && paths.systemd.is_none();
    if no_cgroup && !prepared.plan.namespaces.is_new(NamespaceKind::Pid) {
        tracing::warn!(
            "Creating a rootless container with no cgroup and no private pid namespace. Such configuration is strongly \
             discouraged, as it is impossible to properly kill all container's processes"
        );
    }
}

/// Mounts of a container in the host's mount namespace are unmounted with the copy of its root, which is recorded before it is
/// mounted.
fn mount_host_root(prepared: &Prepared, entry: &Entry, facts: &mut Facts) -> Result<()> {
    let Some(plan) = prepared.plan.init.root.as_ref() else { return Ok(()) };
    let Some(root) = HostRoot::prepare(plan).context("copy the root filesystem's mount")? else {
        return Ok(());
    };
    facts.host_root = Some(root.mount_id()?);
    entry.write_facts(facts)?;
    root.attach(&plan.path).context("mount the root filesystem over itself")
}

/// Passes a failure to record facts through the set-up in which it happens.
fn noting(e: Error) -> hiber_sandbox::Error {
    hiber_sandbox::Error::Step(Box::new(e))
}

/// The parent's work while init is being set up.
struct Creating<'a> {
    entry: &'a Entry,
    /// None while hooks are run, and if the container was deleted then.
    lock: &'a mut Option<Lock>,
    making: &'a mut Making,
    cgroup: &'a mut Cgroup,
    /// Whether the cgroup has its limits.
    limited: bool,
    /// Whether the process was born in it.
    placed: bool,
    prepared: &'a Prepared,
    /// The role of init's listening socket.
    listener: FdRole,
}

impl Creating<'_> {
    fn limit(&mut self) -> hiber_sandbox::Result<()> {
        if !std::mem::replace(&mut self.limited, true) {
            self.cgroup.limit(&self.prepared.limits)?;
        }
        Ok(())
    }
}

impl Steps for Creating<'_> {
    fn cloned(&mut self, pid: i32) -> hiber_sandbox::Result<Vec<(FdRole, OwnedFd)>> {
        // The socket exists before the process is recorded, so everybody who finds the process sees that it is in the making.
        let listener = self.entry.listen().map_err(noting)?;
        // Recorded before init goes on: an orphaned init can be found and killed.
        self.making.note_process(self.entry, pid).map_err(noting)?;
        Ok(vec![(self.listener.clone(), listener)])
    }

    fn enter_cgroups(&mut self, pid: i32, placed: bool) -> hiber_sandbox::Result<()> {
        let pid = pid.unsigned_abs();
        self.placed = placed;
        if placed {
            return self.making.facts.resctrl.add(pid);
        }
        self.limit()?;
        self.making.adopt(self.cgroup, pid)?;
        self.prepared.delegate(self.cgroup)
    }

    fn meanwhile(&mut self) -> hiber_sandbox::Result<()> {
        if self.placed {
            self.limit()?;
            self.prepared.delegate(self.cgroup)?;
        }
        self.prepared.write_config(self.entry).map_err(noting)
    }

    fn run_hooks(&mut self, pid: i32) -> hiber_sandbox::Result<()> {
        // Hooks may call the runtime for their container.
        self.lock.take();
        let ran = self.prepared.run_hooks(pid);
        let lock = match self.entry.lock() {
            Err(gone @ Error::NotFound) => Err(gone).context("the container was deleted while its hooks ran"),
            lock => lock,
        };
        *self.lock = Some(lock.map_err(noting)?);
        ran
    }

    fn warn(&mut self, message: &str) {
        tracing::warn!("{message}");
    }
}
