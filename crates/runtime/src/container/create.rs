//! Creating a container: claim the id, write the facts, make cgroups, launch init.
//!
//! Before each step that leaves something on the host, the facts for finding it again are written. So `delete --force` clears the
//! container of a creation that was killed at any point.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hiber_sandbox::FdRole;
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, DeviceRule, Kind, Layout, Limits, OnDenied, Unit};
use hiber_sandbox::plan::{self, CgroupMount, MountPlan, NamespaceKind, Plan};
use hiber_sandbox::rootfs::HostRoot;
use hiber_sandbox::{Launch, Launched, Steps, launch};
use hiber_sandbox::{config, hooks, in_user_namespace, resctrl};
use oci_spec::runtime::{LinuxResources, Spec};

use crate::container::handle::Container;
use crate::container::notify;
use crate::container::process;
use crate::container::stdio::{Stdio, Wired};
use crate::container::task::{Built, Task};
use crate::error::{Context, Error, Result, chain};
use crate::helpers;
use crate::host::procfs;
use crate::id::ContainerId;
use crate::state::entry::Entry;
use crate::state::facts::{FACTS_VERSION, Facts};
use crate::state::lifecycle::Lifecycle;
use crate::state::lock::Lock;
use crate::state::resources::{self, ChangedResources};
use crate::state::store::Store;

/// How to create a container.
#[derive(Debug, Default)]
pub struct CreateOptions<'a> {
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Have systemd make the cgroup: `linux.cgroupsPath` is `SLICE:PREFIX:NAME`.
    pub systemd_cgroup: bool,
    /// Switch roots without pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Pass descriptors 3 to 2+N on as sockets of a service manager: the container's process finds `LISTEN_FDS`
    /// and `LISTEN_PID` in its environment (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// The number of further descriptors to pass on, from 3 + `listen_fds` on.
    pub preserve_fds: u32,
    /// Go on where permission for cgroups is missing and nothing asks for one; None: where the caller is not the
    /// machine's root.
    pub rootless: Option<bool>,
    /// Give the process a socket for sd_notify(3); see [`Task::notify`].
    pub notify: bool,
    /// The part that starts its process.
    pub start: Start,
    /// Standard input, output and error.
    pub stdio: Stdio<'a>,
}

/// A configuration, checked and planned. Nothing is on the host yet.
pub(crate) struct Prepared {
    pub(crate) spec: Arc<Spec>,
    /// The bytes of `spec`, if nothing in them was tolerated.
    json: Option<Vec<u8>>,
    pub(crate) plan: Plan,
    pub(crate) bundle: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) cgroup: CgroupPaths,
    pub(crate) limits: Limits,
    pub(crate) on_denied: OnDenied,
    /// The limits of config.json, where the container gets others.
    first_resources: Option<LinuxResources>,
}

impl Prepared {
    /// Loads and checks a bundle.
    pub(crate) fn new(id: &ContainerId, options: &CreateOptions<'_>) -> Result<Self> {
        Self::with_notify(id, options, None)
    }

    /// As [`new`](Self::new), with the host's directory of the container's notification socket.
    fn with_notify(id: &ContainerId, options: &CreateOptions<'_>, notify: Option<&Path>) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a bundle is a directory of the host")]
        let bundle = std::fs::canonicalize(&options.bundle).map_err(|e| Error::file(&options.bundle, &e))?;
        let loaded = config::load(&bundle.join("config.json"))?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let (mut spec, mut json) = (loaded.spec, loaded.json);
        if let Some(dir) = notify {
            notify::add_to(Arc::make_mut(&mut spec), dir)?;
            json = None;
        }
        let mut plan = Plan::new(
            &spec,
            &plan::Options {
                id: id.as_str().into(),
                bundle: bundle.clone(),
                no_pivot: options.no_pivot,
                keyring: (!options.no_new_keyring).then(|| keyring_name(id)),
                preserve_fds: options.listen_fds.saturating_add(options.preserve_fds),
                rootless: !rustix::process::geteuid().is_root(),
                in_user_namespace: in_user_namespace(),
            },
        )?;
        if options.listen_fds > 0 {
            // The process is the first one of its pid namespace; otherwise nobody knows its id beforehand.
            let count = format!("LISTEN_FDS={}", options.listen_fds);
            plan.init.process.env.extend([count, "LISTEN_PID=1".to_owned()]);
        }
        let layout = Layout::detect()?;
        let (cgroup, limits) = cgroup_of(&spec, &layout, id, options.systemd_cgroup)?;
        // A cgroup that was asked for by name must be there; the default one is a bonus for a rootless container.
        let given = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
        let named = given.is_some_and(|path| !path.as_os_str().is_empty());
        let on_denied = if named { OnDenied::Fail } else { on_denied(options.rootless) };
        Ok(Self { spec, json, plan, bundle, layout, cgroup, limits, on_denied, first_resources: None })
    }

