//! `checkpoint` on a container. [`Task::checkpoint_as`] lists the steps; the others follow in their order.

mod admit;
mod request;
mod started;

use std::borrow::Cow;
use std::os::fd::AsFd;
use std::path::Path;

use hiber_criu::{
    Answer, CgroupMode, Descriptors, DumpNotify, ImageDirectory, Images, Loading, Session, Version,
};
use hiber_memory::images::Work;
use hiber_sandbox::plan::NamespaceKind;
use oci_spec::runtime::{Capability, Spec};

use super::custody::DUMP_LOG;
use super::frozen::Frozen;
use super::image_hasher::ImageHasher;
use super::manifest::Manifest;
use super::memory::{self, Memory};
use super::named::Named;
use super::network::may_have;
use super::options::{CheckpointOptions, Leaves};
use super::rules::check;
use super::signed;
use super::staging::{HandOver, Seal, Staging, To};
use super::{preflight, proof, trial};
use crate::checkpoint::kept::switches::{Answers, ask, ask_frozen};
use crate::checkpoint::kept::{Cgroups, Kept, Networks, Reading};
use crate::checkpoint::preflight::{MountComparison, PARENT_DEATH, attacked, explain};
use crate::container::task::Task;
use crate::error::{Context, Error, Result, chain};
use crate::helpers;
use crate::helpers::guard::{Guard, Watch, settle};
use crate::helpers::leftovers;
use crate::helpers::to_guard::ToGuard;
#[cfg(feature = "archive")]
use crate::host::links::Links;
use crate::host::paths::absolute;
use crate::state::lifecycle::Lifecycle;
use crate::state::lock::Lock;
use crate::state::resources::{self, ChangedResources};
use crate::status::Status;
use admit::{Admitted, Candidate};
use request::Request;
use started::Started;

impl Task {
    /// Writes a checkpoint of the container, whole or not at all: the directory appears under its name while the
    /// tasks are still frozen, or not. Without `leave_running` the container is then stopped and removed. On any
    /// failure before that it runs on as it was.
    pub fn checkpoint(&self, options: &CheckpointOptions) -> Result<()> {
        self.checkpoint_as(options, None, None)
    }

    /// As [`checkpoint`](Self::checkpoint), with a name or to be given away.
    pub(crate) fn checkpoint_as<'a>(
        &'a self,
        options: &'a CheckpointOptions,
        named: Option<&'a Named<'a>>,
        hand_over: Option<HandOver<'a>>,
    ) -> Result<()> {
        helpers::check()?;
        signed::check_options(options)?;
        check(options, self.container().id().as_str())?;
        // A dump would find nothing where memory has not come to yet.
        self.wait_for_memory()?;
        let lock = self.container().entry().lock()?;
        settle(self.container().entry())?;
        let candidate = Candidate::of(self, options, named)?;
        let destination = hand_over.as_ref().and_then(|hand_over| match &hand_over.to {
            To::Machine { destination, .. } => Some(destination.clone()),
            To::Archive { .. } => None,
        });
        // Another machine's host asks nobody to sign what comes by a migration.
        if let Some(why) = signed::unwelcome(options).filter(|_| destination.is_none()) {
            tracing::warn!("this host will not restore the checkpoint: {why}");
        }
        // CRIU is loaded while the rest is looked at.
        let (spec, fresh) = (&candidate.spec, candidate.fresh_network);
        let early = Memory::unconnected(self, options)?
            .map(|memory| Started::of(self, options, (spec, fresh), false, |_| Ok(memory)))
            .transpose()?;
        let admitted = candidate.admit(self, options)?;
        let (mut dump, loading) = Dump::prepare(self, options, (admitted, early), (named, hand_over))?;
        if options.pre_dump {
            return dump.pre_dump(loading);
        }
        let dumped = dump.run(loading);
        dump.conclude(dumped, lock, destination)
    }
}

/// A dump at work.
struct Dump<'a> {
    task: &'a Task,
    options: &'a CheckpointOptions,
    admitted: Admitted,
    memory: Memory,
    /// Whether CRIU was told at its start that memory can be tracked.
    tracked: bool,
    seal: Seal<'a>,
    #[cfg(feature = "archive")]
    tar: Links,
    guard: Guard,
    staging: Staging<'a>,
    answers: Answers,
    /// Whether CRIU may have locked the network.
    locked: bool,
}

