//! How to checkpoint, and what of that a restore shares.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use hiber_criu::{CgroupMode, Common, Criu, ImageDirectory, NetworkLock};
use oci_spec::runtime::Spec;

use super::words::Word;
use super::{custody, manifest, parents, work};
use crate::error::{Context, Error, Result};
use crate::helpers::lazy::Address;

/// The options of both a dump and a restore. Where a choice is `None`, a restore does as its dump did. Use `..Default::default()`
/// for the others: later versions add fields.
#[derive(Debug, Clone, Default)]
pub struct CriuOptions {
    /// The criu program; `None` looks it up ($HIBER_CRIU, PATH).
    pub criu: Option<PathBuf>,
    /// Where the images are.
    pub image_path: PathBuf,
    /// Where CRIU keeps its log and other files that are no images; the image directory if absent.
    pub work_path: Option<PathBuf>,
    /// Save and restore established TCP connections.
    pub tcp_established: Option<bool>,
    /// Restore established TCP connections as closed ones.
    pub tcp_close: Option<bool>,
    /// Allow unix connections to processes outside of the container.
    pub ext_unix_sk: Option<bool>,
    /// Allow a session and a terminal from outside of the container.
    pub shell_job: Option<bool>,
    /// Save and restore file locks (flock(2), fcntl(2)).
    pub file_locks: Option<bool>,
    /// Leave memory behind at the dump, to be fetched by pages after the restore.
    pub lazy_pages: bool,
    /// Free pages in the images of a parent, or of a restore, as soon as they are not needed any more.
    pub auto_dedup: bool,
    /// How cgroups are treated; soft if absent.
    pub cgroups_mode: Option<CgroupMode>,
    /// How the network is locked during the dump; CRIU's choice if absent.
    pub network_lock: Option<NetworkLock>,
    /// Leave the network namespace's contents out.
    pub empty_network: Option<bool>,
}

/// Whether memory is copied while the container still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PreCopyMode {
    /// Where there is much of it, and its processes can be tracked.
    #[default]
    Auto,
    /// Always; what cannot be tracked is an error.
    On,
    /// Never.
    Off,
}

impl Word for PreCopyMode {
    const CHOICE: &'static str = "pre-copy";
    const WORDS: &'static [&'static str] = &["auto", "on", "off"];
    const MEANINGS: &'static [Self] = &[Self::Auto, Self::On, Self::Off];
}

/// How memory is copied while the container still runs: all of it, then in rounds what was written meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreCopy {
    /// Whether it is.
    pub mode: PreCopyMode,
    /// The container is frozen as soon as the rest can be copied in this time.
    pub max_frozen: Duration,
    /// It is frozen after so many rounds at the latest; 1 or more.
    pub max_rounds: u32,
    /// If copying the rest would take longer than this, there is no checkpoint, and the container is not stopped at all.
    pub at_most: Option<Duration>,
}

impl Default for PreCopy {
    fn default() -> Self {
        Self { mode: PreCopyMode::Auto, max_frozen: Duration::from_millis(50), max_rounds: 8, at_most: None }
    }
}