    /// Takes limits that were in force at a dump instead of those of config.json.
    ///
    /// # Errors
    /// If they are no limits, or none that this host has.
    pub(crate) fn take(&mut self, in_force: &ChangedResources) -> Result<()> {
        let first = resources::of(&self.spec);
        resources::apply(in_force, Arc::make_mut(&mut self.spec))?;
        self.limits = limits_of(&self.spec, &self.layout)?;
        (self.json, self.first_resources) = (None, Some(first));
        Ok(())
    }

    /// Keeps the configuration in the container's directory.
    pub(crate) fn write_config(&self, entry: &Entry) -> Result<()> {
        if let Some(first) = &self.first_resources {
            entry.keep_first_resources(first)?;
        }
        match &self.json {
            Some(json) => entry.write_config_as_read(json),
            None => entry.write_config(&self.spec),
        }
    }

    /// Runs the hooks of the runtime namespace, prestart and createRuntime.
    pub(crate) fn run_hooks(&self, pid: i32) -> hiber_sandbox::Result<()> {
        let all = &self.plan.hooks;
        let mut state = self.plan.init.hook_state.clone();
        state.status = "creating".into();
        state.pid = pid;
        hooks::run("prestart", plan::prestart(all), &state)?;
        hooks::run("createRuntime", plan::hook_list(all.create_runtime()), &state)
    }

    /// The facts of a container that has no process yet, whose streams will be `streams`.
    pub(crate) fn facts(&self, id: &ContainerId, streams: Vec<String>) -> Facts {
        let rootfs = self.plan.init.root.as_ref().map(|r| r.path.clone()).unwrap_or_default();
        let namespaces = &self.plan.namespaces;
        Facts {
            version: FACTS_VERSION,
            id: id.as_str().into(),
            pid: 0,
            start_time: 0,
            pidfd_inode: None,
            bundle: self.bundle.clone(),
            rootfs,
            created: SystemTime::now(),
            cgroup: self.cgroup.clone(),
            resctrl: self.plan.resctrl.as_ref().map(|plan| plan.group().clone()).unwrap_or_default(),
            namespaces: NamespaceKind::ALL.into_iter().filter(|k| namespaces.has(*k)).collect(),
            streams,
            put_root: false,
            host_root: None,
            keyring: self.plan.init.keyring.clone(),
        }
    }

    /// Whether the container may make cgroups below its own: on cgroup v2, in a cgroup namespace of its own, and with a writable
    /// mount of the hierarchy.
    fn may_nest_cgroups(&self) -> bool {
        let root = self.plan.init.root.as_ref();
        self.layout.kind() == Kind::V2
            && self.plan.namespaces.is_new(NamespaceKind::Cgroup)
            && root.is_some_and(|root| root.mounts.iter().any(MountPlan::is_writable_cgroup))
    }

