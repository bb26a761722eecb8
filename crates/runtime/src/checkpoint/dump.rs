//! `checkpoint` on a container: the steps of a dump.

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hiber_criu::{
    CgroupMode, Common, Descriptors, DumpNotify, DumpOptions, ImageDirectory, Images, NetworkLock,
    PageServer, PreDumpOptions, Session, Version,
};
use hiber_memory::images::Work;
use oci_spec::runtime::Spec;

use super::custody::DUMP_LOG;
use super::externals;
use super::follower::Follower;
use super::frozen::{Frozen, freezer};
use super::manifest::Manifest;
use super::memory::{self, Memory};
use super::named::Named;
use super::network::{self, needs_no_lock};
use super::options::{CheckpointOptions, check, config_file};
use super::preflight;
use super::staging::{HandOver, Seal, Staging};
use super::yard::Yard;
use super::{proof, shared, trial};
use crate::helpers::guard::{Guard, Watch, settle};
use crate::helpers::leftovers;
#[cfg(feature = "archive")]
use crate::helpers::tar;
use crate::host::paths::absolute;

use crate::checkpoint::kept::switches::{Answers, ask, ask_frozen};
use crate::checkpoint::kept::{Kept, Networks, Reading};
use crate::checkpoint::preflight::{
    Accepted, Made, PARENT_DEATH, attacked, before_freezing, check_root, explain,
};
use crate::container::monitor;
use crate::container::task::Task;
use crate::error::{Context, Error, Result, chain};
use crate::helpers;
use crate::state::lifecycle::Lifecycle;
use crate::state::resources::{self, ChangedResources};
use crate::status::Status;

/// The first CRIU that surely knows the choice to lock nothing.
const SKIPS_NETWORK_LOCK: Version = Version::new(4, 0, 0);

impl Task {
    /// Writes a checkpoint of the container, whole or not at all: the directory appears under its name while the
    /// tasks are still frozen, or not. Without `leave_running` the container is then stopped and removed. On any
    /// failure before that it runs on as it was.
    pub fn checkpoint(&self, options: &CheckpointOptions) -> Result<()> {
        self.checkpoint_as(options, None, None)
    }

