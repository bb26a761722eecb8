//! Archives of checkpoints: where they are, and how they are written.

use std::ffi::OsStr;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, bail};
use hiber::archive::{Compression, Export, OciImage, Place, Source};

use crate::line::flag::{Flag, Value};
use crate::line::refusal::Refusal;

pub(crate) const COMPRESS: Flag<Option<Compression>> = Flag::value(
    "compress",
    "HOW",
    "how an archive is compressed: zstd, zstd:LEVEL (1 to 19), lz4 or none (default: zstd, level 1)",
);

/// Standard output or input.
const STREAM: &str = "-";

impl Value for Compression {
    const WORDS: &'static [&'static str] = &["zstd", "lz4", "none"];
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        let text = text.to_string_lossy();
        text.parse().map_err(|e: hiber::Error| Refusal::value(format!("invalid --{flag} {e}")))
    }
}

/// Where an archive is to be written.
///
/// # Errors
/// A terminal.
pub(crate) fn export(to: &Path, compress: Option<Compression>) -> anyhow::Result<Export> {
    let place = if let Some(image) = image(to)? {
        Place::Oci(image)
    } else if is_stream(to) {
        if std::io::stdout().is_terminal() {
            bail!("an archive for standard output, which is a terminal: expected a file or a pipe");
        }
        Place::Stream(copy(std::io::stdout().as_fd())?)
    } else {
        Place::File(to.into())
    };
    Ok(Export::new(place).compress(compress.unwrap_or_default()))
}

/// Where an archive is read.
///
/// # Errors
/// A terminal.
pub(crate) fn source(from: &Path) -> anyhow::Result<Source> {
    if let Some(image) = image(from)? {
        return Ok(Source::Oci(image));
    }
    if !is_stream(from) {
        return Ok(Source::File(from.into()));
    }
    if std::io::stdin().is_terminal() {
        bail!("an archive from standard input, which is a terminal: expected a file or a pipe");
    }
    copy(std::io::stdin().as_fd()).map(Source::Stream)
}

/// An image in a layout, if that is meant.
fn image(path: &Path) -> anyhow::Result<Option<OciImage>> {
    match path.to_str().filter(|text| OciImage::is_meant(text)) {
        Some(text) => Ok(Some(text.parse()?)),
        None => Ok(None),
    }
}

/// Whether it is no file.
pub(crate) fn is_stream(path: &Path) -> bool {
    path == Path::new(STREAM)
}

fn copy(fd: std::os::fd::BorrowedFd<'_>) -> anyhow::Result<OwnedFd> {
    let copy = fd.try_clone_to_owned().map(File::from).context("copy a standard stream")?;
    Ok(copy.into())
}
