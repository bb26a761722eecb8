//! A restore on trial: CRIU makes the processes anew beside those that there are, and they are killed before they have run
//! an instruction.
//!
//! Nothing of it is seen from outside. The trial has a thread with mount, network, IPC and UTS namespaces of its own. There
//! every directory and file that the container has from the host is covered by a view that takes changes upon itself
//! ([`PrivateViews`]); a network that the container shares is replaced by an empty one; the standard streams lead nowhere; and
//! all processes are in a cgroup of the trial's, which ends with it. On disk nothing is made: the directories that CRIU needs
//! are in the memory of the views, which is mounted over the directory of the images, for CRIU has that by descriptor.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use hiber_criu::{CgroupMode, ImageDirectory, InheritFd, Launch, RestoreNotify, RestoreOptions, amend};
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, Layout, Limits, OnDenied};
use hiber_sandbox::loopback::{self, Loopback};
use hiber_sandbox::plan::{MountSource, NamespaceKind, Plan};
use hiber_sandbox::rootfs::PrivateViews;
use hiber_sys as sys;
use oci_spec::runtime::Spec;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::checkpoint::kept::Kept;
use crate::checkpoint::kept::switches::{Then, ToClose};
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::options::RestoreContainerOptions;
use crate::checkpoint::preflight::explain_restore;
use crate::checkpoint::restore::{Network, Request, cgroup_roots, hold, namespace};
use crate::checkpoint::restore_options::{check_images, limits_in_force};
use crate::checkpoint::trust::Checked;
use crate::checkpoint::work::{Work, open_given};
use crate::checkpoint::{CriuOptions, config_file, crun, entered, joined, reading};
use crate::container::prepared::Prepared;
use crate::container::stdio::pipe;
use crate::error::{Context, Error, Result, chain};
use crate::helpers;
use crate::host::procfs;
use crate::host::threads::apart;
use crate::id::ContainerId;
use crate::state::facts::Facts;
use crate::state::store::Store;

/// How long a trial may take, and how much longer for each GiB of memory: it keeps a container frozen.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_PER_GIB: Duration = Duration::from_secs(30);
const LOG: &str = "trial.log";
/// The prefix of the names of trials' cgroups; the number of the process follows.
const CGROUP: &str = "hiber-trial.";

/// A restore to be tried.
pub(crate) struct Trial<'a> {
    pub(crate) store: &'a Store,
    pub(crate) id: &'a ContainerId,
    pub(crate) options: &'a RestoreContainerOptions<'a>,
    pub(crate) images: &'a ImageDirectory,
    /// Of a checkpoint that is not sealed yet.
    pub(crate) manifest: Option<&'a Manifest>,
    /// Where the log of one that fails goes.
    pub(crate) log: &'a ImageDirectory,
}

/// Refuses requests that cannot be combined with a trial, and containers that cannot be tried, before anything is frozen.
fn check(options: &CriuOptions, spec: &Spec) -> Result<()> {
    let refuse = |why: &str| Err(Error::Invalid(format!("--prove: {why}")));
    if let Some(path) = config_file(spec) {
        let path = path.display();
        return refuse(&format!(
            "the CRIU configuration {path} may have a trial do what it must not: leave it out, or do without a proof"
        ));
    }
    if options.shell_job == Some(true) {
        return refuse("the terminal of a --shell-job is another's, and a trial would change it");
    }
    if options.lazy_pages {
        return refuse("--lazy-pages leave the memory elsewhere: there is nothing to be restored on trial");
    }
    Ok(())
}

/// As [`check`], of what config.json says.
fn check_plan(plan: &Plan) -> Result<()> {
    let refuse = |why: &str| Err(Error::Invalid(format!("--prove: {why}")));
    for (kind, why) in [
        (NamespaceKind::Pid, "its process numbers are taken as long as it runs, and others' may be"),
        (NamespaceKind::Mount, "a trial would change the mounts of others"),
    ] {
        if !plan.namespaces.is_new(kind) {
            let name = kind.proc_name();
            return refuse(&format!("the container has no {name} namespace of its own: {why}"));
        }
    }
    if !plan.net_devices.is_empty() {
        return refuse(
            "linux.netDevices: a device is in one network only, and a trial would have to take it from there",
        );
    }
    Ok(())
}