    /// Limits the cgroups that a container may make below its own, and gives the cgroup to root of a new user namespace.
    pub(crate) fn delegate(&self, cgroup: &Cgroup) -> hiber_sandbox::Result<()> {
        if !self.may_nest_cgroups() {
            return Ok(());
        }
        cgroup.limit_nesting()?;
        let namespaces = &self.plan.namespaces;
        let root = namespaces.uid_maps.iter().find(|map| map.container == 0);
        match root.filter(|_| namespaces.is_new(NamespaceKind::User)) {
            Some(map) => cgroup.delegate(map.host),
            None => Ok(()),
        }
    }

    /// The directories of the container's own cgroups, for its cgroup mounts.
    fn cgroup_mounts(&self, cgroup: &Cgroup) -> Vec<CgroupMount> {
        if self.layout.kind() == Kind::V2 {
            let host_path = cgroup.paths().v2.clone().unwrap_or_default();
            let namespaces = &self.plan.namespaces;
            let strange = namespaces.has(NamespaceKind::Cgroup) || namespaces.has(NamespaceKind::User);
            let whole = self.layout.v2().filter(|_| !strange).map(|mount| mount.point.clone());
            return vec![CgroupMount { name: String::new(), data: String::new(), host_path, whole }];
        }
        let mut mounts: Vec<CgroupMount> = Vec::new();
        for (controller, host_path) in &cgroup.paths().v1 {
            if mounts.iter().any(|m| m.host_path == *host_path) {
                continue; // mounted together with one that was seen
            }
            let together: Vec<&str> =
                cgroup.paths().v1.iter().filter(|(_, p)| *p == host_path).map(|(c, _)| c.as_str()).collect();
            let point = self.layout.v1().get(controller).map(|m| m.point.as_path());
            let name = point.and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or(controller);
            mounts.push(CgroupMount {
                name: name.into(),
                data: together.join(","),
                host_path: host_path.clone(),
                whole: None,
            });
        }
        mounts
    }
}

/// A name that no keyring can have yet: the kernel would also find keyrings of other users and containers that permit a search.
fn keyring_name(id: &ContainerId) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("_ses.{}.{random:016x}", id.as_str())
}

/// The reaction if a cgroup is denied: `rootless` is the caller's choice.
fn on_denied(rootless: Option<bool>) -> OnDenied {
    match rootless {
        Some(true) => OnDenied::Skip,
        Some(false) => OnDenied::Fail,
        None => OnDenied::ByRights,
    }
}

fn limits_of(spec: &Spec, layout: &Layout) -> Result<Limits> {
    let linux = plan::linux_of(spec);
    let none = LinuxResources::default();
    let resources = linux.resources().as_ref().unwrap_or(&none);
    // Only the machine's root may load device rules, and other users' containers cannot make device nodes anyway.
    let machines_root = rustix::process::geteuid().is_root() && !in_user_namespace();
    let devices = machines_root.then(DeviceRule::defaults);
    Ok(Limits::from_spec(resources, layout, devices.as_deref())?)
}

fn cgroup_of(spec: &Spec, layout: &Layout, id: &ContainerId, systemd: bool) -> Result<(CgroupPaths, Limits)> {
    let limits = limits_of(spec, layout)?;
    let linux = plan::linux_of(spec);
    let path = linux.cgroups_path().as_deref();
    let paths = match systemd {
        true => Unit::new(path, id.as_str(), spec.annotations().as_ref())?.resolve(layout)?,
        false => layout.resolve(path, id.as_str())?,
    };
    Ok((paths, limits))
}

