//! The steps by which a root file system becomes another one: words of the protocol.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::host::xattrs::Xattr;

/// Bytes that follow one word, at most: a frame.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Amount {
    /// On the disk here.
    pub(crate) bytes: u64,
    /// Names.
    pub(crate) files: u64,
}

/// Bytes that need not be text. In JSON they are: what is neither printable ASCII nor itself is percent-encoded (RFC 3986).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&percent_encode(&self.0, ENCODED))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(percent_decode_str(&text).collect()))
    }
}

impl From<&Path> for Raw {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl Raw {
    pub(super) fn to_path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.clone()))
    }
}

/// A step. Those of one word are followed by the bytes of all their ranges, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Change {
    /// Below the root, without a leading slash; empty for the root itself.
    pub(crate) path: Raw,
    pub(crate) make: Make,
    /// The rest of the file, once all of its content is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) meta: Option<Meta>,
}

/// So many bytes, from this one on.
pub(crate) type Range = (u64, u64);

/// The part of a step that makes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Make {
    /// Nothing: it is there.
    Nothing,
    Directory,
    File(Content),
    /// Another name of a file that is there.
    Link(Raw),
    Symlink(Raw),
    Node {
        kind: NodeKind,
        major: u32,
        minor: u32,
    },
    /// It goes, with all below it.
    Removal,
}

/// Bytes of a regular file, or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Content {
    /// Whether it is to be made; it is there otherwise.
    pub(crate) new: bool,
    /// Of the whole file.
    pub(crate) size: u64,
    /// Those of which the bytes follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) data: Vec<Range>,
    /// Those that are holes now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) holes: Vec<Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NodeKind {
    Fifo,
    Socket,
    Character,
    Block,
}

/// A time since 1970: seconds, and nanoseconds.
pub(crate) type Time = (i64, u32);

/// The part of a file that is neither its content nor its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Meta {
    /// The permissions (07777).
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) atime: Time,
    /// Names and values of extended attributes, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) xattrs: Vec<(Raw, Raw)>,
}

impl Meta {
    pub(super) fn own_xattrs(&self) -> Vec<Xattr> {
        self.xattrs
            .iter()
            .map(|(name, value)| (OsString::from_vec(name.0.clone()), value.0.clone()))
            .collect()
    }
}

impl Change {
    pub(crate) fn of(path: &Path, make: Make) -> Self {
        Self { path: path.into(), make, meta: None }
    }

    /// How many bytes follow; none for numbers beyond all reason.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let Make::File(content) = &self.make else { return Some(0) };
        content.data.iter().try_fold(0_u64, |sum, (_, length)| sum.checked_add(*length))
    }

    /// About how long it is in JSON.
    pub(super) fn weight(&self) -> usize {
        let xattrs = self.meta.iter().flat_map(|meta| &meta.xattrs);
        let target = match &self.make {
            Make::Link(raw) | Make::Symlink(raw) => raw.0.len(),
            Make::File(content) => 16 * (content.data.len() + content.holes.len()),
            _ => 0,
        };
        256 + 3 * (self.path.0.len() + target + xattrs.map(|(n, v)| n.0.len() + v.0.len()).sum::<usize>())
    }
}