/// Refuses what cannot be tried: by the configuration, by the file systems of its mounts, by what the processes `pids` do.
/// Nothing is frozen, nothing stays.
pub(crate) fn foresee(id: &ContainerId, options: &RestoreContainerOptions<'_>, pids: &[i32]) -> Result<()> {
    let prepared = Prepared::new(id, &options.as_create())?;
    check(&options.criu, &prepared.spec)?;
    check_plan(&prepared.plan)?;
    if let Some(pid) = pids.iter().find(|pid| watches_by_handle(**pid)) {
        let command = procfs::command_line(*pid);
        return Err(Error::Invalid(format!(
            "--prove: process {pid} ({command}) watches files (inotify, fanotify) that a trial would have to find by the number \
             of their inode, which is another in its view of the files"
        )));
    }
    let mounts = || {
        let flag = NamespaceKind::Mount.clone_flag();
        sys::process::unshare(flag, "for a look at the trial's mounts")?;
        Places::make(&options.criu.image_path, &prepared.plan).map(drop)
    };
    apart("the trial's thread", mounts).context("--prove")
}

/// Whether CRIU saves handles of files that a process watches, not their paths: it does where the file system can open
/// them by handle, as those on disks do and overlays do not.
fn watches_by_handle(pid: i32) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    let on_disk = |line: &str| {
        let device = line.split(' ').find_map(|field| field.strip_prefix("sdev:"))?;
        // The kernel's own form: the major number is above 20 bits of the minor one.
        Some(u64::from_str_radix(device, 16).ok()? >> 20 != 0)
    };
    files.flatten().any(|file| {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        let mut lines =
            text.lines().filter(|line| line.starts_with("inotify ") || line.starts_with("fanotify "));
        lines.any(|line| on_disk(line) == Some(true))
    })
}

/// Tries the checkpoint that `options` name.
pub(crate) fn of_checkpoint(
    store: &Store,
    id: &ContainerId,
    options: &RestoreContainerOptions<'_>,
) -> Result<()> {
    helpers::check()?;
    let images = reading::open(&options.criu.image_path)?;
    let given = options.criu.work_path.as_deref().map(open_given).transpose()?;
    let log = given.as_ref().unwrap_or(&images);
    Trial { store, id, options, images: &images, manifest: None, log }.run()
}

/// The cgroup of this process's trial.
pub(crate) fn own_cgroup() -> Result<CgroupPaths> {
    cgroup_paths(&Layout::detect()?)
}

fn cgroup_paths(layout: &Layout) -> Result<CgroupPaths> {
    cgroup_paths_of(layout, std::process::id())
}

fn cgroup_paths_of(layout: &Layout, pid: u32) -> Result<CgroupPaths> {
    let name = format!("/{CGROUP}{pid}");
    Ok(layout.resolve(Some(Path::new(&name)), CGROUP)?)
}

/// Removes cgroups of trials whose process was killed. CRIU ends the tasks of such a trial, but nobody is left to remove the
/// directories. One that has processes is left alone: its number may be of another pid namespace.
fn sweep(layout: &Layout, own: &CgroupPaths) {
    let parents = own.directories().into_iter().filter_map(|(path, _)| path.parent());
    let names = parents.filter_map(|dir| std::fs::read_dir(dir).ok()).flat_map(Iterator::flatten);
    let pids =
        names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(CGROUP)?.parse::<u32>().ok());
    for pid in pids.filter(|pid| !Path::new("/proc").join(pid.to_string()).exists()).collect::<BTreeSet<_>>()
    {
        let swept = cgroup_paths_of(layout, pid)
            .and_then(|paths| Ok(Cgroup::open(paths, OnDenied::Skip)?.remove()?))
            .inspect_err(|e| tracing::debug!("the cgroup of a killed trial stays: {}", chain(e)));
        drop(swept);
    }
}