/// The part that starts a new container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// Any task of the container, in any process.
    #[default]
    ByAnybody,
    /// Only the returned [`Task`] can start it. If the task is dropped before, the container's process ends. Until the start
    /// others see the container as [`Creating`](crate::Status::Creating).
    ByMaker,
    /// As [`ByMaker`](Self::ByMaker), but the process does not wait for [`Task::start`]. The call must still follow, and returns
    /// the result.
    AtOnce,
}

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
    let mut prepared = Prepared::with_notify(id, options, notify_dir.as_deref())?;
    let wired = options.stdio.for_terminal(prepared.plan.init.process.terminal)?.wire()?;
    let (entry, lock) = store.create(id)?;
    let mut lock = Some(lock);
    let mut facts = prepared.facts(id, wired.names());
    if let Some(dir) = &notify_dir {
        std::fs::create_dir(dir).map_err(|e| Error::file(dir, &e))?;
    }
    let mut made = None;
    match build(&entry, &mut lock, &mut prepared, &mut facts, wired, options.start, &mut made) {
        Ok(built) => {
            entry.note(Lifecycle::Create { pid: built.child.pid });
            let container = Container::of_created(id.clone(), entry, facts, prepared.spec);
            Ok(Creation { task: Task::of_created(container, built, made)?, _lock: lock })
        }
        Err(e) => {
            // The process is dead already (Launched kills on drop), and no poststop hooks are due.
            if undo(&entry, &facts) {
                made.iter().for_each(Cgroup::roll_back);
            }
            Err(e)
        }
    }
}

