//! The request for CRIU to dump.

use std::os::fd::OwnedFd;

use hiber_criu::{
    CgroupMode, Common, DumpOptions, ImageDirectory, NetworkLock, PageServer, PreDumpOptions, Version,
};

use super::admit::Admitted;
use crate::checkpoint::cgroup_yard::CgroupYard;
use crate::checkpoint::custody::DUMP_LOG;
use crate::checkpoint::externals;
use crate::checkpoint::memory::Memory;
use crate::checkpoint::network::needs_no_lock;
use crate::checkpoint::options::CheckpointOptions;
use crate::checkpoint::preflight;
use crate::container::task::Task;
use crate::error::{Error, Result};

/// The first CRIU that surely knows the choice to lock nothing.
const SKIPS_NETWORK_LOCK: Version = Version::new(4, 0, 0);

/// The parts of a request.
pub(super) struct Request<'a> {
    pub(super) task: &'a Task,
    pub(super) options: &'a CheckpointOptions,
    pub(super) admitted: &'a Admitted,
    pub(super) memory: &'a Memory,
    pub(super) images: &'a ImageDirectory,
}

/// The request for a dump.
pub(super) struct DumpRequest {
    pub(super) options: DumpOptions,
    /// Whether the network is not locked because that is not needed, which only a newer CRIU can be told.
    skips_lock: bool,
    /// The directory with cgroup trees that CRIU needs meanwhile.
    _yard: Option<CgroupYard>,
}

impl DumpRequest {
    /// Completes what depends on CRIU, which has been loaded by now.
    pub(super) fn suit(&mut self, version: Version, memory: &Memory) {
        if self.skips_lock && version < SKIPS_NETWORK_LOCK {
            self.options.common.network_lock = None;
        }
        if memory.is_tracked() {
            (self.options.track_mem, self.options.parent_img) = (true, Some(".".into()));
        }
    }
}

impl Request<'_> {
    /// A dump.
    pub(super) fn dump(&self) -> Result<DumpRequest> {
        let (task, options, spec) = (self.task, self.options, &self.admitted.spec);
        let mut dump = DumpOptions::new(task.facts()?.pid, self.images.descriptor()?);
        self.describe(&mut dump.common)?;
        dump.leave_running = options.dump.leave_running;
        dump.parent_img = options.dump.parent_path.clone();
        dump.track_mem = options.dump.parent_path.is_some();
        dump.tcp_skip_in_flight = options.dump.tcp_skip_in_flight;
        dump.common.external =
            self.admitted.mounts.as_ref().map(|mounts| mounts.external.clone()).unwrap_or_default();
        dump.common.external.extend(externals::namespaces(spec, task.facts()?.pid)?);
        let yard = match options.criu.cgroups_mode {
            Some(CgroupMode::Ignore) => None,
            _ => {
                let at = task.container().entry().path().join("cgroups");
                CgroupYard::make(at, &task.facts()?.cgroup, &task.pids()?)?
            }
        };
        dump.common.cgroup_yard = yard.as_ref().map(|yard| yard.path().to_owned());
        dump.freeze_cgroup.clone_from(&self.admitted.freezer);
        self.memory.describe(&mut dump.common);
        // CRIU's own configuration could have it save connections that we know nothing of.
        let skips_lock = dump.common.network_lock.is_none()
            && dump.common.config_fd.is_none()
            && needs_no_lock(task.facts()?, spec, &options.criu);
        if skips_lock {
            dump.common.network_lock = Some(NetworkLock::Skip);
        }
        Ok(DumpRequest { options: dump, skips_lock, _yard: yard })
    }

    /// A dump of memory alone.
    pub(super) fn pre_dump(&self) -> Result<PreDumpOptions> {
        let mut dump = PreDumpOptions::new(self.task.facts()?.pid, self.images.descriptor()?);
        dump.common.log_file = DUMP_LOG.into();
        self.describe(&mut dump.common)?;
        self.memory.describe(&mut dump.common);
        dump.parent_img = self.options.dump.parent_path.clone();
        dump.freeze_cgroup.clone_from(&self.admitted.freezer);
        Ok(dump)
    }

    /// The container in CRIU's terms.
    fn describe(&self, common: &mut Common) -> Result<()> {
        let (task, options) = (self.task, self.options);
        options.criu.apply(common, &self.admitted.spec)?;
        common.root = Some(task.facts()?.rootfs.clone());
        common.link_remap = options.dump.link_remap;
        common.irmap_scan_paths = preflight::watched_paths(task)?;
        common.status_fd = options
            .status_fd
            .as_ref()
            .map(OwnedFd::try_clone)
            .transpose()
            .map_err(|e| Error::Invalid(format!("invalid --status-fd: {e}")))?;
        common.page_server = options.dump.page_server.as_ref().map(|at| PageServer {
            address: Some(at.host.clone()),
            port: at.port,
            connection: None,
        });
        Ok(())
    }
}
