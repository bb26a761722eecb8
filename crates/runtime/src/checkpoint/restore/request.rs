//! The request for CRIU to restore, in earnest or on trial.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use hiber_criu::cores::{Cores, FileSizeLimit, Policies};
use hiber_criu::images::ChangedFiles;
use hiber_criu::{
    CGROUP_IMAGE, CgroupMode, Descriptors, External, ImageDirectory, Images, InheritFd, InheritedCgroups,
    Launch, Macvlan, OwnCgroups, RestoreOptions, amend,
};
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, Names, OnDenied};
use hiber_sandbox::loopback::{self, Loopback};
use hiber_sandbox::mountinfo::PeerGroups;
use hiber_sandbox::plan::NamespaceKind;
use hiber_sandbox::rootfs::{DetachedRoot, mount_tracefs};
use rustix::fs::{FileType, makedev};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::checkpoint::kept::Kept;
use crate::checkpoint::kept::switches::{Then, ToClose};
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::options::RestoreContainerOptions;
use crate::checkpoint::preflight::PARENT_DEATH;
use crate::checkpoint::view::View;
use crate::checkpoint::{CriuOptions, Direction, mounts, shared};
use crate::container::prepared::Prepared;
use crate::error::{Context, Error, Result};
use crate::helpers::ip::{self, Macvlans};
use crate::helpers::stand_in;
#[cfg(feature = "archive")]
use crate::helpers::tar;
use crate::host::links::Links;
use crate::host::procfs::{Number, Numbered};
use crate::state::facts::Facts;

/// The part of the container's network namespace that a restore sets up, as `create` does for a new one.
pub(crate) struct Network {
    /// CRIU makes it empty: loopback comes up here.
    loopback: bool,
    /// The sysctls of config.json that CRIU does not save.
    sysctl: BTreeMap<PathBuf, String>,
}

impl Network {
    pub(crate) fn of(
        prepared: &Prepared,
        options: &RestoreContainerOptions<'_>,
        manifest: Option<&Manifest>,
    ) -> Self {
        let init = &prepared.plan.init;
        if !init.loopback {
            return Self { loopback: false, sysctl: BTreeMap::new() };
        }
        // Other runtimes' checkpoints have no loopback in them: runc's never, crun's if it was down.
        let loopback =
            options.criu.empty_network.is_none() && manifest.is_none_or(|manifest| manifest.options.loopback);
        let empty = manifest.is_none_or(|manifest| manifest.options.criu.empty_network == Some(true));
        let saved = |name: &Path| {
            !empty && ["net/ipv4/conf", "net/ipv6/conf", "net/unix"].iter().any(|dir| name.starts_with(dir))
        };
        let ours = init.sysctl.iter().filter(|(name, _)| name.starts_with("net") && !saved(name));
        Self { loopback, sysctl: ours.map(|(name, value)| (name.clone(), value.clone())).collect() }
    }

    pub(crate) fn make(&self, pid: i32) -> Result<()> {
        if !self.loopback && self.sysctl.is_empty() {
            return Ok(());
        }
        let sysctls = self.sysctl.iter().map(|(name, value)| (name.as_path(), value.as_str()));
        let device = if self.loopback { Loopback::Up } else { Loopback::Left };
        Ok(loopback::make(pid, device, sysctls)?)
    }
}

/// A container to restore, with the options.
pub(crate) struct Request<'a> {
    pub(crate) prepared: &'a Prepared,
    pub(crate) options: &'a RestoreContainerOptions<'a>,
    /// The caller's, completed by the manifest.
    pub(crate) criu_options: &'a CriuOptions,
    /// The images, and those that they build on.
    pub(crate) chain: &'a [ImageDirectory],
    /// Those cgroups of the images that are the container's.
    pub(crate) cgroups: &'a OwnCgroups,
    /// The properties that CRIU does not restore.
    pub(crate) kept: &'a Kept,
    /// Whether a mount may get events from a mount outside the container.
    pub(crate) outer_groups: bool,
    /// The key of directories that crun has masked.
    pub(crate) empty_directory: Option<&'a str>,
    pub(crate) network: Network,
}

