//! How to checkpoint, as far as a restore shares it, in CRIU's terms.

use std::path::PathBuf;

use hiber_criu::{Common, Criu, ImageDirectory};
use oci_spec::runtime::Spec;

use super::options::CriuOptions;
use super::{custody, work};
use crate::error::Result;

impl CriuOptions {
    /// Finds CRIU and starts a session's process.
    pub(crate) fn find_criu(&self) -> Result<Criu> {
        Ok(Criu::find(self.criu.as_deref())?)
    }

    /// Whether the directory and the file that are the caller's own can be used: what [`apply`](Self::apply) would find.
    pub(crate) fn check_places(&self, spec: &Spec) -> Result<()> {
        if let Some(work) = self.work_path.as_deref().filter(|work| work.exists()) {
            custody::check_work(&ImageDirectory::open(work)?)?;
        }
        config_file(spec).as_deref().map_or(Ok(()), |path| custody::open_config(path).map(drop))
    }

    /// Fills what dump and restore share: the one place where choices become CRIU's.
    pub(crate) fn apply(&self, common: &mut Common, spec: &Spec) -> Result<()> {
        let Self {
            criu: _,
            image_path: _,
            work_path,
            tcp_established,
            tcp_close,
            ext_unix_sk,
            shell_job,
            file_locks,
            lazy_pages,
            auto_dedup,
            cgroups_mode,
            network_lock,
            empty_network,
        } = self;
        if let Some(work) = work_path {
            common.work_dir = Some(work::open_given(work)?.descriptor()?);
        }
        common.config_fd = config_file(spec).as_deref().map(custody::open_config).transpose()?;
        common.tcp_established = on(*tcp_established);
        common.tcp_close = on(*tcp_close);
        common.ext_unix_sk = on(*ext_unix_sk);
        common.shell_job = on(*shell_job);
        common.file_locks = on(*file_locks);
        common.lazy_pages = *lazy_pages;
        common.auto_dedup = *auto_dedup;
        common.cgroups = Some(cgroups_mode.unwrap_or_default());
        common.network_lock = *network_lock;
        common.empty_network_ns = on(*empty_network);
        // A job of a shell takes the terminal of the restore instead.
        let terminal =
            spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
        common.orphan_pts_master = terminal || !common.shell_job;
        Ok(())
    }

    /// Sets choices that are `None` to those of the dump, as its manifest records them. Lazy pages and deduplication, which change where
    /// memory comes from, are chosen anew each time; so is what changes the host or takes from the caller: how cgroups are
    /// treated, and the terminal.
    pub(crate) fn follow(&mut self, dump: &Self) {
        let chosen = |choice: Option<bool>| Some(on(choice));
        // Keeping and closing connections exclude each other: a choice of one is a choice about both.
        if self.tcp_established.is_none() && self.tcp_close.is_none() {
            self.tcp_established = chosen(dump.tcp_established);
            self.tcp_close = chosen(dump.tcp_close);
        }
        self.ext_unix_sk = self.ext_unix_sk.or(chosen(dump.ext_unix_sk));
        self.file_locks = self.file_locks.or(chosen(dump.file_locks));
        self.empty_network = self.empty_network.or(chosen(dump.empty_network));
        self.network_lock = self.network_lock.or(dump.network_lock);
    }
}

fn on(choice: Option<bool>) -> bool {
    choice.unwrap_or(false)
}

/// The annotation of config.json that names a configuration file for CRIU.
pub(crate) const CRIU_CONFIG: &str = "org.criu.config";

/// CRIU's own configuration, which overrides what we ask: the container's, else the machine's.
pub(crate) fn config_file(spec: &Spec) -> Option<PathBuf> {
    let annotated = spec.annotations().as_ref().and_then(|a| a.get(CRIU_CONFIG)).map(PathBuf::from);
    annotated.or_else(|| Some(PathBuf::from("/etc/criu/hiber.conf")).filter(|p| p.exists()))
}