/// The options of a checkpoint. Use `..Default::default()` for the others: later versions add fields.
#[derive(Debug, Default)]
pub struct CheckpointOptions {
    /// The options that a restore shares.
    pub criu: CriuOptions,
    /// An earlier (pre-)dump to build on, relative to the image directory.
    pub parent_path: Option<PathBuf>,
    /// Let the container run on.
    pub leave_running: bool,
    /// Only copy memory, for a later dump to build on.
    pub pre_dump: bool,
    /// Drop TCP connections that are not yet accepted.
    pub tcp_skip_in_flight: bool,
    /// Save open files whose names are gone, by links beside them.
    pub link_remap: bool,
    /// CRIU writes a NUL byte here when lazy pages can be fetched.
    pub status_fd: Option<OwnedFd>,
    /// Send pages there instead of to disk; with lazy pages, serve them there.
    pub page_server: Option<Address>,
    /// Serve whoever asks for lazy pages: daemons of CRIU's own know no token.
    pub any_peer: bool,
    /// Copy memory while the container runs, so that it is frozen for less long.
    pub pre_copy: PreCopy,
    /// Restore it on trial before the container is given up, and give up the checkpoint instead if that fails.
    pub prove: bool,
    /// Leave the hashes out of the manifest: a checkpoint that cannot be verified, frozen for less long.
    pub no_hash: bool,
    /// Do not wait until the checkpoint is on the disk: it may be lost when the machine loses power.
    pub no_sync: bool,
    /// Names of checks of [preflight](crate::checkpoint::preflight) that are losses: what is lost by them is accepted.
    pub accept: Vec<String>,
}

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

    /// Fills what dump and restore share.
    pub(crate) fn apply(&self, common: &mut Common, spec: &Spec) -> Result<()> {
        if let Some(work) = &self.work_path {
            common.work_dir = Some(work::open_given(work)?.descriptor()?);
        }
        common.config_fd = config_file(spec).as_deref().map(custody::open_config).transpose()?;
        common.tcp_established = self.tcp_established.unwrap_or(false);
        common.tcp_close = self.tcp_close.unwrap_or(false);
        common.ext_unix_sk = self.ext_unix_sk.unwrap_or(false);
        common.shell_job = self.shell_job.unwrap_or(false);
        common.file_locks = self.file_locks.unwrap_or(false);
        common.lazy_pages = self.lazy_pages;
        common.auto_dedup = self.auto_dedup;
        common.cgroups = Some(self.cgroups_mode.unwrap_or_default());
        common.network_lock = self.network_lock;
        common.empty_network_ns = self.empty_network.unwrap_or(false);
        // A job of a shell takes the terminal of the restore instead.
        let terminal =
            spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
        common.orphan_pts_master = terminal || !common.shell_job;
        Ok(())
    }

    /// Sets choices that are `None` to those of the dump with this manifest. Lazy pages and deduplication, which change where
    /// memory comes from, are chosen anew each time; so is what changes the host or takes from the caller: how cgroups are
    /// treated, and the terminal.
    pub(crate) fn follow(&mut self, dump: &manifest::Options) {
        // Keeping and closing connections exclude each other: a choice of one is a choice about both.
        if self.tcp_established.is_none() && self.tcp_close.is_none() {
            self.tcp_established = Some(dump.tcp_established);
            self.tcp_close = Some(dump.tcp_close);
        }
        self.ext_unix_sk = self.ext_unix_sk.or(Some(dump.ext_unix_sk));
        self.file_locks = self.file_locks.or(Some(dump.file_locks));
        self.empty_network = self.empty_network.or(Some(dump.empty_network));
        self.network_lock = self.network_lock.or(dump.network_lock);
    }
}

impl CheckpointOptions {
    /// The options as the manifest records them.
    pub(super) fn recorded(&self) -> (manifest::Kind, manifest::Options) {
        let criu = &self.criu;
        let on = |switch: Option<bool>| switch.unwrap_or(false);
        let options = manifest::Options {
            tcp_established: on(criu.tcp_established),
            tcp_close: on(criu.tcp_close),
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            ext_unix_sk: on(criu.ext_unix_sk),
            shell_job: on(criu.shell_job),
            file_locks: on(criu.file_locks),
            link_remap: self.link_remap,
            lazy_pages: criu.lazy_pages,
            auto_dedup: criu.auto_dedup,
            empty_network: on(criu.empty_network),
            // known once the container is looked at
            loopback: false,
            leave_running: self.leave_running,
            cgroups_mode: criu.cgroups_mode.unwrap_or_default(),
            network_lock: criu.network_lock,
            parent_path: self.parent_path.clone(),
            page_server: self.page_server.as_ref().map(ToString::to_string),
        };
        (if self.pre_dump { manifest::Kind::PreDump } else { manifest::Kind::Dump }, options)
    }
}