    /// As [`checkpoint`](Self::checkpoint), with a name or to be given away.
    pub(crate) fn checkpoint_as(
        &self,
        options: &CheckpointOptions,
        named: Option<&Named<'_>>,
        hand_over: Option<HandOver<'_>>,
    ) -> Result<()> {
        let container = self.container();
        helpers::check()?;
        check(options, container.id().as_str())?;
        // A dump would find nothing where memory has not come to yet.
        self.wait_for_memory()?;
        let lock = container.entry().lock()?;
        settle(container.entry())?;
        let status = self.status()?;
        named.map_or(Ok(()), |named| named.check(status))?;
        if !matches!(status, Status::Running | Status::Paused) {
            return self.refuse(&format!("Container cannot be checkpointed in {status} state"), status);
        }
        let mut accepted = Accepted::of(&options.accept, &*container.spec()?)?;
        let may_freeze = before_freezing(self, status, !options.pre_dump)?;
        let freezer = freezer(self.cgroup()).filter(|_| may_freeze);
        let made =
            (!options.pre_dump).then(|| preflight::compare(self)?.accept(&mut accepted)).transpose()?;
        let fresh = self.has_fresh_network(options)?;
        if !fresh && !options.pre_dump {
            preflight::check_network(self, options, &mut accepted)?;
        }
        if !options.pre_dump {
            preflight::check_losses(self, false, &mut accepted)?;
        }
        // At the end CRIU waits for the first process, which waits for whoever was executed in the container to be reaped.
        monitor::reap_in_time(self.facts()?.pid)?;
        let spec = &*container.spec()?;
        if !options.pre_dump {
            check_root(&self.facts()?.rootfs, spec)?;
        }
        let criu = options.criu.find_criu()?;
        let destination = hand_over.as_ref().map(|hand_over| hand_over.destination.clone());
        let mut staging = match hand_over {
            Some(hand_over) => Staging::of(hand_over),
            None => Staging::new(&options.criu.image_path, named.map(Named::taken))?,
        };
        let mut guard = Guard::start(&self.watch(options, status, &staging)?)?;
        staging.create()?;
        guard.staging(staging.directory()?)?;
        if options.prove {
            self.foresee_trial(options, &staging)?;
        }
        let mut launch = criu.launch();
        if options.criu.lazy_pages {
            // It waits for the destination, however long that takes.
            launch.patience(None);
        }
        let work = Work { hash: !options.no_hash, sync: !options.no_sync };
        let memory = Memory::prepare(
            self,
            options,
            &mut launch,
            &guard,
            (staging.directory()?, work, staging.away()),
        )?;
        #[cfg(feature = "archive")]
        let links = tar::be_tar(&mut launch, self.container().entry().path())?;
        let inside = shared::launched_in(spec, fresh);
        let mut session = match inside.as_slice() {
            [] => launch.start()?,
            inside => hiber_sandbox::inside(self.facts()?.pid, inside, || launch.start())??,
        };
        session.pid().map_or(Ok(()), |pid| guard.criu(pid))?;
        let version = session.version()?;
        if let Some(problem) = attacked(version) {
            tracing::warn!("{problem}");
        }
        let mut seal = Seal {
            manifest: Manifest::new(
                container.id().as_str(),
                version,
                self.spec_as_created(spec)?.as_ref(),
                options.recorded(),
            )?,
            work,
            config: named.map(|named| named.config),
            cgroups: self.facts()?.cgroup.clone(),
            revive: made.as_ref().is_some_and(|made| made.removed),
            synchronous: made.as_ref().is_some_and(Made::is_synchronous),
            complete: false,
            follower: None,
            images: Vec::new(),
        };
        seal.manifest.accepted.clone_from(&accepted.met);
        seal.manifest.memory_token = memory.token().cloned();
        seal.manifest.options.loopback = fresh;
        seal.manifest.options.empty_network |= fresh;
        if (options.pre_dump || options.parent_path.is_some()) && !session.features()?.mem_track {
            let what = if options.pre_dump { "--pre-dump" } else { "--parent-path" };
            let why = "this kernel does not track written memory (CONFIG_MEM_SOFT_DIRTY)";
            return Err(hiber_sandbox::Error::unsupported(what, why).into());
        }
        if options.pre_dump || options.parent_path.is_some() {
            memory::note_chain(container.entry())?;
        }
        if options.pre_dump {
            return self.pre_dump(session, spec, options, (&mut staging, &mut seal, &memory), freezer);
        }
        let note = || {
            let (path, exit) = (absolute(&options.criu.image_path), !options.leave_running);
            container.entry().note(match &destination {
                Some(destination) => Lifecycle::Migrated { destination: destination.clone() },
                None => Lifecycle::Checkpointed { path, exit },
            });
        };
        let dumped = self.dump(
            session,
            spec,
            options,
            (&mut staging, &mut seal, &mut guard, memory),
            status,
            (freezer, made, accepted),
        );
        #[cfg(feature = "archive")]
        drop(links);
        if staging.is_published() && destination.is_none() {
            tell_parent_death_signal(staging.directory()?);
        }
        if staging.is_published() && !options.leave_running {
            if let Err(e) = &dumped {
                // The checkpoint is the container now; what CRIU could not end is ended here.
                tracing::warn!("after the checkpoint was written: {}", chain(e));
            }
            note();
            self.destroy(lock).context("remove the checkpointed container")?;
            if let Some(init) = self.init() {
                // How it ended is known to its waiters from then on.
                let _ = init.exit_status();
                init.reap();
            }
            return Ok(());
        }
        dumped.inspect(|()| note())
    }

