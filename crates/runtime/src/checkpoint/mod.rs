//! Checkpoints: `checkpoint` on a container, and what a later restore has to find again.

mod externals;
mod guard;
mod network;
mod staging;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hiber_criu::{
    CgroupMode, Common, Criu, Descriptors, DumpNotify, DumpOptions, NetworkLock, PageServer, PreDumpOptions,
    Session, Version,
};
use hiber_sandbox::cgroup::Cgroup;
use hiber_sandbox::plan::NamespaceKind;
use oci_spec::runtime::Spec;

pub(crate) use externals::{Direction, entered, joined, mounts};
pub(crate) use guard::run_if_asked as run_guard_if_asked;
use guard::{Guard, Watch};
use staging::Staging;

use crate::container::{Container, chain};
use crate::error::{Context, Error, Result};
use crate::state::Status;

/// The first CRIU that surely knows the choice to lock nothing.
const SKIPS_NETWORK_LOCK: Version = Version::new(4, 0, 0);

/// What both a dump and a restore can be told.
#[derive(Debug, Default)]
pub struct CriuOptions {
    /// The criu program; `None` looks it up ($HIBER_CRIU, PATH).
    pub criu: Option<PathBuf>,
    /// Where the images are.
    pub image_path: PathBuf,
    /// Where CRIU keeps its log and other files that are no images; the image directory if absent.
    pub work_path: Option<PathBuf>,
    pub tcp_established: bool,
    pub tcp_close: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub lazy_pages: bool,
    pub auto_dedup: bool,
    /// How cgroups are treated; soft if absent.
    pub cgroups_mode: Option<CgroupMode>,
    pub network_lock: Option<NetworkLock>,
    /// Leave the network namespace's contents out.
    pub empty_network: bool,
}

/// How to checkpoint.
#[derive(Debug, Default)]
pub struct CheckpointOptions {
    /// What a restore shares.
    pub criu: CriuOptions,
    /// An earlier (pre-)dump to build on, relative to the image directory.
    pub parent_path: Option<PathBuf>,
    /// Let the container run on.
    pub leave_running: bool,
    /// Only copy memory, for a later dump to build on.
    pub pre_dump: bool,
    pub tcp_skip_in_flight: bool,
    pub link_remap: bool,
    /// CRIU writes a NUL byte here when lazy pages can be fetched.
    pub status_fd: Option<OwnedFd>,
    /// Send pages there instead of to disk: address and port.
    pub page_server: Option<(String, u16)>,
}

impl CriuOptions {
    /// Finds CRIU and starts a session's process.
    pub(crate) fn find_criu(&self) -> Result<Criu> {
        Ok(Criu::find(self.criu.as_deref())?)
    }

    /// Fills what dump and restore share.
    pub(crate) fn apply(&self, common: &mut Common, spec: &Spec) -> Result<()> {
        if let Some(work) = &self.work_path {
            make_dir(work)?;
            common.work_dir = Some(open_dir(work)?);
        }
        common.config_file = config_file(spec);
        common.tcp_established = self.tcp_established;
        common.tcp_close = self.tcp_close;
        common.ext_unix_sk = self.ext_unix_sk;
        common.shell_job = self.shell_job;
        common.file_locks = self.file_locks;
        common.lazy_pages = self.lazy_pages;
        common.auto_dedup = self.auto_dedup;
        common.cgroups = Some(self.cgroups_mode.unwrap_or_default());
        common.network_lock = self.network_lock;
        common.empty_network_ns = self.empty_network;
        common.orphan_pts_master = true;
        Ok(())
    }
}

/// CRIU's own configuration, which overrides what we ask: the container's, else the machine's.
fn config_file(spec: &Spec) -> Option<PathBuf> {
    let annotated = spec.annotations().as_ref().and_then(|a| a.get("org.criu.config")).map(PathBuf::from);
    annotated.or_else(|| Some(PathBuf::from("/etc/criu/hiber.conf")).filter(|p| p.exists()))
}

pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).map_err(|e| Error::file(path, &e))
}

/// Makes a private directory, with parents; one that is there is fine.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Error::file(path, &e))
}

impl Container {
    /// Writes a checkpoint of the container, whole or not at all: the directory appears under its name while the
    /// tasks are still frozen, or not. Without `leave_running` the container is then stopped and removed. On any
    /// failure before that it runs on as it was.
    pub fn checkpoint(self, options: &CheckpointOptions) -> Result<()> {
        check(options)?;
        let lock = self.entry().lock()?;
        let status = self.status()?;
        if !matches!(status, Status::Running | Status::Paused) {
            return self.refuse(&format!("Container cannot be checkpointed in {status} state"), status);
        }
        let spec = self.spec()?;
        let criu = options.criu.find_criu()?;
        let mut staging = Staging::new(&options.criu.image_path)?;
        let mut guard = Guard::start(&Watch {
            cgroup: self.facts()?.cgroup.clone(),
            thaw: status == Status::Running,
            staging: staging.path().to_owned(),
            ends: !options.leave_running && !options.pre_dump,
        })?;
        staging.create()?;
        let mut launch = criu.launch();
        launch.pass(guard.share()?)?;
        let session = launch.start()?;
        if options.pre_dump {
            return self.pre_dump(session, spec, options, &mut staging);
        }
        let dumped = self.dump(session, spec, options, (&mut staging, &mut guard), status);
        if staging.is_published() && !options.leave_running {
            if let Err(e) = &dumped {
                // The checkpoint is the container now; what CRIU could not end is ended here.
                tracing::warn!("after the checkpoint was written: {}", chain(e));
            }
            self.destroy().context("remove the checkpointed container")?;
            drop(lock);
            return Ok(());
        }
        dumped
    }