/// The container from the moment at which it is frozen.
#[derive(Default)]
struct Stopped<'a> {
    frozen: Option<Frozen<'a>>,
    /// Whether nothing of it runs, by our doing or because it was paused.
    still: bool,
    areas: Option<Reading>,
}

impl<'a> Dump<'a> {
    /// Makes everything that a dump needs, with CRIU if that was not started yet.
    fn prepare(
        task: &'a Task,
        options: &'a CheckpointOptions,
        (admitted, early): (Admitted, Option<Started>),
        (named, hand_over): (Option<&'a Named<'a>>, Option<HandOver<'a>>),
    ) -> Result<(Self, Loading)> {
        let mut staging = match hand_over {
            Some(hand_over) => Staging::of(hand_over),
            None => Staging::new(&options.criu.image_path, named.map(Named::taken))?,
        };
        let guard = Guard::start(&watch(task, options, admitted.status, &staging)?)?;
        staging.create()?;
        staging.identity()?.map_or(Ok(()), |identity| guard.tell(ToGuard::Staging(identity)))?;
        if options.prove {
            task.foresee_trial(options, &staging)?;
        }
        let work = Work { hash: !options.no_hash, sync: !options.no_sync };
        let started = early.map_or_else(
            || {
                let to = (staging.directory()?, work, staging.away());
                let still = admitted.status == Status::Paused || admitted.freezer.is_some();
                let inside = (&*admitted.spec, admitted.fresh_network);
                Started::of(task, options, inside, still, |launch| {
                    let mut memory = Memory::connect(task, options, launch, &guard, to)?;
                    memory.leave(staging.is_scratch() && !options.dump.leave_running && !options.prove);
                    Ok(memory)
                })
            },
            Ok,
        )?;
        started.loading.session().pid().map_or(Ok(()), |pid| guard.tell(ToGuard::Criu(pid)))?;
        if options.pre_copy.leaves != Leaves::Never {
            guard.hold(started.loading.session())?;
        }
        let answers = if options.pre_dump { Answers::new() } else { answers(task, admitted.status)? };
        let mut seal = seal(task, options, &admitted)?;
        seal.work = work;
        seal.config = named.map(|named| named.config);
        seal.sign_key = options.sign_key.as_deref();
        seal.manifest.memory_token = started.memory.token().cloned();
        let dump = Self {
            task,
            options,
            admitted,
            memory: started.memory,
            tracked: started.tracked,
            seal,
            #[cfg(feature = "archive")]
            tar: started.tar,
            guard,
            staging,
            answers,
            locked: false,
        };
        Ok((dump, started.loading))
    }

    /// Waits for CRIU; not before a request is complete.
    fn ready(&mut self, loading: Loading) -> Result<(Session, Version)> {
        let (task, options) = (self.task, self.options);
        let mut session = loading.ready()?;
        let version = session.version()?;
        if let Some(problem) = attacked(version) {
            tracing::warn!("{problem}");
        }
        self.seal.manifest.criu = version.to_string();
        if options.pre_dump || options.dump.parent_path.is_some() {
            check_tracking(options, &mut session)?;
            memory::note_chain(task.container().entry())?;
        }
        if self.tracked {
            self.memory.track(&mut session, self.staging.directory()?)?;
        }
        Ok((session, version))
    }

    fn request(&self) -> Result<Request<'_>> {
        Ok(Request {
            task: self.task,
            options: self.options,
            admitted: &self.admitted,
            memory: &self.memory,
            images: self.staging.directory()?,
        })
    }

    fn log_is_elsewhere(&self) -> bool {
        self.options.criu.work_path.is_some()
    }

    fn pre_dump(mut self, loading: Loading) -> Result<()> {
        let request = self.request()?.pre_dump()?;
        let (session, _) = self.ready(loading)?;
        session.pre_dump(&request).map_err(|e| self.staging.explain(e, self.log_is_elsewhere()))?;
        self.staging.publish(&mut self.seal)
    }