    /// The configuration before any update, by which a restore finds whether it has another one.
    fn spec_as_created<'a>(&self, spec: &'a Spec) -> Result<Cow<'a, Spec>> {
        let Some(first) = self.container().entry().first_resources()? else { return Ok(Cow::Borrowed(spec)) };
        let mut spec = spec.clone();
        let mut linux = spec.linux().clone().unwrap_or_default();
        linux.set_resources(Some(first));
        spec.set_linux(Some(linux));
        Ok(Cow::Owned(spec))
    }

    /// The limits that `update` has changed, here or before an earlier restore.
    fn changed_resources(&self) -> Result<ChangedResources> {
        let entry = self.container().entry();
        let Some(first) = entry.first_resources()? else { return Ok(ChangedResources::new()) };
        resources::changed(&first, &resources::of(&entry.config()?))
    }

    fn watch(&self, options: &CheckpointOptions, status: Status, staging: &Staging<'_>) -> Result<Watch> {
        let facts = self.facts()?;
        let log = options.criu.work_path.as_deref().unwrap_or(staging.path()).join(DUMP_LOG);
        Ok(Watch {
            cgroup: facts.cgroup.clone(),
            thaw: status == Status::Running,
            staging: staging.path().to_owned(),
            target: staging.target().to_owned(),
            process: (facts.pid, facts.start_time),
            log: std::path::absolute(&log).map_err(|e| Error::file(&log, &e))?,
            links: options.link_remap,
            ends: !options.leave_running && !options.pre_dump,
            entry: self.container().entry().path().to_owned(),
            record: staging.record().map(Path::to_owned),
            trial: options.prove.then(trial::own_cgroup).transpose()?,
        })
    }

    /// Whether the network namespace need not be saved, nor CRIU be outside of it.
    pub(crate) fn has_fresh_network(&self, options: &CheckpointOptions) -> Result<bool> {
        let criu = &options.criu;
        let elsewhere = options.page_server.is_some() || criu.lazy_pages || options.pre_dump;
        let chosen = criu.empty_network.is_some() || criu.tcp_established == Some(true);
        let spec = self.container().spec()?;
        Ok(!elsewhere
            && !chosen
            && config_file(&spec).is_none()
            && network::is_fresh(self.facts()?, &spec, &self.pids()?))
    }

    fn dump(
        &self,
        mut session: Session,
        spec: &Spec,
        options: &CheckpointOptions,
        (staging, seal, guard, mut memory): (&mut Staging<'_>, &mut Seal<'_>, &mut Guard, Memory),
        status: Status,
        (freezer, made, mut accepted): (Option<PathBuf>, Option<Made>, Accepted),
    ) -> Result<()> {
        let cgroup = self.cgroup();
        let mut dump = self.dump_options(&mut session, spec, options, staging)?;
        dump.common.external = made.as_ref().map(|made| made.external.clone()).unwrap_or_default();
        dump.common.external.extend(externals::namespaces(spec, self.facts()?.pid)?);
        let yard = match options.criu.cgroups_mode {
            Some(CgroupMode::Ignore) => None,
            _ => {
                let at = self.container().entry().path().join("cgroups");
                Yard::make(at, &self.facts()?.cgroup, &self.pids()?)?
            }
        };
        dump.common.cgroup_yard = yard.as_ref().map(|yard| yard.path().to_owned());
        let freezes = freezer.is_some();
        dump.freeze_cgroup = freezer;
        memory.describe(&mut dump.common);
        let lazy = options.criu.lazy_pages;
        Descriptors(self.facts()?.streams.clone()).write(staging.directory()?)?;
        let pid = self.facts()?.pid;
        let (mut frozen, mut still, mut locked, dir) = (None, false, false, staging.directory()?.clone());
        let (mut answers, mut reading) = (Answers::new(), None);
        let result = session.dump(&dump, |step| match step {
            DumpNotify::NetworkLock => {
                locked = true;
                Ok(guard.locking()?)
            }
            // Not before: until here CRIU has looked at the kernel, not at the container.
            DumpNotify::PreDump => {
                answers = match status {
                    Status::Paused => ask_frozen(pid, &self.pids()?, cgroup)?,
                    _ => ask(&self.pids()?),
                };
                let freezes = freezes && status == Status::Running;
                memory.copy_ahead(self, options, freezes)?;
                staging.stopping();
                frozen = freezes.then(|| Frozen::take(cgroup)).transpose()?;
                memory.frozen();
                still = frozen.is_some() || status == Status::Paused;
                if still {
                    // CRIU's own look at a socket changes what is seen there afterwards.
                    preflight::check_losses(self, still, &mut accepted)?;
                    reading = Some(Reading::start(self.pids()?)?);
                }
                // Where the tasks are let go first, nobody waits for hashes.
                let follows = !options.leave_running && memory.is_written_by_criu();
                seal.follower = follows.then(|| Follower::start(dir.clone(), seal.work));
                Ok(())
            }
            // The commit point: CRIU kills the tasks only after this is answered. A container that runs on
            // need not wait for hashes and the disk.
            DumpNotify::PostDump => {
                made.as_ref().map_or(Ok(()), |made| made.still(pid))?;
                let nosymfollow = made.as_ref().map_or_else(Vec::new, Made::nosymfollow);
                let resources = self.changed_resources()?;
                let networks = match seal.manifest.options.loopback {
                    true => Networks::default(),
                    false => self.kept_networks(options)?,
                };
                let pids = self.pids()?;
                let reading = reading.take().map_or_else(|| Reading::start(pids.clone()), Ok)?;
                let kept = Kept::of(pid, &pids, &answers, reading, &dir)?;
                Kept { nosymfollow, resources, networks, ..kept }.write(&dir)?;
                if !seal.manifest.options.loopback {
                    // It may have changed before it was frozen.
                    preflight::check_network(self, options, &mut accepted)?;
                }
                if !still {
                    preflight::check_losses(self, still, &mut accepted)?;
                }
                seal.manifest.accepted.clone_from(&accepted.met);
                if options.prove || !options.leave_running {
                    seal.images = memory.finish()?;
                }
                if options.prove {
                    self.prove(options, staging, seal)?;
                }
                if !lazy && options.leave_running {
                    return Ok(());
                }
                // The destination needs the images before it can ask for memory.
                if lazy {
                    guard.lending()?;
                } else {
                    guard.publishing()?;
                }
                staging.publish(seal)?;
                let images = staging.directory()?.as_fd();
                Ok(memory.departure().map_or(Ok(()), |departure| departure.serve(images))?)
            }
            // CRIU would serve memory also after a refusal.
            DumpNotify::StatusReady if lazy && !staging.is_published() => {
                Err(Error::host("serve the container's memory", "there is no checkpoint").into())
            }
            _ => Ok(()),
        });
        drop(frozen);
        match result {
            Ok(()) if options.leave_running && !lazy => {
                seal.images.extend(memory.finish()?);
                staging.publish(seal)
            }
            Ok(()) => Ok(()),
            Err(e) => {
                self.clear_leftovers(options, locked, dump.common.log_path().as_deref());
                if let Some(failure) = memory.failure() {
                    return Err(failure);
                }
                if lazy {
                    staging.withdraw();
                }
                let e = match proof::Failed::in_dump(e) {
                    Ok(failed) => return Err(failed.told(staging, options)),
                    Err(e) => e,
                };
                let e = explain(self, options, e);
                Err(staging.explain(e, options.criu.work_path.is_some()).into())
            }
        }
    }

    /// The options of a dump, without the files and directories that are made for it.
    fn dump_options(
        &self,
        session: &mut Session,
        spec: &Spec,
        options: &CheckpointOptions,
        staging: &Staging<'_>,
    ) -> Result<DumpOptions> {
        let mut dump = DumpOptions::new(self.facts()?.pid, staging.directory()?.descriptor()?);
        self.describe(&mut dump.common, spec, options)?;
        dump.leave_running = options.leave_running;
        dump.parent_img = options.parent_path.clone();
        dump.track_mem = options.parent_path.is_some();
        dump.tcp_skip_in_flight = options.tcp_skip_in_flight;
        // CRIU's own configuration could have it save connections that we know nothing of.
        if dump.common.network_lock.is_none()
            && dump.common.config_fd.is_none()
            && session.version()? >= SKIPS_NETWORK_LOCK
            && needs_no_lock(self.facts()?, spec, &options.criu)
        {
            dump.common.network_lock = Some(NetworkLock::Skip);
        }
        Ok(dump)
    }

    /// The parts of network namespaces that CRIU leaves out.
    fn kept_networks(&self, options: &CheckpointOptions) -> Result<Networks> {
        let saved = preflight::saved_networks(self, options)?;
        Networks::of(self.facts()?.pid, &saved, &*self.container().spec()?)
    }

    /// Undoes changes that a CRIU left behind when it died.
    fn clear_leftovers(&self, options: &CheckpointOptions, locked: bool, log: Option<&Path>) {
        let mut removed = Vec::new();
        if let (true, Some(pid)) = (locked, self.pid()) {
            removed.extend(leftovers::unlock_network(pid, log.unwrap_or(Path::new(""))));
        }
        if options.link_remap {
            let pids = self.cgroup().pids().unwrap_or_default();
            removed.extend(leftovers::remove_links(&pids));
        }
        leftovers::tell(&removed);
    }

    fn pre_dump(
        &self,
        session: Session,
        spec: &Spec,
        options: &CheckpointOptions,
        (staging, seal, memory): (&mut Staging<'_>, &mut Seal<'_>, &Memory),
        freezer: Option<PathBuf>,
    ) -> Result<()> {
        let mut dump = PreDumpOptions::new(self.facts()?.pid, staging.directory()?.descriptor()?);
        dump.common.log_file = DUMP_LOG.into();
        self.describe(&mut dump.common, spec, options)?;
        memory.describe(&mut dump.common);
        dump.parent_img = options.parent_path.clone();
        dump.freeze_cgroup = freezer;
        session.pre_dump(&dump).map_err(|e| staging.explain(e, options.criu.work_path.is_some()))?;
        staging.publish(seal)
    }

    /// The container in CRIU's terms.
    fn describe(&self, common: &mut Common, spec: &Spec, options: &CheckpointOptions) -> Result<()> {
        let facts = self.facts()?;
        options.criu.apply(common, spec)?;
        common.root = Some(facts.rootfs.clone());
        common.link_remap = options.link_remap;
        common.irmap_scan_paths = preflight::watched_paths(self)?;
        common.status_fd = options
            .status_fd
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .map_err(|e| Error::Invalid(format!("invalid --status-fd: {e}")))?;
        common.page_server = options.page_server.as_ref().map(|at| PageServer {
            address: Some(at.host.clone()),
            port: at.port,
            connection: None,
        });
        Ok(())
    }
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