    fn dump(
        &self,
        mut session: Session,
        spec: &Spec,
        options: &CheckpointOptions,
        (staging, guard): (&mut Staging, &mut Guard),
        status: Status,
    ) -> Result<()> {
        let cgroup = self.cgroup()?;
        let mut dump = DumpOptions::new(self.facts()?.pid, open_dir(staging.path())?);
        self.describe(&mut dump.common, spec, options)?;
        dump.leave_running = options.leave_running;
        dump.parent_img = options.parent_path.clone();
        dump.track_mem = options.parent_path.is_some();
        dump.tcp_skip_in_flight = options.tcp_skip_in_flight;
        dump.freeze_cgroup = freezer(&cgroup);
        if dump.common.network_lock.is_none()
            && session.version()? >= SKIPS_NETWORK_LOCK
            && network::needs_no_lock(self.facts()?, spec, &options.criu)
        {
            dump.common.network_lock = Some(NetworkLock::Skip);
        }
        Descriptors(self.facts()?.streams.clone()).write(staging.path())?;
        let in_user_namespace = self.facts()?.namespaces.contains(&NamespaceKind::User);
        let mut frozen = None;
        let result = session.dump(&dump, |step| match step {
            // Not before: until here CRIU has looked at the kernel, not at the container.
            DumpNotify::PreDump => {
                frozen = Some(Frozen::take(&cgroup, status)?);
                Ok(())
            }
            // The commit point: CRIU kills the tasks only after this is answered. A container that runs on
            // need not wait for the disk.
            DumpNotify::PostDump if !options.leave_running => {
                guard.publishing()?;
                Ok(staging.publish(in_user_namespace)?)
            }
            _ => Ok(()),
        });
        drop(frozen);
        match result {
            Ok(()) if options.leave_running => staging.publish(in_user_namespace),
            Ok(()) => Ok(()),
            Err(e) => Err(staging.explain(e, options.criu.work_path.is_some()).into()),
        }
    }

    fn pre_dump(
        &self,
        mut session: Session,
        spec: &Spec,
        options: &CheckpointOptions,
        staging: &mut Staging,
    ) -> Result<()> {
        if !session.features()?.mem_track {
            let why = "this kernel does not track written memory (CONFIG_MEM_SOFT_DIRTY)";
            return Err(hiber_sandbox::Error::unsupported("--pre-dump", why).into());
        }
        let cgroup = self.cgroup()?;
        let mut dump = PreDumpOptions::new(self.facts()?.pid, open_dir(staging.path())?);
        dump.common.log_file = "dump.log".into();
        self.describe(&mut dump.common, spec, options)?;
        dump.parent_img = options.parent_path.clone();
        dump.freeze_cgroup = freezer(&cgroup);
        session.pre_dump(&dump).map_err(|e| staging.explain(e, options.criu.work_path.is_some()))?;
        staging.publish(false)
    }

    /// What CRIU must know of the container, in its own terms.
    fn describe(&self, common: &mut Common, spec: &Spec, options: &CheckpointOptions) -> Result<()> {
        let facts = self.facts()?;
        options.criu.apply(common, spec)?;
        common.root = Some(facts.rootfs.clone());
        common.link_remap = options.link_remap;
        common.status_fd = options
            .status_fd
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .map_err(|e| Error::Invalid(format!("invalid --status-fd: {e}")))?;
        common.page_server = options.page_server.as_ref().map(|(address, port)| PageServer {
            address: Some(address.clone()),
            port: *port,
            connection: None,
        });
        if !options.pre_dump {
            common.external = mounts(Direction::Dump, spec, facts)?;
            common.external.extend(externals::namespaces(spec, facts.pid)?);
        }
        Ok(())
    }
}

fn check(options: &CheckpointOptions) -> Result<()> {
    let refuse = |why: &str| Err(Error::Invalid(why.into()));
    if options.pre_dump && options.criu.lazy_pages {
        return refuse("--pre-dump and --lazy-pages cannot be used together");
    }
    if options.status_fd.is_some() && !options.criu.lazy_pages {
        return refuse("--status-fd needs --lazy-pages");
    }
    if let Some(parent) = &options.parent_path {
        if parent.is_absolute() {
            return refuse(&format!(
                "--parent-path {}: must be relative to the image path",
                parent.display()
            ));
        }
        let path = options.criu.image_path.join(parent);
        if !path.is_dir() {
            return refuse(&format!(
                "--parent-path {}: no directory at {}",
                parent.display(),
                path.display()
            ));
        }
    }
    Ok(())
}

/// The directory by which CRIU stops the container.
fn freezer(cgroup: &Cgroup) -> Option<PathBuf> {
    cgroup.paths().v1.get("freezer").or(cgroup.paths().v2.as_ref()).cloned()
}

/// Keeps a container frozen that was running before: CRIU polls for a freeze in steps of up to 100 ms, the kernel
/// tells us at once. Dropped, it lets go what it froze.
struct Frozen<'a>(Option<&'a Cgroup>);

impl<'a> Frozen<'a> {
    fn take(cgroup: &'a Cgroup, status: Status) -> Result<Self> {
        if status == Status::Paused || freezer(cgroup).is_none() {
            return Ok(Self(None));
        }
        cgroup.freeze().context("freeze the container")?;
        Ok(Self(Some(cgroup)))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0
            && let Err(e) = cgroup.thaw()
        {
            tracing::error!("the container stays frozen: {}", chain(&e));
        }
    }
}