impl<'a> Request<'a> {
    /// The images as CRIU is to see them, but for those that are `changed`, and the limits that
    /// [`limit_file_sizes`] is to set. `inherited` are the cgroups of CRIU that the tasks have. To be called before the mount namespace
    /// is unshared.
    pub(crate) fn view(
        &self,
        mut changed: ChangedFiles,
        inherited: Option<InheritedCgroups>,
    ) -> Result<(View<'a>, Vec<FileSizeLimit>)> {
        let mut limits = Vec::new();
        if let [images, ..] = self.chain {
            let images = Images::in_directory(images)?;
            let cores = self.cores(&images)?;
            changed.extend(cores.changed);
            limits = cores.file_sizes;
            changed.extend(self.kept.without_locks(&images)?);
            changed.extend(shared::inventory(&images, &self.prepared.spec, inherited)?);
            let cgroups = match inherited {
                Some(_) => self.cgroups.unmoved(&images)?,
                None => self.cgroups.image.clone(),
            };
            changed.extend(cgroups.map(|image| (CGROUP_IMAGE.to_owned(), image)));
            changed.extend(self.macvlans(&images)?.0);
            changed.extend(self.firewalls(&images)?);
            if !self.kept.eventfds.is_empty() {
                // They are in the same images as streams, which may be other files by now.
                let eventfds = self.eventfds(&images.with(&changed))?.0;
                changed.retain(|(name, _)| eventfds.iter().all(|(other, _)| other != name));
                changed.extend(eventfds);
            }
        }
        Ok((View::prepare(self.chain, changed, &self.prepared.plan.namespaces)?, limits))
    }

    /// The images of mounts that get events from the host's mounts, as those are here. To be called before the mount namespace is
    /// unshared.
    pub(crate) fn outer_groups(&self, facts: &Facts) -> Result<ChangedFiles> {
        let [images, ..] = self.chain else { return Ok(ChangedFiles::new()) };
        if !self.outer_groups {
            return Ok(ChangedFiles::new());
        }
        let groups = PeerGroups::read()?;
        let externals = mounts(Direction::Restore, &self.prepared.spec, facts)?;
        let sources: HashMap<&str, &str> = externals.iter().filter_map(External::as_mount).collect();
        let root = self.prepared.plan.init.root.as_ref().map(|root| root.path.as_path());
        amend::with_outer_groups(images, |key| {
            let source = sources.get(key).map(Path::new).or(root.filter(|_| key == "/"));
            // CRIU's own configuration file may name others: their groups are told apart by nobody.
            source
                .map_or(Ok(Some(u32::MAX)), |source| groups.of(source))
                .context("look for the source of a mount")
        })
    }

    /// Mounts the root filesystem at `at`, in a mount namespace that nobody else uses.
    pub(crate) fn prepare_root(&self, at: &Path) -> Result<DetachedRoot> {
        let plan = self.prepared.plan.init.root.as_ref().ok_or(Error::Invalid("root: is missing".into()))?;
        DetachedRoot::prepare(plan, at).context("prepare the root filesystem")
    }

    /// All but what depends on where CRIU runs. `root` is where the root filesystem is mounted for it.
    pub(crate) fn options(&self, images: OwnedFd, root: &Path, facts: &Facts) -> Result<RestoreOptions> {
        let mut restore = RestoreOptions::new(images);
        self.criu_options.apply(&mut restore.common, &self.prepared.spec)?;
        restore.common.root = Some(root.to_owned());
        restore.common.evasive_devices = true;
        restore.common.external = mounts(Direction::Restore, &self.prepared.spec, facts)?;
        restore.lsm_profile = self.options.lsm_profile.clone();
        restore.lsm_mount_context = self.options.lsm_mount_context.clone();
        Ok(restore)
    }

    /// Gives the stopped tasks, of which `first` is the container's first process, what CRIU does not restore.
    pub(crate) fn put_back(&self, first: i32, cgroup: &CgroupPaths) -> Result<()> {
        // Else the mounts are those of others, and as they are.
        if self.prepared.plan.namespaces.is_new(NamespaceKind::Mount) {
            let root = self.prepared.plan.init.root.as_ref();
            root.map_or(Ok(()), |root| mount_tracefs(first, root)).context("mount what CRIU leaves out")?;
            self.kept.put_back_mounts(first)?;
        }
        let pids = pids(cgroup)?;
        self.kept.put_back(first, &pids).context("give the processes back what CRIU does not keep")
    }

    /// Gives the new network namespace of the first process what CRIU has not, before any socket is there: a socket is bound
    /// and connected by addresses, routes and sysctls.
    pub(crate) fn make_network(&self, first: i32) -> Result<()> {
        self.network.make(first)?;
        let new = self.prepared.plan.namespaces.is_new(NamespaceKind::Network);
        if !new || self.criu_options.empty_network == Some(true) {
            return Ok(());
        }
        self.kept.put_back_network(first)
    }