impl Trial<'_> {
    /// Restores up to the moment before the first instruction.
    ///
    /// # Errors
    /// Why it cannot be restored, or not on trial.
    pub(crate) fn run(self) -> Result<()> {
        let prepared = Prepared::new(self.id, &self.options.as_create())?;
        check_plan(&prepared.plan)?;
        let Checked { manifest, kept, outer_groups, empty_directory, chain: images, cgroups } =
            check_images(&prepared, self.id, self.options, self.images)?;
        let prepared = match limits_in_force(&prepared, self.options, &kept)? {
            Some(limits) => prepared.with_limits(&limits)?,
            None => prepared,
        };
        let manifest = self.manifest.or(manifest.as_ref());
        let mut criu_options = self.options.criu.clone();
        if let Some(manifest) = manifest {
            criu_options.follow(&manifest.options.criu);
        }
        check(&criu_options, &prepared.spec)?;
        let patience = check_memory(&images)?;
        if let (Some(stored), [images, ..]) = (&self.options.stored, images.as_slice()) {
            stored.fill(images, None)?;
        }
        let network = Network::of(&prepared, self.options, manifest);
        restrain(&mut criu_options, &prepared.plan);
        let request = Request {
            prepared: &prepared,
            options: self.options,
            criu_options: &criu_options,
            chain: &images,
            cgroups: &cgroups,
            kept: &kept,
            outer_groups,
            empty_directory: empty_directory.as_deref(),
            network,
        };
        let paths = cgroup_paths(&prepared.layout)?;
        sweep(&prepared.layout, &paths);
        let mut cgroup = Cgroup::create(&prepared.layout, &paths, &Limits::default(), OnDenied::Fail)
            .context("make the trial's cgroup")?;
        let first = AtomicI32::new(0);
        let tried = in_time(patience, &paths, || {
            apart("the trial's thread", || self.in_private_namespaces(&request, &mut cgroup, &first))
        });
        match cgroup.destroy() {
            // Not before the thread has ended that traced its processes: until then none of them can be reaped.
            Ok(()) => reap(first.into_inner()),
            Err(e) => tracing::warn!("after a trial: {}", chain(&e)),
        }
        tried.map_err(|e| explain_restore(self.store, self.id, self.options, e))
    }

    fn request_to_criu(
        &self,
        request: &Request<'_>,
        images: OwnedFd,
        places: &Places,
        root: &Path,
        cgroup: &CgroupPaths,
    ) -> Result<RestoreOptions> {
        let mut facts: Facts = request.prepared.facts(self.id, Vec::new());
        facts.cgroup = cgroup.clone();
        let mut restore = request.options(images, root, &facts)?;
        restore.common.work_dir = Some(places.work.here()?);
        restore.common.log_file = LOG.into();
        if let Some(key) = request.empty_directory {
            restore.common.external.push(crun::supply(key, &places.empty)?);
        }
        Ok(restore)
    }

    /// `ours` gets the number of the first process where that is a child of ours.
    fn in_private_namespaces(
        &self,
        request: &Request<'_>,
        cgroup: &mut Cgroup,
        ours: &AtomicI32,
    ) -> Result<()> {
        let plan = &request.prepared.plan;
        // Mounts that the host makes meanwhile do not reach the trial, whose views are in no peer group.
        let apart = amend::with_outer_groups(self.images, |_| Ok::<_, Error>(None))?;
        let (view, _) = request.view(apart, None)?;
        enter_surroundings(plan)?;
        let places = Places::make(self.images.path(), plan)?;
        let mut restorable = request.prepare_root(&places.root)?;
        let images = view.mount(&places.view)?;
        let mut restore =
            self.request_to_criu(request, images, &places, restorable.path(), cgroup.paths())?;
        // CRIU hears of its own children's ends, and reaps them. Where they outlive it, that is for us.
        let outlive = request.kept.has_switches();
        restore.as_sibling = outlive;
        let program = request.criu_options.find_criu()?;
        let mut launch = program.launch();
        let [stdin, stdout, stderr] = [pipe()?, pipe()?, pipe()?];
        let streams = [stdin.0.as_fd(), stdout.1.as_fd(), stderr.1.as_fd()];
        request.inherit(streams, &mut launch, &mut restore.inherit_fds)?;
        join(&request.prepared.spec, &mut launch, &mut restore)?;
        let stand_ins = request.stand_ins(&mut launch, &places.scratch)?;
        Kept::shed()?;
        let session = launch.start()?;
        let criu = session.pid().ok_or(Error::NotRunning)?;
        cgroup.adopt(criu)?;
        restore.common.cgroup_roots = cgroup_roots(criu)?;
        let (mut first, mut whole, mut terminals) = (0, false, Vec::new());
        let restored = session.restore(&restore, |step| match step {
            RestoreNotify::SetupNamespaces { pid } => {
                first = pid;
                ours.store(if outlive { pid } else { 0 }, Ordering::Relaxed);
                Ok(())
            }
            RestoreNotify::PostSetupNamespaces => {
                stand_ins.check_made()?;
                Ok(request.make_network(first)?)
            }
            RestoreNotify::OrphanPtsMaster(master) => {
                terminals.push(master);
                Ok(())
            }
            RestoreNotify::PostRestore { pid } => {
                restorable.entered();
                Ok(request.put_back(pid, cgroup.paths())?)
            }
            // They have all that they had, credentials and filters too, and would run when CRIU lets go of them. CRIU asks
            // nobody's leave for that: they, and it, must be gone when this is answered.
            // Where they are to do something before they run, CRIU lets them go, and no further than into the freezer.
            RestoreNotify::PreResume if outlive => Ok(hold(cgroup, Some(criu))?),
            RestoreNotify::PreResume => {
                end(cgroup, criu)?;
                whole = true;
                Err(Error::host("restore on trial", "it has come to its end").into())
            }
            _ => Ok(()),
        });
        match restored {
            _ if whole => Ok(()),
            Ok(_) if outlive => request.turn_switches(first, cgroup, Then::End, &ToClose::new()),
            Ok(_) => Err(Error::host("restore on trial", "CRIU resumed it")),
            Err(mut e) => {
                places.work.keep_log(Some(self.log), self.id.as_str(), &mut e);
                Err(e.into())
            }
        }
    }
}

