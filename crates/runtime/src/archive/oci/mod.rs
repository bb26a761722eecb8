//! Checkpoints in OCI image layouts (image-layout.md of the OCI image specification 1.1): an image of one layer, which is the archive.
//!
//! Blobs are written first, and index.json is replaced last, in one step: an image is in a layout when index.json names it.

mod annotations;
mod index;
mod read;
mod write;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub(super) use annotations::{Origin, annotations};
pub(super) use read::Opened;
pub(super) use write::Image;

use crate::error::{Error, Result};

const PREFIX: &str = "oci:";
/// Of an image that is written without a tag.
const DEFAULT_TAG: &str = "latest";
/// The longest tag (the distribution specification).
const MAX_TAG: usize = 128;

const LAYOUT: &str = "oci-layout";
const LAYOUT_VERSION: &str = "1.0.0";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs/sha256";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// The annotation with an image's tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The largest index, manifest and configuration.
const MAX_JSON: u64 = 4 << 20;

/// An image in a layout: `oci:DIR[:TAG]`, as skopeo writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciImage {
    /// The layout's directory.
    pub dir: PathBuf,
    /// The tag, if one was given.
    pub tag: Option<String>,
}

impl OciImage {
    /// Whether a text is meant as such an image.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }
}

impl fmt::Display for OciImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.dir.display())?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

impl FromStr for OciImage {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: &str| Err(Error::Invalid(format!("{text}: {why}; expected oci:DIR[:TAG]")));
        let Some(rest) = text.strip_prefix(PREFIX) else { return invalid("is no image in a layout") };
        let (dir, tag) = rest.split_once(':').map_or((rest, None), |(dir, tag)| (dir, Some(tag)));
        if dir.is_empty() {
            return invalid("names no directory");
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return invalid(
                "a tag has up to 128 letters, digits, underscores, dots and dashes, and begins with none of the last two",
            );
        }
        Ok(Self { dir: dir.into(), tag: tag.map(str::to_owned) })
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// A digest as the specification writes it; none of another algorithm than SHA-256.
fn hex_of(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (hex.len() == 64 && hex.bytes().all(lower)).then_some(hex)
}

fn hex(digest: ring::digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes))
}

#[cfg(test)]
mod tests;
