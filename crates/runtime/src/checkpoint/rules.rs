//! Options of a checkpoint that do not go together.

use hiber_criu::ImageDirectory;
use oci_spec::runtime::Spec;

use super::criu_options::config_file;
use super::options::{CheckpointOptions, PreCopyMode};
use super::parents;
use crate::error::{Context, Error, Result};

pub(crate) fn check(options: &CheckpointOptions, container: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::Invalid(why.into()));
    check_proof(options)?;
    if options.pre_copy.max_rounds == 0 {
        return refuse("--max-rounds 0: expected 1 or more");
    }
    let elsewhere = [
        ("--pre-dump", options.pre_dump),
        ("--parent-path", options.dump.parent_path.is_some()),
        ("--page-server", options.dump.page_server.is_some()),
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
    if options.criu.lazy_pages && options.dump.page_server.is_none() {
        return refuse(
            "--lazy-pages needs --page-server ADDRESS:PORT: where the container's memory is served",
        );
    }
    if let Some(parent) = &options.dump.parent_path {
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
        ("--page-server", options.dump.page_server.is_some(), "the memory goes elsewhere"),
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