    /// The dump itself, up to the checkpoint's publication.
    fn run(&mut self, loading: Loading) -> Result<()> {
        Descriptors(self.task.facts()?.streams.clone()).write(self.staging.directory()?)?;
        let mut request = self.request()?.dump()?;
        let (session, version) = self.ready(loading)?;
        request.suit(version, &self.memory);
        let lazy = self.options.criu.lazy_pages;
        let mut stopped = Stopped::default();
        let result = session.dump(&request.options, |step| match step {
            DumpNotify::NetworkLock => {
                self.locked = true;
                Ok(self.guard.tell(ToGuard::Locking)?)
            }
            // Not before: until here CRIU has looked at the kernel, not at the container.
            DumpNotify::PreDump => Ok(self.stop(&mut stopped)?),
            // The commit point: CRIU kills the tasks only after this is answered.
            DumpNotify::PostDump => self.commit(&mut stopped),
            // CRIU would serve memory also after a refusal.
            DumpNotify::StatusReady if lazy && !self.staging.is_published() => {
                Err(Error::host("serve the container's memory", "there is no checkpoint").into())
            }
            _ => Ok(()),
        });
        drop(stopped);
        self.memory.let_go();
        match result {
            // CRIU ends meanwhile.
            Ok(_ending) if self.options.dump.leave_running && !lazy => {
                self.staging.let_go();
                self.seal.images.extend(self.memory.finish()?);
                self.staging.publish(&mut self.seal)
            }
            Ok(_ended) => Ok(()),
            Err(e) => {
                self.clear_leftovers(request.options.common.log_path().as_deref());
                Err(self.explain(e))
            }
        }
    }

    /// Freezes the container, after all that can be done before.
    fn stop(&mut self, stopped: &mut Stopped<'a>) -> Result<()> {
        let (task, cgroup) = (self.task, self.task.cgroup());
        let paused = self.admitted.status == Status::Paused;
        let freezes = self.admitted.freezer.is_some() && !paused;
        self.memory.copy_ahead(task, self.options, freezes)?;
        self.staging.stopping();
        stopped.frozen = freezes.then(|| Frozen::take(cgroup)).transpose()?;
        self.memory.still(task)?;
        stopped.still = freezes || paused;
        if stopped.still {
            // CRIU's own look at a socket changes what is seen there afterwards.
            preflight::check_losses(task, true, &mut self.admitted.accepted)?;
            stopped.areas = Some(Reading::start(task.pids()?)?);
        }
        // Where the tasks are let go first, nobody waits for hashes.
        let hashes = !self.options.dump.leave_running && self.memory.is_written_by_criu();
        let images = self.staging.directory()?;
        self.seal.hasher = hashes.then(|| ImageHasher::start(images.clone(), self.seal.work));
        Ok(())
    }

    /// Completes and publishes the checkpoint when CRIU has written all images. A container that runs on need not wait for hashes
    /// and the disk: its checkpoint is published later.
    fn commit(&mut self, stopped: &mut Stopped<'a>) -> Answer {
        self.keep(stopped)?;
        self.seal.manifest.accepted.clone_from(&self.admitted.accepted.met);
        let options = self.options;
        if options.prove || !options.dump.leave_running {
            self.seal.images = self.memory.finish()?;
            self.seal.unwritten = self.memory.unwritten();
            self.seal.behind = self.memory.behind();
        }
        if options.prove {
            self.task.prove(options, &self.staging, &mut self.seal)?;
        }
        self.staging.still()?;
        match (options.criu.lazy_pages, options.dump.leave_running) {
            (false, true) => return Ok(()),
            // The destination needs the images before it can ask for memory.
            (true, _) => self.guard.tell(ToGuard::Lending)?,
            (false, false) => self.guard.tell(ToGuard::Publishing)?,
        }
        self.staging.publish(&mut self.seal)?;
        let images = self.staging.directory()?.as_fd();
        Ok(self.memory.departure().map_or(Ok(()), |departure| departure.serve(images))?)
    }

