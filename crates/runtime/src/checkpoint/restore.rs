//! Restoring a container from a checkpoint: set up as at `create`, but the processes come from CRIU.
//!
//! CRIU runs in a mount namespace of its own, on a thread of its own: the root's bind mount and the cgroup yard
//! vanish with it, however it ends.

mod agent;
mod cgroups;
mod devices;
mod loading;
mod memory;
mod request;
mod streams;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hiber_criu::images::ChangedFiles;
use hiber_criu::{Criu, RestoreNotify, RestoreOptions, Session};
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, OnDenied};
use hiber_sandbox::plan::NamespaceKind;
use hiber_sandbox::rootfs::DetachedRoot;
use hiber_sys as sys;
use hiber_sys::clone::Child;
use rustix::process::{Pid, PidfdFlags};

use agent::Agent;
use cgroups::work_in;
pub(crate) use cgroups::{cgroup_roots, hold};
use devices::Devices;
pub(crate) use memory::is_large;
use memory::{Brought, When, settle};
pub(crate) use request::{Network, Request};
use request::{StandIns, limit_file_sizes};

use crate::checkpoint::kept::switches::{Then, ToClose};
use crate::checkpoint::options::RestoreContainerOptions;
use crate::checkpoint::preflight::restore::unloaded_profile;
use crate::checkpoint::preflight::{check_user_namespace, explain_restore};
use crate::checkpoint::reading;
use crate::checkpoint::restore_options::{check_images, limits_in_force};
use crate::checkpoint::trust::Checked;
use crate::checkpoint::unique::{Restored, Unique};
use crate::checkpoint::work::Work;
use crate::container::handle::Container;
use crate::container::making::Making;
use crate::container::prepared::Prepared;
use crate::container::stdio::{Stdio, Wired};
use crate::container::task::Built;
use crate::container::task::Task;
use crate::error::{Context, Error, Result};
use crate::helpers;
use crate::helpers::lazy::arrival::{self, Arrival, Destination, Origin};
use crate::helpers::lazy::{self, Token};
use crate::helpers::leftovers;
use crate::helpers::restore_guard::RestoreGuard;
use crate::host::paths::absolute;
use crate::host::procfs;
use crate::host::threads::apart;
use crate::id::ContainerId;
use crate::state::clones::CloneRecord;
use crate::state::entry::Entry;
use crate::state::facts::Facts;
use crate::state::lifecycle::Lifecycle;
use crate::state::store::Store;

/// A decision about a container that is whole and has not run yet. Where a step fails, nothing of the container is left.
pub(crate) trait Gate {
    /// The container has a directory, and nothing else yet.
    fn begin(&self, entry: &Entry) -> Result<()>;
    /// All of it is there, and frozen. From here on it stays until somebody decides, also if this program is killed.
    fn whole(&self, entry: &Entry) -> Result<()>;
    /// Whether it runs, or stays frozen.
    fn decide(&mut self) -> Result<bool>;
    /// Where memory is that is not in the images: the end of a [link](crate::helpers::lazy::link).
    fn memory(&mut self) -> Result<Option<OwnedFd>>;
}

/// Restores a container; its first process is a child of the caller. On failure nothing of it is left.
pub(crate) fn restore(
    store: &Store,
    id: &ContainerId,
    options: &RestoreContainerOptions<'_>,
) -> Result<Task> {
    restore_through(store, id, options, None)
}

