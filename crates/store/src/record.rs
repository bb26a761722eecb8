//! Records: what a checkpoint consists of.
//!
//! ```text
//! magic 8 | key's id 16 | salt 32 | sealed, if there is a key: length u32 | Head as JSON | ids of all chunks, file by file… | BLAKE3 32
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::key::{Key, KeyId, SALT, salt};
use crate::layout::{self, CHUNK, Id, VERSION};

const MAGIC: &[u8; 8] = b"hiberRC1";
const HEAD: usize = 8 + 16 + SALT;
/// The largest record: of a checkpoint of 4 TiB.
const LARGEST: u64 = 32 << 30;

/// The description of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Head {
    /// The version of the format.
    pub version: u32,
    /// When the checkpoint was made, as its maker says it.
    pub created: String,
    /// Bytes that it has added to the store, of packs and their indexes.
    pub added: u64,
    /// Names and sizes of its files, in bytes.
    pub files: Vec<(String, u64)>,
}

/// A record that was read.
pub(crate) struct Record {
    pub(crate) head: Head,
    ids: Vec<u8>,
    /// The number of the first chunk of each file.
    starts: Vec<usize>,
}

/// How many chunks a file has.
fn chunks(size: u64) -> usize {
    usize::try_from(size.div_ceil(CHUNK as u64)).unwrap_or(usize::MAX)
}

impl Head {
    pub(crate) fn new(created: &str, added: u64, files: Vec<(String, u64)>) -> Self {
        Self { version: VERSION, created: created.into(), added, files }
    }

    /// How many bytes its files have.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }
}

/// The key and the salt of a record, which are not sealed.
fn head_of(mut file: &File, path: &Path) -> Result<(KeyId, [u8; SALT])> {
    let mut head = [0; HEAD];
    file.read_exact(&mut head).map_err(Error::at(path))?;
    match &head[..8] == MAGIC {
        true => Ok((KeyId(std::array::from_fn(|n| head[8 + n])), std::array::from_fn(|n| head[24 + n]))),
        false => Err(Error::bad(path, "is no record of a checkpoint")),
    }
}

/// The key of a record.
pub(crate) fn key_of(path: &Path) -> Result<KeyId> {
    Ok(head_of(&layout::open(path)?, path)?.0)
}

impl Record {
    /// Reads one. The key must be its own.
    pub(crate) fn read(path: &Path, key: &Key) -> Result<Self> {
        let mut file = layout::open(path)?;
        let (id, salt) = head_of(&file, path)?;
        if id != key.id() {
            return Err(Error::bad(path, "is sealed by another key"));
        }
        let length = file.metadata().map_err(Error::at(path))?.len();
        if length > LARGEST {
            return Err(Error::bad(path, format!("has {length} bytes; expected {LARGEST} at most")));
        }
        let mut body = Vec::new();
        file.read_to_end(&mut body).map_err(Error::at(path))?;
        let damaged = || Error::bad(path, "is damaged");
        let mut body = key.file(&salt).open(0, body).ok_or_else(damaged)?;
        let content = body.len().checked_sub(32).ok_or_else(damaged)?;
        if *blake3::hash(&body[..content]).as_bytes() != body[content..] {
            return Err(damaged());
        }
        body.truncate(content);
        Self::parse(body).ok_or_else(damaged)
    }

    fn parse(mut body: Vec<u8>) -> Option<Self> {
        let length = u32::from_le_bytes(body.get(..4)?.try_into().ok()?) as usize;
        let head: Head = serde_json::from_slice(body.get(4..4 + length)?).ok()?;
        let ids = body.split_off(4 + length);
        let mut starts = vec![0_usize];
        for (_, size) in &head.files {
            starts.push(starts.last()?.checked_add(chunks(*size))?);
        }
        let all = starts.last()?.checked_mul(32)?;
        (head.version == VERSION && ids.len() == all).then_some(Self { head, ids, starts })
    }

    /// Writes one into an empty file.
    pub(crate) fn write(mut to: &File, key: &Key, head: &Head, ids: &[u8]) -> std::io::Result<()> {
        let json = serde_json::to_vec(head)?;
        let length = u32::try_from(json.len()).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
        let mut body = Vec::with_capacity(4 + json.len() + ids.len() + 48);
        body.extend(length.to_le_bytes());
        body.extend_from_slice(&json);
        body.extend_from_slice(ids);
        let hash = blake3::hash(&body);
        body.extend_from_slice(hash.as_bytes());
        let salt = salt()?;
        let body = key.file(&salt).seal(0, body);
        to.write_all(&[MAGIC.as_slice(), &key.id().0, &salt].concat())?;
        to.write_all(&body)
    }

    /// The ids of all chunks.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.ids.chunks_exact(32).map(|id| std::array::from_fn(|n| id[n]))
    }

    /// The id of a chunk of a file.
    pub(crate) fn id(&self, file: usize, chunk: usize) -> Option<Id> {
        let at =
            self.starts.get(file)?.checked_add(chunk).filter(|at| self.starts.get(file + 1) > Some(at))?;
        let id = self.ids.get(32 * at..32 * at + 32)?;
        Some(std::array::from_fn(|n| id[n]))
    }
}