/// Buries a child that was killed; somebody else in this program may have done so, who waits for all that ends.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    }
}

/// Ends the tasks, and then CRIU: they would run as soon as their tracer was gone, and it would wait for the end of a pid
/// namespace that does not end before it has buried those that it traces.
fn end(cgroup: &Cgroup, criu: u32) -> Result<()> {
    let others = cgroup.pids()?.into_iter().filter(|pid| *pid != criu);
    for pid in others.chain([criu]).filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
        match rustix::process::kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(e) => return Err(Error::sys("kill", format!("process {pid} of a trial"), e)),
        }
    }
    Ok(())
}

/// Where the trial has what it needs.
struct Places {
    scratch: PathBuf,
    root: PathBuf,
    view: PathBuf,
    empty: PathBuf,
    work: Work,
}

impl Places {
    /// Mounts the views, of all that the container has from the host.
    fn make(scratch: &Path, plan: &Plan) -> Result<Self> {
        let scratch = crate::host::paths::absolute(scratch);
        let mut views = PrivateViews::new(&scratch)?;
        let [root, view, empty] = ["root", "images", "empty"].map(|name| scratch.join(name));
        for dir in [&root, &view, &empty] {
            std::fs::create_dir(dir).map_err(|e| Error::file(dir, &e))?;
        }
        let work = Work::open(None, &scratch, None)?;
        let plan = plan.init.root.as_ref().ok_or(Error::Invalid("root: is missing".into()))?;
        let mut sources = vec![&plan.path];
        sources.extend(plan.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Bind { path, .. } => Some(path),
            _ => None,
        }));
        // A directory before what is in it.
        sources.sort();
        for source in sources {
            views.cover(source).context("this cannot be restored on trial")?;
        }
        Ok(Self { scratch, root, view, empty, work })
    }
}