/// As [`restore`], of a container that runs only if `gate` says so.
pub(crate) fn restore_through(
    store: &Store,
    id: &ContainerId,
    options: &RestoreContainerOptions<'_>,
    gate: Option<&mut dyn Gate>,
) -> Result<Task> {
    helpers::check()?;
    let prepared = Prepared::new(id, &options.as_create())?;
    check_configuration(options, &prepared)?;
    // Opened once: what is checked here is what CRIU gets.
    let images = reading::open(&options.criu.image_path)?;
    let Checked { manifest, kept, outer_groups, empty_directory, chain, cgroups } =
        check_images(&prepared, id, options, &images)?;
    let prepared = match limits_in_force(&prepared, options, &kept)? {
        Some(limits) => prepared.with_limits(&limits)?,
        None => prepared,
    };
    let unique = options.unique.then(|| Unique::of(&prepared.spec, options.clone.clone())).transpose()?;
    let (criu_options, brought) = settle(options, manifest.as_ref(), &prepared, &chain, gate.is_some())?;
    let criu = criu_options.find_criu()?;
    let asleep = CloneRecord::asleep(&prepared.bundle, store, id);
    asleep.as_ref().map_or(Ok(()), CloneRecord::mount)?;
    let wired = wire(options.stdio, &prepared)?;
    let (entry, lock) = store.create(id)?;
    let mut making = Making::new(prepared.facts(id, Vec::new()));
    let request = Request {
        prepared: &prepared,
        options,
        criu_options: &criu_options,
        chain: &chain,
        cgroups: &cgroups,
        kept: &kept,
        outer_groups,
        empty_directory: empty_directory.as_deref(),
        network: Network::of(&prepared, options, manifest.as_ref()),
    };
    let restoring = Restoring {
        id,
        root: store.root(),
        entry: &entry,
        request,
        criu: &criu,
        wired: &wired,
        brought: brought.as_ref(),
        gated: gate.is_some(),
        unique: unique.as_ref(),
        token: manifest.as_ref().and_then(|manifest| manifest.memory_token.as_ref()),
    };
    let restored = restoring.run(&mut making, gate).and_then(|memory| {
        let kept = wired.keep()?;
        Ok((runs(&entry, &making.facts, options, asleep, memory)?, kept))
    });
    let (child, kept) = restored.map_err(|e| {
        // It does not come because the restore failed, or the other way round.
        let e = lazy::record::failure(&entry).unwrap_or(e);
        making.undo(&entry);
        leftovers::tell(&leftovers::remove_ghosts(&images, &making.facts.rootfs));
        explain_restore(store, id, options, e)
    })?;
    drop(lock);
    let built = Built { child, starter: None, kept };
    Task::of_created(Container::of_created(id.clone(), entry, making.facts, prepared.spec), built, None)
}

fn wire<'a>(stdio: Stdio<'a>, prepared: &Prepared) -> Result<Wired<'a>> {
    match stdio {
        Stdio::Attended => stdio.for_terminal(prepared.plan.init.process.terminal)?.wire(),
        given => given.wire(),
    }
}

/// Faults that CRIU finds too late: in the restored process, for which it then waits in vain.
fn check_configuration(options: &RestoreContainerOptions<'_>, prepared: &Prepared) -> Result<()> {
    check_user_namespace(&prepared.spec)?;
    let profile = options.lsm_profile.as_deref().and_then(|profile| profile.split_once(':'));
    let problem = profile.and_then(|(module, name)| unloaded_profile(module, name));
    problem.map_or(Ok(()), |problem| Err(Error::Invalid(problem)))
}

/// The container is whole, and runs. Its first process.
fn runs(
    entry: &Entry,
    facts: &Facts,
    options: &RestoreContainerOptions<'_>,
    asleep: Option<CloneRecord>,
    memory: Option<Arrival>,
) -> Result<Child> {
    let child = first_process(facts)?;
    // Else an init that is ending would be taken for one that nobody can start.
    entry.started();
    asleep.map_or(Ok(()), |clone| clone.wake(entry))?;
    entry.note(Lifecycle::Restored { path: absolute(options.origin()), pid: child.pid });
    if let Some(mut memory) = memory {
        if !options.on_demand {
            entry.note(Lifecycle::MemoryArriving);
        }
        memory.restored()?;
    }
    Ok(child)
}