    /// Whether the tasks are to have something when CRIU is done, before they run.
    pub(crate) fn must_be_held(&self) -> bool {
        self.kept.has_switches() || self.has_cgroups()
    }

    fn has_cgroups(&self) -> bool {
        !self.kept.cgroups.is_empty() && self.criu_options.cgroups_mode != Some(CgroupMode::Ignore)
    }

    /// The cgroups of the container's own whose limits stay as they are, to be asked before CRIU makes any.
    pub(crate) fn left_cgroups(&self, cgroup: &Cgroup) -> Result<Names> {
        if !self.has_cgroups() {
            return Ok(Names::new());
        }
        self.kept.left_cgroups(self.criu_options.cgroups_mode, cgroup)
    }

    /// Puts the tasks, which are frozen, into the cgroups that the container had made.
    pub(crate) fn put_back_cgroups(&self, first: i32, cgroup: &Cgroup, left: &Names) -> Result<()> {
        if !self.has_cgroups() {
            return Ok(());
        }
        let pids: Vec<_> = cgroup.pids()?.into_iter().filter_map(|pid| i32::try_from(pid).ok()).collect();
        self.kept.put_back_cgroups(first, &pids, cgroup, left)
    }

    /// Has the tasks, which are frozen since before CRIU let them go, set what only they can, and close what they are not to have;
    /// `then` says what follows.
    pub(crate) fn turn_switches(
        &self,
        first: i32,
        cgroup: &Cgroup,
        then: Then<'_>,
        close: &ToClose,
    ) -> Result<()> {
        let pids: Vec<_> = cgroup.pids()?.into_iter().filter_map(|pid| i32::try_from(pid).ok()).collect();
        self.kept.turn_switches(first, &pids, then, close, || Ok(cgroup.thaw()?))
    }

    /// The images that have CRIU inherit eventfds, and these.
    fn eventfds(&self, images: &Images) -> Result<(ChangedFiles, Vec<(String, OwnedFd)>)> {
        self.kept.eventfds(images).context("make the eventfds that CRIU cannot")
    }

    /// The images without the macvlans that CRIU cannot make, and these. Nothing of a network that is joined or empty is made.
    fn macvlans(&self, images: &Images) -> Result<(ChangedFiles, Vec<Macvlan>)> {
        if self.criu_options.empty_network == Some(true) {
            return Ok(Default::default());
        }
        let plan = &self.prepared.plan;
        let moved: Vec<_> = plan.net_devices.iter().map(|device| &*device.name_in_container).collect();
        let (changed, macvlans) = images.without_macvlans(&moved)?;
        if let (Some(macvlan), true) = (macvlans.first(), plan.namespaces.has(NamespaceKind::User)) {
            return Err(Error::Invalid(format!(
                "network device {} is a macvlan, which hiber cannot make in a user namespace: pass --empty-ns network and have the \
                 network set up again, as by a hook",
                macvlan.name.escape_debug()
            )));
        }
        Ok((changed, macvlans))
    }

    /// The images without firewalls, of those that are for hiber to make.
    fn firewalls(&self, images: &Images) -> Result<ChangedFiles> {
        let mut changed = ChangedFiles::new();
        for pid in
            self.kept.networks.with_firewall(|| Ok(images.tasks()?.first().map_or(0, |task| task.pid)))?
        {
            let number = images.network_of_task(pid)?;
            // Commands for libnftables.
            changed.extend(number.map(|number| (format!("nftables-{number}.img"), b"\n".to_vec())));
        }
        Ok(changed)
    }

    /// Has CRIU find this program in place of others that CRIU runs: tar, and ip where it is to make macvlans.
    pub(crate) fn stand_ins(&self, launch: &mut Launch<'_>, directory: &Path) -> Result<StandIns> {
        let images = self.chain.first();
        let macvlans = images.map(|images| self.macvlans(&Images::in_directory(images)?));
        let macvlans = macvlans.transpose()?.unwrap_or_default().1;
        let mut names = Vec::new();
        #[cfg(feature = "archive")]
        names.push(tar::NAME);
        names.extend((!macvlans.is_empty()).then_some(ip::NAME));
        let links = stand_in::be(launch, directory, &names)?;
        let made = match images.filter(|_| !macvlans.is_empty()) {
            Some(images) => Some(Macvlans::leave(links.path(), images, &macvlans)?),
            None => None,
        };
        Ok(StandIns { _links: links, macvlans: made })
    }