/// Removes options that a trial must not have, whatever the options of the dump.
fn restrain(options: &mut CriuOptions, plan: &Plan) {
    // Below the trial's cgroup all is made anew; no mode but this leaves what there is as it is.
    if options.cgroups_mode != Some(CgroupMode::Ignore) {
        options.cgroups_mode = Some(CgroupMode::Soft);
    }
    options.auto_dedup = false;
    options.lazy_pages = false;
    options.work_path = None;
    options.network_lock = None;
    if !plan.namespaces.is_new(NamespaceKind::Network) {
        // Their addresses are not here.
        options.tcp_established = Some(false);
        options.tcp_close = Some(true);
    }
}

/// Gives the calling thread a keyring and namespaces of its own.
fn enter_surroundings(plan: &Plan) -> Result<()> {
    if let Some(name) = &plan.init.keyring {
        sys::process::join_session_keyring(name).context("give the tasks a session keyring")?;
    }
    let own = [NamespaceKind::Mount, NamespaceKind::Network, NamespaceKind::Ipc, NamespaceKind::Uts];
    let flags = own.iter().fold(0, |flags, kind| flags | kind.clone_flag());
    sys::process::unshare(flags, "for the trial's own mounts and network")?;
    make_network()
}

/// Sockets can be bound here to addresses that this network does not have.
fn make_network() -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    let all = ["net/ipv4/ip_nonlocal_bind", "net/ipv6/ip_nonlocal_bind"].map(Path::new);
    let there = all.into_iter().filter(|name| Path::new("/proc/sys").join(name).exists());
    Ok(loopback::make(thread, Loopback::Up, there.map(|name| (name, "1")))?)
}

/// Namespaces that the container shares with others: in place of those that a restore would change the trial's own.
fn join(spec: &Spec, launch: &mut Launch<'_>, restore: &mut RestoreOptions) -> Result<()> {
    for (kind, key, _) in joined(spec).filter(|(kind, ..)| *kind == "net") {
        let own = namespace(kind)?;
        restore.inherit_fds.push(InheritFd { key: key.to_owned(), fd: launch.pass(own)? });
    }
    let (process, thread) = (std::process::id(), rustix::thread::gettid());
    for (kind, path) in entered(spec) {
        let own = PathBuf::from(format!("/proc/{process}/task/{thread}/ns/{kind}"));
        let path = if matches!(kind, "ipc" | "uts") { own } else { path };
        restore.join_namespaces.push((kind.to_owned(), path));
    }
    Ok(())
}

/// Does `work`, and ends all that is in the trial's cgroup if that takes too long: CRIU has no limit of its own.
fn in_time(patience: Duration, cgroup: &CgroupPaths, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (done, ended) = channel::<()>();
    let watch = {
        let paths = cgroup.clone();
        move || {
            let late = ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if late
                && let Err(e) =
                    Cgroup::open(paths, OnDenied::Skip).and_then(|cgroup| cgroup.kill(Signal::KILL))
            {
                tracing::warn!("a trial takes too long, and cannot be ended: {}", chain(&e));
            }
            late
        }
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(watch);
        let result = work();
        drop(done);
        match watcher.join() {
            Ok(true) if result.is_err() => {
                result.context(format!("the trial took longer than {} s", patience.as_secs()))
            }
            _ => result,
        }
    })
}

/// Whether the memory of the checkpoint is free here a second time; and how long its restore may take.
fn check_memory(chain: &[ImageDirectory]) -> Result<Duration> {
    let mut bytes = 0;
    for dir in chain {
        for name in dir.names()?.iter().filter(|name| name.starts_with("pages-")) {
            let stat = dir.stat_of(name).map_err(|e| Error::file(&dir.path().join(name), &e))?;
            bytes += stat.st_size.cast_unsigned();
        }
    }
    if let Some(available) = procfs::available_memory().filter(|available| *available < bytes) {
        let (takes, available) = (bytes >> 20, available >> 20);
        let why = format!("it takes {takes} MiB, {available} MiB are available");
        return Err(Error::host("not enough memory for a trial", why));
    }
    let gib = u32::try_from(bytes >> 30).unwrap_or(u32::MAX);
    Ok(PATIENCE + PATIENCE_PER_GIB.saturating_mul(gib))
}