/// The restored process, our child: nobody else can have its number.
fn first_process(facts: &Facts) -> Result<Child> {
    let pid = Pid::from_raw(facts.pid).ok_or(Error::NotRunning)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|e| Error::sys("pidfd_open", facts.pid.to_string(), e))?;
    Ok(Child { pid: facts.pid, pidfd })
}

struct Restoring<'a> {
    id: &'a ContainerId,
    root: &'a Path,
    entry: &'a Entry,
    request: Request<'a>,
    criu: &'a Criu,
    wired: &'a Wired<'a>,
    /// The memory that CRIU does not read.
    brought: Option<&'a Brought>,
    /// Whether somebody decides before it runs.
    gated: bool,
    /// For one that may not be the only one of its checkpoint.
    unique: Option<&'a Unique>,
    /// The token that the source wants to see before it gives the memory.
    token: Option<&'a Token>,
}

/// The surroundings of a restore: where its private mount namespace has the root, the images and the cgroups, CRIU's work
/// directory, and who brings memory.
struct Places<'a> {
    root: &'a Path,
    view: &'a Path,
    yard: &'a Path,
    /// For an empty file system, if one is needed.
    empty: Option<&'a Path>,
    work: &'a Work,
    /// The memory that is to be there before the tasks run.
    memory: Option<&'a Arrival>,
}

/// CRIU, which waits for its request, with all that the request is about.
struct Loaded {
    session: Session,
    restore: RestoreOptions,
    restorable: DetachedRoot,
    stand_ins: StandIns,
}