/// The annotation of config.json that names a configuration file for CRIU.
pub(crate) const CRIU_CONFIG: &str = "org.criu.config";

/// CRIU's own configuration, which overrides what we ask: the container's, else the machine's.
pub(crate) fn config_file(spec: &Spec) -> Option<PathBuf> {
    let annotated = spec.annotations().as_ref().and_then(|a| a.get(CRIU_CONFIG)).map(PathBuf::from);
    annotated.or_else(|| Some(PathBuf::from("/etc/criu/hiber.conf")).filter(|p| p.exists()))
}

pub(crate) fn check(options: &CheckpointOptions, container: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::Invalid(why.into()));
    check_proof(options)?;
    if options.pre_copy.max_rounds == 0 {
        return refuse("--max-rounds 0: expected 1 or more");
    }
    let elsewhere = [
        ("--pre-dump", options.pre_dump),
        ("--parent-path", options.parent_path.is_some()),
        ("--page-server", options.page_server.is_some()),
        ("--lazy-pages", options.criu.lazy_pages),
        ("--auto-dedup", options.criu.auto_dedup),
    ];
    if let Some((flag, _)) =
        elsewhere.iter().find(|(_, given)| *given && options.pre_copy.mode == PreCopyMode::On)
    {
        return refuse(&format!(
            "--pre-copy on and {flag} exclude each other: CRIU itself has to do with the memory"
        ));
    }
    if options.pre_dump && options.criu.lazy_pages {
        return refuse(
            "--pre-dump and --lazy-pages exclude each other: a pre-dump writes memory, lazy pages leave it",
        );
    }
    // A restore may be given both: podman does.
    if options.criu.tcp_established == Some(true) && options.criu.tcp_close == Some(true) {
        return refuse(
            "--tcp-established and --tcp-close exclude each other: connections are kept or closed",
        );
    }
    if options.status_fd.is_some() && !options.criu.lazy_pages {
        return refuse("--status-fd needs --lazy-pages: it tells when lazy pages can be fetched");
    }
    if options.any_peer && !options.criu.lazy_pages {
        return refuse("--page-server-any-peer needs --lazy-pages: it is about who may fetch them");
    }
    if options.criu.lazy_pages && options.page_server.is_none() {
        return refuse(
            "--lazy-pages needs --page-server ADDRESS:PORT: where the container's memory is served",
        );
    }
    if let Some(parent) = &options.parent_path {
        let path = parents::named(&options.criu.image_path, parent)?;
        let parent_dir = ImageDirectory::open(&path)?;
        parents::check(parent_dir, Some(container)).context(format!("--parent-path {}", parent.display()))?;
    }
    Ok(())
}

/// Refuses what a proof cannot go with.
fn check_proof(options: &CheckpointOptions) -> Result<()> {
    let with = [
        ("--pre-dump", options.pre_dump, "a pre-dump has no processes to be restored"),
        ("--lazy-pages", options.criu.lazy_pages, "the memory stays in the container"),
        ("--page-server", options.page_server.is_some(), "the memory goes elsewhere"),
    ];
    let found = with.iter().find(|(_, given, _)| options.prove && *given);
    found.map_or(Ok(()), |(flag, _, why)| {
        Err(Error::Invalid(format!("--prove and {flag} exclude each other: {why}")))
    })
}

/// Where CRIU serves memory by itself, nobody asks for a token.
pub(crate) fn check_peers(options: &CheckpointOptions, spec: &Spec) -> Result<()> {
    match config_file(spec) {
        Some(path) if options.criu.lazy_pages && !options.any_peer => Err(Error::Invalid(format!(
            "with the CRIU configuration {} CRIU serves the memory by itself, at every address and to whoever comes \
             first: pass --page-server-any-peer, or leave the configuration out",
            path.display()
        ))),
        _ => Ok(()),
    }
}
