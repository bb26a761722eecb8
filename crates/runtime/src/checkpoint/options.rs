//! How to checkpoint.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use hiber_criu::ImageDirectory;
use oci_spec::runtime::Spec;

use super::criu_options::{CriuOptions, config_file};
use super::words::Word;
use super::{manifest, parents};
use crate::error::{Context, Error, Result};
use crate::helpers::lazy::Address;

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

impl CheckpointOptions {
    /// The options as the manifest records them.
    pub(super) fn recorded(&self) -> (manifest::Kind, manifest::Options) {
        let options = manifest::Options {
            criu: self.criu.clone(),
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            link_remap: self.link_remap,
            // known once the container is looked at
            loopback: false,
            leave_running: self.leave_running,
            parent_path: self.parent_path.clone(),
            page_server: self.page_server.as_ref().map(ToString::to_string),
        };
        (if self.pre_dump { manifest::Kind::PreDump } else { manifest::Kind::Dump }, options)
    }
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