impl Restoring<'_> {
    fn devices(&self) -> Devices<'_> {
        Devices { request: &self.request, gated: self.gated }
    }

    fn run(&self, making: &mut Making, gate: Option<&mut dyn Gate>) -> Result<Option<Arrival>> {
        self.run_through(making, gate).inspect_err(|_| self.devices().abandon(&making.facts))
    }

    fn run_through(&self, making: &mut Making, mut gate: Option<&mut dyn Gate>) -> Result<Option<Arrival>> {
        self.request.prepared.write_config(self.entry)?;
        gate.as_ref().map_or(Ok(()), |gate| gate.begin(self.entry))?;
        let clone = self.request.options.clone.as_ref();
        clone.map_or(Ok(()), |clone| clone.record.write(self.entry))?;
        making.facts.put_root =
            self.request.prepared.plan.init.root.as_ref().is_some_and(DetachedRoot::needs_put_root);
        self.entry.write_facts(&making.facts)?;
        let mut cgroup = making.make_cgroup(self.request.prepared, Cgroup::create)?;
        self.request.prepared.delegate(&cgroup)?;
        let (root, view, yard) = (self.make("root")?, self.make("images")?, self.make("cgroups")?);
        let empty = self.request.empty_directory.map(|_| self.make("empty")).transpose()?;
        let criu = self.request.criu_options;
        let others = criu.lazy_pages && self.brought.is_none();
        let daemon = others.then_some(&*criu.image_path);
        let work = Work::open(criu.work_path.as_deref(), self.entry.path(), daemon)?;
        // Outside of that mount namespace, which it would keep alive.
        let link = gate.as_mut().map_or(Ok(None), |gate| gate.memory())?;
        let memory = self.bring_memory(&work, &making.facts.cgroup, link)?;
        let before = self.brought.is_some_and(|brought| brought.when == When::BeforeItRuns);
        let awaited = memory.as_ref().filter(|_| before);
        let places = Places {
            root: &root,
            view: &view,
            yard: &yard,
            empty: empty.as_deref(),
            work: &work,
            memory: awaited,
        };
        let guard = self.gated.then(|| RestoreGuard::start(&making.facts.cgroup)).transpose()?;
        let mut restored = apart("the restoring thread", || {
            self.in_private_mount_namespace(&places, guard.as_ref(), making, &mut cgroup)
        });
        if let (Err(Error::Criu(e)), [images, ..]) = (&mut restored, self.request.chain) {
            let images = Some(images).filter(|_| self.request.options.archive.is_none());
            work.keep_log(images, self.id.as_str(), e);
        }
        let made = [&root, &view, &yard].into_iter().chain(&empty);
        let removed = made.map(|dir| std::fs::remove_dir(dir).map_err(|e| Error::file(dir, &e)));
        let removed: Vec<_> = removed.collect();
        restored?;
        removed.into_iter().collect::<Result<()>>()?;
        if memory.is_some() {
            arrival::forget(work.directory());
        }
        let mut memory = memory.filter(|_| !before);
        work.clear();
        if let Some(gate) = gate {
            gate.whole(self.entry)?;
            drop(guard);
            // If this program is killed now, only the decision may end the container.
            memory.as_mut().map_or(Ok(()), Arrival::restored)?;
            if !gate.decide()? {
                return Ok(memory);
            }
            self.devices().open(making.facts.pid)?;
        }
        // A container that was frozen at its checkpoint comes back frozen; whoever restores it wants it to run.
        cgroup.thaw()?;
        Ok(memory)
    }

    /// A directory of the container's, for mounts.
    fn make(&self, name: &str) -> Result<PathBuf> {
        let dir = self.entry.path().join(name);
        std::fs::create_dir(&dir).map_err(|e| Error::file(&dir, &e))?;
        Ok(dir)
    }

    fn bring_memory(
        &self,
        work: &Work,
        cgroup: &CgroupPaths,
        link: Option<OwnedFd>,
    ) -> Result<Option<Arrival>> {
        let options = self.request.options;
        let Some(brought) = self.brought else { return Ok(None) };
        let destination = Destination {
            entry: self.entry,
            root: self.root,
            id: self.id.as_str(),
            cgroup,
            work: work.directory(),
            chain: self.request.chain,
            stored: options.stored.as_deref(),
        };
        let origin = match (link, &options.page_server) {
            (Some(link), _) => Origin::Machine(link),
            (None, Some(address)) => Origin::PageServer(address, self.token),
            (None, None) if options.on_demand => Origin::ImagesOnDemand,
            (None, None) => Origin::Images,
        };
        match brought.when {
            When::BeforeItRuns => Arrival::start_before(&destination),
            When::WhileItRuns => Arrival::start(&destination, origin),
        }
        .map(Some)
    }

    /// The images that CRIU is to read instead of those of the checkpoint.
    fn changed_images(&self, agent: Option<&Agent<'_>>, facts: &Facts) -> Result<ChangedFiles> {
        let mut changed = agent.map_or_else(ChangedFiles::new, |agent| agent.changed.clone());
        changed.extend(self.brought.iter().flat_map(|brought| brought.lazy.changed.clone()));
        changed.extend(self.request.outer_groups(facts)?);
        changed.extend(self.request.null_streams(self.stdio())?);
        Ok(changed)
    }

    /// CRIU saves no session keyring: the tasks have that of the thread which starts it.
    fn join_keyring(&self) -> Result<()> {
        let Some(name) = &self.request.prepared.plan.init.keyring else { return Ok(()) };
        sys::process::join_session_keyring(name).context("give the tasks a session keyring")?;
        Ok(())
    }

    fn in_private_mount_namespace(
        &self,
        places: &Places<'_>,
        guard: Option<&RestoreGuard>,
        making: &mut Making,
        cgroup: &mut Cgroup,
    ) -> Result<()> {
        self.join_keyring()?;
        let host = namespace("mnt")?;
        let left = self.request.left_cgroups(cgroup)?;
        let agent = Agent::of(self.request.prepared, self.request.chain)?;
        let (birthplace, inherited) = self.birthplace(cgroup)?;
        let changed = self.changed_images(agent.as_ref(), &making.facts)?;
        let (view, limits) = self.request.view(changed, inherited)?;
        sys::process::unshare(NamespaceKind::Mount.clone_flag(), "for the restore's own mounts")?;
        let Loaded { mut session, restore, mut restorable, stand_ins } =
            self.load_criu(places, guard, making, cgroup, (birthplace, &view))?;
        let (paths, held) = (making.facts.cgroup.clone(), Arc::new(AtomicBool::new(false)));
        let holds = Arc::clone(&held);
        session.watch(move || work_in(&paths, holds.load(Ordering::Relaxed)));
        let criu = session.pid();
        let own = namespace("mnt")?;
        let (mut first, mut listeners) = (0, ToClose::new());
        let restored = session.restore(&restore, |step| match step {
            RestoreNotify::SetupNamespaces { pid } => {
                first = pid;
                // No device is there yet.
                self.devices().shut(pid)?;
                // Hooks belong to the runtime's namespaces.
                let flag = NamespaceKind::Mount.clone_flag();
                sys::process::setns(host.as_fd(), flag, "back into the host's mount namespace")?;
                let ran = self.request.prepared.run_hooks(pid);
                sys::process::setns(own.as_fd(), flag, "into the restore's mount namespace")?;
                Ok(ran?)
            }
            RestoreNotify::PostSetupNamespaces => {
                stand_ins.check_made()?;
                Ok(self.request.make_network(first)?)
            }
            RestoreNotify::OrphanPtsMaster(master) => Ok(self.send_console(&master)?),
            // The tasks are whole and still stopped: from now on the container can be found, and soon it may end.
            RestoreNotify::PostRestore { pid } => {
                restorable.entered();
                making.facts.put_root = false;
                making.facts.streams = procfs::streams(pid, [0, 1, 2]);
                making.facts.follow(pid);
                making.note_process(self.entry, pid)?;
                first = pid;
                Ok(self.request.put_back(pid, &making.facts.cgroup)?)
            }
            // CRIU's code in the tasks has written its last line to the log, and installed their filters. CRIU lets them go next: where
            // they are to do something before they run, they go no further than into the freezer.
            RestoreNotify::PreResume => {
                places.memory.map_or(Ok(()), |memory| memory.all_there(self.entry))?;
                limit_file_sizes(&limits, first, &making.facts.cgroup)?;
                self.make_unique(&making.facts)?;
                if let Some(agent) = &agent {
                    listeners = agent.hand_over(&request::pids(&making.facts.cgroup)?)?;
                }
                if self.gated || self.request.must_be_held() || !listeners.is_empty() {
                    held.store(true, Ordering::Relaxed);
                    hold(cgroup, criu)?;
                }
                Ok(())
            }
            _ => Ok(()),
        });
        restored?;
        self.request.put_back_cgroups(making.facts.pid, cgroup, &left)?;
        self.turn_switches(making, cgroup, &listeners)
    }

    /// Keeps the contract of a container that may not be the only one.
    fn make_unique(&self, facts: &Facts) -> Result<()> {
        let (Some(unique), [images, ..]) = (self.unique, self.request.chain) else { return Ok(()) };
        unique.keep(&Restored {
            id: self.id,
            entry: self.entry,
            facts,
            prepared: self.request.prepared,
            images,
            pids: request::pids(&facts.cgroup)?,
        })
    }

    /// Has the tasks, where they are held, do the last that only they can do.
    fn turn_switches(&self, making: &Making, cgroup: &Cgroup, listeners: &ToClose) -> Result<()> {
        if self.request.kept.has_switches() || !listeners.is_empty() {
            let freeze = || Ok(Cgroup::open(making.facts.cgroup.clone(), OnDenied::Skip)?.freeze()?);
            let then = if self.gated { Then::Hold(&freeze) } else { Then::Run };
            self.request.turn_switches(making.facts.pid, cgroup, then, listeners)?;
        }
        Ok(())
    }
}

/// A namespace of the calling thread.
pub(crate) fn namespace(kind: &str) -> Result<OwnedFd> {
    let path = PathBuf::from(format!("/proc/thread-self/ns/{kind}"));
    File::open(&path).map(OwnedFd::from).map_err(|e| Error::file(&path, &e))
}