    /// Writes down the properties that CRIU forgets, and looks for losses once more.
    fn keep(&mut self, stopped: &mut Stopped<'a>) -> Result<()> {
        let (task, options, dir) = (self.task, self.options, self.staging.directory()?);
        let (pid, mounts) = (task.facts()?.pid, self.admitted.mounts.as_ref());
        let loopback = self.seal.manifest.options.loopback;
        mounts.map_or(Ok(()), |mounts| mounts.check_unchanged(pid))?;
        let nosymfollow = mounts.map_or_else(Vec::new, MountComparison::nosymfollow);
        let resources = changed_resources(task)?;
        let networks = if loopback { Networks::default() } else { kept_networks(task, options)? };
        let pids = task.pids()?;
        let areas = stopped.areas.take().map_or_else(|| Reading::start(pids.clone()), Ok)?;
        let kept = Kept::of(pid, &pids, &self.answers, areas, dir)?;
        let cgroups = match options.criu.cgroups_mode {
            Some(CgroupMode::Ignore) => Cgroups::default(),
            _ => {
                let in_user_namespace = task.facts()?.namespaces.contains(&NamespaceKind::User);
                let privileged = !in_user_namespace && may_have(&self.admitted.spec, Capability::SysAdmin);
                Cgroups::of(pid, &pids, &task.facts()?.cgroup, privileged)?
            }
        };
        preflight::check_cgroups(&cgroups, &mut self.admitted.accepted)?;
        Kept { nosymfollow, resources, networks, cgroups, ..kept }.write(dir)?;
        if !loopback {
            // It may have changed before it was frozen.
            preflight::check_network(task, options, &mut self.admitted.accepted)?;
        }
        if !stopped.still {
            preflight::check_losses(task, false, &mut self.admitted.accepted)?;
        }
        Ok(())
    }

    /// Undoes changes that a CRIU left behind when it died.
    fn clear_leftovers(&self, log: Option<&Path>) {
        let mut removed = Vec::new();
        if let (true, Some(pid)) = (self.locked, self.task.pid()) {
            removed.extend(leftovers::unlock_network(pid, log.unwrap_or(Path::new(""))));
        }
        if self.options.dump.link_remap {
            let pids = self.task.cgroup().pids().unwrap_or_default();
            removed.extend(leftovers::remove_links(&pids));
        }
        leftovers::tell(&removed);
    }

    /// The error of a dump that failed, with CRIU's log where it stays.
    fn explain(&mut self, e: hiber_criu::CriuError) -> Error {
        if let Some(failure) = self.memory.failure() {
            return failure;
        }
        if self.options.criu.lazy_pages {
            self.staging.withdraw();
        }
        match proof::Failed::in_dump(e) {
            Ok(failed) => failed.into_error(&self.staging, self.options),
            Err(e) => {
                let e = explain(self.task, self.options, e);
                self.staging.explain(e, self.log_is_elsewhere()).into()
            }
        }
    }

    /// Ends the container if the checkpoint is the container now, and notes what has happened.
    fn conclude(self, dumped: Result<()>, lock: Lock, destination: Option<String>) -> Result<()> {
        let Self { task, options, staging, memory, guard: _guard, .. } = self;
        // The process that serves memory is through before the container ends.
        drop(memory);
        #[cfg(feature = "archive")]
        drop(self.tar);
        if staging.is_published() && destination.is_none() {
            tell_parent_death_signal(staging.directory()?);
        }
        let note = || {
            let (path, exit) = (absolute(staging.target()), !options.dump.leave_running);
            task.container().entry().note(match &destination {
                Some(destination) => Lifecycle::Migrated { destination: destination.clone() },
                None => Lifecycle::Checkpointed { path, exit },
            });
        };
        if !staging.is_published() || options.dump.leave_running {
            return dumped.inspect(|()| note());
        }
        if let Err(e) = &dumped {
            // The checkpoint is the container now; what CRIU could not end is ended here.
            tracing::warn!("after the checkpoint was written: {}", chain(e));
        }
        note();
        let destroy = if destination.is_some() { Task::destroy } else { Task::destroy_asleep };
        destroy(task, lock).context("remove the checkpointed container")?;
        if let Some(init) = task.init() {
            // How it ended is known to its waiters from then on.
            let _ = init.exit_status();
            init.reap();
        }
        Ok(())
    }
}