fn build(
    entry: &Entry,
    lock: &mut Option<Lock>,
    prepared: &mut Prepared,
    facts: &mut Facts,
    wired: Wired<'_>,
    start: Start,
    made: &mut Option<Cgroup>,
) -> Result<Built> {
    check_cgroup_unused(prepared, facts)?;
    entry.write_facts(facts)?;
    let cgroup = made.insert(make_cgroup(prepared, facts, Cgroup::make)?);
    let paths = cgroup.paths();
    let no_cgroup = paths.directories().is_empty() && paths.systemd.is_none();
    if no_cgroup && !prepared.plan.namespaces.is_new(NamespaceKind::Pid) {
        tracing::warn!(
            "Creating a rootless container with no cgroup and no private pid namespace. Such configuration is strongly \
             discouraged, as it is impossible to properly kill all container's processes"
        );
    }
    mount_host_root(prepared, entry, facts)?;
    let mounts = prepared.cgroup_mounts(cgroup);
    if let Some(root) = &mut prepared.plan.init.root {
        root.cgroups = mounts;
    }
    let born_in: Option<OwnedFd> = cgroup.v2_dir_fd()?;
    // The facts about these are read from the process when it is set up.
    let noted_late = prepared.plan.init.process.terminal || prepared.plan.init.second_stage.is_some();
    let launch_options = Launch {
        cgroup: born_in.as_ref().map(AsFd::as_fd),
        console_socket: wired.console(),
        stdio: wired.files(),
        at_once: start == Start::AtOnce && !noted_late,
        ..Launch::default()
    };
    let by_anybody = start == Start::ByAnybody;
    let listener = if by_anybody { FdRole::StartListener } else { FdRole::InitListener };
    let mut steps = Creating { entry, lock, facts, cgroup, placed: born_in.is_some(), prepared, listener };
    let launched = launch(&prepared.plan, &launch_options, &mut steps);
    let launched: Launched = launched.map_err(|e| cgroup.explain(e))?;
    if launched.pid() != facts.pid {
        // A second stage.
        note_process(entry, facts, launched.pid())?;
    }
    let kept = wired.keep()?;
    if prepared.plan.init.process.terminal {
        facts.streams = procfs::streams(launched.pid(), [0, 1, 2]);
        entry.write_facts(facts)?;
    }
    if by_anybody {
        entry.publish_start_socket()?;
    }
    let (child, starter) = launched.detach()?;
    Ok(Built { child, starter: (!by_anybody).then_some(starter), kept })
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

/// The clean-up after a failed creation kills the processes in the cgroup that the facts name, so the facts must not name another
/// container's cgroup.
fn check_cgroup_unused(prepared: &Prepared, facts: &mut Facts) -> Result<()> {
    let paths = std::mem::take(&mut facts.cgroup);
    Cgroup::open(paths.clone(), prepared.on_denied)?.check_unused()?;
    facts.cgroup = paths;
    Ok(())
}

/// [`Cgroup::create`] or [`Cgroup::make`].
type MakeCgroup = fn(&Layout, &CgroupPaths, &Limits, OnDenied) -> hiber_sandbox::Result<Cgroup>;

/// Makes the cgroup by `make`. The facts name the directories to remove if this is interrupted.
pub(crate) fn make_cgroup(prepared: &Prepared, facts: &mut Facts, make: MakeCgroup) -> Result<Cgroup> {
    let made = make(&prepared.layout, &prepared.cgroup, &prepared.limits, prepared.on_denied);
    if made.is_err() {
        // `make` has undone its work, so any cgroup that is there belongs to somebody else.
        facts.cgroup = Default::default();
    }
    let cgroup = made?;
    facts.cgroup = cgroup.paths().clone();
    let grouped = prepared.plan.resctrl.as_ref().map_or(Ok(()), resctrl::Plan::make);
    if grouped.is_err() {
        // As for the cgroup.
        facts.resctrl = Default::default();
    }
    grouped?;
    Ok(cgroup)
}

/// Puts the first process, or its parent of the first stage, into the cgroup and the resctrl group. This makes the cgroup of a
/// systemd unit.
pub(crate) fn adopt(cgroup: &mut Cgroup, facts: &mut Facts, pid: u32) -> hiber_sandbox::Result<()> {
    let adopted = cgroup.adopt(pid);
    if adopted.is_err() && facts.cgroup.systemd.is_some() {
        // As in make_cgroup: a unit of that name is another container's.
        facts.cgroup = Default::default();
    }
    adopted?;
    facts.resctrl.add(pid)
}

/// Records a process as the container's first.
pub(crate) fn note_process(entry: &Entry, facts: &mut Facts, pid: i32) -> Result<()> {
    facts.pid = pid;
    facts.start_time = procfs::alive_since(pid).ok_or(Error::NotRunning)?;
    facts.pidfd_inode = process::pidfd_inode(pid);
    entry.write_facts(facts)
}

/// Removes the remains of a failed creation, and logs what cannot be removed. False if somebody else has removed them, because
/// another container may have the id by now.
pub(crate) fn undo(entry: &Entry, facts: &Facts) -> bool {
    if entry.is_removed() {
        return false;
    }
    let removed = Cgroup::open(facts.cgroup.clone(), OnDenied::Skip)
        .and_then(|cgroup| cgroup.destroy())
        .and_then(|()| facts.resctrl.remove());
    for e in [removed, facts.clear_root()].into_iter().filter_map(std::result::Result::err) {
        tracing::warn!("after a failed creation: {}", chain(&e));
    }
    if let Err(e) = entry.remove() {
        tracing::warn!("after a failed creation: {}", chain(&e));
    }
    true
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
    facts: &'a mut Facts,
    cgroup: &'a mut Cgroup,
    /// Whether the process was born in its cgroup.
    placed: bool,
    prepared: &'a Prepared,
    /// The role of init's listening socket.
    listener: FdRole,
}

impl Steps for Creating<'_> {
    fn cloned(&mut self, pid: i32) -> hiber_sandbox::Result<Vec<(FdRole, OwnedFd)>> {
        // The socket exists before the process is recorded, so everybody who finds the process sees that it is in the making.
        let listener = self.entry.listen().map_err(noting)?;
        // Recorded before init goes on: an orphaned init can be found and killed.
        note_process(self.entry, self.facts, pid).map_err(noting)?;
        Ok(vec![(self.listener.clone(), listener)])
    }

    fn enter_cgroups(&mut self, pid: i32) -> hiber_sandbox::Result<()> {
        let pid = pid.unsigned_abs();
        if self.placed {
            return self.facts.resctrl.add(pid);
        }
        // cgroup v1 takes a process only into a cpuset that has CPUs.
        self.cgroup.limit(&self.prepared.limits)?;
        adopt(self.cgroup, self.facts, pid)?;
        self.prepared.delegate(self.cgroup)
    }

    fn meanwhile(&mut self) -> hiber_sandbox::Result<()> {
        if self.placed {
            self.cgroup.limit(&self.prepared.limits)?;
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