    /// The images in which those streams that were pipes are the container's own /dev/null, for which the caller has the host's.
    pub(crate) fn null_streams(&self, stdio: [BorrowedFd<'_>; 3]) -> Result<ChangedFiles> {
        let [images, ..] = self.chain else { return Ok(ChangedFiles::new()) };
        let streams = Descriptors::read(images)?.unwrap_or_default();
        let mut nulls: BTreeSet<&str> = streams.pipes().map(|(_, key)| key).collect();
        for (number, key) in streams.pipes() {
            if !stdio.get(number).is_some_and(is_null) {
                nulls.remove(key);
            }
        }
        if nulls.is_empty() {
            return Ok(ChangedFiles::new());
        }
        Ok(Images::in_directory(images)?.with_null_pipes(&nulls)?)
    }

    /// New pipes under the names of the old ones, and eventfds.
    pub(crate) fn inherit(
        &self,
        stdio: [BorrowedFd<'_>; 3],
        launch: &mut Launch<'_>,
        inherited: &mut Vec<InheritFd>,
    ) -> Result<()> {
        let streams = self.chain.first().map_or(Ok(None), Descriptors::read)?.unwrap_or_default();
        for (number, key) in streams.pipes() {
            let Some(fd) = stdio.get(number) else { continue };
            // Above 2, and an open file description of its own number in CRIU.
            let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3)
                .map_err(|e| Error::sys("fcntl", "F_DUPFD_CLOEXEC", e))?;
            inherited.push(InheritFd { key: key.to_owned(), fd: launch.pass(copy)? });
        }
        let images = self.chain.first().map(Images::in_directory).transpose()?;
        let eventfds = images.map(|images| self.eventfds(&images)).transpose()?;
        for (key, eventfd) in eventfds.into_iter().flat_map(|(_, made)| made) {
            inherited.push(InheritFd { key, fd: launch.pass(eventfd)? });
        }
        Ok(())
    }

    /// The first process's parent is a thread of ours, whose end must not be told to it by a signal that it asked for when
    /// it had another: that would be its own end.
    fn cores(&self, images: &Images) -> Result<Cores> {
        let highest = getrlimit(Resource::Fsize).maximum.unwrap_or(u64::MAX);
        let policies = if self.kept.schedules_beyond_criu() { Policies::Ordinary } else { Policies::Kept };
        let cores = images.restorable_cores(policies, highest)?;
        if let Some(signal) = cores.parent_death {
            tracing::warn!(
                "signal {signal} at the death of the first process's parent is not restored: {}",
                PARENT_DEATH.about
            );
        }
        Ok(cores)
    }
}

/// This program under other names; as long as it lives CRIU finds them.
pub(crate) struct StandIns {
    _links: Links,
    macvlans: Option<Macvlans>,
}

impl StandIns {
    /// Fails if CRIU has made its networks without the macvlans.
    pub(crate) fn check_made(&self) -> Result<()> {
        self.macvlans.as_ref().map_or(Ok(()), Macvlans::check_made)
    }
}

/// Sets the limits that CRIU was not told of, when it has nothing more to write to its log from within the tasks.
pub(crate) fn limit_file_sizes(limits: &[FileSizeLimit], first: i32, cgroup: &CgroupPaths) -> Result<()> {
    if limits.is_empty() {
        return Ok(());
    }
    let finite = |limit: u64| (limit != u64::MAX).then_some(limit);
    for Number { outer, inner } in Numbered::all(first, &pids(cgroup)?).into_iter().map(|all| all.process) {
        let Some(limit) = limits.iter().find(|limit| i64::from(limit.pid) == i64::from(inner)) else {
            continue;
        };
        let limit = Rlimit { current: finite(limit.soft), maximum: finite(limit.hard) };
        prlimit(Pid::from_raw(outer), Resource::Fsize, limit)
            .map_err(|e| Error::sys("prlimit", format!("RLIMIT_FSIZE of process {inner}"), e))?;
    }
    Ok(())
}

/// The tasks in a cgroup.
pub(super) fn pids(cgroup: &CgroupPaths) -> Result<Vec<i32>> {
    let cgroup = Cgroup::open(cgroup.clone(), OnDenied::Skip)?;
    Ok(cgroup.pids()?.into_iter().filter_map(|pid| i32::try_from(pid).ok()).collect())
}

/// Whether it is the null device (null(4)).
fn is_null(stream: &BorrowedFd<'_>) -> bool {
    let is = |stat: rustix::fs::Stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
    };
    rustix::fs::fstat(stream).is_ok_and(is)
}