fn watch(task: &Task, options: &CheckpointOptions, status: Status, staging: &Staging<'_>) -> Result<Watch> {
    let facts = task.facts()?;
    let log = options.criu.work_path.as_deref().unwrap_or(staging.path()).join(DUMP_LOG);
    Ok(Watch {
        cgroup: facts.cgroup.clone(),
        thaw: status == Status::Running,
        staging: staging.path().to_owned(),
        target: staging.target().to_owned(),
        process: (facts.pid, facts.start_time),
        log: std::path::absolute(&log).map_err(|e| Error::file(&log, &e))?,
        links: options.dump.link_remap,
        ends: !options.dump.leave_running && !options.pre_dump,
        entry: task.container().entry().path().to_owned(),
        record: staging.record().map(Path::to_owned),
        scratch: staging.is_scratch(),
        archive: staging.before_archive(),
        trial: options.prove.then(trial::own_cgroup).transpose()?,
    })
}

/// The manifest, and the work on the images, as far as both are known before the dump.
fn seal<'a>(task: &Task, options: &CheckpointOptions, admitted: &Admitted) -> Result<Seal<'a>> {
    let spec = spec_as_created(task, &admitted.spec)?;
    let mut manifest = Manifest::new(task.container().id().as_str(), spec.as_ref(), options)?;
    manifest.accepted.clone_from(&admitted.accepted.met);
    manifest.options.loopback = admitted.fresh_network;
    if admitted.fresh_network {
        manifest.options.criu.empty_network = Some(true);
    }
    Ok(Seal {
        manifest,
        work: Work { hash: true, sync: true },
        config: None,
        sign_key: None,
        cgroups: task.facts()?.cgroup.clone(),
        revive: admitted.mounts.as_ref().is_some_and(|mounts| mounts.removed),
        synchronous: admitted.mounts.as_ref().is_some_and(MountComparison::is_synchronous),
        complete: false,
        hasher: None,
        images: Vec::new(),
        unwritten: Vec::new(),
        behind: Vec::new(),
    })
}

/// The configuration before any update, by which a restore finds whether it has another one.
pub(crate) fn spec_as_created<'a>(task: &Task, spec: &'a Spec) -> Result<Cow<'a, Spec>> {
    let Some(first) = task.container().entry().first_resources()? else { return Ok(Cow::Borrowed(spec)) };
    let mut spec = spec.clone();
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_resources(Some(first));
    spec.set_linux(Some(linux));
    Ok(Cow::Owned(spec))
}

/// Refuses checkpoints that build on others where the kernel does not tell which memory was written.
fn check_tracking(options: &CheckpointOptions, session: &mut Session) -> Result<()> {
    if session.features()?.mem_track {
        return Ok(());
    }
    let what = if options.pre_dump { "--pre-dump" } else { "--parent-path" };
    let why = "this kernel does not track written memory (CONFIG_MEM_SOFT_DIRTY)";
    Err(hiber_sandbox::Error::unsupported(what, why).into())
}

/// The limits that `update` has changed, here or before an earlier restore.
fn changed_resources(task: &Task) -> Result<ChangedResources> {
    let entry = task.container().entry();
    let Some(first) = entry.first_resources()? else { return Ok(ChangedResources::new()) };
    resources::changed(&first, &resources::of(&entry.config()?))
}

/// The answers of the container's processes.
fn answers(task: &Task, status: Status) -> Result<Answers> {
    match status {
        Status::Paused => ask_frozen(task.facts()?.pid, &task.pids()?, task.cgroup()),
        _ => Ok(ask(&task.pids()?)),
    }
}

/// The parts of network namespaces that CRIU leaves out.
fn kept_networks(task: &Task, options: &CheckpointOptions) -> Result<Networks> {
    let saved = preflight::saved_networks(task, options)?;
    Networks::of(task.facts()?.pid, &saved, &*task.container().spec()?)
}

/// Says what no restore will bring back, and nobody can see before the images are there.
fn tell_parent_death_signal(dir: &ImageDirectory) {
    let images = Images::in_directory(dir);
    if let Ok(Some(signal)) = images.and_then(|images| images.parent_death_signal()) {
        tracing::warn!(
            "a restore will not bring back signal {signal} at the death of the first process's parent: {}",
            PARENT_DEATH.about
        );
    }
}
