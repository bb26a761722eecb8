//! Packs: chunks in frames.
//!
//! ```text
//! magic 8 | key's id 16 | salt 32 | frames…
//! frame (sealed, if there is a key): method u8 | compressed or not: number of chunks u8 | length of each u16… | chunks…
//! frame of differences: the same, with the id of each chunk's base (32 each) before the chunks
//! ```
//!
//! A difference is a chunk XOR its base, another chunk of the same length.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::index::Index;
use crate::key::{Key, KeyId, SALT, Seal, TAG};
use crate::layout::{self, CHUNK, FRAME, INDEX, Id, PACK};

const MAGIC: &[u8; 8] = b"hiberPK1";
pub(crate) const HEAD: usize = 8 + 16 + SALT;
/// The longest content of a frame.
const LONGEST: usize = 1 + FRAME * (2 + 32 + CHUNK);
/// Bits of a frame's first byte.
const ZSTD: u8 = 1;
const DIFFERENCES: u8 = 2;

/// A pack that is there.
pub(crate) struct Pack {
    pub(crate) path: PathBuf,
    pub(crate) index: Index,
    file: File,
    /// None without the key.
    seal: Option<Seal>,
}

/// The chunks of a frame.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frame {
    content: Vec<u8>,
    /// Where the chunks are in it.
    ends: Vec<usize>,
    /// Where the ids of their bases are, if they are differences.
    bases: Option<usize>,
}

impl Pack {
    /// One with its index beside it. Without its key nothing is read from it.
    pub(crate) fn open(path: &Path, keys: &[Key]) -> Result<Self> {
        let index = Index::load(&path.with_extension(INDEX))?;
        let file = layout::open(path)?;
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0).map_err(Error::at(path))?;
        if &head[..8] != MAGIC || head[8..24] != index.key.0 {
            return Err(Error::bad(path, "is no pack of chunks, or not that of its index"));
        }
        let salt: [u8; SALT] = std::array::from_fn(|n| head[24 + n]);
        let key = keys.iter().find(|key| key.id() == index.key);
        let seal = key.map(|key| key.file(&salt));
        Ok(Self { path: path.into(), index, file, seal })
    }

    pub(crate) fn key(&self) -> KeyId {
        self.index.key
    }

    /// How many bytes pack and index have.
    pub(crate) fn bytes(&self) -> u64 {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        length(&self.path) + length(&self.path.with_extension(INDEX))
    }

    /// Reads the frame with this number.
    pub(crate) fn frame(&self, number: usize) -> Result<Frame> {
        let damaged = || Error::bad(&self.path, format!("is damaged in its frame {number}"));
        let end = *self.index.ends.get(number).ok_or_else(damaged)?;
        let start = number.checked_sub(1).map_or(HEAD as u64, |before| self.index.ends[before]);
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        if length > LONGEST + 1 + TAG || length == 0 {
            return Err(damaged());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start).map_err(Error::at(&self.path))?;
        let seal = self.seal.as_ref().ok_or_else(|| Error::bad(&self.path, "is sealed by another key"))?;
        let bytes = seal.open(number as u64, bytes).ok_or_else(damaged)?;
        Frame::parse(&bytes).ok_or_else(damaged)
    }
}

impl Frame {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (method, bytes) = bytes.split_first()?;
        if method & !(ZSTD | DIFFERENCES) != 0 {
            return None;
        }
        let content = match method & ZSTD {
            0 => bytes.to_vec(),
            _ => zstd::bulk::decompress(bytes, LONGEST).ok()?,
        };
        let count = usize::from(*content.first()?);
        let lengths = content.get(1..1 + 2 * count)?;
        let mut end = 1 + 2 * count;
        let bases = (method & DIFFERENCES != 0).then_some(end);
        end += bases.map_or(0, |_| 32 * count);
        let mut ends = vec![end];
        for length in lengths.chunks_exact(2) {
            end += usize::from(u16::from_le_bytes([length[0], length[1]]));
            ends.push(end);
        }
        (end == content.len() && count <= FRAME).then_some(Self { content, ends, bases })
    }

    /// The chunk with this number in it, or its difference from its base.
    pub(crate) fn chunk(&self, number: usize) -> Option<(&[u8], Option<Id>)> {
        let chunk = self.content.get(*self.ends.get(number)?..*self.ends.get(number + 1)?)?;
        let base = |at: usize| {
            let id = self.content.get(at + 32 * number..at + 32 * (number + 1))?;
            Some(std::array::from_fn(|n| id[n]))
        };
        Some((chunk, self.bases.and_then(base)))
    }
}

/// A chunk XOR another one of the same length.
pub(crate) fn difference(chunk: &[u8], base: &[u8]) -> Vec<u8> {
    chunk.iter().zip(base).map(|(a, b)| a ^ b).collect()
}

/// A frame before it is written.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    pub(crate) ids: Vec<Id>,
    lengths: Vec<u16>,
    bases: Vec<Id>,
    chunks: Vec<u8>,
}

impl Filling {
    /// Adds a chunk, or its difference from a base. All in a frame are of one kind.
    pub(crate) fn add(&mut self, id: Id, chunk: &[u8], base: Option<Id>) {
        self.ids.push(id);
        self.bases.extend(base);
        self.lengths.push(u16::try_from(chunk.len()).expect("a chunk is a page"));
        self.chunks.extend_from_slice(chunk);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.ids.len() == FRAME
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Its bytes in a pack, before they are sealed. Without a level they are not compressed.
    pub(crate) fn packed(&self, level: Option<i32>) -> io::Result<Vec<u8>> {
        let kind = if self.bases.is_empty() { 0 } else { DIFFERENCES };
        let mut content = Vec::with_capacity(LONGEST + 1);
        content.extend([kind, u8::try_from(self.ids.len()).expect("a frame has few chunks")]);
        self.lengths.iter().for_each(|length| content.extend(length.to_le_bytes()));
        self.bases.iter().for_each(|base| content.extend_from_slice(base));
        content.extend_from_slice(&self.chunks);
        if let Some(level) = level {
            let mut smaller = zstd::bulk::compress(&content[1..], level)?;
            if smaller.len() + 1 < content.len() {
                smaller.insert(0, kind | ZSTD);
                return Ok(smaller);
            }
        }
        Ok(content)
    }
}

/// The beginning of a pack with this key and salt.
pub(crate) fn head(key: KeyId, salt: &[u8; SALT]) -> Vec<u8> {
    [MAGIC.as_slice(), &key.0, salt].concat()
}

/// Whether a file is called like a pack.
pub(crate) fn is_pack(path: &Path) -> bool {
    path.extension().is_some_and(|is| is == PACK)
}
