//! The parts of a checkpoint's archive that describe it.
//!
//! It is read once from end to end. Files that describe the checkpoint are kept in memory, up to a limit. Pages and other files
//! are hashed if the caller wants hashes, and dropped.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use tar::EntryType;

use crate::age::Identities;
use crate::checkpoint::manifest::FileSum;
use crate::error::Result;
use crate::signature;
use crate::tarball::{Tar, unreadable};

/// How much is kept of an archive.
const MAX_KEPT: u64 = 256 << 20;
/// How many files are looked at.
const MAX_FILES: usize = 1 << 20;

/// The kept files of an archive, by path.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    pub(crate) kept: BTreeMap<String, Arc<[u8]>>,
    /// All regular files; with hashes if they were asked for.
    pub(crate) sums: BTreeMap<String, FileSum>,
}

impl Archive {
    /// Reads an archive, whose name for messages is `shown`.
    ///
    /// # Errors
    /// If it is none, is truncated, or is beyond the limits.
    pub(crate) fn read(from: impl Read, shown: &Path, keys: &Identities, hash: bool) -> Result<Self> {
        let bad = |e: io::Error| unreadable(shown, &e);
        let mut archive = Self::default();
        let mut tar = Tar::new(from, keys).map_err(bad)?;
        let mut left = MAX_KEPT;
        while let Some(entry) = tar.next().map_err(bad)? {
            if !matches!(entry.kind, EntryType::Regular | EntryType::Continuous) {
                continue;
            }
            if archive.sums.len() == MAX_FILES {
                return Err(bad(io::Error::other(format!("it has more than {MAX_FILES} files"))));
            }
            let name = entry.name.trim_start_matches("./").to_owned();
            let sum = if is_kept(&name) {
                left = left.checked_sub(entry.size).ok_or_else(|| bad(too_much()))?;
                let mut bytes = Vec::new();
                tar.read_to_end(&mut bytes).map_err(bad)?;
                let sum = if hash { FileSum::of(&*bytes).map_err(bad)? } else { size(bytes.len() as u64) };
                archive.kept.insert(name.clone(), bytes.into());
                sum
            } else if hash {
                FileSum::of(&mut tar).map_err(bad)?
            } else {
                size(entry.size)
            };
            archive.sums.insert(name, sum);
        }
        tar.end().map_err(bad)?;
        Ok(archive)
    }
}

fn size(size: u64) -> FileSum {
    FileSum { size, blake3: None }
}

fn too_much() -> io::Error {
    io::Error::other(format!("what describes the checkpoint is larger than {} MiB", MAX_KEPT >> 20))
}

/// Whether a file describes the checkpoint; raw images, without CRIU's magic numbers, do not.
fn is_kept(name: &str) -> bool {
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    let raw = [
        "pages-",
        "tmpfs-",
        "ghost-file-",
        "ifaddr-",
        "route",
        "rule-",
        "iptables-",
        "ip6tables-",
        "nftables-",
    ];
    matches!(name, "hiber.json" | signature::FILE_NAME | "stats-dump" | "config.dump")
        || name.ends_with(".img") && !raw.iter().any(|prefix| name.starts_with(prefix))
}
